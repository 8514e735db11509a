"""Canvases without their padding.

The sentences of a batch differ in length, and the canvases of a look-ahead differ more, so some of their
places are padding. On a CPU the layers compute only the others, one after the other, (M, D). Attention alone
lays them in rows, in the copy by which it parts the heads: where a position sees its canvas, each canvas is a
row; where it sees its source, all canvases of a sentence are one, so that the source's keys and values are
needed once.
"""

from copy import copy

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from mple.types import PAD

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


class Packing:
    """The N positions of B canvases that hold a token, sentence by sentence.

    tokens: the canvases.
    row: the sentence of each row of the batch, of `num_sentences`; where it is None they are the rows.

    canvases: the layout in which a position sees its canvas; `hidden` is True where that has ended.
    sentences: the layout in which it sees its source.
    """

    def __init__(
        self,
        tokens: Int[Tensor, "B L"],
        row: Int[Tensor, "B"] | None,
        num_sentences: int,
        num_heads: int,
    ) -> None:
        length = tokens.shape[1]
        order = torch.arange(len(tokens)) if row is None else row.argsort(stable=True)
        is_token = (tokens != PAD)[order]
        index, column = is_token.nonzero(as_tuple=True)
        self._source = self._place = order[index] * length + column
        self._shape = len(tokens), length
        self._index, self._num_heads = index, num_heads
        self._sentence = None if row is None else row[order]
        self._num_sentences = num_sentences
        counts = is_token.sum(1)
        self._lay(counts)
        self.hidden: Bool[Tensor, "B 1 C"] | None = None
        if bool((counts < self.canvases.columns).any()):
            self.hidden = torch.arange(self.canvases.columns) >= counts.view(-1, 1, 1)

    def _lay(self, counts: Int[Tensor, "B"]) -> None:
        self.canvases = self.sentences = Layout(self._index, counts, self._num_heads)
        if self._sentence is not None:
            together = torch.zeros(self._num_sentences, dtype=counts.dtype)
            together.index_add_(0, self._sentence, counts)
            self.sentences = Layout(self._sentence[self._index], together, self._num_heads)

    def pack(self, x: Float[Tensor, "*P D"]) -> Float[Tensor, "M D"]:
        """The states of the positions, from those of the canvases."""
        return _gathered(x.flatten(0, -2), self._source)

    def unpack(self, x: Float[Tensor, "M D"]) -> Float[Tensor, "B L D"]:
        """The states in the rows of the batch; 0 at padding and what else is not packed."""
        rows, length = self._shape
        width = x.shape[1]
        unpacked = x.new_zeros(rows * length, width).index_copy(0, self._place, x[: len(self._place)])
        return unpacked.view(rows, length, width)

    def only(self, wanted: Bool[Tensor, "B L"]) -> "Packing":
        """The packing of some of the positions: `pack` takes their states from this packing's. Of all or none
        it is this packing."""
        found = copy(self)
        chosen = wanted.flatten()[self._place].nonzero()[:, 0]
        if len(chosen) in (0, len(self._place)):
            return self
        found._source, found._place, found._index = chosen, self._place[chosen], self._index[chosen]
        found._lay(torch.bincount(found._index, minlength=self._shape[0]))
        return found
