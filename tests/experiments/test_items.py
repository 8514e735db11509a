"""Every item on made-up runs: all of them there, some, none; what is printed, written and missing."""

import csv
import importlib
import json
import math
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
from hydra.utils import instantiate
from matplotlib.axes import Axes

from experiments.paper_items import (
    ITEMS,
    correlation,
    figure1,
    figure5,
    figure8,
    plots,
    table1,
    table2,
    table3,
    table5,
    table10,
)
from experiments.paper_items.item import Cell, Item, Line, main, paper_table, records
from experiments.paper_items.numbers import Number
from experiments.paper_items.runs import Library, Study
from tests.experiments import fake

CONF = Path(__file__).parents[2] / "conf"
EXACT = ("figure2", "figure9")
OF_RUNS = tuple(name for name in ITEMS if name not in (*EXACT, "figure1"))


def made(name: str, outputs: Path) -> Item:
    return importlib.import_module(f"experiments.paper_items.{name}").make(Library(Study(outputs)))


def rows(path: Path) -> dict[str, dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return {row["row"]: row for row in csv.DictReader(file)}


@pytest.mark.parametrize("name", OF_RUNS)
def test_with_all_runs_nothing_is_missing(name: str, tmp_path: Path) -> None:
    fake.make_all(tmp_path)
    item = made(name, tmp_path)
    assert not item.missing
    for line in item.lines:
        absent = [column for column, cell in line.cells.items() if cell.ours is None]
        expected = []
        if name == "table4":
            expected = ["speedup"] if line.label == "Transformer" else []
        if name == "table1":
            expected = [
                *(["exact C"] if "KD" in line.label or "Synthetic" in line.label else []),
                "Δvalid %",
            ]  # the runs have no valid rate
        if name == "table5":  # beyond the smallest and the largest AT there is none
            beyond = {table5.BLEU_LOW: (table5.LOW, 0.0), table5.BLEU_HIGH: (table5.HIGH, math.inf)}
            expected = [
                bleu
                for bleu, (size, end) in beyond.items()
                if (found := line.cells[size].ours) is not None and found.mean == end
            ]
        assert absent == expected, line.label


def test_one_nat_is_timed_for_all_of_one_architecture(tmp_path: Path) -> None:
    fake.make_all(tmp_path)

    def untimed(name: str) -> None:
        for file in tmp_path.glob(f"{name}/**/evaluations/latency*.json"):
            file.unlink()

    def speeds() -> set[float | None]:
        cells = [line.cells["speedup"].ours for line in made("table4", tmp_path).lines[1:]]
        return {None if cell is None else cell.mean for cell in cells}

    first = speeds()
    assert len(first) == 2  # of argmax and of three lengths
    untimed("glat_kd")
    assert len(speeds() - first) == 2  # of `glat_dynkd`
    assert not made("table4", tmp_path).missing
    untimed("glat_dynkd")
    assert speeds() == {None}
    (missing,) = made("table4", tmp_path).missing
    assert "/glat_kd/" in missing.command[2]
    assert any(word.startswith("estimator.at=") and "/at_base/" in word for word in missing.command)


@pytest.mark.parametrize("name", OF_RUNS)
def test_without_runs_one_line_and_status_1(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make = importlib.import_module(f"experiments.paper_items.{name}").make
    assert main(make, ["--outputs", str(tmp_path), "--to", str(tmp_path / "to")]) == 2
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert out == ""
    assert line.startswith(f"error: no finished run of {name} on data 'grammar'")
    assert "make one with: python train.py +experiment=" in line
    assert not (tmp_path / "to").exists()


def test_with_some_runs_the_others_are_marked_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.make_run(tmp_path, "vanilla_kd", bleu=21.5, nat_loss_base_bits_per_token=2.25)
    to = tmp_path / "to"
    assert main(table2.make, ["--outputs", str(tmp_path), "--to", str(to)]) == 0
    printed = capsys.readouterr().out
    assert "Raw Data (not run)" in printed
    assert "\n KD " in printed
    assert "2.25*" in printed  # from the run's own validation, and said so
    assert table2.SHOWN_AS_IN_TRAINING in printed
    assert (
        f"  python train.py +experiment=axe_tau5 data=grammar budget=minutes outputs={tmp_path} seed=1"
        in printed
    )
    found = rows(to / "table2_grammar.csv")
    assert (found["KD"]["BLEU: mean"], found["KD"]["BLEU: paper"]) == ("21.5", "20.87")
    assert found["Raw Data"]["BLEU: mean"] == ""
    assert (to / "table2_grammar.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (to / "table2_grammar.svg").read_text()


@pytest.mark.parametrize("name", EXACT)
def test_exact_items_need_no_runs(name: str, tmp_path: Path) -> None:
    make = importlib.import_module(f"experiments.paper_items.{name}").make
    assert main(make, ["--outputs", str(tmp_path), "--to", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.csv", f"{name}.svg", f"{name}.png"}


def test_spread_over_seeds_goes_into_the_csv(tmp_path: Path) -> None:
    for seed, bleu in ((1, 20.0), (2, 21.0), (3, 22.0)):
        fake.make_run(tmp_path, "at_big", seed, bleu=bleu, overrides="size=big")
    (record,) = [row for row in records(table10.make(Library(Study(tmp_path)))) if row["row"] == "big"]
    assert (record["BLEU: mean"], record["BLEU: sd"], record["BLEU: n"]) == (21.0, 1.0, 3)
    assert record["BLEU: high"] == pytest.approx(21 + 4.302653 / math.sqrt(3))
    assert (record["seeds"], record["commit"], record["BLEU: paper"]) == ("1 2 3", "abc1234", 28.49)


def test_pictures_repeat(tmp_path: Path) -> None:
    fake.make_all(tmp_path)
    for place in ("a", "b"):
        assert main(figure8.make, ["--outputs", str(tmp_path), "--to", str(tmp_path / place)]) == 0
    first, second = ((tmp_path / place / "figure8_grammar.svg").read_bytes() for place in "ab")
    assert first == second


@pytest.mark.parametrize("table", ["table2", "table3", "table7", "table8"])
def test_rows_stand_beside_the_papers(table: str, tmp_path: Path) -> None:
    """Every line of the paper's table is shown, in its order, with its BLEU."""
    item = made(table, tmp_path)
    column = "BLEU" if table in ("table2", "table7") else "BLEU default"
    key = "bleu" if column == "BLEU" else "bleu_default"
    shown = [line.cells[column].paper for line in item.lines]
    assert shown == [float(row[key]) for row in paper_table(table)]


def test_c_and_gap_of_table_1(tmp_path: Path) -> None:
    fake.make_all(tmp_path)
    item = table1.make(Library(Study(tmp_path)))
    assert [line.label for line in item.lines] == [
        "Grammar, modes 0.50",
        "Grammar, modes 0.50, KD",
        "Grammar, modes 0.20",
        "Grammar, modes 0.05",
        "Grammar, one mode",
        "Grammar, Synthetic B",
        "Grammar, Synthetic A",
    ]
    gap = item.cell("Grammar, modes 0.20", table1.GAP).ours
    assert gap is not None
    assert gap.mean == pytest.approx(40.0 - 34.0)
    c = item.cell("Grammar, modes 0.50", table1.C).ours
    assert c is not None
    assert c.mean == 3.0


def test_the_grammars_other_modes_are_missing_only_once_asked_for_or_begun(tmp_path: Path) -> None:
    def rows(degrees: bool) -> tuple[list[str], str]:
        item = table1.make(Library(Study(tmp_path, degrees=degrees)))
        return [line.label for line in item.lines], " ".join(map(str, item.missing))

    labels, missing = rows(degrees=False)
    assert len(labels) == 4
    assert "grammar_p" not in missing
    labels, missing = rows(degrees=True)
    assert len(labels) == 7
    assert all(name in missing for name in ("grammar_p20", "grammar_p05", "grammar_p00"))
    fake.make_run(tmp_path, "at_student", data="grammar_p05", overrides="size=student data.name=grammar_p05")
    labels, missing = rows(degrees=False)
    assert labels[2] == "Grammar, modes 0.05"
    assert len(labels) == 5
    assert "vanilla_raw data=grammar data.name=grammar_p05" in missing
    assert "grammar_p20" not in missing


@pytest.mark.parametrize(("data", "p"), [("grammar", 0.5), ("grammar_p05", 0.05)])
def test_exact_c_is_that_of_the_grammars_sources(data: str, p: float, tmp_path: Path) -> None:
    """The sources are those that the configuration tests on; C by a sum over every target of each."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        words = [f"data.modes.{mode}={p}" for mode in ("order", "formality", "tense", "separable")]
        source = instantiate(hydra.compose("train", ["data=grammar", *words]).data.source)
    grammar, sources = source.grammar, [src for _, src, _ in source.pairs("test")]
    fake.make_run(tmp_path, "vanilla_raw", data=data, overrides=f"data.name={data}")
    found = table1.exact(Library(Study(tmp_path, data=data)), table1.Dataset(data, data))
    bits = sum(grammar.information(source).total_correlation for source in sources)
    words = sum(p * len(t.split()) for s in sources for t, p in grammar.targets(s).items())
    assert found is not None
    assert found.mean == pytest.approx(bits / words)


def test_text_data_have_synthetic_rows_and_the_papers(tmp_path: Path) -> None:
    item = table1.make(Library(Study(tmp_path, data="multi30k_de-en", root="ROOT")))
    assert [line.label for line in item.lines] == [
        "multi30k_de-en",
        "multi30k_de-en, KD",
        "Synthetic B",
        "Synthetic A",
    ]
    assert [line.cells[table1.C].paper for line in item.lines] == [2.50, None, 1.51, 0.92]
    commands = [str(entry) for entry in item.missing]
    assert any("estimator.split=valid" in c and "at_student_kd/multi30k_de-en" in c for c in commands)
    assert any("data=synthetic_a" in c and "size=student" in c for c in commands)
    assert any("vanilla_raw/synthetic_b_en" in c and "estimator=total_correlation" in c for c in commands)


def test_figure_5_gives_r_only_from_enough_methods(tmp_path: Path) -> None:
    fake.make_all(tmp_path)
    points = correlation.points(Library(Study(tmp_path)), table2.ROWS)
    assert [row.name for row in points.rows] == list(table2.ROWS)
    report = points.report(0.2)
    assert report is not None
    assert report.r.value < 0  # made so: BLEU rises with S and falls with L_NAT
    assert correlation.Points(points.rows[:2]).report(0.2) is None


def test_labels_of_points_beside_each_other_are_one() -> None:
    x, y = np.array([0.0, 0.01, 5.0, 10.0, 0.0]), np.array([0.0, 0.1, 5.0, 10.0, 9.0])
    assert figure5.together(x, y, "abcde") == {
        (0.0, 0.0): ["a", "b"],
        (5.0, 5.0): ["c"],
        (10.0, 10.0): ["d"],
        (0.0, 9.0): ["e"],
    }


def test_what_is_beyond_every_size_is_in_the_picture(tmp_path: Path) -> None:
    lines = [
        Line(name, {"x": Cell(None, Number({1: value}))}) for name, value in (("a", 1.0), ("b", math.inf))
    ]
    (axes,) = plots.versus(lines, {"x": ".1f"}).axes
    arrows = [line for line in axes.lines if line.get_marker() == ">"]
    assert [line.get_ydata()[0] for line in arrows] == [1]  # type: ignore[index]
    assert not any(math.isinf(value) for line in axes.lines for value in np.ravel(line.get_xdata()))


@pytest.mark.parametrize(("table", "beta"), [("table2", 0.2), ("table7", 0.25)])
def test_a_table_takes_the_papers_beta_of_its_languages(table: str, beta: float, tmp_path: Path) -> None:
    """One β in a column, its paper's and the correlation's: App. C."""
    run = fake.make_run(tmp_path, "vanilla_kd")
    for given in (0.2, 0.25):
        settings = {"estimator": {"beta": given}}
        fake.evaluate(run, "mple", settings, **fake.ends("target_loss", "bits_per_token", -30 * given, 1.0))
    item = made(table, tmp_path)
    found = item.cell("KD", table2.TARGET).ours
    assert found is not None
    assert found.mean == -30 * beta
    of_mple = [entry.command for entry in item.missing if "estimator=mple" in entry.command]
    assert of_mple
    assert all(("estimator.beta=0.25" in command) == (table == "table7") for command in of_mple)


def test_sampled_bleu_is_not_the_default(tmp_path: Path) -> None:
    fake.make_all(tmp_path)
    item = table3.make(Library(Study(tmp_path)))
    default, sample = (item.cell("CMLM", column).ours for column in (table3.DEFAULT, table3.SAMPLE))
    assert default is not None
    assert sample is not None
    assert sample.mean == default.mean - 1


def test_figure_1_asks_for_its_runs_and_draws_a_measured_plane(tmp_path: Path) -> None:
    item = figure1.make(Library(Study(tmp_path)))
    commands = [str(entry) for entry in item.missing]
    assert ["name=figure1_initial" in commands[0], "name=figure1_mle" in commands[1]] == [True, True]
    assert "updates=333" in commands[0]  # a third of the 1000 of budget=minutes
    assert "start=$(echo " in commands[2]
    assert commands[3].startswith("python -m experiments.paper_items.plane $(echo ")
    corners = (("initial", "vanilla_raw"), ("mle", "vanilla_raw"), ("glat", "glat_kd"))
    for (name, experiment), command in zip(corners, commands[:3], strict=True):
        assert f" +experiment={experiment} " in command
        start = "" if name == "initial" else "start=x/last.ckpt"
        run = fake.make_run(tmp_path, f"figure1_{name}", overrides=f"updates=333 {start}")
        if name == "initial":
            grid = [[3.0, 2.0, 2.5], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]
            metrics = {
                "a": [0, 0.5, 1],
                "b": [0, 0.5, 1],
                "corners": [[0, 0], [2, 0], [1, 3]],
                "sentences": 9,
            }
            fake.evaluate(run, "plane", **metrics, nat_loss_bits_per_token=grid, bleu=grid)  # type: ignore[arg-type]
    item = figure1.make(Library(Study(tmp_path)))
    assert not item.missing
    found = [item.cell(label, figure1.NAT).ours for label in figure1.CORNERS]
    assert [number and number.mean for number in found] == [3.0, 2.5, 7.0]
    assert item.figure is not None
    assert len(item.figure().axes) == 4  # two panels with their colour bars


def figure1_runs(outputs: Path, seed: int = 1, is_measured: bool = True) -> Path:
    """The three runs of Figure 1; the folder of the first."""
    grid = [[3.0, 2.0], [4.0, 5.0]]
    for name in ("glat", "mle", "initial"):
        start = "" if name == "initial" else "start=x/last.ckpt"
        run = fake.make_run(outputs, f"figure1_{name}", seed, overrides=f"updates=333 {start}".strip())
    if is_measured:
        metrics = {"a": [0, 1], "b": [0, 1], "corners": [[0, 0], [2, 0], [1, 3]], "sentences": 9}
        fake.evaluate(run, "plane", **metrics, nat_loss_bits_per_token=grid, bleu=grid)  # type: ignore[arg-type]
    return run


def test_figure_1_needs_one_seed_however_many_are_wanted(tmp_path: Path) -> None:
    def missing(**changes: Any) -> list[str]:
        study = Study(tmp_path / "runs", seeds=3, **changes)
        return [str(entry) for entry in figure1.make(Library(study)).missing]

    commands = missing()
    assert len(commands) == 4
    assert [command.rpartition("seed=")[2] for command in commands[:3]] == ["1", "1", "1"]
    assert commands[3].count("/seed1)") == 3
    # recorded with its plane: neither weights nor other seeds are asked for
    figure1_runs(tmp_path / "records")
    assert missing(records=tmp_path / "records") == []
    item = figure1.make(Library(Study(tmp_path / "runs", seeds=3, records=tmp_path / "records")))
    assert [run.seed for run in item.lines[0].runs] == [1, 1, 1]
    # made here without its plane: that alone is missing
    run = figure1_runs(tmp_path / "runs", is_measured=False)
    (command,) = missing()
    assert command.startswith(f"python -m experiments.paper_items.plane {run} ")


def test_figure_1_without_its_plane_and_weights_makes_one_seed_again(tmp_path: Path) -> None:
    """The record of seed 1 has no weights to start from: its training comes first, and no other seed's."""
    figure1_runs(tmp_path / "records", is_measured=False)
    for path in (tmp_path / "records").rglob("averaged.pt"):
        path.unlink()
    study = Study(tmp_path / "runs", seeds=3, records=tmp_path / "records")
    commands = [str(entry) for entry in figure1.make(Library(study)).missing]
    assert [command.split("name=")[1].split()[0] for command in commands[:3]] == [
        "figure1_initial",
        "figure1_mle",
        "figure1_glat",
    ]
    start = f"start=$(echo {tmp_path / 'runs'}/figure1_initial/grammar/*/seed1/last.ckpt)"
    assert all(start in command for command in commands[1:3])
    assert all(command.endswith("seed=1") for command in commands[:3])
    assert len(commands) == 4


def test_the_corners_of_figure_1_are_of_one_seed(tmp_path: Path) -> None:
    """Of three seeds the measured one is shown, and corners of other seeds are not mixed with it."""
    for seed in (1, 2, 3):
        figure1_runs(tmp_path, seed, is_measured=seed == 2)
    item = figure1.make(Library(Study(tmp_path, seeds=3)))
    assert not item.missing
    assert {run.seed for run in item.lines[0].runs} == {2}
    number = item.cell(figure1.CORNERS[0], figure1.NAT).ours
    assert number is not None
    assert number.values == {2: 3.0}


def points(one: Axes) -> set[tuple[float, float]]:
    """What is drawn as a single point."""
    return {(float(x[0]), float(y[0])) for x, y in (line.get_data() for line in one.lines) if len(x) == 1}


def test_where_c_is_known_the_picture_sets_the_estimate_against_it(tmp_path: Path) -> None:
    """Three points on the line where estimate and truth agree, and the gaps above the truth."""
    lines = [
        Line(
            str(c),
            {
                table1.EXACT: Cell(None, Number({0: c})),
                table1.C: Cell(None, Number({1: c})),
                table1.GAP: Cell(None, Number({1: 10 * c})),
            },
        )
        for c in (0.0, 1.0, 2.0)
    ]
    others = {table1.C: Cell(1.5, Number({1: 3.0})), table1.GAP: Cell(5.5, Number({1: 4.0}))}
    lines.append(Line("of unknown C", others))
    estimate, gap, valid, every = table1.picture(lines).axes
    assert points(estimate) == {(0.0, 0.0), (1.0, 1.0), (2.0, 2.0)}
    assert points(gap) == {(0.0, 0.0), (1.0, 10.0), (2.0, 20.0)}
    assert not valid.lines
    assert points(every) == {(0.0, 0.0), (1.0, 10.0), (2.0, 20.0), (3.0, 4.0), (1.5, 5.5)}
    assert table1.picture(lines[:1]).axes[0].get_title() == table1.C
    without = [Line("text", {table1.C: Cell(2.5, Number({1: 2.0}))})]
    assert table1.picture(without).axes[0].get_title() == table1.C


def test_table_1_says_what_was_done_to_a_synthetic_source(tmp_path: Path) -> None:
    run = fake.make_run(tmp_path, "vanilla_raw", data="synthetic_a_en", overrides="data=synthetic_a")
    library = Library(Study(tmp_path, data="multi30k_de-en", root="ROOT"))
    assert not any("words of the source" in note for note in table1.make(library).notes)
    record = json.loads((run / "metrics.json").read_text())
    rates = {"replaced_percent": 49.97, "changed_percent": 49.9, "dropped_percent": 0.0, "words": 345020}
    record["realised"] = {"train": rates}
    (run / "metrics.json").write_text(json.dumps(record))
    item = table1.make(Library(Study(tmp_path, data="multi30k_de-en", root="ROOT")))
    said = "Synthetic A, words of the source: train 50.0 % replaced, 49.9 % changed, 0.0 % dropped"
    assert said in item.notes
