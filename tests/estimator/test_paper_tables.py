"""The paper's tables agree with themselves and with each other where they repeat a number."""

import numpy as np
import pytest

from experiments.paper import TABLES, objective, table
from mple.checks import UserError


def of(number: int, row: str, column: str, key: str = "model") -> float:
    found = table(number)
    return float(found.numbers(column)[found.texts(key).index(row)])


def test_every_file_reads_and_names_itself() -> None:
    assert TABLES == (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
    for number in TABLES:
        found = table(number)
        assert found.caption.startswith(f"Table {number} (")
        assert all(len(row) == len(found.rows[0]) and None not in row.values() for row in found.rows)


def test_table_1_adds_up() -> None:
    gap = table(1).numbers("bleu_at") - table(1).numbers("bleu_nat")
    np.testing.assert_allclose(gap, table(1).numbers("bleu_gap"), atol=1e-9)
    np.testing.assert_array_equal(
        table(1).numbers("total_correlation"), table(5).numbers("total_correlation")
    )
    np.testing.assert_array_equal(table(1).numbers("bleu_nat"), table(5).numbers("bleu_nat"))


def test_table_6_ratios_are_of_the_base() -> None:
    millions = table(6).numbers("parameters_millions")
    np.testing.assert_allclose(100 * millions / 62.6, table(6).numbers("parameter_ratio_percent"), atol=0.06)


def test_numbers_that_come_twice() -> None:
    assert of(2, "Raw Data", "bleu") == of(4, "MLE", "bleu_en_de") == of(9, "MLE", "bleu_en_de")
    assert of(7, "Raw Data", "bleu") == of(4, "MLE", "bleu_zh_en")
    assert of(3, "GLAT", "bleu_default") == of(9, "GLAT + KD", "bleu_en_de")
    assert of(8, "GLAT", "bleu_default") == of(9, "GLAT + KD", "bleu_zh_en")
    assert of(10, "base", "bleu_en_de") == of(9, "Transformer", "bleu_en_de")
    assert of(2, "KD", "bleu") != of(9, "Vanilla + KD", "bleu_en_de")  # 20.87 and 20.98, as printed
    rows = [row for row in table(9).rows if (row["model"], row["iterations"]) == ("DisCo", "~4")]
    assert [row["speedup"] for row in rows] == [""]
    assert np.isnan(table(9).numbers("speedup")).sum() == 1


def test_refusals() -> None:
    with pytest.raises(UserError, match=r"table must be one of 1, 2, .* 10; got 11"):
        table(11)
    with pytest.raises(UserError, match=r"column of table 2 must be one of .*nat_loss.*; got 'loss'"):
        table(2).numbers("loss")
    with pytest.raises(UserError, match=r"column iterations of table 9 must hold numbers; .*'L'"):
        table(9).numbers("iterations")
    with pytest.raises(UserError, match="column of table 3"):
        objective(3)  # which of its two BLEU columns has to be said
