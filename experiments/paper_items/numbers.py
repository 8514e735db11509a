"""A number of ours: one value a seed, perhaps each with an interval over sentences; and how sure it is.

    bleu = Number({1: 30.1, 2: 30.6, 3: 29.9})
    bleu.mean, bleu.sd, bleu.interval()
    (bleu - other).interval()              # seed by seed where both have the seed

The interval is of Student's t over seeds where there are at least two that differ. With one seed, or with a
number that does not depend on the seed, it is the one over sentences, where an evaluation gave one; it then
says nothing about other seeds. Otherwise there is none, and nothing can be told.
"""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field

from scipy import stats

from mple.estimator.statistics import Interval

LEVEL = 0.95
_ROUNDING = 1e-9  # seeds that differ by less are equal
OVER_SEEDS, OVER_SENTENCES, NO_INTERVAL = "over seeds", "over sentences", "no interval"


@dataclass(frozen=True)
class Number:
    """values: by seed. sentences: by seed, (low, high) over sentences. note: its origin, where unusual.
    over: what the intervals in `sentences` are of, where it is not sentences."""

    values: Mapping[int, float]
    sentences: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    note: str = ""
    over: str = OVER_SENTENCES

    @property
    def mean(self) -> float:
        return float(statistics.mean(self.values.values()))

    @property
    def sd(self) -> float | None:
        """Sample standard deviation over seeds (n − 1); None with one seed."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else None

    @property
    def _varies(self) -> bool:
        """Do its seeds differ?"""
        return self.sd is not None and self.sd > _ROUNDING * max(1.0, abs(self.mean))

    @property
    def basis(self) -> str:
        """What `interval` is over."""
        if self._varies:
            return OVER_SEEDS
        return self.over if set(self.values) <= set(self.sentences) else NO_INTERVAL

    def interval(self) -> Interval | None:
        """The 95% interval; None where nothing says how sure the number is."""
        if self._varies:
            return student(list(self.values.values()))
        if self.basis == NO_INTERVAL:
            return None
        ends = [self.sentences[seed] for seed in self.values]
        low, high = (statistics.mean(end) for end in zip(*ends, strict=True))
        return Interval(self.mean, low, high, LEVEL)

    def __sub__(self, other: "Number") -> "Number":
        """Of the seeds that both have; without a common seed, of their means. The ends over sentences are of
        independent estimates: for numbers of the same sentences they are too wide rather than too narrow."""
        common = sorted(self.values.keys() & other.values.keys())
        if not common:
            mine, theirs = self._as_one(), other._as_one()
            return mine - theirs
        values = {seed: self.values[seed] - other.values[seed] for seed in common}
        sentences = {}
        for seed in common:
            if seed in self.sentences and seed in other.sentences:
                left = Interval(self.values[seed], *self.sentences[seed], LEVEL)
                right = Interval(other.values[seed], *other.sentences[seed], LEVEL)
                found = difference(left, right)
                sentences[seed] = (found.low, found.high)
        over = " and ".join(dict.fromkeys((self.over, other.over)))
        return Number(values, sentences, over=over)

    def __neg__(self) -> "Number":
        sentences = {seed: (-high, -low) for seed, (low, high) in self.sentences.items()}
        return Number({seed: -value for seed, value in self.values.items()}, sentences, self.note, self.over)

    def scaled(self, factor: float) -> "Number":
        """Every value times a positive `factor`."""
        sentences = {seed: (factor * low, factor * high) for seed, (low, high) in self.sentences.items()}
        return Number(
            {seed: factor * value for seed, value in self.values.items()}, sentences, self.note, self.over
        )

    def _as_one(self) -> "Number":
        interval = self.interval()
        ends = {} if interval is None else {0: (interval.low, interval.high)}
        return Number({0: self.mean}, ends, over=self.basis)

    def __str__(self) -> str:
        return self.text(".3f")

    def text(self, form: str) -> str:
        """`30.10 ± 0.20 (n=3)`; one seed has no spread."""
        spread = "" if self.sd is None else f" ± {self.sd:{form}} (n={len(self.values)})"
        return f"{self.mean:{form}}{spread}"


def student(values: list[float]) -> Interval:
    """The mean of at least two independent values and its t interval, exact for normal values."""
    mean, error = statistics.mean(values), statistics.stdev(values) / math.sqrt(len(values))
    half = float(stats.t.ppf(0.5 + LEVEL / 2, len(values) - 1)) * error
    return Interval(mean, mean - half, mean + half, LEVEL)


def difference(left: Interval, right: Interval) -> Interval:
    """left − right of two independent estimates: each end's distance is the root of the sum of squares.

    Source: Zou & Donner (2008), "MOVER"; for symmetric intervals it is the usual one of a difference.
    """
    value = left.value - right.value
    below = math.hypot(left.value - left.low, right.high - right.value)
    above = math.hypot(left.high - left.value, right.value - right.low)
    return Interval(value, value - below, value + above, LEVEL)
