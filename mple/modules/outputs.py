"""What was decoded of a split, until all of it is there: some bytes a token, however many sentences.

outputs = Outputs()
for batch in batches:
    outputs.add(batch.ids, decode(batch).tokens)
texts = outputs.texts(lines, data.decode)          # in the order of `lines`
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from mple.types import PAD

_CHUNK = 1000  # sentences that become text together


class Outputs:
    """Token ids of sentences by their line; padding is not kept.

    A list of Python's numbers takes 36 bytes a token, a tensor some 500 bytes a sentence: a large test set
    would need more memory than the model.
    """

    def __init__(self) -> None:
        self._lines: list[np.ndarray] = []
        self._lengths: list[np.ndarray] = []
        self._tokens: list[np.ndarray] = []

    def add(self, lines: Int[Tensor, "B"], tokens: Int[Tensor, "B L"]) -> None:
        """Keep the ids of a batch."""
        ids = tokens.cpu().numpy()
        is_kept = ids != PAD
        self._lines.append(lines.cpu().numpy().astype(np.int64))
        self._lengths.append(is_kept.sum(1).astype(np.int32))
        self._tokens.append(ids[is_kept].astype(np.int32))

    @staticmethod
    def gathered(parts: "Sequence[Outputs]") -> "Outputs":
        """All that several processes have decoded, as one."""
        together = Outputs()
        for part in parts:
            together._lines += part._lines
            together._lengths += part._lengths
            together._tokens += part._tokens
        return together

    def texts(
        self, lines: Int[np.ndarray, "n"], decode: Callable[[Int[Tensor, "B L"]], list[str]]
    ) -> list[str]:
        """The text of every line; empty where nothing was decoded.

        decode: padded ids to texts, some sentences at a time.
        """
        mine = np.concatenate([np.zeros(0, np.int64), *self._lines])
        lengths = np.concatenate([np.zeros(0, np.int32), *self._lengths])
        starts = np.cumsum(lengths, dtype=np.int64) - lengths
        tokens = np.concatenate([np.zeros(0, np.int32), *self._tokens])
        order = np.argsort(mine, kind="stable")
        first, behind = (np.searchsorted(mine, lines, side, sorter=order) for side in ("left", "right"))
        texts: list[str] = []
        for start in range(0, len(lines), _CHUNK):
            rows = []
            for low, high in zip(
                first[start:][:_CHUNK].tolist(), behind[start:][:_CHUNK].tolist(), strict=True
            ):
                ids = tokens[:0]
                if high > low:  # the last of several: a sentence may have been decoded by two processes
                    at = order[high - 1]
                    ids = tokens[starts[at] : starts[at] + lengths[at]]
                rows.append(torch.from_numpy(ids.astype(np.int64)))
            texts += decode(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD))
        return texts
