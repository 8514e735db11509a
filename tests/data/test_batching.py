"""Token buckets: every sentence once, within the bound, and the same on every resume."""

from itertools import islice

import numpy as np
import pytest

from mple.checks import UserError
from mple.data.batching import TokenBuckets, evaluation_batches


def lengths(count: int = 3000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    src = random.geometric(0.08, count).clip(1, 60)
    return src.astype(np.int32), (src + random.integers(-4, 5, count)).clip(1, 60).astype(np.int32)


def as_lists(batches: list[np.ndarray]) -> list[list[int]]:
    return [batch.tolist() for batch in batches]


@pytest.mark.parametrize("max_tokens", [61, 400, 10**6])
@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_every_row_once_within_the_bound(max_tokens: int, epoch: int) -> None:
    src, tgt = lengths()
    buckets = TokenBuckets(src, tgt, max_tokens, seed=1)
    batches = list(buckets.epoch(epoch))
    assert len(batches) == len(buckets)
    assert sorted(np.concatenate(batches).tolist()) == list(range(3000))
    assert all(len(rows) * (max(src[rows].max(), tgt[rows].max()) + 1) <= max_tokens for rows in batches)


def test_little_padding() -> None:
    src, tgt = lengths(30_000)

    def filled(batches: list[np.ndarray]) -> float:
        cells = sum(len(rows) * int(src[rows].max() + 1 + tgt[rows].max()) for rows in batches)
        return (int(src.sum() + tgt.sum()) + len(src)) / cells

    batches = list(TokenBuckets(src, tgt, 4096, seed=1).epoch(0))
    assert filled(batches) > 0.9
    shuffled = np.random.default_rng(0).permutation(30_000)
    assert filled(np.array_split(shuffled, len(batches))) < 0.3


def test_pure_function_of_seed_and_epoch() -> None:
    def epoch(seed: int, number: int) -> list[list[int]]:
        return as_lists(list(TokenBuckets(*lengths(), 400, seed).epoch(number)))

    assert epoch(1, 3) == epoch(1, 3)
    assert epoch(1, 3) != epoch(1, 4)
    assert epoch(1, 3) != epoch(2, 3)
    together = [{frozenset(rows) for rows in epoch(1, number)} for number in (0, 1)]
    assert len(together[0] & together[1]) < 0.1 * len(together[0])  # other batches, not only another order


def test_lengths_are_not_changed() -> None:
    src, tgt = lengths()
    copies = src.copy(), tgt.copy()
    buckets = TokenBuckets(src, tgt, 400, seed=1)
    first = as_lists(list(buckets.epoch(0)))
    assert as_lists(list(buckets.epoch(0))) == first
    assert (src == copies[0]).all()
    assert (tgt == copies[1]).all()


def test_updates_run_through_the_epochs() -> None:
    buckets = TokenBuckets(*lengths(), 400, seed=1)
    stream = [batch for update in islice(buckets.updates(accumulate=3), len(buckets)) for batch in update]
    expected = [batch for epoch in range(3) for batch in buckets.epoch(epoch)]
    assert as_lists(stream) == as_lists(expected)


@pytest.mark.parametrize(("world_size", "accumulate"), [(2, 1), (2, 2), (4, 1), (3, 2)])
def test_ranks_share_what_one_process_sees(world_size: int, accumulate: int) -> None:
    buckets = TokenBuckets(*lengths(), 400, seed=1)
    count = 2 * len(buckets) // (world_size * accumulate)
    alone = list(islice(buckets.updates(1, world_size * accumulate), count))
    shares = [
        list(islice(buckets.updates(world_size, accumulate, rank), count)) for rank in range(world_size)
    ]
    for u in range(count):
        assert [len(share[u]) for share in shares] == [accumulate] * world_size
        union = [share[u][i].tolist() for i in range(accumulate) for share in shares]
        assert union == as_lists(alone[u])


def test_resume_is_exact_and_quick() -> None:
    buckets = TokenBuckets(*lengths(), 400, seed=1)
    straight = list(islice(buckets.updates(2, 2, rank=1), 100))
    for start in (0, 1, 37, len(buckets) // 4, len(buckets) // 4 + 1, 99):
        resumed = list(islice(buckets.updates(2, 2, rank=1, start_update=start), 100 - start))
        assert [as_lists(update) for update in resumed] == [as_lists(update) for update in straight[start:]]
    next(buckets.updates(start_update=10**9))  # replaying would take hours


def test_corpus_smaller_than_an_update() -> None:
    ones = np.ones(3, np.int32)
    update = next(TokenBuckets(ones, ones, 4, seed=0).updates(accumulate=5))
    assert [sorted(np.concatenate(update[i : i + 2]).tolist()) for i in (0, 2)] == [[0, 1, 2], [0, 1, 2]]


def test_evaluation_batches() -> None:
    src, tgt = lengths()
    src[17] = 500
    batches = evaluation_batches(src, tgt, 400)
    assert sorted(np.concatenate(batches).tolist()) == list(range(3000))
    widths = [max(src[rows].max(), tgt[rows].max()) + 1 for rows in batches]
    assert batches[0].tolist() == [17]  # wider than a batch: alone, not left out
    assert all(len(rows) * width <= 400 for rows, width in zip(batches[1:], widths[1:], strict=True))
    assert widths == sorted(widths, reverse=True)
    assert as_lists(batches) == as_lists(evaluation_batches(src, tgt, 400))
    assert evaluation_batches(src[:0], tgt[:0], 400) == []


def test_errors() -> None:
    src, tgt = lengths()
    with pytest.raises(UserError, match=r"^max_tokens must hold the longest sentence, 61 tokens.*; got 60"):
        TokenBuckets(src, tgt, 60, seed=0)
    with pytest.raises(UserError, match="training data must have a sentence; got none"):
        TokenBuckets(src[:0], tgt[:0], 60, seed=0)
