"""Multi-head attention (Vaswani et al., 2017)."""

from jaxtyping import Bool, Float
from torch import Tensor, nn

from mple import backend
from mple.backend.rows import Rows
from mple.model.dropout import Dropout
from mple.model.linear import Linear, side_by_side

INITIALISATIONS = ("joint", "fairseq")


class Attention(nn.Module):
    """Softmax(q kᵀ / √d) v over heads, with dropout on the weights and an output projection.

    initialisation: of the weights W of queries, keys and values. "joint": Xavier's of the matrices that are
        multiplied, keys and values in one, so max|W| = √(3/d) of queries and √(2/d) of keys and values.
        "fairseq": Xavier's with gain 1/√2 of three matrices d × d, so max|W| = √(1.5/d) of all three, their
        biases uniform within ±1/√d. The output's are Xavier's and 0 in both.

    Source: Vaswani et al. (2017); "fairseq" as in its code (`MultiheadAttention.reset_parameters`).
    """

    def __init__(
        self, d_model: int, num_heads: int, dropout: float | int, initialisation: str = "joint"
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = Linear(d_model, d_model)
        self.key_value = Linear(d_model, 2 * d_model)
        self.output = Linear(d_model, d_model)
        self.dropout = Dropout(dropout)
        for linear in (self.query, self.key_value, self.output):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        if initialisation == "fairseq":
            for weight in (self.query.weight, *self.key_value.weight.detach().chunk(2)):
                nn.init.xavier_uniform_(weight, gain=2**-0.5)
            for linear in (self.query, self.key_value):
                nn.init.uniform_(linear.bias, -(d_model**-0.5), d_model**-0.5)

    def forward(self, x: Float[Tensor, "*P D"], rows: Rows) -> Float[Tensor, "*Q D"]:
        """Attend from `x` to itself; of rows that `Rows.only` made, from the positions that are read."""
        if rows.queries is rows.own:
            query, heads = None, rows.own.split(side_by_side(x, self.query, self.key_value), 3)
        else:
            query = rows.queries.split(self.query(rows.narrow(x)), 1)[0]
            heads = rows.own.split(self.key_value(x), 2)
        mixed = backend.attend(query, heads, rows.own.hidden, self.dropout.rate)
        return self.output(rows.queries.join(mixed))

    def look(
        self, x: Float[Tensor, "*P D"], keys_values: Float[Tensor, "2 A H S d"], rows: Rows
    ) -> Float[Tensor, "*P D"]:
        """Attend from `x` to sentences that have these keys and values."""
        query = rows.source.split(self.query(x), 1)[0]
        memory = rows.source.memory(keys_values)
        mixed = backend.attend(query, memory, rows.source.hidden, self.dropout.rate)
        return self.output(rows.source.join(mixed))

    def keys_values(self, memory: Float[Tensor, "B S D"]) -> Float[Tensor, "2 B H S d"]:
        """Keys and values of `memory`, each position's heads apart."""
        return backend.split_heads(self.key_value(memory), 2, self.num_heads)

    def attend(
        self,
        x: Float[Tensor, "B L D"],
        keys_values: Float[Tensor, "2 B H S d"],
        hidden: Bool[Tensor, "#B #L S"] | None,
    ) -> Float[Tensor, "B L D"]:
        """Attend from each row of `x` to one row of keys and values, but to none where `hidden` is True."""
        query = backend.split_heads(self.query(x), 1, self.num_heads)[0]
        mixed = backend.attend(query, keys_values, hidden, self.dropout.rate)
        return self.output(mixed.transpose(1, 2).flatten(2))
