"""Canvases without their padding.

The canvases of a batch differ in length: a tenth of the places in a look-ahead is padding. Without gradient
on a CPU a decoder computes only the others, one after the other, (N, D). Attention alone lays them in rows,
in the copy by which it parts the heads: where a position sees its canvas, each canvas is a row; where it sees
its source, all canvases of a sentence are one, so that the source's keys and values are needed once.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mple.types import PAD


class Layout:
    """How N packed positions lie in R rows of C columns.

    Position n lies in row `row[n]`, after those before it. `row` is sorted and holds r `counts[r]` times.
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

    def split_heads(self, x: Float[Tensor, "N W"], parts: int = 1) -> Float[Tensor, "P R H C d"]:
        """The states in their rows; of `parts` that lie side by side each for itself."""
        heads = parts * len(self._head)
        width = x.shape[1] // heads
        part = torch.arange(0, heads, len(self._head)).view(-1, 1, 1, 1)
        index = self._position * heads + self._head + part
        return x.view(len(x) * heads, width).index_select(0, index.flatten()).view(*index.shape, width)

    def join_heads(self, x: Float[Tensor, "R H C d"]) -> Float[Tensor, "N D"]:
        """The states of the positions, from those of the rows."""
        width, (count, heads) = x.shape[-1], self._place.shape
        joined = x.view(-1, width).index_select(0, self._place.flatten())
        return joined.view(count, heads * width)


class Packing:
    """The N positions of B canvases that hold a token, sentence by sentence.

    tokens: the canvases; row b of the batch is canvas `canvas[b]`, or b where `canvas` is None.
    row: the sentence of each row of the batch, of `num_sentences`; where it is None they are the rows.

    canvases: the layout in which a position sees its canvas; `hidden` is True where that has ended.
    sentences: the layout in which it sees its source.
    """

    def __init__(
        self,
        tokens: Int[Tensor, "K L"],
        canvas: Int[Tensor, "B"] | None,
        row: Int[Tensor, "B"] | None,
        num_sentences: int,
        num_heads: int,
    ) -> None:
        length = tokens.shape[1]
        canvas = torch.arange(len(tokens)) if canvas is None else canvas
        order = torch.arange(len(canvas)) if row is None else row.argsort(stable=True)
        is_token = (tokens != PAD)[canvas[order]]
        index, column = is_token.nonzero(as_tuple=True)
        counts = is_token.sum(1)
        self._source = canvas[order[index]] * length + column
        self._place = order[index] * length + column
        self._shape = len(canvas), length
        self.canvases = Layout(index, counts, num_heads)
        self.hidden: Bool[Tensor, "B 1 C"] | None = None
        if bool((counts < self.canvases.columns).any()):
            self.hidden = torch.arange(self.canvases.columns) >= counts.view(-1, 1, 1)
        self.sentences = self.canvases
        if row is not None:
            together = torch.zeros(num_sentences, dtype=counts.dtype).index_add_(0, row[order], counts)
            self.sentences = Layout(row[order[index]], together, num_heads)

    def pack(self, x: Float[Tensor, "K L D"]) -> Float[Tensor, "N D"]:
        """The states of the positions, from those of the canvases."""
        return x.flatten(0, 1).index_select(0, self._source)

    def unpack(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "B L D"]:
        """The states in the rows of the batch; 0 at padding."""
        rows, length = self._shape
        width = x.shape[1]
        unpacked = x.new_zeros(rows * length, width).index_copy_(0, self._place, x)
        return unpacked.view(rows, length, width)
