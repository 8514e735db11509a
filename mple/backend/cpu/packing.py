"""Rows without their padding.

The sentences of a batch differ in length, and the canvases of a look-ahead differ more, so some of their
positions are padding. On a CPU the layers compute only the others, one after the other, (M, D). Attention
alone puts them into rows, in the copy by which it separates the heads: where a position sees its canvas, each
canvas is a row; where it sees its source, all canvases of a sentence are one, so that the source's keys and
values are needed once.
"""

from copy import copy
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from mple.backend.rows import DenseRows, DenseView, Rows, hidden_future
from mple.backend.rows import split_heads as dense_heads

_MULTIPLE = 32
"""oneDNN's bf16 products are faster where their rows are a multiple of this."""


class Layout:
    """How N packed positions lie in R rows of C columns.

    Position n lies in row `row[n]`, after those before it. `row` is sorted and holds r `counts[r]` times.
    Packed states have M >= N rows, a multiple of 32; what is beyond N is nobody's.
    """

    def __init__(self, row: Int[Tensor, "N"], counts: Int[Tensor, "R"], num_heads: int) -> None:
        start = counts.cumsum(0) - counts
        self.columns = int(counts.max())
        columns, heads = torch.arange(self.columns), torch.arange(num_heads)
        # Where a row has ended lies some other position, which nobody sees.
        self._position = (start.unsqueeze(1) + columns).clamp_(max=len(row) - 1).unsqueeze(1)  # (R, 1, C)
        self._head = heads.unsqueeze(1)  # (H, 1)
        column = torch.arange(len(row)) - start[row]
        self._place = (row.unsqueeze(1) * num_heads + heads) * self.columns + column.unsqueeze(1)  # (N, H)

    def split_heads(self, x: Float[Tensor, "M W"], parts: int = 1) -> Float[Tensor, "P R H C d"]:
        """The states in their rows; of `parts` that lie side by side each for itself."""
        return _Split.apply(x, self, parts) if torch.is_grad_enabled() else self._split(x, parts)

    def join_heads(self, x: Float[Tensor, "R H C d"]) -> Float[Tensor, "M D"]:
        """The states of the positions, from those of the rows."""
        return _Join.apply(x, self) if torch.is_grad_enabled() else self._join(x.unsqueeze(0))

    def _split(self, x: Float[Tensor, "M W"], parts: int) -> Float[Tensor, "P R H C d"]:
        heads = parts * len(self._head)
        width = x.shape[1] // heads
        part = torch.arange(0, heads, len(self._head)).view(-1, 1, 1, 1)
        index = self._position * heads + self._head + part
        return x.view(len(x) * heads, width).index_select(0, index.flatten()).view(*index.shape, width)

    def _join(self, x: Float[Tensor, "P R H C d"]) -> Float[Tensor, "M W"]:
        """0 beyond the N positions."""
        parts, (count, heads), width = len(x), self._place.shape, x.shape[-1]
        part = torch.arange(parts).unsqueeze(1) * (x[0].numel() // width)
        place = self._place.unsqueeze(1) + part  # (N, P, H)
        joined = x.new_empty(rounded(count), parts * heads * width)
        joined[count:] = 0
        into = joined[:count].view(-1, width)
        torch.index_select(x.view(-1, width), 0, place.flatten(), out=into)
        return joined

    def _spread(self, x: Float[Tensor, "M D"]) -> Float[Tensor, "R H C d"]:
        """`_split`, with 0 where no position lies."""
        (count, heads), rows = self._place.shape, len(self._position)
        width = x.shape[1] // heads
        spread = x.new_zeros(rows, heads, self.columns, width)
        spread.view(-1, width).index_copy_(0, self._place.flatten(), x[:count].reshape(-1, width))
        return spread


class _Split(torch.autograd.Function):
    """What lies where a row has ended is seen by nobody, so no gradient comes back from there."""

    @staticmethod
    def forward(ctx, x: Tensor, layout: Layout, parts: int) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.layout = layout
        return layout._split(x, parts)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
        return ctx.layout._join(grad.contiguous()), None, None


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, layout: Layout) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.layout = layout
        return layout._join(x.unsqueeze(0))

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        return ctx.layout._spread(grad), None


def rounded(count: int) -> int:
    """The rows of `count` packed states."""
    return -(-count // _MULTIPLE) * _MULTIPLE


def _gathered(x: Float[Tensor, "P D"], index: Int[Tensor, "N"]) -> Float[Tensor, "M D"]:
    """The rows `index` of x, and beyond them some row again."""
    count = len(index)
    return x.index_select(0, functional.pad(index, (0, rounded(count) - count)))


@dataclass(frozen=True)
class PackedView:
    """A layout and what its positions may not see."""

    layout: Layout
    hidden: Bool[Tensor, "#R #C X"] | None

    def split(self, x: Float[Tensor, "M W"], parts: int) -> Float[Tensor, "P R H C d"]:
        return self.layout.split_heads(x, parts)

    def join(self, x: Float[Tensor, "R H C d"]) -> Float[Tensor, "M D"]:
        return self.layout.join_heads(x)

    def memory(self, keys_values: Float[Tensor, "2 A H S d"]) -> Float[Tensor, "2 A H S d"]:
        return keys_values  # the rows are the sentences


class PackedRows:
    """The N positions of B rows that hold a token, those of a sentence after each other.

    is_token: the rows. memory_row: the sentence of each row; None: they are the sentences.
    memory_is_pad: padding of the sentences.
    """

    def __init__(
        self,
        is_token: Bool[Tensor, "B L"],
        num_heads: int,
        sees_future: bool = True,
        memory_is_pad: Bool[Tensor, "A S"] | None = None,
        memory_row: Int[Tensor, "B"] | None = None,
    ) -> None:
        self._shape = is_token.shape
        self._num_heads = num_heads
        order = torch.arange(len(is_token)) if memory_row is None else memory_row.argsort(stable=True)
        row, column = is_token[order].nonzero(as_tuple=True)
        self._sentence = None if memory_row is None else memory_row[order]
        self._memory_is_pad = memory_is_pad
        self._row, self._place = row, order[row] * self._shape[1] + column
        self._taken = self._place  # where `pack` or `narrow` takes the states from
        counts = is_token.sum(1)[order]
        layout = Layout(row, counts, num_heads)
        hidden: Bool[Tensor, "#B #C C"] | None = None
        if not sees_future:
            hidden = hidden_future(layout.columns, is_token.device)
        elif bool((counts < layout.columns).any()):
            hidden = torch.arange(layout.columns) >= counts.view(-1, 1, 1)
        self.own = self.queries = PackedView(layout, hidden)
        self.source = self._source(layout, counts)

    def _source(self, layout: Layout, counts: Int[Tensor, "B"]) -> PackedView:
        """Cross-attention's view: all rows of a sentence are one, so its keys and values are needed once."""
        if self._sentence is not None and self._memory_is_pad is not None:
            together = torch.zeros(len(self._memory_is_pad), dtype=counts.dtype)
            together.index_add_(0, self._sentence, counts)
            layout = Layout(self._sentence[self._row], together, self._num_heads)
        return PackedView(layout, None if self._memory_is_pad is None else hide_padding(self._memory_is_pad))

    def pack(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "M D"]:
        return _gathered(x.flatten(0, -2), self._taken)

    def unpack(self, x: Float[Tensor, "M D"]) -> Float[Tensor, "B L D"]:
        rows, length = self._shape
        width = x.shape[1]
        unpacked = x.new_zeros(rows * length, width).index_copy(0, self._place, x[: len(self._place)])
        return unpacked.view(rows, length, width)

    def only(self, reads: Bool[Tensor, "B L"] | None) -> "PackedRows":
        chosen = None if reads is None else reads.flatten()[self._place].nonzero()[:, 0]
        if chosen is None or len(chosen) in (0, len(self._place)):
            return self
        narrow = copy(self)
        narrow._taken, narrow._place, narrow._row = chosen, self._place[chosen], self._row[chosen]
        counts = torch.bincount(narrow._row, minlength=self._shape[0])
        layout = Layout(narrow._row, counts, self._num_heads)
        narrow.queries = PackedView(layout, self.own.hidden)
        narrow.source = narrow._source(layout, counts)
        return narrow

    def narrow(self, x: Float[Tensor, "M D"]) -> Float[Tensor, "Q D"]:
        return x if self.queries is self.own else _gathered(x, self._taken)


def rows(
    is_token: Bool[Tensor, "B L"],
    num_heads: int,
    sees_future: bool,
    memory_is_pad: Bool[Tensor, "A S"] | None,
    memory_row: Int[Tensor, "B"] | None,
    training: bool,
) -> Rows:
    """Packed where there is padding to leave out; and always in training, where packed heads need fewer
    copies, with or without a gradient, so that dropout draws the same for both."""
    if training or torch.is_grad_enabled() or not bool(is_token.all()):
        return PackedRows(is_token, num_heads, sees_future, memory_is_pad, memory_row)
    own = None if sees_future else hidden_future(is_token.shape[1], is_token.device)
    hidden = None if memory_is_pad is None else hide_padding(memory_is_pad)
    if hidden is not None and memory_row is not None:
        hidden = hidden.index_select(0, memory_row)
    return DenseRows(
        DenseView(num_heads, own, is_contiguous=True),
        DenseView(num_heads, hidden, memory_row, is_contiguous=True),
    )


def hide_padding(is_pad: Bool[Tensor, "B S"]) -> Bool[Tensor, "B 1 S"] | None:
    """None where there is no padding, which saves the masking."""
    return is_pad.unsqueeze(1) if bool(is_pad.any()) else None


def split_heads(x: Float[Tensor, "B L W"], parts: int, num_heads: int) -> Float[Tensor, "P B H L d"]:
    """In the order in which rows are copied and multiplied."""
    return dense_heads(x, parts, num_heads, is_contiguous=True)
