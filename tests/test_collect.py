"""The table of finished runs, on generated run folders."""

import csv
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from experiments.collect import HEADINGS, MISSING, collect, main
from mple.checks import UserError

OF_T = "L_NAT of T (bits/token, valid)"
BLEU = {1: 30.125, 2: 31.5, 3: 28.875}


def make_run(outputs: Path, experiment: str, seed: int = 1, key: str = "3f2a91bc", **changes: Any) -> Path:
    """A finished run: its folder, with a config.yaml and a metrics.json that `changes` update."""
    data = changes.get("data", "grammar")
    folder = outputs / experiment / data / key / f"seed{seed}"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("seed: 1\n")
    test = {
        "tokenised_bleu": BLEU[seed],
        "sacrebleu": BLEU[seed] - 0.25,
        "nat_loss_raw_bits_per_token": 2.0 + seed / 7,
    }
    run = {"experiment": experiment, "data": data, "key": key, "seed": seed, "updates": 2000, "minutes": 3.2}
    run |= {"tokens_per_second": 9000.0, "commit": "abc123", "date": "2026-11-23", "machine": "2 CPU cores"}
    run |= {
        "command": f"python train.py +experiment={experiment}",
        "test": test,
        "signatures": {"sacrebleu": "v:2"},
    }
    (folder / "metrics.json").write_text(json.dumps(run | changes))
    return folder


def table(outputs: Path, *arguments: str) -> list[dict[str, str]]:
    """Runs the command and reads the Markdown table back."""
    to = outputs / "tables"
    assert main(["--outputs", str(outputs), "--to", str(to), *arguments]) == 0
    (path,) = to.glob("*.md")
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == HEADINGS
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


def test_mean_and_deviation_over_seeds(tmp_path: Path) -> None:
    for seed in BLEU:
        make_run(tmp_path, "glat_kd", seed)
    (row,) = table(tmp_path)
    values = list(BLEU.values())
    assert row["tokenised BLEU"] == f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"
    assert row["seeds (n)"] == "3"
    assert row["updates"] == "2000 ± 0"
    assert row["commit"] == "abc123"


def test_csv_keeps_every_digit(tmp_path: Path) -> None:
    for seed in BLEU:
        make_run(tmp_path, "glat_dynkd", seed, selection_percent={"tiny": 20.0 + seed, "raw": 80.0 - seed})
    make_run(tmp_path, "at")
    table(tmp_path)
    with (tmp_path / "tables" / "results.csv").open(encoding="utf-8", newline="") as file:
        at, dynkd = csv.DictReader(file)
    losses = [2.0 + seed / 7 for seed in BLEU]
    assert float(dynkd["nat_loss_raw_bits_per_token_mean"]) == statistics.mean(losses)
    assert float(dynkd["nat_loss_raw_bits_per_token_sd"]) == statistics.stdev(losses)
    assert (dynkd["n"], dynkd["seeds"], dynkd["nat_loss_raw_bits_per_token_n"]) == ("3", "1 2 3", "3")
    assert (float(dynkd["selection_percent_tiny_mean"]), float(dynkd["selection_percent_tiny_sd"])) == (
        22.0,
        1.0,
    )
    assert at["selection_percent_tiny_mean"] == at["tokenised_bleu_sd"] == ""
    assert at["command"] == "python train.py +experiment=at"


def test_missing_is_a_dash_and_never_zero(tmp_path: Path) -> None:
    make_run(tmp_path, "at", test={"tokenised_bleu": 0.0, "sacrebleu": None}, minutes=None)
    (row,) = table(tmp_path)
    assert row["tokenised BLEU"] == "0.00"  # a measured zero, and one seed has no deviation
    absent = ["sacreBLEU", "valid rate (%)", "L_NAT raw (bits/token)", "selection (%)", "minutes", OF_T]
    assert [row[name] for name in absent] == [MISSING] * len(absent)


def test_l_nat_of_the_proxy_is_of_validation(tmp_path: Path) -> None:
    make_run(tmp_path, "glat_kd", valid={"nat_loss_proxy_bits_per_token": 2.5, "tokenised_bleu": 1.0})
    (row,) = table(tmp_path)
    assert (row[OF_T], row["tokenised BLEU"]) == ("2.500", f"{BLEU[1]:.2f}")


def test_a_number_that_some_seeds_lack_shows_its_own_n(tmp_path: Path) -> None:
    for seed in BLEU:
        make_run(tmp_path, "at", seed, minutes=None if seed == 2 else 2.0 * seed)
    (row,) = table(tmp_path)
    assert row["minutes"] == f"4.0 ± {statistics.stdev([2.0, 6.0]):.1f} (n=2)"


def test_a_diverged_seed_is_shown_as_nan(tmp_path: Path) -> None:
    for seed, loss in enumerate([1.5, float("nan")], start=1):
        make_run(tmp_path, "glat_raw", seed, test={"nat_loss_raw_bits_per_token": loss})
    assert table(tmp_path)[0]["L_NAT raw (bits/token)"] == "nan ± nan"


def test_selection_histogram(tmp_path: Path) -> None:
    make_run(tmp_path, "glat_dynkd", 1, selection_percent={"tiny": 20.0, "raw": 80.0})
    make_run(tmp_path, "glat_dynkd", 2, selection_percent={"tiny": 22.0, "raw": 78.0})
    assert table(tmp_path)[0]["selection (%)"] == "tiny 21.0 ± 1.4, raw 79.0 ± 1.4"


def test_rows_are_in_the_order_of_the_paper(tmp_path: Path) -> None:
    expected = [
        "at",
        "at_big",
        "vanilla_raw",
        "vanilla_kd",
        "vanilla_dynkd",
        "vanilla_dynkd_noreg",
        "glat_raw",
    ]
    expected += ["glat_kd", "glat_dynkd", "glat_dynkd_noreg", "attention_copy", "axe_tau5"]
    for name in sorted(expected):
        make_run(tmp_path, name)
    assert [row["experiment"] for row in table(tmp_path)] == expected


def test_configurations_and_data_are_kept_apart(tmp_path: Path) -> None:
    make_run(tmp_path, "at", 1, key="aaaaaaaa")
    make_run(tmp_path, "at", 2, key="bbbbbbbb")
    make_run(tmp_path, "at", 3, data="multi30k")
    rows = collect(tmp_path)[0]
    found = [(row.runs[0].data, row.runs[0].key, len(row.runs)) for row in rows]
    assert found == [("grammar", "aaaaaaaa", 1), ("grammar", "bbbbbbbb", 1), ("multi30k", "3f2a91bc", 1)]
    (row,) = table(tmp_path, "--data", "multi30k")
    assert row["data"] == "multi30k"
    assert (tmp_path / "tables" / "results_multi30k.csv").exists()


def test_unfinished_runs_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path, "at")
    (make_run(tmp_path, "glat_kd", 2) / "metrics.json").unlink()
    (make_run(tmp_path, "glat_kd", 3, data="multi30k") / "metrics.json").unlink()
    hydra = tmp_path / "at" / "grammar" / "3f2a91bc" / "seed1" / ".hydra"
    hydra.mkdir()
    (hydra / "config.yaml").write_text("seed: 1\n")
    assert [row["experiment"] for row in table(tmp_path, "--data", "grammar")] == ["at"]
    printed = capsys.readouterr().out
    assert "unfinished: glat_kd/grammar/3f2a91bc/seed2\n" in printed
    assert printed.count("unfinished: ") == 1
    text = (tmp_path / "tables" / "results_grammar.md").read_text(encoding="utf-8")
    assert "- glat_kd/grammar/3f2a91bc/seed2\n" in text


def test_plot_is_written_and_repeats(tmp_path: Path) -> None:
    for seed in BLEU:
        make_run(tmp_path, "glat_kd", seed)
    make_run(tmp_path, "at", test={})
    make_run(tmp_path, "at", data="multi30k")
    table(tmp_path)
    svg = tmp_path / "tables" / "results.svg"
    assert (tmp_path / "tables" / "results.png").read_bytes().startswith(b"\x89PNG\r\n")
    first = svg.read_bytes()
    assert b"<svg" in first
    table(tmp_path)
    assert svg.read_bytes() == first


def test_no_runs_is_one_line_and_status_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "experiments.collect", "--outputs", str(tmp_path), "--data", "grammar"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: no finished run of data 'grammar'")
    assert line.endswith("python train.py +experiment=glat_dynkd data=grammar")


@pytest.mark.parametrize("broken", ["", "{", "[]", "{}", "\udcff"])
def test_broken_metrics_are_named(broken: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_run(tmp_path, "at") / "metrics.json"
    path.write_bytes(broken.encode(errors="surrogateescape"))
    assert main(["--outputs", str(tmp_path), "--to", str(tmp_path / "tables")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(path) in line
    assert not (tmp_path / "tables").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"minutes": "3"}, "minutes must be a number or null; got '3'"),
        ({"test": {"tokenised_bleu": True}}, "tokenised_bleu must be"),
        ({"selection_percent": {"raw": "all"}}, "selection_percent_raw must be"),
        ({"selection_percent": [1.0]}, "selection_percent must be a JSON object"),
        ({"seed": None}, "seed must be of type int"),
    ],
)
def test_what_is_not_a_number_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = make_run(tmp_path, "at") / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(UserError, match=message):
        collect(tmp_path)


def test_hostile_texts_are_escaped_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = '=HYPERLINK("http://x","y")<script>alert(1)</script>\x1b[2J|$\\bad$'
    folder = make_run(
        tmp_path, "glat_kd", machine="<img src=x onerror=y>", command="`<script>`", commit="@SUM(A1)"
    )
    metrics = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps(metrics | {"experiment": name}))
    assert main(["--outputs", str(tmp_path), "--to", str(tmp_path / "tables")]) == 0
    text = (tmp_path / "tables" / "results.md").read_text()
    assert "<script>" not in text.replace("`'<script>'`", "")  # in code it is no tag
    assert "<img" not in text.replace("`<img src=x onerror=y>`", "")
    with (tmp_path / "tables" / "results.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["experiment"].startswith("'=HYPERLINK")
    assert row["commit"] == "'@SUM(A1)"
    shown = capsys.readouterr().out + text + str(row)
    assert "\x1b" not in shown
    (line,) = [line for line in text.splitlines() if "HYPERLINK" in line and line.startswith("|")]
    assert line.replace("\\|", "").count("|") == len(HEADINGS) + 1


def test_one_seed_is_not_counted_twice(tmp_path: Path) -> None:
    make_run(tmp_path / "a", "at")
    make_run(tmp_path / "b", "at")
    with pytest.raises(UserError, match="are the same run"):
        collect(tmp_path)


def test_export_below_the_outputs_is_no_run(tmp_path: Path) -> None:
    copy = tmp_path / "exports" / "model"
    shutil.copytree(make_run(tmp_path, "glat_kd"), copy)
    with pytest.raises(UserError, match="are the same run"):
        collect(tmp_path)
    (copy / "export.json").write_text("{}", encoding="utf-8")
    rows, _ = collect(tmp_path)
    assert len(rows) == 1
