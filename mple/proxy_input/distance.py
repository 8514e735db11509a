"""How far the model's own output is from T, in tokens: what glancing measures to choose how much it reveals.

    hamming       Σ_i [T_i ≠ argmax P(t_i | Z*, X)]
    levenshtein   the fewest insertions, deletions and substitutions that turn the one into the other

The two strings of a sentence have the same length (the canvas), so levenshtein ≤ hamming: a T that the model
says shifted by one token is wrong nearly everywhere, and two edits away.
"""

from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor

Distance = Callable[[Tensor, Tensor], Tensor]


def hamming(a: Int[Tensor, "B L"], b: Int[Tensor, "B L"]) -> Int[Tensor, "B"]:
    """Positions at which `a` and `b` differ. Both must have the same padding."""
    return (a != b).sum(1)


def levenshtein(a: Int[Tensor, "B L"], b: Int[Tensor, "B L"]) -> Int[Tensor, "B"]:
    """Edit distance of each pair of rows, every edit costing 1.

    Both must have the same padding. It then is a common suffix, which never changes an edit distance, so it
    needs no masking.

    Source: Wagner and Fischer (1974), all sentences at once and row by row of its table D. Within a row,
    D_i(j) = min_{k ≤ j} (c(k) + j − k), c without the insertions of the row: a running minimum of c(k) − k.
    The table is therefore kept as D_i(j) − j.
    """
    length = a.shape[1]
    # Positions come first, for then a row of the table is contiguous and the running minimum vectorises.
    a, b = a.t().contiguous(), b.t().contiguous()
    row = torch.zeros(length + 1, a.shape[1], dtype=torch.int32, device=a.device)  # D_0(j) = j
    for i in range(length):
        after = torch.empty_like(row)
        after[0] = i + 1
        torch.minimum(row[1:] + 1, row[:-1] - (b == a[i]).int(), out=after[1:])
        row = after.cummin(0).values
    return row[-1].long() + length


DISTANCES: dict[str, Distance] = {"hamming": hamming, "levenshtein": levenshtein}
