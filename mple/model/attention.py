"""Multi-head attention: the one place that chooses how it is computed.

On GPUs the fused kernel is the right one. On CPUs it is made for long sequences, and at sentence lengths two
matrix products with a softmax between them are faster, forward and backward, so that is what runs there.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from mple.model.dropout import Dropout


def split_heads(x: Float[Tensor, "B S D"], num_heads: int) -> Float[Tensor, "B H S d"]:
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


class Attention(nn.Module):
    """Softmax(q kᵀ / √d) v over heads, with dropout on the weights and an output projection."""

    def __init__(self, d_model: int, num_heads: int, dropout: float | int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(d_model, d_model)
        self.key_value = nn.Linear(d_model, 2 * d_model)
        self.output = nn.Linear(d_model, d_model)
        self.dropout = Dropout(dropout)
        for linear in (self.query, self.key_value, self.output):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def keys_values(self, memory: Float[Tensor, "B S D"]) -> tuple[Tensor, Tensor]:
        """Keys and values of `memory`, each (B, H, S, d): what incremental decoding keeps."""
        key, value = self.key_value(memory).chunk(2, dim=-1)
        return split_heads(key, self.num_heads), split_heads(value, self.num_heads)

    def forward(
        self,
        x: Float[Tensor, "B L D"],
        memory: Float[Tensor, "B S D"],
        hidden: Bool[Tensor, "B #L S"] | None,
    ) -> Float[Tensor, "B L D"]:
        """Attend from `x` to `memory`; `hidden` is True where a memory position may not be seen."""
        return self.attend(x, *self.keys_values(memory), hidden)

    def attend(
        self,
        x: Float[Tensor, "B L D"],
        key: Float[Tensor, "B H S d"],
        value: Float[Tensor, "B H S d"],
        hidden: Bool[Tensor, "B #L S"] | None,
    ) -> Float[Tensor, "B L D"]:
        query = split_heads(self.query(x), self.num_heads)
        if x.device.type == "cpu":
            weights = torch.matmul(query * query.shape[-1] ** -0.5, key.transpose(-1, -2))  # (B, H, L, S)
            if hidden is not None:
                weights = weights.masked_fill(hidden.unsqueeze(1), float("-inf"))
            mixed = torch.matmul(self.dropout(weights.softmax(-1)), value)
        else:
            seen = None if hidden is None else ~hidden.unsqueeze(1)
            dropout_p = self.dropout.p if self.training else 0.0
            mixed = functional.scaled_dot_product_attention(query, key, value, seen, dropout_p)
        return self.output(mixed.transpose(1, 2).flatten(2))
