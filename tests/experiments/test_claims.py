"""The rule of a verdict, and every claim on made-up runs: holds, does not hold, cannot tell."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.paper_items import claims, correlation
from experiments.paper_items.claims import FAILS, HOLDS, OPEN, Part, Verdict, judge
from experiments.paper_items.numbers import OVER_SEEDS, OVER_SENTENCES, Number
from experiments.paper_items.runs import Library, Study, Training
from mple.estimator.mple_loss import MpleLoss
from mple.estimator.statistics import Bootstrap, Interval
from tests.experiments import fake

SEEDS = (1, 2, 3)
NOISE = {1: 0.0, 2: 0.1, 3: -0.1}


def part(low: float | None, high: float = 0.0) -> Part:
    if low is None:
        return Part("x")
    return Part("x", (low + high) / 2, Interval((low + high) / 2, low, high, 0.95))


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (0.1, 2.0, HOLDS),
        (-2.0, -0.1, FAILS),
        (-0.1, 2.0, OPEN),
        (0.0, 1.0, OPEN),  # 0 itself is in the interval
        (-1.0, 0.0, OPEN),
        (None, 0.0, OPEN),
    ],
)
def test_the_rule_of_a_part(low: float | None, high: float, outcome: str) -> None:
    assert part(low, high).outcome == outcome


def test_the_rule_of_a_claim() -> None:
    holds, fails, unknown = part(0.1, 1.0), part(-1.0, -0.1), part(-1.0, 1.0)
    assert judge([holds, holds]) == HOLDS
    assert judge([holds, unknown]) == OPEN
    assert judge([holds, fails, unknown]) == FAILS
    assert judge([holds, part(None)]) == OPEN
    assert judge([]) == OPEN


def test_a_part_says_its_number_or_why_there_is_none() -> None:
    found = claims.above(
        "a − b", Number({1: 2.0}, {1: (1.9, 2.2)}), Number({1: 1.0}, {1: (0.9, 1.1)}), "bits"
    )
    assert found.numbers == "+1 bits [+0.859, +1.22], over sentences"
    assert claims.above("a − b", Number({1: 2.0}), Number({1: 1.0})).numbers == "+1, one seed and no interval"
    assert claims.above("a − b", None, Number({1: 1.0})).numbers == "not measured"


def judged(claim: Callable[[Library], Verdict], outputs: Path, data: str = "grammar") -> Verdict:
    return claim(Library(Study(outputs, data=data)))


def seeds(outputs: Path, name: str, bleu: float, **numbers: float) -> list[Path]:
    """Three runs around these numbers; numbers get another seed's noise than BLEU."""
    runs = []
    for seed in SEEDS:
        noisy: dict[str, Any] = {key: value + NOISE[SEEDS[seed % 3]] / 2 for key, value in numbers.items()}
        sign = 1 if name < "n" else -1  # or the differences of two methods would all be equal
        runs.append(fake.make_run(outputs, name, seed, bleu=bleu + sign * NOISE[seed], **noisy))
    return runs


@pytest.mark.parametrize("claim", claims.CLAIMS)
def test_without_runs_nothing_can_be_told(claim: Callable[[Library], Verdict], tmp_path: Path) -> None:
    verdict = judged(claim, tmp_path)
    assert verdict.outcome == OPEN
    assert verdict.parts
    assert all(one.numbers == "not measured" for one in verdict.parts)


@pytest.mark.parametrize(
    ("glat", "loss", "outcome"), [(24.0, 5.0, HOLDS), (24.0, 2.0, FAILS), (20.05, 5.0, OPEN)]
)
def test_likelihood_against_bleu(glat: float, loss: float, outcome: str, tmp_path: Path) -> None:
    seeds(tmp_path, "vanilla_raw", 20.0, nat_loss_raw_bits_per_token=3.0)
    for seed in SEEDS:
        value: dict[str, Any] = {"nat_loss_raw_bits_per_token": loss - NOISE[seed]}
        fake.make_run(tmp_path, "glat_kd", seed, bleu=glat + 2 * NOISE[seed], **value)
    verdict = judged(claims.likelihood, tmp_path)
    assert verdict.outcome == outcome
    assert {one.basis for one in verdict.parts} == {"over 3 seeds"}


@pytest.mark.parametrize(("loss", "outcome"), [(3.5, HOLDS), (2.5, FAILS), (3.01, OPEN)])
def test_likelihood_of_one_seed_is_judged_over_sentences(loss: float, outcome: str, tmp_path: Path) -> None:
    for name, value in (("vanilla_raw", 3.0), ("glat_kd", loss)):
        run = fake.make_run(tmp_path, name, nat_loss_raw_bits_per_token=value)
        assert judged(claims.likelihood, tmp_path).parts[0].outcome == OPEN
        fake.evaluate(run, "likelihood", **fake.ends("nat_loss_raw", "bits_per_token", value, 0.1))
    found = judged(claims.likelihood, tmp_path).parts[0]
    assert (found.outcome, found.basis) == (outcome, OVER_SENTENCES)


def _c(outputs: Path, gaps: dict[str, float]) -> None:
    for place, (data, gap) in enumerate(gaps.items()):
        for seed in SEEDS:
            nat = fake.make_run(outputs, "vanilla_raw", seed, data, bleu=20.0)
            other = fake.make_run(outputs, "at_student", seed, data, bleu=20 + gap + NOISE[seed])
            settings = {"estimator": {"at": str(other)}}
            metrics = fake.ends("total_correlation", "bits_per_token", 1.0 + place, 0.1)
            fake.evaluate(nat, "total_correlation", settings, **metrics)


@pytest.mark.parametrize(
    ("gaps", "outcome"),
    [((1.0, 4.0, 9.0), HOLDS), ((1.0, 9.0, 4.0), FAILS), ((1.0, 4.0, 4.05), OPEN)],
)
def test_c_explains_the_gap(gaps: tuple[float, ...], outcome: str, tmp_path: Path) -> None:
    _c(tmp_path, dict(zip(("grammar_p05", "grammar_p20", "grammar"), gaps, strict=True)))
    verdict = judged(claims.explains, tmp_path)
    assert verdict.outcome == outcome
    assert len(verdict.parts) == 3


def test_data_sets_of_the_same_c_are_not_compared() -> None:
    gap = Part("", 1.0, Interval(1.0, 0.5, 1.5, 0.95))
    low, same = Interval(1.0, 0.8, 1.2, 0.95), Interval(1.1, 0.9, 1.3, 0.95)
    assert claims.of_c_and_gap([("a", low, gap), ("b", same, gap)]) == ()


def test_two_data_sets_say_what_both_their_gaps_are_over() -> None:
    interval = Interval(1.0, 0.5, 1.5, 0.95)
    points = [
        (name, Interval(c, c - 0.1, c + 0.1, 0.95), Part("", 1.0, interval, basis))
        for name, c, basis in (("a", 1.0, OVER_SEEDS), ("b", 2.0, OVER_SENTENCES), ("c", 3.0, OVER_SENTENCES))
    ]
    bases = [part.basis for part in claims.of_c_and_gap(points)]
    assert bases == [f"{OVER_SEEDS} and {OVER_SENTENCES}"] * 2 + [OVER_SENTENCES]


@pytest.mark.parametrize(("glat", "outcome"), [(1.0, HOLDS), (4.0, FAILS), (2.0, OPEN)])
def test_proxies_lose_less_than_c(glat: float, outcome: str, tmp_path: Path) -> None:
    nat, other = fake.make_run(tmp_path, "vanilla_raw"), fake.make_run(tmp_path, "at_student")
    settings = {"estimator": {"at": str(other)}}
    fake.evaluate(
        nat, "total_correlation", settings, **fake.ends("total_correlation", "bits_per_token", 2.0, 0.2)
    )
    losses = {
        "vanilla_raw": 4.0,
        "vanilla_kd": 1.5,
        "axe_tau5": 1.0,
        "oaxe_300k": 1.0,
        "cmlm": 0.5,
        "glat_kd": glat,
    }
    for name, loss in losses.items():
        run = nat if name == "vanilla_raw" else fake.make_run(tmp_path, name)
        fake.evaluate(run, "mple", **fake.ends("nat_loss", "bits_per_token", loss, 0.1))
    verdict = judged(claims.below, tmp_path)
    assert verdict.outcome == outcome
    assert {one.basis for one in verdict.parts} == {OVER_SENTENCES}


def _points(noise: float, sign: float) -> correlation.Points:
    """Eight methods whose BLEU is 50 − `sign` times L_MPLE of β = 0.2, up to noise."""
    generator = np.random.default_rng(1)
    nat, similarity = generator.uniform(0, 4, 8), generator.uniform(20, 40, 8)
    bleu = (50 - sign * (nat - 0.2 * similarity) + generator.normal(0, noise, 8)).clip(0, 100)
    entries = zip(range(8), nat, similarity, bleu, strict=True)
    return correlation.Points(
        tuple(MpleLoss(f"m{i}", float(n), float(s), float(b)) for i, n, s, b in entries)
    )


@pytest.mark.parametrize(
    ("noise", "sign", "outcome"), [(0.05, 1.0, HOLDS), (0.05, -1.0, FAILS), (30.0, 1.0, OPEN)]
)
def test_correlation_of_the_objective(noise: float, sign: float, outcome: str) -> None:
    parts = claims.of_correlation(_points(noise, sign), 0.2, "made up")
    assert len(parts) == 3  # r, and L_NAT and L_target alone; L_input is the same for all
    assert judge(parts) == outcome


def test_the_lead_of_the_objective_over_itself_is_none() -> None:
    values, bleu = np.array([1.0, 2.0, 4.0, 3.0]), np.array([4.0, 3.0, 1.0, 1.5])
    found = claims.lead(values, 2 * values, bleu)
    assert (found.value, found.low, found.high) == pytest.approx((0, 0, 0))


@pytest.mark.parametrize(("kd", "outcome"), [(45.0, HOLDS), (30.0, FAILS), (40.2, OPEN)])
def test_kd_is_nearer_than_raw(kd: float, outcome: str, tmp_path: Path) -> None:
    for name, value in (("vanilla_raw", 40.0), ("vanilla_kd", kd)):
        fake.evaluate(fake.make_run(tmp_path, name), "mple", **fake.ends("similarity", "", value, 1.0))
    assert judged(claims.nearer, tmp_path).outcome == outcome


def test_kd_without_intervals_cannot_be_told(tmp_path: Path) -> None:
    for name, value in (("vanilla_raw", 40.0), ("vanilla_kd", 90.0)):
        fake.evaluate(fake.make_run(tmp_path, name), "mple", similarity=value)
    assert judged(claims.nearer, tmp_path).outcome == OPEN


@pytest.mark.parametrize(("early", "outcome"), [(-4.0, HOLDS), (-7.0, FAILS), (-6.1, OPEN)])
def test_trade_off(early: float, outcome: str, tmp_path: Path) -> None:
    numbers = {
        "axe_tau1": (0.8, -5.0),
        "axe_tau10": (1.3, -6.5),
        "oaxe_10k": (1.0, early),
        "oaxe_300k": (0.8, -6.2),
    }
    for name, (loss, target) in numbers.items():
        metrics = fake.ends("nat_loss", "bits_per_token", loss, 0.1)
        metrics |= fake.ends("target_loss", "bits_per_token", target, 0.2)
        fake.evaluate(fake.make_run(tmp_path, name), "mple", **metrics)
    assert judged(claims.trade_off, tmp_path).outcome == outcome


@pytest.mark.parametrize(
    ("cmlm", "glat", "outcome"),
    [(4.0, -1.0, HOLDS), (4.0, 1.0, FAILS), (-2.0, -1.0, FAILS), (0.01, -1.0, OPEN)],
)
def test_input_sampling(cmlm: float, glat: float, outcome: str, tmp_path: Path) -> None:
    for name, gain in (("cmlm", cmlm), ("glat_kd", glat)):
        for seed in SEEDS:
            run = fake.make_run(tmp_path, name, seed, bleu=20.0)
            found = {"default_tokenised_bleu": 20.0, "sampled_tokenised_bleu": 20.0 + gain + NOISE[seed]}
            fake.evaluate(run, "confidence", **found)  # reports before 35b7707 have no sampling_gain
    assert judged(claims.sampling, tmp_path).outcome == outcome


@pytest.mark.parametrize(("half", "outcome"), [(0.5, HOLDS), (1.5, OPEN)])
def test_input_sampling_of_one_seed_is_judged_over_sentences(
    half: float, outcome: str, tmp_path: Path
) -> None:
    for name, gain in (("cmlm", 1.0), ("glat_kd", -1.0)):
        run = fake.make_run(tmp_path, name)
        fake.evaluate(run, "confidence", **fake.ends("sampling_gain", "bleu", gain, half))
    verdict = judged(claims.sampling, tmp_path)
    assert verdict.outcome == outcome
    assert {part.basis for part in verdict.parts} == {OVER_SENTENCES}


def test_runs_of_one_seed_are_compared(tmp_path: Path) -> None:
    """Two seeds here and one there: over sentences of the seed that both have."""
    references = ["ein hund rennt im park", "zwei männer sitzen am see"]
    fake.prepare(tmp_path, ["a", "b"], references)
    for name, seed, lines in (
        ("vanilla_kd", 1, ["ganz falsch", "auch das"]),
        ("vanilla_kd", 2, references),
        ("vanilla_raw", 2, references),
    ):
        run = fake.make_run(tmp_path, name, seed, bleu=50.0)
        (run / "hypotheses.test.txt").write_text("".join(f"{line}\n" for line in lines))
    part = claims.better(Library(Study(tmp_path)), "", Training("vanilla_kd"), Training("vanilla_raw"))
    assert part.value == 0


def test_resamples_of_one_method_alone_have_no_correlation() -> None:
    """Of three methods a ninth of the resamples are one method three times."""
    total, part, bleu = np.array([0.1, 0.7, 0.3]), np.array([0.3, 0.9, 0.7]), np.array([0.7, 0.1, 0.6])
    found = claims.lead(total, part, bleu)
    generator = np.random.default_rng(Bootstrap().seed)
    index = generator.integers(0, 3, (Bootstrap().resamples, 3))
    rows = [row for row in index if len(set(row)) > 1]
    gaps = [
        abs(np.corrcoef(total[row], bleu[row])[0, 1]) - abs(np.corrcoef(part[row], bleu[row])[0, 1])
        for row in rows
    ]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(gaps, [0.025, 0.975])))


@pytest.mark.parametrize(("big", "outcome"), [(22.0, HOLDS), (25.0, FAILS), (23.0, OPEN)])
def test_dynamic_kd_against_every_teacher(big: float, outcome: str, tmp_path: Path) -> None:
    from experiments.paper_items import figure8

    for model in figure8.MODELS:
        for target in (*figure8.TEACHERS, figure8.DYNAMIC):
            training = figure8.training(model, target)
            bleu = {figure8.DYNAMIC: 23.0, "big": big}.get(target, 20.0)
            for seed in SEEDS:
                noise = NOISE[seed] if target != figure8.DYNAMIC else NOISE[SEEDS[seed % 3]]
                fake.make_run(
                    tmp_path, training.name, seed, bleu=bleu + noise, overrides=" ".join(training.overrides)
                )
    verdict = judged(claims.dynamic, tmp_path)
    assert len(verdict.parts) == 10
    assert verdict.outcome == outcome


@pytest.mark.parametrize(("without", "outcome"), [(20.0, HOLDS), (24.0, FAILS), (22.0, OPEN)])
def test_regulariser(without: float, outcome: str, tmp_path: Path) -> None:
    for model in ("vanilla", "glat"):
        seeds(tmp_path, f"{model}_dynkd", 22.0)
        for seed in SEEDS:
            fake.make_run(tmp_path, f"{model}_dynkd_noreg", seed, bleu=without - NOISE[seed] * seed)
    assert judged(claims.regulariser, tmp_path).outcome == outcome


def test_one_seed_is_judged_over_its_sentences(tmp_path: Path) -> None:
    """The references come from the prepared data, the outputs from the run; without them nothing is told."""
    references = [f"a man sees dog number {i} in the park" for i in range(30)]
    good = fake.make_run(tmp_path, "glat_dynkd", bleu=90.0)
    bad = fake.make_run(tmp_path, "glat_dynkd_noreg", bleu=10.0)
    library = Library(Study(tmp_path))
    left, right = Training("glat_dynkd"), Training("glat_dynkd_noreg")
    assert claims.better(library, "x", left, right).outcome == OPEN
    (good / "hypotheses.test.txt").write_text("".join(line + "\n" for line in references))
    (bad / "hypotheses.test.txt").write_text("a man\n" * 30)
    assert claims.better(library, "x", left, right).outcome == OPEN
    fake.prepare(tmp_path, ["x"] * 30, references)
    found = claims.better(library, "x", left, right)
    assert (found.outcome, found.basis, found.unit) == (HOLDS, OVER_SENTENCES, "sacreBLEU")
    assert claims.better(library, "x", right, left).outcome == FAILS
