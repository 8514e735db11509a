"""Intervals and p-values against scipy, enumeration, and cases that can be counted by hand."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mple.checks import UserError
from mple.estimator import statistics
from mple.estimator.statistics import Bootstrap, Interval, Permutation, pearson

FAST = Bootstrap(resamples=500)
numbers = st.floats(-1e3, 1e3).map(lambda value: round(value, 3))


def points(n: int, seed: int, slope: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    x = generator.normal(size=n)
    return x, slope * x + generator.normal(size=n)


def losses(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Summed nats and lengths; long sentences are harder per token too, so that weighting matters."""
    generator = np.random.default_rng(seed)
    tokens = generator.integers(1, 30, n)
    return tokens * (1 + tokens / 30) * generator.gamma(5, 0.2, n), tokens


class TestPearson:
    def test_by_hand(self) -> None:
        """Deviations (−1, 0, 1) and (−1, 1, 0): 1 / (√2 √2)."""
        assert pearson(np.array([1.0, 2, 3]), np.array([4.0, 6, 5])) == pytest.approx(0.5)
        assert pearson(np.array([1.0, 2, 3]), np.array([3.0, 2, 1])) == pytest.approx(-1)

    @settings(deadline=None, max_examples=40)
    @given(st.lists(st.tuples(numbers, numbers), min_size=3, max_size=30))
    def test_is_scipy_s(self, pairs: list[tuple[float, float]]) -> None:
        x, y = np.array(pairs).T
        if np.ptp(x) == 0 or np.ptp(y) == 0:
            with pytest.raises(UserError, match="r is undefined"):
                pearson(x, y)
        else:
            assert pearson(x, y) == pytest.approx(stats.pearsonr(x, y)[0], abs=1e-7)

    @settings(deadline=None, max_examples=40)
    @given(st.integers(0, 1000), st.floats(0.01, 100), numbers)
    def test_scale_and_shift_change_nothing_but_the_sign(self, seed: int, scale: float, shift: float) -> None:
        x, y = points(6, seed)
        assert pearson(scale * x + shift, y) == pytest.approx(pearson(x, y), abs=1e-7)
        assert pearson(-x, y) == pytest.approx(-pearson(x, y), abs=1e-12)

    def test_tiny_and_huge_numbers(self) -> None:
        x, y = points(5, 0)
        assert pearson(x * 1e-200, y * 1e200) == pytest.approx(pearson(x, y))

    @pytest.mark.parametrize(
        ("x", "message"),
        [
            ([1.0, 2.0], "at least 3 numbers; got 2"),
            ([1.0, 2.0, math.nan], "finite numbers; got nan"),
            ([2.5, 2.5, 2.5], r"must differ between points, or r is undefined; all are 2\.5"),
        ],
    )
    def test_refusals(self, x: list[float], message: str) -> None:
        values = np.array(x)
        others = np.arange(len(values), dtype=float)
        for call in (pearson, FAST.pearson, Permutation().p_value):
            with pytest.raises(UserError, match=message):
                call(values, others)


class TestBootstrap:
    @pytest.mark.parametrize("n", [8, 40])
    def test_pearson_is_scipy_s_percentile_interval(self, n: int) -> None:
        """scipy draws its indices the same way, so the resamples are the same and not only alike."""
        x, y = points(n, seed=n)
        expected = stats.bootstrap(
            (x, y),
            lambda a, b, axis: stats.pearsonr(a, b, axis=axis)[0],
            paired=True,
            vectorized=True,
            n_resamples=2000,
            confidence_level=0.9,
            method="percentile",
            rng=np.random.default_rng(3),
        ).confidence_interval
        got = Bootstrap(2000, level=0.9, seed=3).pearson(x, y)
        assert (got.low, got.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
        assert got.value == pytest.approx(stats.pearsonr(x, y)[0])
        assert (got.level, got.dropped) == (0.9, 0)

    def test_mean_and_bits_per_token_are_scipy_s(self) -> None:
        nats, tokens = losses(60, seed=1)
        settings = {"paired": True, "vectorized": True, "n_resamples": 2000, "method": "percentile"}
        expected = stats.bootstrap(
            (nats, tokens),
            lambda a, b, axis: a.sum(axis) / b.sum(axis) / math.log(2),
            rng=np.random.default_rng(0),
            **settings,
        ).confidence_interval
        got = Bootstrap(2000).bits_per_token(nats, tokens)
        assert (got.low, got.high) == pytest.approx((expected.low, expected.high))
        assert got.value == pytest.approx(nats.sum() / tokens.sum() / math.log(2))
        assert got.value != pytest.approx(
            (nats / tokens).mean() / math.log(2), rel=0.02
        )  # not a mean of means
        expected = stats.bootstrap(
            (nats,), np.mean, rng=np.random.default_rng(0), **{**settings, "paired": False}
        ).confidence_interval
        got = Bootstrap(2000).mean(nats)
        assert (got.low, got.high) == pytest.approx((expected.low, expected.high))

    def test_every_resample_of_two_sentences(self) -> None:
        """Draws of (a, a), (a, b), (b, b) have 1/4, 1/2, 1/4: quartile ends lie inside the middle."""
        nats, tokens = np.array([1.0, 8.0]), np.array([1, 2])
        assert Bootstrap(level=0.4).bits_per_token(nats, tokens).low == pytest.approx(3 / math.log(2))
        whole = Bootstrap(level=0.9).bits_per_token(nats, tokens)
        assert (whole.low, whole.high) == pytest.approx((1 / math.log(2), 4 / math.log(2)))

    def test_a_mean_s_interval_is_the_normal_one_for_many_points(self) -> None:
        values = np.random.default_rng(5).normal(size=2000)
        got = Bootstrap().mean(values)
        half = 1.96 * values.std() / math.sqrt(2000)
        assert (got.low, got.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.004)

    def test_a_constant_loss_has_no_width_whatever_the_lengths(self) -> None:
        tokens = np.array([3, 1, 7, 2])
        got = FAST.bits_per_token(tokens * math.log(2), tokens)
        assert (got.value, got.low, got.high) == pytest.approx((1, 1, 1))

    def test_an_empty_sentence_adds_nothing_to_the_value(self) -> None:
        nats, tokens = losses(20, seed=2)
        more = FAST.bits_per_token(np.append(nats, 0.0), np.append(tokens, 0))
        assert more.value == pytest.approx(FAST.bits_per_token(nats, tokens).value)

    def test_a_difference_is_paired(self) -> None:
        """The other model is 1 bit per token better on every sentence: C is 1 exactly, not 1 give or take."""
        nats, tokens = losses(50, seed=3)
        got = FAST.bits_per_token_difference(nats, nats - tokens * math.log(2), tokens)
        assert (got.value, got.low, got.high) == pytest.approx((1, 1, 1))
        alone = FAST.bits_per_token(nats, tokens)
        assert alone.high - alone.low > 0.2

    def test_a_difference_is_the_difference_of_the_two(self) -> None:
        nats, tokens = losses(30, seed=4)
        other, other_tokens = losses(30, seed=5)
        got = FAST.bits_per_token_difference(nats, other, tokens, other_tokens)
        first, second = FAST.bits_per_token(nats, tokens), FAST.bits_per_token(other, other_tokens)
        assert got.value == pytest.approx(first.value - second.value)
        swapped = FAST.bits_per_token_difference(other, nats, other_tokens, tokens)
        assert (swapped.low, swapped.high) == pytest.approx((-got.high, -got.low))

    def test_a_negative_difference_stays_negative(self) -> None:
        nats, tokens = losses(30, seed=6)
        assert FAST.bits_per_token_difference(nats, nats + tokens, tokens).value == pytest.approx(
            -1 / math.log(2)
        )

    def test_resamples_without_a_value_are_dropped_and_counted(self) -> None:
        """x is 0 but for one point: absent from a resample with probability (3/4)^4, alone with (1/4)^4."""
        x, y = np.array([0.0, 0, 0, 1]), np.array([1.0, 2, 3, 4])
        got = Bootstrap(20_000).pearson(x, y)
        # And y constant: some one of the first three four times is among "absent" already.
        assert got.dropped == pytest.approx(0.75**4 + 0.25**4, abs=0.01)
        assert math.isfinite(got.low)
        assert math.isfinite(got.high)
        nats, tokens = np.array([0.0, 3.0]), np.array([0, 3])
        assert Bootstrap(20_000).bits_per_token(nats, tokens).dropped == pytest.approx(0.25, abs=0.02)

    def test_the_same_seed_gives_the_same_interval_whatever_the_memory(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        x, y = points(9, seed=7)
        whole = FAST.pearson(x, y)
        assert FAST.pearson(x, y) == whole
        assert Bootstrap(500, seed=1).pearson(x, y) != whole
        monkeypatch.setattr(statistics, "_CELLS", 50)
        assert FAST.pearson(x, y) == whole

    @settings(deadline=None, max_examples=25)
    @given(st.integers(0, 10_000), st.integers(3, 12), st.floats(0.1, 0.9))
    def test_a_wider_level_contains_a_narrower_one(self, seed: int, n: int, level: float) -> None:
        x, y = points(n, seed)
        narrow = Bootstrap(200, level=level).pearson(x, y)
        wide = Bootstrap(200, level=0.95).pearson(x, y)
        assert -1 <= wide.low <= narrow.low <= narrow.high <= wide.high <= 1

    def test_coverage(self) -> None:
        """About as many intervals as they say contain the truth."""
        generator = np.random.default_rng(8)
        hits = 0
        for _ in range(200):
            got = Bootstrap(300, level=0.8).mean(generator.normal(size=50))
            hits += got.low <= 0 <= got.high
        assert 0.70 <= hits / 200 <= 0.88

    def test_refusals(self) -> None:
        for tokens, message in (([1, -1], "at least 0; got -1"), ([0, 0], "all 2 sentences are empty")):
            with pytest.raises(UserError, match=message):
                FAST.bits_per_token(np.ones(2), np.array(tokens))
        with pytest.raises(UserError, match="nats must have at least 2 numbers; got 1"):
            FAST.bits_per_token(np.ones(1), np.ones(1, int))
        with pytest.raises(UserError, match="nats must be finite"):
            FAST.bits_per_token_difference(np.ones(2), np.array([1, np.inf]), np.ones(2, int))

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"resamples": 99}, r"estimator\.resamples must be a whole number of at least 100; got 99"),
            ({"level": 1.0}, r"estimator\.level must be a number above 0 and below 1; got 1\.0"),
            ({"level": True}, r"estimator\.level"),
            ({"seed": -1}, r"estimator\.seed"),
        ],
    )
    def test_settings(self, settings: dict, message: str) -> None:
        with pytest.raises(UserError, match=message):
            Bootstrap(**settings)

    def test_metrics_end_in_their_unit(self) -> None:
        interval = Interval(2.5, 2.4, 2.6, 0.95)
        assert interval.metrics("total_correlation", "bits_per_token") == {
            "total_correlation_bits_per_token": 2.5,
            "total_correlation_low_bits_per_token": 2.4,
            "total_correlation_high_bits_per_token": 2.6,
        }
        assert list(interval.metrics("r")) == ["r", "r_low", "r_high"]
        assert str(interval) == "2.500 [2.400, 2.600]"


class TestPermutation:
    def test_by_hand(self) -> None:
        """Of the 6 orders of a line only itself and its reverse have |r| = 1."""
        x = np.array([1.0, 2, 3])
        assert Permutation().p_value(x, x) == pytest.approx(2 / 6)
        assert Permutation().p_value(x, -x) == pytest.approx(2 / 6)
        # |r| is .87 with the 5 at either end and 0 with it in the middle.
        assert Permutation().p_value(x, np.array([1.0, 1, 5])) == pytest.approx(4 / 6)

    @pytest.mark.parametrize("n", [4, 6, 7])
    def test_exact_is_scipy_s(self, n: int) -> None:
        """Only y is handed over to be re-ordered: of two samples scipy would try (n!)² orders."""
        x, y = points(n, seed=n, slope=0.7)
        expected = stats.permutation_test(
            (y,),
            lambda order, axis: np.abs(stats.pearsonr(x, order, axis=axis)[0]),
            permutation_type="pairings",
            vectorized=True,
            alternative="greater",
            n_resamples=np.inf,
        ).pvalue
        assert Permutation().p_value(x, y) == pytest.approx(expected, abs=1e-12)
        assert 1 / math.factorial(n) <= expected < 1

    def test_monte_carlo_agrees_with_exact(self, monkeypatch: pytest.MonkeyPatch) -> None:
        x, y = points(8, seed=9, slope=0.5)
        exact = Permutation().p_value(x, y)
        monkeypatch.setattr(statistics, "_EXACT_UP_TO", 3)
        got = Permutation(20_000).p_value(x, y)
        assert got == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 20_000))
        assert got != exact
        monkeypatch.setattr(statistics, "_CELLS", 100)
        assert Permutation(20_000).p_value(x, y) == got

    def test_monte_carlo_is_close_to_the_t_test_and_never_0(self) -> None:
        x, y = points(200, seed=10, slope=0.1)
        assert Permutation().p_value(x, y) == pytest.approx(stats.pearsonr(x, y)[1], abs=0.02)
        assert Permutation(999).p_value(x, x) == 1 / 1000

    def test_the_best_of_some_rows_against_enumeration(self) -> None:
        x, y = points(5, seed=11)
        rows = np.stack([x, points(5, seed=12)[0], x**2])
        seen = max(abs(stats.pearsonr(row, y)[0]) for row in rows)
        hits = [
            max(abs(stats.pearsonr(row, order)[0]) for row in rows) >= seen - 1e-9
            for order in itertools.permutations(y)
        ]
        got = Permutation().p_value_of_best(rows, y)
        assert got == pytest.approx(np.mean(hits))
        assert got >= Permutation().p_value(rows[np.argmax([abs(pearson(r, y)) for r in rows])], y)

    @settings(deadline=None, max_examples=50)
    @given(st.integers(0, 10_000), st.integers(3, 7))
    def test_order_and_scale_of_the_points_do_not_matter(self, seed: int, n: int) -> None:
        x, y = points(n, seed)
        order = np.random.default_rng(seed).permutation(n)
        p = Permutation().p_value(x, y)
        assert Permutation().p_value(x[order], y[order]) == pytest.approx(p, abs=1e-12)
        assert Permutation().p_value(y * 3 - 1, -x) == pytest.approx(p, abs=1e-12)

    def test_settings(self) -> None:
        with pytest.raises(UserError, match=r"estimator\.permutations must be .* at least 100; got 0"):
            Permutation(0)
        with pytest.raises(UserError, match=r"estimator\.seed"):
            Permutation(seed=-1)
