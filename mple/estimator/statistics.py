"""How sure a measured number is: bootstrap intervals, and permutation p-values of a correlation.

    bootstrap = Bootstrap(resamples=10_000, level=0.95, seed=0)
    bootstrap.pearson(objective, bleu)                      # r of L̂_MPLE and BLEU, over methods
    bootstrap.bits_per_token(nats, tokens)                  # L_NAT = Σ nats / Σ tokens / ln 2, over sentences
    bootstrap.bits_per_token_difference(nat, at, tokens)    # C = L_NAT − L_AT, over the same sentences
    bootstrap.mean(similarity)                              # of any number per sentence
    Permutation().p_value(objective, bleu)                  # two-sided, exact up to 8 points

A loss is a ratio of sums, so what is resampled is the sentence (its nats together with its tokens), never the
token. All intervals are percentile intervals. The same object on the same data gives the same numbers.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from mple import checks
from mple.checks import UserError

_CELLS = 2**20  # numbers drawn at a time: bounds the memory to some 30 MB
_EXACT_UP_TO = 8  # points: 40,320 orders
_ROUNDING = 1e-12  # orders of one multiset give correlations that differ by their rounding alone


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence interval.

    `level` is the nominal coverage; `dropped` the share of resamples that have no value (all of their points
    equal, say) and were left out.
    """

    value: float
    low: float
    high: float
    level: float | int
    dropped: float = 0.0

    def metrics(self, name: str, unit: str = "") -> dict[str, float]:
        """`<name>_<unit>`, `<name>_low_<unit>` and `<name>_high_<unit>`, for a run's record."""
        unit = f"_{unit}" if unit else ""
        ends = {"": self.value, "_low": self.low, "_high": self.high}
        return {f"{name}{end}{unit}": number for end, number in ends.items()}

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def pearson(x: Float[np.ndarray, "n"], y: Float[np.ndarray, "n"]) -> float:
    """Pearson's r, with its sign.

    Raises:
        UserError: fewer than 3 points, a number that is not finite, or one side constant (r is undefined).
    """
    return float(np.clip(_unit(_checked("x", x)) @ _unit(_checked("y", y)), -1, 1))


@dataclass(frozen=True)
class Bootstrap:
    """Percentile bootstrap: `resamples` draws with replacement, from a generator seeded with `seed`.

    level: nominal coverage of the interval, above 0 and below 1. With the 7 or 8 methods of a table of the
        paper the interval is only indicative: of so few points it covers less than it says.

    Raises:
        UserError: a setting outside its range; and from the methods, data without an estimate.
    """

    resamples: int = 10_000
    level: float | int = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        checks.whole("estimator.resamples", self.resamples, 100, high=10_000_000)
        checks.seed("estimator.seed", self.seed)
        if isinstance(self.level, bool) or not 0 < self.level < 1:
            raise UserError(f"estimator.level must be a number above 0 and below 1; got {self.level!r}")

    def pearson(self, x: Float[np.ndarray, "n"], y: Float[np.ndarray, "n"]) -> Interval:
        """r over points (x_i, y_i), drawn as pairs. A resample in which x or y is constant is dropped."""
        value = pearson(x, y)

        def resampled(index: Int[np.ndarray, "R n"]) -> Float[np.ndarray, "R"]:
            left, right = x[index], y[index]
            has_value = (np.ptp(left, axis=1) > 0) & (np.ptp(right, axis=1) > 0)
            r = np.full(len(index), np.nan)
            r[has_value] = (_unit(left[has_value]) * _unit(right[has_value])).sum(1).clip(-1, 1)
            return r

        return self._interval(value, len(x), resampled)

    def mean(self, values: Float[np.ndarray, "n"]) -> Interval:
        """The mean of one number per sentence."""
        _checked("values", values, at_least=2)
        return self._interval(float(values.mean()), len(values), lambda index: values[index].mean(1))

    def bits_per_token(self, nats: Float[np.ndarray, "n"], tokens: Int[np.ndarray, "n"]) -> Interval:
        """Σ nats / (Σ tokens · ln 2) over sentences.

        nats: negative log-likelihood of each sentence, summed over its tokens, natural logarithm.
        tokens: all its target tokens, a revealed one included (App. E.6).
        """
        return self._ratio(nats, tokens)

    def bits_per_token_difference(
        self,
        nats: Float[np.ndarray, "n"],
        other_nats: Float[np.ndarray, "n"],
        tokens: Int[np.ndarray, "n"],
        other_tokens: Int[np.ndarray, "n"] | None = None,
    ) -> Interval:
        """`bits_per_token(nats, tokens)` minus that of the others, both on the same drawn sentences.

        C = L_NAT − L_AT, as the paper estimates it. It may come out below 0 where the autoregressive model is
        weak; that is reported, not clamped. Sentences pair by position. `other_tokens` is for a model that
        counts other tokens (an eos each, say); as a rule both count the same.
        """
        return self._ratio(nats, tokens, other_nats, tokens if other_tokens is None else other_tokens)

    def ratios(
        self, terms: Sequence[tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"], float | int]]
    ) -> Interval:
        """Σ_j factor_j · Σ numerator_j / Σ denominator_j over terms (numerator, denominator, factor), each
        summed over the same drawn sentences; a sentence that a term has nothing of is 0 in both."""
        numbers = [(_checked("numerator", a, 2), _checked("denominator", b, 2), c) for a, b, c in terms]

        def total(index: Int[np.ndarray, "R n"]) -> Float[np.ndarray, "R"]:
            with np.errstate(divide="ignore", invalid="ignore"):
                found = [c * a[index].sum(1) / b[index].sum(1) for a, b, c in numbers]
            return np.sum(found, axis=0)

        n = len(numbers[0][0])
        return self._interval(float(total(np.arange(n)[None])[0]), n, total)

    def _ratio(
        self,
        nats: Float[np.ndarray, "n"],
        tokens: Int[np.ndarray, "n"],
        other_nats: Float[np.ndarray, "n"] | None = None,
        other_tokens: Int[np.ndarray, "n"] | None = None,
    ) -> Interval:
        _checked_loss(nats, tokens)
        if other_nats is not None and other_tokens is not None:
            _checked_loss(other_nats, other_tokens)
            assert len(nats) == len(other_nats), (len(nats), len(other_nats))

        def bits(index: Int[np.ndarray, "R n"]) -> Float[np.ndarray, "R"]:
            with np.errstate(divide="ignore", invalid="ignore"):  # a resample of empty sentences only
                found = nats[index].sum(1, dtype=np.float64) / tokens[index].sum(1)
                if other_nats is not None and other_tokens is not None:
                    found -= other_nats[index].sum(1, dtype=np.float64) / other_tokens[index].sum(1)
            return found / math.log(2)

        return self._interval(float(bits(np.arange(len(nats))[None])[0]), len(nats), bits)

    def _interval(
        self,
        value: float,
        n: int,
        statistic: Callable[[Int[np.ndarray, "R n"]], Float[np.ndarray, "R"]],
    ) -> Interval:
        generator = np.random.default_rng(self.seed)
        rows = max(1, _CELLS // n)
        sizes = (min(rows, self.resamples - start) for start in range(0, self.resamples, rows))
        found = np.concatenate([statistic(generator.integers(0, n, (size, n))) for size in sizes])
        found = found[np.isfinite(found)]
        if not len(found):
            raise UserError(
                f"a bootstrap needs a resample that has a value; none of {self.resamples} has one"
            )
        tail = (1 - self.level) / 2
        low, high = np.quantile(found, [tail, 1 - tail])
        return Interval(value, float(low), float(high), self.level, 1 - len(found) / self.resamples)


@dataclass(frozen=True)
class Permutation:
    """Two-sided permutation test of no correlation: how often re-ordering y gives an |r| as large as seen.

    All n! orders where n ≤ 8: an exact p, at least 1/n!. Otherwise `resamples` random orders and
    p = (1 + hits) / (1 + resamples), which is never 0.

    Difference from `scipy.stats.permutation_test(alternative="two-sided")`: that doubles the smaller tail;
    here the two tails are |r*| ≥ |r|.
    """

    resamples: int = 10_000
    seed: int = 0

    def __post_init__(self) -> None:
        checks.whole("estimator.permutations", self.resamples, 100, high=10_000_000)
        checks.seed("estimator.seed", self.seed)

    def p_value(self, x: Float[np.ndarray, "n"], y: Float[np.ndarray, "n"]) -> float:
        """p of `pearson(x, y)`.

        Raises:
            UserError: as `pearson`.
        """
        return self.p_value_of_best(x[None], y)

    def p_value_of_best(self, rows: Float[np.ndarray, "R n"], y: Float[np.ndarray, "n"]) -> float:
        """p of the largest |r| of any of `rows` with y: every order of y takes its own best row.

        So it is honest about a choice among rows (of β, say) that was made on the same points.
        """
        left = np.stack([_unit(_checked("x", row)) for row in rows])  # (R, n)
        right = _unit(_checked("y", y))
        seen = np.abs(left @ right).max() - _ROUNDING
        n = len(y)
        if n <= _EXACT_UP_TO:
            return float((np.abs(left @ right[_orders(n)].T).max(0) >= seen).mean())
        generator = np.random.default_rng(self.seed)
        size = max(1, _CELLS // max(n, len(left)))
        hits = 0
        for start in range(0, self.resamples, size):
            shuffled = np.tile(right, (min(size, self.resamples - start), 1))
            shuffled = generator.permuted(shuffled, axis=1)
            hits += int((np.abs(left @ shuffled.T).max(0) >= seen).sum())
        return (1 + hits) / (1 + self.resamples)


@functools.cache
def _orders(n: int) -> Int[np.ndarray, "orders n"]:
    return np.array(list(itertools.permutations(range(n))))


def _unit(values: Float[np.ndarray, "*rows n"]) -> Float[np.ndarray, "*rows n"]:
    """Centred along the last axis and of norm 1, so that r is a dot product. Not for a constant row."""
    centred = values - values.mean(-1, keepdims=True, dtype=np.float64)
    centred = centred / np.abs(centred).max(-1, keepdims=True)  # squares neither overflow nor vanish
    return centred / np.linalg.norm(centred, axis=-1, keepdims=True)


def _checked(name: str, values: Float[np.ndarray, "n"], at_least: int = 3) -> Float[np.ndarray, "n"]:
    if len(values) < at_least:
        raise UserError(f"{name} must have at least {at_least} numbers; got {len(values)}")
    if not np.isfinite(values).all():
        raise UserError(f"{name} must be finite numbers; got {values[~np.isfinite(values)][0]}")
    if at_least == 3 and np.ptp(values) == 0:
        raise UserError(f"{name} must differ between points, or r is undefined; all are {values[0]:g}")
    return values


def _checked_loss(nats: Float[np.ndarray, "n"], tokens: Int[np.ndarray, "n"]) -> None:
    # Else an index would silently pair the wrong ones.
    assert len(nats) == len(tokens), (len(nats), len(tokens))
    _checked("nats", nats, at_least=2)
    if tokens.min() < 0:
        raise UserError(f"tokens must be counts of at least 0; got {tokens.min()}")
    if not tokens.any():
        raise UserError(f"tokens must be above 0 somewhere; all {len(tokens)} sentences are empty")
