"""Sums against the paper's tables, each of which prints L̂_MPLE beside its parts."""

import math

import numpy as np
import pytest

from experiments.paper import objective, table
from mple.checks import UserError
from mple.estimator.mple_loss import MpleLoss, MpleTable


@pytest.mark.parametrize(
    ("number", "bleu"), [(2, "bleu"), (3, "bleu_sample"), (7, "bleu"), (8, "bleu_default")]
)
def test_the_paper_s_sums(number: int, bleu: str) -> None:
    paper = table(number)
    rows = objective(number, bleu)
    beta = float(paper.numbers("beta")[0])
    np.testing.assert_allclose(rows.total(beta), paper.numbers("mple_loss"), atol=0.0101)
    for name, values in rows.parts(beta).items():
        np.testing.assert_allclose(values, paper.numbers(name), atol=1e-12)
    np.testing.assert_array_equal(rows.bleu, paper.numbers(bleu))


def test_one_row() -> None:
    row = MpleLoss("GLAT", nat_loss=0.66, similarity=35.4, bleu=25.12, input_loss=0.45)
    assert row.metrics(0.2) == {
        "nat_loss_bits_per_token": 0.66,
        "target_loss_bits_per_token": pytest.approx(-7.08),
        "input_loss_bits_per_token": 0.45,
        "mple_loss_bits_per_token": pytest.approx(-5.97),
        "bleu": 25.12,
    }
    assert row.total(0) == pytest.approx(1.11)


def test_seeds_are_averaged_by_method() -> None:
    runs = MpleTable((MpleLoss("b", 2, 30, 10), MpleLoss("a", 1, 20, 5, 0.5), MpleLoss("b", 4, 40, 20, 1)))
    means = runs.averaged()
    assert means.rows == (MpleLoss("b", 3, 35, 15, 0.5), MpleLoss("a", 1, 20, 5, 0.5))
    assert means.averaged() == means
    # The sum is linear: the mean of the sums is the sum of the means.
    assert means.total(0.3)[0] == pytest.approx(runs.total(0.3)[[0, 2]].mean())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((-1, 30, 10, 0), r"m: nat_loss \(bits per token\) must be a number of at least 0; got -1"),
        ((math.inf, 30, 10, 0), r"m: nat_loss \(bits per token\) must be a number of at least 0; got inf"),
        ((1, 101, 10, 0), "m: similarity must be a number from 0 to 100; got 101"),
        ((1, 30, math.nan, 0), "m: bleu"),
        ((1, 30, 10, math.nan), "m: input_loss must be a finite number; got nan"),
    ],
)
def test_refusals(values: tuple[float, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MpleLoss("m", *values)


def test_a_table_has_rows() -> None:
    with pytest.raises(UserError, match="at least one row; got none"):
        MpleTable(())
    with pytest.raises(UserError, match="beta"):
        MpleTable((MpleLoss("m", 1, 1, 1),)).parts(-1)
