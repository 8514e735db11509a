"""Intervals over seeds and sentences, and the bootstrap of BLEU: against SciPy, sacreBLEU, closed forms."""

import numpy as np
import pytest
from scipy import stats

from experiments.paper_items.numbers import (
    NO_INTERVAL,
    OVER_SEEDS,
    OVER_SENTENCES,
    Number,
    difference,
    student,
)
from mple.estimator.statistics import Interval

SEEDS = {1: 20.5, 2: 22.0, 3: 20.0}


def test_over_seeds_it_is_the_t_interval_of_scipy() -> None:
    values = list(SEEDS.values())
    found = Number(SEEDS).interval()
    assert found is not None
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert Number(SEEDS).basis == OVER_SEEDS


def test_of_one_seed_only_an_evaluation_can_say_how_sure_it_is() -> None:
    assert Number({1: 2.0}).interval() is None
    assert Number({1: 2.0}).basis == NO_INTERVAL
    found = Number({1: 2.0}, {1: (1.5, 2.75)})
    assert found.basis == OVER_SENTENCES
    interval = found.interval()
    assert interval is not None
    assert (interval.low, interval.high) == (1.5, 2.75)


def test_equal_seeds_are_no_evidence() -> None:
    """KD's targets are the same for all seeds: no spread, and not an interval without width."""
    assert Number({1: 2.0, 2: 2.0}).interval() is None
    found = Number({1: 2.0, 2: 2.0}, {1: (1.0, 3.0), 2: (1.0, 3.0)}).interval()
    assert found is not None
    assert (found.low, found.high) == (1.0, 3.0)


def test_differences_are_taken_seed_by_seed() -> None:
    gap = Number(SEEDS) - Number({2: 21.0, 3: 19.5, 4: 0.0})
    assert gap.values == {2: 1.0, 3: 0.5}
    assert gap.interval() == student([1.0, 0.5])


def test_without_a_common_seed_the_means_are_compared() -> None:
    gap = Number({1: 3.0, 2: 5.0}) - Number({3: 1.0, 4: 2.0})
    left, right = student([3.0, 5.0]), student([1.0, 2.0])
    found = gap.interval()
    assert found is not None
    assert (found.value, found.low) == pytest.approx((2.5, difference(left, right).low))
    assert gap.basis == (-gap).basis == gap.scaled(2).basis == OVER_SEEDS
    mixed = Number({1: 3.0, 2: 5.0}) - Number({3: 1.0}, {3: (0.5, 1.5)})
    assert mixed.basis == f"{OVER_SEEDS} and {OVER_SENTENCES}"
    assert (Number({1: 3.0, 2: 5.0}) - Number({3: 1.0})).basis == NO_INTERVAL


def test_the_difference_of_symmetric_intervals_adds_squares() -> None:
    found = difference(Interval(5.0, 2.0, 8.0, 0.95), Interval(1.0, -3.0, 5.0, 0.95))
    assert (found.value, found.low, found.high) == (4, -1, 9)  # 3² + 4² = 5²


def test_the_interval_of_a_difference_covers_as_it_says() -> None:
    """Two independent normal means, 4000 times: the true difference is inside 95 in 100 times."""
    generator = np.random.default_rng(0)
    means = generator.normal([1.0, 0.4], [0.3, 0.7], (4000, 2))
    hits = 0
    for left, right in means:
        found = difference(
            Interval(left, left - 1.96 * 0.3, left + 1.96 * 0.3, 0.95),
            Interval(right, right - 1.96 * 0.7, right + 1.96 * 0.7, 0.95),
        )
        hits += found.low <= 0.6 <= found.high
    assert hits / 4000 == pytest.approx(0.95, abs=0.012)


def test_text_shows_the_spread_and_the_number_of_seeds() -> None:
    assert Number(SEEDS).text(".2f") == "20.83 ± 1.04 (n=3)"
    assert Number({1: 20.5}).text(".2f") == "20.50"
    assert Number({1: 5e6}, {1: (4e6, 7e6)}).scaled(1e-6).sentences == {1: (4.0, 7.0)}
