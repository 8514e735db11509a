"""r of L_MPLE and BLEU as the tables say it: the paper's own points, and runs of several seeds."""

from pathlib import Path

import pytest

from experiments.paper_items import claims, correlation, table2
from experiments.paper_items.runs import Library, Study
from tests.experiments import fake


@pytest.mark.parametrize(
    ("table", "r"), [("table2", 0.991), ("table7", 0.959), ("table3", 0.993), ("table8", 0.992)]
)
def test_the_papers_points_have_the_papers_r(table: str, r: float) -> None:
    report = correlation.of_paper(table).report(correlation.beta_of(table))
    assert report is not None
    assert report.r.value == pytest.approx(-r, abs=6e-4)
    (first, *others) = correlation.of_paper(table).notes(report.beta, "BLEU")
    assert f"over {report.points} methods, β {report.beta:g}: {report.r}" in first
    assert any("nat_loss r" in note and "%" in note for note in others)


def test_the_rule_is_said_of_the_papers_own_numbers() -> None:
    assert claims.of_paper() == "Table 2 holds, Table 3 cannot tell, Table 7 cannot tell, Table 8 holds"


def test_a_method_of_several_seeds_is_one_point_and_its_runs_are_others(tmp_path: Path) -> None:
    numbers = {"vanilla_raw": (3.0, 30.0), "vanilla_kd": (2.0, 36.0), "axe_tau1": (1.0, 31.0)}
    for name, (loss, similarity) in numbers.items():
        for seed in (1, 2):
            run = fake.make_run(tmp_path, name, seed, bleu=50 - 4 * loss + similarity / 5 + seed / 10)
            metrics = fake.ends("nat_loss", "bits_per_token", loss + seed / 100, 0.1)
            fake.evaluate(run, "mple", **metrics, similarity=similarity)
    found = correlation.points(Library(Study(tmp_path)), table2.ROWS)
    assert [row.name for row in found.rows] == ["Raw Data", "KD", "KD + AXE (tau=1)"]
    assert found.rows[0].nat_loss == pytest.approx(3.015)
    assert len(found.runs) == 6
    assert sorted(run.bleu for run in found.runs if run.name == "KD") == pytest.approx([49.3, 49.4])
    assert any(note.startswith("over all 6 runs") for note in found.notes(0.2, "BLEU"))


def test_seeds_that_were_not_measured_do_not_count(tmp_path: Path) -> None:
    for place, name in enumerate(("vanilla_raw", "vanilla_kd", "axe_tau1")):
        for seed in (1, 2):
            run = fake.make_run(tmp_path, name, seed, bleu=20.0 + place + 10 * seed)
            if seed == 1:
                metrics = fake.ends("nat_loss", "bits_per_token", 3.0 - place, 0.1)
                fake.evaluate(run, "mple", **metrics, similarity=30.0 + place)
    found = correlation.points(Library(Study(tmp_path)), table2.ROWS)
    assert [row.bleu for row in found.rows] == pytest.approx([30, 31, 32])


def test_two_methods_have_no_r(tmp_path: Path) -> None:
    for name in ("vanilla_raw", "vanilla_kd"):
        run = fake.make_run(tmp_path, name)
        fake.evaluate(run, "mple", **fake.ends("nat_loss", "bits_per_token", 1.0, 0.1), similarity=3.0)
    (note,) = correlation.points(Library(Study(tmp_path)), table2.ROWS).notes(0.2, "BLEU")
    assert note == "r needs estimator=mple of at least 3 methods; there are 2"
