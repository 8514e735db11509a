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

import numpy as np
from scipy import stats

from mple.estimator.statistics import Bootstrap, Interval

LEVEL = 0.95
_ROUNDING = 1e-9  # seeds that differ by less are equal
OVER_SEEDS, OVER_SENTENCES, NO_INTERVAL = "over seeds", "over sentences", "no interval"


@dataclass(frozen=True)
class Number:
    """values: by seed. sentences: by seed, (low, high) over sentences. note: its origin, where unusual."""

    values: Mapping[int, float]
    sentences: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    note: str = ""

    @property
    def mean(self) -> float:
        return float(statistics.mean(self.values.values()))

    @property
    def sd(self) -> float | None:
        """Sample standard deviation over seeds (n − 1); None with one seed."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else None

    @property
    def basis(self) -> str:
        """What `interval` is over."""
        if self.sd is not None and self.sd > _ROUNDING * max(1.0, abs(self.mean)):
            return OVER_SEEDS
        return OVER_SENTENCES if set(self.values) <= set(self.sentences) else NO_INTERVAL

    def interval(self) -> Interval | None:
        """The 95% interval; None where nothing says how sure the number is."""
        if self.basis == OVER_SEEDS:
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
        return Number(values, sentences)

    def scaled(self, factor: float) -> "Number":
        """Every value times a positive `factor`."""
        sentences = {seed: (factor * low, factor * high) for seed, (low, high) in self.sentences.items()}
        return Number({seed: factor * value for seed, value in self.values.items()}, sentences, self.note)

    def _as_one(self) -> "Number":
        interval = self.interval()
        return Number({0: self.mean}, {} if interval is None else {0: (interval.low, interval.high)})

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


def bleu_difference(left: np.ndarray, right: np.ndarray, bootstrap: Bootstrap | None = None) -> Interval:
    """sacreBLEU (13a) of one system's `counts` minus that of another's on the same references, with a paired
    bootstrap over sentences.

    Each resample is a corpus: its n-gram counts are the sums of those of the drawn sentences.
    """
    bootstrap = bootstrap or Bootstrap(resamples=1000)
    generator = np.random.default_rng(bootstrap.seed)
    n = len(left)
    drawn = generator.multinomial(n, np.full(n, 1 / n), size=bootstrap.resamples)  # (R, n)
    found = _bleu(drawn @ left) - _bleu(drawn @ right)
    tail = (1 - bootstrap.level) / 2
    low, high = np.quantile(found, [tail, 1 - tail])
    value = float((_bleu(left.sum(0)[None]) - _bleu(right.sum(0)[None]))[0])
    return Interval(value, float(low), float(high), bootstrap.level)


def counts(hypotheses: list[str], references: list[str]) -> np.ndarray:
    """(n, 10): matched n-grams by order, all n-grams by order, words of the output and of the reference."""
    from sacrebleu.metrics import BLEU

    metric = BLEU()
    rows = []
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        score = metric.corpus_score([hypothesis], [[reference]])
        rows.append([*score.counts, *score.totals, score.sys_len, score.ref_len])
    return np.array(rows, np.int64)


def _bleu(sums: np.ndarray) -> np.ndarray:
    """Corpus BLEU of summed counts (R, 10); orders without a match count 1/2, 1/4, …, as in sacreBLEU."""
    matched, totals = sums[:, :4].astype(float), sums[:, 4:8].astype(float)
    halvings = (matched == 0).cumsum(1)
    matched = np.where(matched == 0, 0.5**halvings, matched)
    with np.errstate(divide="ignore", invalid="ignore"):
        precisions = np.log(matched / totals).mean(1)
        penalty = np.minimum(0.0, 1 - sums[:, 9] / sums[:, 8])
        return np.where((totals > 0).all(1), 100 * np.exp(precisions + penalty), 0.0)
