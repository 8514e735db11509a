"""The paper's claims, each judged by a stated rule from the numbers of finished runs.

A claim is one or more parts, each a number that the claim says is above 0, with a 95% interval:

    a part holds            its interval lies above 0
    a part does not hold    its interval lies below 0
    cannot tell             its interval contains 0, or nothing gives it one, or it was not measured

    a claim holds if all of its parts do; it does not hold if any part does not; otherwise nobody can tell

The interval is over seeds where there are two or more (Student's t of seed-by-seed differences), else over
the test sentences of the one seed (for BLEU a paired bootstrap of sacreBLEU): that says whether these two
models differ, and not whether two methods do. A correlation's is a bootstrap over methods.
"""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from experiments.paper_items import (
    correlation,
    figure5,
    figure6,
    figure8,
    references,
    runs,
    table1,
    table2,
    table3,
)
from experiments.paper_items.numbers import (
    LEVEL,
    NO_INTERVAL,
    OVER_SEEDS,
    OVER_SENTENCES,
    Number,
    difference,
)
from experiments.paper_items.runs import CONFIDENCE, LIKELIHOOD, MPLE, Library, Training, of_metrics, of_test
from mple.estimator.mple_loss import MpleTable
from mple.estimator.paired_bleu import bleu_difference
from mple.estimator.statistics import Bootstrap, Interval, pearson

HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot tell"


@dataclass(frozen=True)
class Part:
    """A number that a claim says is above 0; `basis` says what its interval is over."""

    text: str
    value: float | None = None
    interval: Interval | None = None
    basis: str = NO_INTERVAL
    unit: str = ""

    @property
    def outcome(self) -> str:
        if self.interval is None:
            return OPEN
        if self.interval.low > 0:
            return HOLDS
        return FAILS if self.interval.high < 0 else OPEN

    @property
    def numbers(self) -> str:
        if self.value is None:
            return "not measured"
        unit = f" {self.unit}" if self.unit else ""
        if self.interval is None:
            return f"{self.value:+.3g}{unit}, one seed and {self.basis}"
        return f"{self.value:+.3g}{unit} [{self.interval.low:+.3g}, {self.interval.high:+.3g}], {self.basis}"


def judge(parts: Iterable[Part]) -> str:
    """The rule for a whole claim; without any part nothing can be told."""
    outcomes = [part.outcome for part in parts]
    if FAILS in outcomes:
        return FAILS
    return HOLDS if outcomes and set(outcomes) == {HOLDS} else OPEN


@dataclass(frozen=True)
class Verdict:
    """A claim, the items that it is from, and what our numbers say."""

    claim: str
    source: str
    parts: tuple[Part, ...]
    caveat: str = ""

    @property
    def outcome(self) -> str:
        return judge(self.parts)


def above(text: str, left: Number | None, right: Number | None, unit: str = "") -> Part:
    """left > right."""
    return positive(text, None if left is None or right is None else left - right, unit)


def positive(text: str, number: Number | None, unit: str = "") -> Part:
    if number is None:
        return Part(text, unit=unit)
    count, basis = len(number.values), number.basis
    basis = f"over {count} seeds" if basis == OVER_SEEDS and count > 1 else basis
    return Part(text, number.mean, number.interval(), basis, unit)


def better(library: Library, text: str, left: Training, right: Training) -> Part:
    """The first run's test BLEU is above the second's. With one seed, over the sentences of the test."""
    ours, theirs = library.runs(left), library.runs(right)
    part = above(text, of_test(ours, "tokenised_bleu"), of_test(theirs, "tokenised_bleu"), "BLEU")
    if part.value is None or part.interval is not None:
        return part
    pairs = [(left, right) for left in ours for right in theirs if left.seed == right.seed]
    if not pairs:
        return part
    mine, other = (runs.sentence_counts(run) for run in pairs[0])
    if mine is None or other is None or len(mine) != len(other):
        return part
    found = bleu_difference(mine, other)
    return Part(text, found.value, found, OVER_SENTENCES, "sacreBLEU")


def of_c_and_gap(points: list[tuple[str, Interval, Part]]) -> tuple[Part, ...]:
    """For every two data sets whose C differ for sure, the gap of the one with the larger C is larger.

    points: label, C, and the gap in BLEU between AT and NAT.
    """
    parts = []
    for left, right in combinations(sorted(points, key=lambda point: point[1].value), 2):
        (small, small_c, small_gap), (large, large_c, large_gap) = left, right
        if difference(large_c, small_c).low <= 0:
            continue
        text = f"gap of {large} (C {large_c.value:.2f}) − gap of {small} (C {small_c.value:.2f})"
        if small_gap.interval is None or large_gap.interval is None:
            value = None
            if small_gap.value is not None and large_gap.value is not None:
                value = large_gap.value - small_gap.value
            parts.append(Part(text, value, unit="BLEU"))
            continue
        gap = difference(large_gap.interval, small_gap.interval)
        bases = dict.fromkeys((small_gap.basis, large_gap.basis))
        parts.append(Part(text, gap.value, gap, " and ".join(bases), "BLEU"))
    return tuple(parts)


def explains(library: Library) -> Verdict:
    points = []
    for of in table1.datasets(library):
        own = library.on(of.name)
        c = table1.correlation(own, of)
        interval = None if c is None else c.interval()
        gap = better(own, f"AT − NAT on {of.label}", of.at, of.nat)
        if interval is not None and gap.value is not None:
            points.append((of.label, interval, gap))
    return Verdict(
        "C explains the gap between AT and NAT: a larger C, a larger gap in BLEU",
        "Table 1",
        of_c_and_gap(points) or (Part("at least two data sets with different C"),),
        "Pairs of data sets whose C do not differ for sure are left out.",
    )


def below(library: Library) -> Verdict:
    c = table1.correlation(library, table1.datasets(library)[0])
    parts = []
    for label, (experiment, _, _) in figure5.ROWS.items():
        loss = table2.nat_loss(library, Training(experiment))
        if experiment == "vanilla_raw":
            parts.append(above("L_NAT of Raw Data − C", loss, c, "bits/token"))
        else:
            parts.append(above(f"C − L_NAT of {label}", c, loss, "bits/token"))
    return Verdict(
        "On their proxy distribution all methods but Raw Data lose less than C",
        "Figure 5",
        tuple(parts),
        "C is a difference of losses, L_NAT a loss: that Raw Data's is above C is so by construction. C is "
        "of the test's sentences, L_NAT of the validation's.",
    )


def lead(total: np.ndarray, part: np.ndarray, bleu: np.ndarray) -> Interval:
    """|r| of the objective less |r| of one of its parts, with a bootstrap interval over methods."""
    bootstrap = Bootstrap()
    index = np.random.default_rng(bootstrap.seed).integers(0, len(bleu), (bootstrap.resamples, len(bleu)))

    def correlations(values: np.ndarray) -> np.ndarray:
        left, right = values[index], bleu[index]
        left, right = left - left.mean(1, keepdims=True), right - right.mean(1, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.abs((left * right).sum(1) / np.sqrt((left**2).sum(1) * (right**2).sum(1)))

    differ = np.logical_and.reduce([np.ptp(values[index], axis=1) > 0 for values in (total, part, bleu)])
    found = (correlations(total) - correlations(part))[differ]
    low, high = np.quantile(found, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    return Interval(abs(pearson(total, bleu)) - abs(pearson(part, bleu)), float(low), float(high), LEVEL)


def of_correlation(points: correlation.Points, beta: float, label: str) -> list[Part]:
    """−r is above 0, and |r| above that of every part that differs between methods."""
    report = points.report(beta)
    if report is None:
        return [Part(f"−r of L_MPLE and BLEU, {label}")]
    basis = f"over {report.points} methods"
    interval = Interval(-report.r.value, -report.r.high, -report.r.low, LEVEL)
    parts = [Part(f"−r of L_MPLE and BLEU, {label}", -report.r.value, interval, basis)]
    table = MpleTable(points.rows)
    for name, values in table.parts(beta).items():
        if name in report.parts:
            gap = lead(table.total(beta), values, table.bleu)
            parts.append(Part(f"|r| of L_MPLE − |r| of {name} alone, {label}", gap.value, gap, basis))
    return parts


@functools.cache
def of_paper() -> str:
    """What the rule says of the paper's own tables."""
    said = []
    for table in ("table2", "table3", "table7", "table8"):
        parts = of_correlation(correlation.of_paper(table), correlation.beta_of(table), "")
        said.append(f"{table.replace('table', 'Table ')} {judge(parts)}")
    return ", ".join(said)


def correlates(library: Library) -> Verdict:
    targets = correlation.points(library, table2.ROWS)
    inputs = correlation.points(library, table3.ROWS, is_sampled=True)
    parts = of_correlation(targets, correlation.beta_of("table2"), "proxy targets")
    parts += of_correlation(inputs, correlation.beta_of("table3"), "proxy inputs, input sampling")
    return Verdict(
        "L_MPLE correlates with BLEU, and each of its parts alone less",
        "Tables 2 and 3",
        tuple(parts),
        "β is the paper's for its own data. With 7 or 8 methods the interval covers less than it says. By "
        f"the same rule of the paper's own numbers: {of_paper()}. "
        f"{references.of(library, map(Training, (table2.ROWS | table3.ROWS).values()))}",
    )


def nearer(library: Library) -> Verdict:
    kd, raw = (
        of_metrics(library.measured(Training(name), MPLE), "similarity")
        for name in ("vanilla_kd", "vanilla_raw")
    )
    return Verdict(
        "The teacher's text is nearer to the references than raw data are",
        "Figure 6",
        (above("mean S(Y, T) of KD − of Raw Data", kd, raw, "BLEU points"),),
        "Both texts are the same for every seed, so the interval is over sentences; it takes the two means "
        "for independent, though they are of the same sentences, and so is rather too wide. "
        f"{references.of(library, map(Training, figure6.ROWS.values()))}",
    )


def trade_off(library: Library) -> Verdict:
    def loss(experiment: str, name: str) -> Number | None:
        if name == "nat_loss":
            return table2.nat_loss(library, Training(experiment))
        return of_metrics(library.measured(Training(experiment), MPLE), name, "bits_per_token")

    pairs = (
        ("L_NAT, AXE τ = 10 − τ = 1", "nat_loss", "axe_tau10", "axe_tau1"),
        ("L_target, AXE τ = 1 − τ = 10", "target_loss", "axe_tau1", "axe_tau10"),
        ("L_target, OaXE 10k − 300k", "target_loss", "oaxe_10k", "oaxe_300k"),
    )
    parts = [above(text, loss(a, name), loss(b, name), "bits/token") for text, name, a, b in pairs]
    return Verdict(
        "AXE and OaXE trade likelihood for distortion: a small τ gives an easier T, an early start stranger",
        "Table 2",
        tuple(parts),
        "Of OaXE's starts only L_target is asked: in the paper, too, an early start costs both. "
        f"{references.of(library, [Training(name) for _, _, *names in pairs for name in names])}",
    )


def gain_of_sampling(library: Library, training: Training) -> tuple[Number | None, str]:
    """BLEU of input sampling less that of default decoding, and its unit: of several seeds the difference of
    both tokenised BLEU, of one sacreBLEU's, which has an interval over sentences."""
    measured = library.measured(training, CONFIDENCE)
    if len(measured) < 2:
        return of_metrics(measured, "sampling_gain", "bleu"), "sacreBLEU"
    sampled, default = (of_metrics(measured, f"{way}_tokenised_bleu") for way in ("sampled", "default"))
    return None if sampled is None or default is None else sampled - default, "BLEU"


def sampling(library: Library) -> Verdict:
    (cmlm, cmlm_unit), (glat, glat_unit) = (
        gain_of_sampling(library, Training(name)) for name in ("cmlm", "glat_kd")
    )
    return Verdict(
        "Input sampling helps CMLM and not GLAT",
        "Table 3, Figure 7",
        (
            positive("CMLM: sample − default", cmlm, cmlm_unit),
            positive("GLAT: default − sample", None if glat is None else -glat, glat_unit),
        ),
        "Of GLAT it is asked whether sampling does harm, as in the paper; no difference cannot be told.",
    )


def dynamic(library: Library) -> Verdict:
    parts = [
        better(
            library,
            f"{model}: Dynamic KD − {teacher}",
            figure8.training(model, figure8.DYNAMIC),
            figure8.training(model, teacher),
        )
        for model in figure8.MODELS
        for teacher in figure8.TEACHERS
    ]
    return Verdict("Dynamic KD beats every single teacher", "Figure 8", tuple(parts))


def regulariser(library: Library) -> Verdict:
    parts = [
        better(
            library, f"{model}: with − without", Training(f"{name}_dynkd"), Training(f"{name}_dynkd_noreg")
        )
        for model, name in (("Vanilla", "vanilla"), ("GLAT", "glat"))
    ]
    return Verdict("Dynamic KD needs its regulariser", "Table 9", tuple(parts))


def raw_loss(library: Library, training: Training) -> Number | None:
    """L_NAT of the references of the test, with intervals over sentences where they were measured."""
    measured = library.measured(training, LIKELIHOOD)
    own = of_test(library.runs(training), "nat_loss_raw_bits_per_token")
    found = of_metrics(measured, "nat_loss_raw", "bits_per_token")
    return (
        found if found is not None and own is not None and found.values.keys() == own.values.keys() else own
    )


def likelihood(library: Library) -> Verdict:
    mle, glat = Training("vanilla_raw"), Training("glat_kd")
    glat_loss, mle_loss = (raw_loss(library, training) for training in (glat, mle))
    return Verdict(
        "Maximum likelihood has the better likelihood and the worse BLEU",
        "Figures 1 and 2",
        (
            above("L_NAT of the references, GLAT + KD − MLE", glat_loss, mle_loss, "bits/token"),
            better(library, "BLEU, GLAT + KD − MLE", glat, mle),
        ),
    )


CLAIMS: tuple[Callable[[Library], Verdict], ...] = (
    *(likelihood, explains, below, correlates, nearer),
    *(trade_off, sampling, dynamic, regulariser),
)
