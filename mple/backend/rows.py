"""Where the states of a batch are kept, and which positions attend to which.

A batch is B rows of L positions, some of them padding. `DenseRows` computes padding and hides it from
attention; `mple.backend.cpu.packing.PackedRows` leaves it out. The layers of a model see only this interface,
so a layer is the same code for both:

    x = rows.pack(x)                                 # (B, L, D) -> "*P D", as this layout keeps states
    heads = rows.own.split(linear(x), 3)             # queries, keys and values of self-attention
    x = rows.own.join(backend.attend(None, heads, rows.own.hidden, dropout))
    x = rows.unpack(x)                               # -> (B, L, D)
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@runtime_checkable
class View(Protocol):
    """The states as one attention reads them, in R rows of C columns."""

    @property
    def hidden(self) -> Bool[Tensor, "#R #C X"] | None:
        """True where a position may not be seen; None where all may."""

    def split(self, x: Float[Tensor, "*P W"], parts: int) -> Float[Tensor, "N R H C d"]:
        """States to rows, `parts` that stand side by side each for itself, with the heads apart."""

    def join(self, x: Float[Tensor, "R H C d"]) -> Float[Tensor, "*P D"]:
        """Rows to states, heads side by side."""

    def memory(self, keys_values: Float[Tensor, "2 A H S d"]) -> Float[Tensor, "2 R H S d"]:
        """The keys and values that each row attends to, of those of the A sentences."""


@runtime_checkable
class Rows(Protocol):
    """own: self-attention's view of keys and values. queries: that of its queries, `own` itself but in a last
    layer that `only` made. source: cross-attention's view."""

    @property
    def own(self) -> View: ...

    @property
    def queries(self) -> View: ...

    @property
    def source(self) -> View: ...

    def pack(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "*P D"]:
        """States of all positions to those that this layout keeps."""

    def unpack(self, x: Float[Tensor, "*P D"]) -> Float[Tensor, "B L D"]:
        """The reverse; 0 at positions that this layout does not keep."""

    def only(self, reads: Bool[Tensor, "B L"] | None) -> "Rows":
        """The rows of a last layer whose states are used at `reads` alone; or these rows."""

    def narrow(self, x: Float[Tensor, "*P D"]) -> Float[Tensor, "*Q D"]:
        """Of rows that `only` made: their states, from those of the rows they were made of."""


@dataclass(frozen=True)
class DenseView:
    """Rows as they are; padding is computed and hidden. `row`: which sentence each row attends to."""

    num_heads: int
    hidden: Bool[Tensor, "#B #L S"] | None
    row: Int[Tensor, "B"] | None = None
    is_contiguous: bool = False

    def split(self, x: Float[Tensor, "B L W"], parts: int) -> Float[Tensor, "P B H L d"]:
        return split_heads(x, parts, self.num_heads, self.is_contiguous)

    def join(self, x: Float[Tensor, "B H L d"]) -> Float[Tensor, "B L D"]:
        return x.transpose(1, 2).flatten(2)

    def memory(self, keys_values: Float[Tensor, "2 A H S d"]) -> Float[Tensor, "2 B H S d"]:
        return keys_values if self.row is None else keys_values.index_select(1, self.row)


@dataclass(frozen=True)
class DenseRows:
    own: DenseView
    source: DenseView

    @property
    def queries(self) -> DenseView:
        return self.own

    def pack(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        return x

    def unpack(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        return x

    def only(self, reads: Bool[Tensor, "B L"] | None) -> "DenseRows":
        return self

    def narrow(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        return x


def split_heads(
    x: Float[Tensor, "B L W"], parts: int, num_heads: int, is_contiguous: bool = False
) -> Float[Tensor, "P B H L d"]:
    heads = x.unflatten(-1, (parts, num_heads, -1)).permute(2, 0, 3, 1, 4)
    return heads.contiguous() if is_contiguous else heads


def hidden_future(length: int, device: torch.device) -> Bool[Tensor, "1 L L"]:
    """A position sees itself and what is before it, and so no padding at the right."""
    return torch.ones(length, length, dtype=torch.bool, device=device).triu(1).unsqueeze(0)
