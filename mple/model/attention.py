"""Multi-head attention: the one place that chooses how it is computed.

On GPUs the fused kernel is the right one. On CPUs it is made for long sequences, and at sentence lengths two
matrix products with a softmax between them are faster, forward and backward, so that is what runs there.

Rows that attend to the same memory, the canvases of one sentence, share its keys and values, and so do the
look-ahead and the training pass: they are projected once, and copied to the rows where these are not packed.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from mple.model.dropout import Dropout
from mple.model.linear import Linear
from mple.model.packing import Layout
from mple.model.softmax import hidden_softmax
from mple.types import EncoderOutput


def split_heads(x: Float[Tensor, "B S D"], num_heads: int) -> Float[Tensor, "B H S d"]:
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


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

    def keys_values(
        self, memory: Float[Tensor, "*M D"], layout: Layout | None = None
    ) -> tuple[Tensor, Tensor]:
        """Keys and values of `memory`, each (B, H, S, d): what incremental decoding keeps."""
        if layout is not None:
            key, value = layout.split_heads(self.key_value(memory), 2)
            return key, value
        key, value = self.key_value(memory).chunk(2, dim=-1)
        return split_heads(key, self.num_heads), split_heads(value, self.num_heads)

    def laid_out(self, memory: Float[Tensor, "B S D"]) -> Float[Tensor, "2 B H S d"]:
        """`keys_values`, in the order in which rows are copied and multiplied."""
        pair = self.key_value(memory).unflatten(-1, (2, self.num_heads, -1))  # (B, S, 2, H, d)
        return pair.permute(2, 0, 3, 1, 4).contiguous()

    def forward(
        self,
        x: Float[Tensor, "*P D"],
        memory: Float[Tensor, "*M D"],
        hidden: Bool[Tensor, "#B #L S"] | None,
        layout: Layout | None = None,
    ) -> Float[Tensor, "*P D"]:
        """Attend from `x` to `memory`; `hidden` is True where a memory position may not be seen. With
        `layout` both are packed, and `hidden` is of the layout's rows."""
        return self.attend(x, *self.keys_values(memory, layout), hidden, layout)

    def look(
        self,
        x: Float[Tensor, "*P D"],
        encoder_out: EncoderOutput,
        hidden: Bool[Tensor, "#B #L S"] | None,
        layout: Layout | None = None,
    ) -> Float[Tensor, "*P D"]:
        """Attend to the source. With `layout`, whose rows are the sentences, `x` is packed."""
        key, value = encoder_out.once(self.laid_out)
        if encoder_out.row is not None and layout is None:
            key, value = (part.index_select(0, encoder_out.row) for part in (key, value))
        return self.attend(x, key, value, hidden, layout)

    def attend(
        self,
        x: Float[Tensor, "*P D"],
        key: Float[Tensor, "B H S d"],
        value: Float[Tensor, "B H S d"],
        hidden: Bool[Tensor, "#B #L S"] | None,
        layout: Layout | None = None,
    ) -> Float[Tensor, "*P D"]:
        """Attend to what has these keys and values, one row of them for each row of `x`, or of `layout`."""
        query = self.query(x)
        query = split_heads(query, self.num_heads) if layout is None else layout.split_heads(query)[0]
        if x.device.type == "cpu":
            weights = torch.matmul(query, key.transpose(-1, -2))  # (B, H, L, S)
            bias = (
                torch.zeros(1, 1, 1, 1)
                if hidden is None
                else torch.where(hidden.unsqueeze(1), -torch.inf, 0.0)
            )
            weights = hidden_softmax(weights, self.scale, bias).to(weights.dtype)
            mixed = torch.matmul(self.dropout(weights), value)
        else:
            seen = None if hidden is None else ~hidden.unsqueeze(1)
            dropout_p = self.dropout.p if self.training else 0.0
            mixed = functional.scaled_dot_product_attention(query, key, value, seen, dropout_p)
        return self.output(mixed.transpose(1, 2).flatten(2) if layout is None else layout.join_heads(mixed))
