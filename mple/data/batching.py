"""Token-bucketed batches, as a pure function of seed and update.

    buckets = TokenBuckets(src_lengths, tgt_lengths, max_tokens=4096, seed=1)
    for micro_batches in buckets.updates(world_size=2, accumulate=4, rank=0, start_update=1200):
        ...                                     # a list of 4 arrays of rows: this rank's share of one update

Padding is waste, so sentences of similar length go together. The boundaries between batches depend on the
lengths alone: sentences are ordered by width = max(source, target) with eos, which is what a batch pays for,
and each epoch reorders them only among those of equal width. So every epoch has the same number of batches,
update u is found without replaying what came before, and yet each epoch has other batches.
"""

from collections.abc import Iterator

import numpy as np

from mple.checks import UserError, whole

_JITTER = 1  # tokens by which the order within a width is blurred


class TokenBuckets:
    """Training batches of at most `max_tokens` = sentences × width, padding and eos included.

    `src_lengths`, `tgt_lengths`: content tokens of every row; not kept. Memory: 10 bytes a row.

    Raises:
        UserError: a sentence is wider than `max_tokens`, or there are no sentences.
    """

    def __init__(self, src_lengths: np.ndarray, tgt_lengths: np.ndarray, max_tokens: int, seed: int):
        whole("max_tokens", max_tokens, 1, unit="tokens a batch and process")
        whole("seed", seed, 0)
        if not len(src_lengths):
            raise UserError("training data must have a sentence; got none")
        self._order, widths = _by_width(src_lengths, tgt_lengths)
        if widths[-1] > max_tokens:
            raise UserError(
                f"max_tokens must hold the longest sentence, {widths[-1]} tokens with eos "
                f"(see data.max_length); got {max_tokens}"
            )
        self._seed = seed
        self._skew = (tgt_lengths.astype(np.int16) - src_lengths.astype(np.int16))[self._order]
        self._bounds = _boundaries(widths, max_tokens)
        starts = np.flatnonzero(np.diff(widths, prepend=0)).tolist()
        self._classes = list(zip(widths[starts].tolist(), starts, [*starts[1:], len(widths)], strict=True))

    def __len__(self) -> int:
        """Batches of one epoch, the same in every epoch."""
        return len(self._bounds) - 1

    def epoch(self, epoch: int) -> Iterator[np.ndarray]:
        """The batches of an epoch, arrays of rows in shuffled order: every row exactly once."""
        return self._epoch(epoch, 0)

    def updates(
        self, world_size: int = 1, accumulate: int = 1, rank: int = 0, start_update: int = 0
    ) -> Iterator[list[np.ndarray]]:
        """Endless stream over epochs from update `start_update` on: `accumulate` batches of this rank each.

        An update is `world_size` × `accumulate` consecutive batches, of which rank r gets every
        `world_size`-th from the r-th on: all ranks get as many, and 2 processes see what 1 sees that
        accumulates twice as long. An update may span the end of an epoch.
        """
        batches = self._stream(start_update * world_size * accumulate)
        while True:
            update = [next(batches) for _ in range(world_size * accumulate)]
            yield update[rank::world_size]

    def _stream(self, start: int) -> Iterator[np.ndarray]:
        epoch, first = divmod(start, len(self))
        while True:
            yield from self._epoch(epoch, first)
            epoch, first = epoch + 1, 0

    def _epoch(self, epoch: int, first: int) -> Iterator[np.ndarray]:
        random = np.random.default_rng([self._seed, epoch])
        order = np.empty_like(self._order)
        for width, start, end in self._classes:
            rows, skew = self._order[start:end], self._skew[start:end]
            # Within a width one side has that width, and skew = target - source says how short the other is.
            # Turning round at every width keeps neighbours across two widths similar.
            key = (skew if width % 2 else -skew) + random.integers(-_JITTER, _JITTER + 1, len(rows), np.int16)
            shuffled = random.permutation(len(rows))  # so that equal keys come in another order each time
            order[start:end] = rows[shuffled[np.argsort(key[shuffled], kind="stable")]]
        for batch in random.permutation(len(self))[first:].tolist():
            yield order[self._bounds[batch] : self._bounds[batch + 1]]


def evaluation_batches(src_lengths: np.ndarray, tgt_lengths: np.ndarray, max_tokens: int) -> list[np.ndarray]:
    """Arrays of rows in fixed order, longest sentences first (what fits at first fits throughout); every row
    once. A sentence wider than `max_tokens` is a batch of its own: evaluation leaves nothing out."""
    order, widths = _by_width(src_lengths, tgt_lengths)
    bounds = _boundaries(widths, max_tokens)
    return [order[start:end] for start, end in zip(bounds[-2::-1], bounds[:0:-1], strict=True)]


def _by_width(src_lengths: np.ndarray, tgt_lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows (int32) by increasing width, shorter targets first among equals, and their widths with eos."""
    widths = np.maximum(src_lengths, tgt_lengths) + 1
    order = np.lexsort((src_lengths, tgt_lengths, widths)).astype(np.int32)
    return order, widths[order]


def _boundaries(widths: np.ndarray, max_tokens: int) -> np.ndarray:
    """Where batches start, and the end: as many rows each as max_tokens holds, at least one."""
    bounds = [0]
    while (start := bounds[-1]) < len(widths):
        ahead = widths[start : start + max_tokens // int(widths[start]) + 1]
        cost = ahead * np.arange(1, len(ahead) + 1)  # increases, as the widths do
        bounds.append(start + max(1, int(np.searchsorted(cost, max_tokens, side="right"))))
    return np.array(bounds)
