"""Multi-head attention: the one place that chooses how it is computed.

On GPUs the fused kernel is the right one. On CPUs it is made for long sequences, and at sentence lengths two
matrix products with a softmax between them are faster, forward and backward, so that is what runs there.

Rows that attend to the same memory, the canvases of one sentence, share its keys and values, and so do the
look-ahead and the training pass: they are projected once, and copied to the rows where these are not packed.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from mple.model.dropout import Dropout
from mple.model.linear import Linear, side_by_side
from mple.model.packing import Layout, Packing
from mple.model.softmax import hidden_softmax, softmax_gradient
from mple.types import EncoderOutput


class Attention(nn.Module):
    """Softmax(q kᵀ / √d) v over heads, with dropout on the weights and an output projection."""

    def __init__(self, d_model: int, num_heads: int, dropout: float | int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (d_model // num_heads) ** -0.5
        self.query = Linear(d_model, d_model)
        self.key_value = Linear(d_model, 2 * d_model)
        self.output = Linear(d_model, d_model)
        self.dropout = Dropout(dropout)
        for linear in (self.query, self.key_value, self.output):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def keys_values(self, memory: Float[Tensor, "B S D"]) -> Float[Tensor, "2 B H S d"]:
        """Keys and values of `memory`; on a CPU in the order in which rows are copied and multiplied."""
        return self._parted(self.key_value(memory), 2)

    def _parted(
        self, x: Float[Tensor, "*P W"], parts: int, layout: Layout | None = None
    ) -> Float[Tensor, "P B H S d"]:
        """`parts` states that lie side by side, each with its heads apart; with `layout` they are packed."""
        if layout is not None:
            return layout.split_heads(x, parts)
        heads = x.unflatten(-1, (parts, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return heads.contiguous() if x.device.type == "cpu" else heads

    def forward(
        self,
        x: Float[Tensor, "*P D"],
        hidden: Bool[Tensor, "#B #L L"] | None,
        layout: Layout | None = None,
        asking: Packing | None = None,
    ) -> Float[Tensor, "*Q D"]:
        """Attend from `x` to itself; `hidden` is True where a position may not be seen. With `layout` x is
        packed, and `hidden` is of the layout's rows; with `asking` only the positions of that ask."""
        if asking is None:
            heads = self._parted(side_by_side(x, self.query, self.key_value), 3, layout)
            return self._mixed(None, heads, hidden, layout)
        return self.attend(
            asking.pack(x), self._parted(self.key_value(x), 2, layout), hidden, asking.canvases
        )

    def look(
        self,
        x: Float[Tensor, "*P D"],
        encoder_out: EncoderOutput,
        hidden: Bool[Tensor, "#B #L S"] | None,
        layout: Layout | None = None,
    ) -> Float[Tensor, "*P D"]:
        """Attend to the source. With `layout`, whose rows are the sentences, `x` is packed."""
        keys_values = encoder_out.once(self.keys_values)
        if encoder_out.row is not None and layout is None:
            keys_values = keys_values.index_select(1, encoder_out.row)
        return self.attend(x, keys_values, hidden, layout)

    def attend(
        self,
        x: Float[Tensor, "*P D"],
        keys_values: Float[Tensor, "2 B H S d"],
        hidden: Bool[Tensor, "#B #L S"] | None,
        layout: Layout | None = None,
    ) -> Float[Tensor, "*P D"]:
        """Attend to what has these keys and values, one row of them for each row of `x`, or of `layout`."""
        return self._mixed(self._parted(self.query(x), 1, layout)[0], keys_values, hidden, layout)

    def _mixed(
        self,
        query: Float[Tensor, "B H L d"] | None,
        heads: Float[Tensor, "P B H S d"],
        hidden: Bool[Tensor, "#B #L #S"] | None,
        layout: Layout | None,
    ) -> Float[Tensor, "*P D"]:
        """`heads` are keys and values, or queries and these."""
        if heads.device.type == "cpu":
            bias = (
                torch.zeros(1, 1, 1, 1)
                if hidden is None
                else torch.where(hidden.unsqueeze(1), -torch.inf, 0.0)
            )
            if torch.is_grad_enabled():
                mixed = _Attend.apply(query, heads, bias, self.scale, self.dropout)
            else:
                mixed = _attend(query, heads, bias, self.scale, self.dropout)[0]
        else:
            seen = None if hidden is None else ~hidden.unsqueeze(1)
            dropout_p = self.dropout.p if self.training else 0.0
            query, key, value = heads if query is None else (query, *heads)
            mixed = functional.scaled_dot_product_attention(query, key, value, seen, dropout_p)
        return self.output(mixed.transpose(1, 2).flatten(2) if layout is None else layout.join_heads(mixed))


def _attend(
    query: Float[Tensor, "B H L d"] | None,
    heads: Float[Tensor, "P B H S d"],
    bias: Float[Tensor, "#B 1 #L #S"],
    scale: float,
    dropout: Dropout,
) -> tuple[Float[Tensor, "B H L d"], Float[Tensor, "B H L S"], Float[Tensor, "B H L S"], Any]:
    """The mixed values; the weights before dropout, float32, and after; what dropout has drawn."""
    query, key, value = heads if query is None else (query, *heads)
    weights = hidden_softmax(torch.matmul(query, key.transpose(-1, -2)), scale, bias)
    drawn, kept = dropout.draw(weights.shape), weights.to(value.dtype)
    if drawn is not None:
        kept = (kept.mul(drawn[0]) if kept is weights else kept.mul_(drawn[0])).mul_(drawn[1])
    return torch.matmul(kept, value), weights, kept, drawn


class _Attend(torch.autograd.Function):
    """`_attend` with its gradient written out: autograd's would copy every transposed head."""

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx, query: Tensor | None, heads: Tensor, bias: Tensor, scale: float, dropout: Dropout
    ) -> Tensor:
        mixed, weights, kept, drawn = _attend(query, heads, bias, scale, dropout)
        is_kept, factor = (None, 1.0) if drawn is None else drawn
        ctx.save_for_backward(query, heads, weights, kept, is_kept)
        ctx.factor, ctx.scale = factor, scale
        return mixed

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor, None, None, None]:  # type: ignore[no-untyped-def]
        query, heads, weights, kept, is_kept = ctx.saved_tensors
        of_heads = torch.empty_like(heads)
        *queries, key, value = heads
        *of_queries, of_key, of_value = of_heads
        of_query = torch.empty_like(query) if query is not None else of_queries[0]
        torch.matmul(kept.transpose(-1, -2), grad, out=of_value)
        of_logits = torch.matmul(grad, value.transpose(-1, -2)).to(weights.dtype)
        of_logits.mul_(ctx.factor * ctx.scale)
        if is_kept is not None:
            of_logits.mul_(is_kept)
        of_logits = softmax_gradient(of_logits, weights).to(heads.dtype)
        torch.matmul(of_logits.transpose(-1, -2), queries[0] if query is None else query, out=of_key)
        torch.matmul(of_logits, key, out=of_query)
        return (None if query is None else of_query), of_heads, None, None, None
