"""Correlations against those of the paper's own tables, to the digits of a recomputation by hand."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from experiments.paper import objective, table
from mple.checks import UserError
from mple.estimator.correlation import BETAS, CorrelationReport, ObjectiveCorrelation
from mple.estimator.mple_loss import MpleLoss, MpleTable
from mple.estimator.statistics import Bootstrap

FAST = Bootstrap(500)


def report_on(number: int, bleu: str = "bleu", **settings: object) -> CorrelationReport:
    beta = float(table(number).numbers("beta")[0])
    return ObjectiveCorrelation(beta=beta, bootstrap=FAST, **settings)(objective(number, bleu))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("number", "bleu", "expected", "digits"),
    [
        (2, "bleu", -0.991, 3),
        (7, "bleu", -0.959, 3),
        (3, "bleu_sample", -0.993, 3),
        (8, "bleu_sample", -0.992, 3),
        (3, "bleu_default", -0.34, 2),
        (8, "bleu_default", -0.355, 3),
    ],
)
def test_the_paper_s_tables(number: int, bleu: str, expected: float, digits: int) -> None:
    report = report_on(number, bleu)
    assert round(report.r.value, digits) == expected
    assert report.r.low <= report.r.value <= report.r.high
    assert (report.p < 0.001) == (abs(expected) > 0.9)
    assert report.points == len(table(number).rows)


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (2, {0.05: 0.78, 0.1: 0.88, 0.15: 0.95, 0.2: 0.991, 0.25: 0.999, 0.3: 0.98, 0.5: 0.85, 1.0: 0.64}),
        (7, {0.1: 0.65, 0.2: 0.93, 0.25: 0.96, 0.3: 0.90, 0.5: 0.58}),
    ],
)
def test_the_curve_over_beta(number: int, expected: dict[float, float]) -> None:
    curve = report_on(number).curve
    assert tuple(curve) == BETAS
    for beta, r in expected.items():
        assert round(-curve[beta], 3 if r in (0.991, 0.999) else 2) == r


def test_the_paper_s_claim_about_beta_holds_on_table_2_only() -> None:
    """ "|r| ≥ 0.8 for all β in [0.1, 0.5]", said of Table 2."""
    between = [beta for beta in BETAS if 0.1 <= beta <= 0.5]
    assert min(abs(report_on(2).curve[beta]) for beta in between) >= 0.8
    assert min(abs(report_on(7).curve[beta]) for beta in between) < 0.6


def test_the_parts_of_table_2() -> None:
    report = report_on(2)
    assert {name: round(abs(r), 2) for name, r in report.parts.items()} == {
        "nat_loss": 0.67,
        "target_loss": 0.38,
    }
    # Without one of two parts the other is left; L_input is 0 in all rows and has no r.
    assert report.without == pytest.approx(
        {"nat_loss": report.parts["target_loss"], "target_loss": report.parts["nat_loss"]}
    )
    assert report.explained_percent()["nat_loss"] == pytest.approx(100 * report.parts["nat_loss"] ** 2)


def test_a_constant_part_has_no_r() -> None:
    report = report_on(3, "bleu_sample")
    assert set(report.parts) == {"nat_loss", "input_loss"}  # L̂_target is one number there
    assert np.ptp(list(report.curve.values())) == pytest.approx(0, abs=1e-9)  # so β cannot matter
    assert report.p_of_best == pytest.approx(report.p, abs=1e-4)
    assert report.best_beta == BETAS[0]


def test_the_best_beta_is_one_with_which_a_smaller_loss_goes_with_more_bleu() -> None:
    """The strongest r here is that of the smallest β, with the wrong sign."""
    numbers = zip((1.0, 2.0, 3.0, 4.0), (10.0, 9.0, 13.0, 14.0), strict=True)
    rows = [MpleLoss(str(bleu), bleu, similarity, bleu, 0.0) for bleu, similarity in numbers]
    report = ObjectiveCorrelation(bootstrap=FAST)(MpleTable(tuple(rows)))
    assert max(report.curve, key=lambda beta: abs(report.curve[beta])) == BETAS[0]
    assert report.curve[BETAS[0]] > 0 > report.curve[report.best_beta] == min(report.curve.values())


def test_choosing_beta_is_paid_for() -> None:
    report = report_on(7)
    assert report.best_beta == 0.25
    assert report.p_of_best >= report.p
    rows = objective(7)
    totals = [rows.total(beta) for beta in (0.1, 0.25, 1.0)]
    five = slice(0, 5)
    small = MpleTable(rows.rows[five])
    got = ObjectiveCorrelation(betas=(0.1, 0.25, 1.0), bootstrap=FAST)(small)
    seen = max(abs(stats.pearsonr(t[five], rows.bleu[five])[0]) for t in totals)
    hits = [
        max(abs(stats.pearsonr(t[five], order)[0]) for t in totals) >= seen - 1e-9
        for order in itertools.permutations(rows.bleu[five])
    ]
    assert got.p_of_best == pytest.approx(np.mean(hits))


def test_seeds() -> None:
    """Runs of a method around its mean: by default one point a method, so copies change nothing."""
    rows = objective(2).rows
    spread = [replace(row, bleu=row.bleu + shift) for row in rows for shift in (-1, 0, 1)]
    means = ObjectiveCorrelation(bootstrap=FAST)(MpleTable(tuple(spread)))
    alone = ObjectiveCorrelation(bootstrap=FAST)(MpleTable(rows))
    assert means.points == 8
    assert means.r.value == pytest.approx(alone.r.value)
    points = ObjectiveCorrelation(bootstrap=FAST, over_seeds="points")(MpleTable(tuple(spread)))
    assert points.points == 24
    assert abs(points.r.value) < abs(alone.r.value)


def test_metrics() -> None:
    found = report_on(2).metrics()
    assert found["mple_loss_pearson_r"] == pytest.approx(-0.991, abs=5e-4)
    assert found["mple_loss_points"] == 8
    assert found["nat_loss_alone_explained_percent"] == pytest.approx(45, abs=1)
    assert {"mple_loss_pearson_r_low", "mple_loss_permutation_p", "without_nat_loss_pearson_r"} < set(found)
    assert all(isinstance(value, float) for value in found.values())


def test_refusals() -> None:
    for settings, message in (
        ({"beta": -1}, r"estimator\.beta"),
        ({"betas": ()}, r"estimator\.betas must hold at least one number; got none"),
        ({"betas": (0.1, -0.1)}, r"estimator\.betas .*got -0\.1"),
        ({"over_seeds": "max"}, r"estimator\.over_seeds must be one of mean, points; got 'max'"),
    ):
        with pytest.raises(UserError, match=message):
            ObjectiveCorrelation(**settings)  # type: ignore[arg-type]
    runs = MpleTable(tuple(MpleLoss("one", 1, 30, bleu) for bleu in (10, 20, 30)))
    with pytest.raises(UserError, match="at least 3 numbers; got 1"):
        ObjectiveCorrelation(bootstrap=FAST)(runs)  # three seeds of one method are one point
