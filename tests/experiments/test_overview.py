"""The table of results is written from runs, and only between its marks."""

import json
from pathlib import Path

import pytest

from experiments import overview
from experiments.collect import collect
from experiments.paper_items import ITEMS
from tests.experiments import fake

PAGE = "# Results\n\nbefore\n\n<!-- grammar -->\n\nold\n\n<!-- /grammar -->\n\nafter\n"


def written(tmp_path: Path, *arguments: str) -> int:
    return overview.main(
        ["--outputs", str(tmp_path / "runs"), "--page", str(tmp_path / "page.md"), *arguments]
    )


def test_every_item_has_a_row_with_the_papers_number_and_ours(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(PAGE)
    for seed in (1, 2):
        fake.make_all(tmp_path / "runs", seed)
    assert written(tmp_path) == 0
    text = (tmp_path / "page.md").read_text()
    assert text.startswith("# Results\n\nbefore\n\n<!-- grammar -->")
    assert text.endswith("<!-- /grammar -->\n\nafter\n")
    assert "old" not in text
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")][2:]
    shown = [name for name in ITEMS if name not in ("figure1", "table7", "table8")]  # of no run here
    assert len(rows) == len(shown)
    (table2,) = [row for row in rows if row[0] == "| Table 2"]
    assert table2[1] == "`table2` `--data grammar`"
    assert table2[2] == "BLEU"
    assert "Raw Data: 11.79 / " in table2[3]
    assert "± 0.07 (n=2)" in table2[3]  # 0.1 between two seeds
    assert "seeds 1, 2" in table2[4]
    assert "commit abc1234" in table2[4]
    assert written(tmp_path) == 0
    assert (tmp_path / "page.md").read_text() == text


def test_without_runs_or_a_place_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "page.md").write_text(PAGE)
    assert written(tmp_path) == 2
    assert "no finished run of data 'grammar'" in capsys.readouterr().err
    fake.make_all(tmp_path / "runs")
    (tmp_path / "page.md").write_text("nothing")
    assert written(tmp_path) == 2
    assert "must have one <!-- grammar -->" in capsys.readouterr().err
    assert (tmp_path / "page.md").read_text() == "nothing"


def test_a_page_that_asks_for_it_has_a_row_a_configuration(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE + "\n<!-- grammar runs -->\n<!-- /grammar runs -->\nend\n")
    for seed in (1, 2):
        fake.make_all(tmp_path / "runs", seed)
    assert written(tmp_path) == 0
    text = page.read_text()
    assert text.endswith("<!-- /grammar runs -->\nend\n")
    head, _, *rows = [
        [cell.strip() for cell in line.strip("| ").split(" | ")]
        for line in text.partition("<!-- grammar runs -->")[2].splitlines()
        if line.startswith("| ")
    ]
    found, every = collect(tmp_path / "runs", "grammar")[0], collect(tmp_path / "runs")[0]
    assert len(rows) == len(every) > len(found)  # also those of Table 1's other data
    (kd,) = [dict(zip(head, row, strict=True)) for row in rows if row[0] == "`+experiment=vanilla_kd`"]
    (row,) = [row for row in found if row.runs[0].texts["command"].split()[2:3] == ["+experiment=vanilla_kd"]]
    assert kd["seeds"] == "1, 2"
    assert kd["BLEU"] == row.cell("tokenised_bleu", ".2f")
    assert "±" in kd["BLEU"]
    assert kd["commit"] == "abc1234"
    assert "× vanilla step" not in head


def test_what_dynamic_kd_chose_is_in_its_row(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE + "\n<!-- grammar runs -->\n<!-- /grammar runs -->\nend\n")
    fake.make_all(tmp_path / "runs")
    (folder,) = (tmp_path / "runs").glob("glat_dynkd/grammar/*/seed1")
    record = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(
        json.dumps(record | {"selection_percent": {"tiny": 7.4, "raw": 92.6}})
    )
    assert written(tmp_path) == 0
    lines = [line for line in page.read_text().splitlines() if "`+experiment=" in line]
    assert [line for line in lines if "tiny 7, raw 93" in line] == [
        line for line in lines if "glat_dynkd`" in line
    ]
    assert "| chosen % |" in page.read_text()


def test_what_a_step_costs_is_beside_its_row(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE + "\n<!-- grammar runs -->\n<!-- /grammar runs -->\nend\n")
    fake.make_all(tmp_path / "runs")
    (tmp_path / "results").mkdir()
    rows = {"axe_tau5": {"times_vanilla_step": {"median": 1.234}}}
    (tmp_path / "results" / "steps_grammar.json").write_text(json.dumps({"rows": rows}))
    assert written(tmp_path) == 0
    lines = [line for line in page.read_text().splitlines() if "`+experiment=" in line]
    assert sum("| 1.23 |" in line for line in lines) == 1
    assert all(("| 1.23 |" in line) == ("`+experiment=axe_tau5`" in line) for line in lines)
    assert "| × vanilla step |" in page.read_text()
