"""Gather the finished runs into one table and one plot; nothing is trained.

    python -m experiments.collect                     # every run below outputs/
    python -m experiments.collect --data grammar      # one data set

A finished run is a folder `outputs/<experiment>/<data>/<key>/seed<k>/` with a `metrics.json`; `key` is the
hash of its configuration. Runs that differ in nothing but the seed make one row: mean ± sample standard
deviation (n − 1) over seeds, no deviation for a single seed. Written to `outputs/tables`: `results.md`,
`results.csv` (full precision: `_mean`, `_sd`, `_n` of every number) and the plot as `results.png`, `.svg`
(`results_<data>.*` with `--data`). What a run did not measure is shown as "–", and is empty in the CSV.
"""

import argparse
import csv
import math
import re
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from rich import box
from rich.table import Table

from mple.checks import UserError
from mple.command import answered
from mple.files import finished_below, read_json
from mple.plain import PlainConsole, code, sheet
from mple.plain import markdown as escaped
from mple.streams import is_terminal

MISSING = "–"

ORDER = tuple(
    f"{model}_{target}" for model in ("vanilla", "glat") for target in ("raw", "kd", "dynkd", "dynkd_noreg")
)

REQUIRED = {"experiment": str, "data": str, "key": str, "seed": int, "test": dict}
TOP_LEVEL = (
    "updates",
    "minutes",
    "parameters",
    "tokens_per_second",
)  # `test` and the selection are numbers only
TEXTS = ("commit", "date", "machine", "command")

# heading -> (number, format); the selection histogram takes every number of its prefix.
SELECTION = "selection_percent_"
PROXY = "nat_loss_proxy_bits_per_token"  # the only number of validation: T of test sentences is not made
COLUMNS = {
    "updates": ("updates", ".0f"),
    "tokenised BLEU": ("tokenised_bleu", ".2f"),
    "sacreBLEU": ("sacrebleu", ".2f"),
    "valid rate (%)": ("valid_rate_percent", ".1f"),
    "L_NAT of T (bits/token, valid)": (PROXY, ".3f"),
    "L_NAT raw (bits/token)": ("nat_loss_raw_bits_per_token", ".3f"),
    "L_NAT distilled (bits/token)": ("nat_loss_base_bits_per_token", ".3f"),
    "selection (%)": (SELECTION, ".1f"),
    "tokens/s": ("tokens_per_second", ".0f"),
    "minutes": ("minutes", ".1f"),
}
HEADINGS = ["experiment", "data", "key", "seeds (n)", *COLUMNS, "commit"]


@dataclass(frozen=True)
class Run:
    """What one `metrics.json` says. `numbers` holds what was measured, `texts` where it comes from."""

    experiment: str
    data: str
    key: str
    seed: int
    numbers: dict[str, float]
    texts: dict[str, str]

    @staticmethod
    def read(path: Path) -> "Run":
        """One `metrics.json`.

        Raises:
            UserError: not a JSON object, or an entry is missing or of the wrong type.
        """
        entries = read_json(path)
        for name, kind in REQUIRED.items():
            if not isinstance(entries.get(name), kind):
                raise UserError(f"{path}: {name} must be of type {kind.__name__}; got {entries.get(name)!r}")
        groups = {name: entries.get(name) or {} for name in ("selection_percent", "signatures", "valid")}
        for name, group in groups.items():
            if not isinstance(group, dict):
                raise UserError(f"{path}: {name} must be a JSON object; got {group!r}")
        numbers = {name: entries.get(name) for name in TOP_LEVEL} | entries["test"]
        numbers[PROXY] = groups["valid"].get(PROXY)
        numbers |= {SELECTION + name: value for name, value in groups["selection_percent"].items()}
        for name, value in numbers.items():
            if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
                raise UserError(f"{path}: {name} must be a number or null; got {value!r}")
        texts = {name: str(entries[name]) for name in TEXTS if entries.get(name)}
        texts |= {f"signature_{name}": str(value) for name, value in groups["signatures"].items()}
        identity = (entries["experiment"], entries["data"], entries["key"], entries["seed"])
        return Run(*identity, {name: float(v) for name, v in numbers.items() if v is not None}, texts)


@dataclass(frozen=True)
class Row:
    """The runs of one configuration, ordered by seed."""

    runs: tuple[Run, ...]

    def values(self, name: str) -> list[float]:
        """The number `name` of every run that has it."""
        return [run.numbers[name] for run in self.runs if name in run.numbers]

    def names(self, prefix: str = "") -> list[str]:
        """The numbers that any run has, in the order of the files."""
        return list(
            dict.fromkeys(name for run in self.runs for name in run.numbers if name.startswith(prefix))
        )

    def text(self, name: str) -> str:
        """The different values of the text `name`; one as a rule."""
        return ", ".join(dict.fromkeys(run.texts[name] for run in self.runs if name in run.texts))

    def cell(self, name: str, form: str) -> str:
        """`30.10 ± 0.20`, with its own n where some of the row's runs lack the number."""
        values = self.values(name)
        if not values:
            return MISSING
        mean, sd = spread(values)
        own = f" (n={len(values)})" if len(values) < len(self.runs) else ""
        return f"{mean:{form}}" + ("" if sd is None else f" ± {sd:{form}}") + own

    def chosen(self, form: str) -> str:
        """`tiny 13, base 87`: how often Dynamic KD chose each candidate, in %."""
        parts = (f"{name.removeprefix(SELECTION)} {self.cell(name, form)}" for name in self.names(SELECTION))
        return ", ".join(parts) or MISSING

    def cells(self) -> list[str]:
        """The row of the table, under `HEADINGS`."""
        cells = [self.runs[0].experiment, self.runs[0].data, self.runs[0].key, str(len(self.runs))]
        for name, form in COLUMNS.values():
            cells.append(self.chosen(form) if name == SELECTION else self.cell(name, form))
        return [*cells, self.text("commit") or MISSING]

    def record(self) -> dict[str, object]:
        """The line of the CSV: everything measured, in full precision."""
        first = self.runs[0]
        record: dict[str, object] = {"experiment": first.experiment, "data": first.data, "key": first.key}
        record |= {"n": len(self.runs), "seeds": " ".join(str(run.seed) for run in self.runs)}
        record |= {name: self.text(name) for run in self.runs for name in run.texts}
        for name in self.names():
            mean, sd = spread(self.values(name))
            record |= {f"{name}_mean": mean, f"{name}_sd": sd, f"{name}_n": len(self.values(name))}
        return record


def spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (n − 1): None for one value, NaN where a value is not finite."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return mean, None
    return mean, statistics.stdev(values) if math.isfinite(mean) else math.nan


def position(row: Row) -> tuple[str, int, str, str]:
    """Sort key: by data; in it autoregressive runs, the paper's methods in its order, the rest by name."""
    run = row.runs[0]
    rank = ORDER.index(run.experiment) if run.experiment in ORDER else len(ORDER)
    if re.match(r"at(?![a-z])", run.experiment):  # at, at_big, at8; not attention_copy
        rank = -1
    return run.data, rank, run.experiment, run.key


def collect(outputs: Path, data: str | None = None) -> tuple[list[Row], list[str]]:
    """The rows of the table in order, and the unfinished runs' folders below `outputs`; `data` selects.

    Raises:
        UserError: no finished run; a broken `metrics.json`; two runs of one configuration and seed.
    """
    found: dict[tuple[str, str, str], dict[int, tuple[Path, Run]]] = {}
    for path in finished_below(outputs):
        run = Run.read(path)
        if data in (None, run.data):
            seeds = found.setdefault((run.experiment, run.data, run.key), {})
            if run.seed in seeds:
                raise UserError(f"{path} and {seeds[run.seed][0]} are the same run; only one may be kept")
            seeds[run.seed] = path, run
    # Only seed folders: Hydra keeps a config.yaml of its own in a folder below.
    folders = [path.parent for path in sorted(outputs.rglob("seed*/config.yaml"))]
    unfinished = [
        folder.relative_to(outputs).as_posix()
        for folder in folders
        if not (folder / "metrics.json").exists() and data in (None, folder.parent.parent.name)
    ]
    if not found:
        which, override = ("", "") if data is None else (f" of data {data!r}", f" data={data}")
        begun = f" (unfinished: {', '.join(unfinished)})" if unfinished else ""
        command = f"python train.py +experiment=glat_dynkd{override}"
        raise UserError(f"no finished run{which} below {outputs}{begun}; make one with: {command}")
    rows = [Row(tuple(seeds[k][1] for k in sorted(seeds))) for seeds in found.values()]
    return sorted(rows, key=position), unfinished


def markdown(rows: Sequence[Row], unfinished: Sequence[str]) -> str:
    """The table, then where each row comes from: seeds, date, machine, command, BLEU signatures."""
    lines = [HEADINGS, ["---"] * len(HEADINGS), *([*map(escaped, row.cells())] for row in rows)]
    text = ["| " + " | ".join(cells) + " |" for cells in lines]
    text += ["", "Mean ± sample standard deviation over seeds, on the test split; – is not measured.", ""]
    for row in rows:
        names = dict.fromkeys(name for run in row.runs for name in run.texts if name != "commit")
        origin = [f"{escaped(name.replace('_', ' '))} {code(row.text(name))}" for name in names]
        seeds = "seeds " + ", ".join(str(run.seed) for run in row.runs)
        text.append("- " + "; ".join([escaped("/".join(row.cells()[:3])), seeds, *origin]))
    if unfinished:
        text += ["", "Unfinished, not in the table:", "", *(f"- {escaped(folder)}" for folder in unfinished)]
    return "\n".join(text) + "\n"


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """One line a row; a column for everything that any row has."""
    records = [row.record() for row in rows]
    columns = list(dict.fromkeys(name for record in records for name in record))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [sheet(name) for name in columns])
        writer.writeheader()
        writer.writerows({sheet(name): sheet(value) for name, value in record.items()} for record in records)


def plot(rows: Sequence[Row], paths: Sequence[Path]) -> None:
    """Test BLEU (tokenised): a panel a data set, a dot a seed, a bar to the mean, whiskers ± sd."""
    panels: dict[str, list[Row]] = {}
    for row in rows:
        panels.setdefault(row.runs[0].data, []).append(row)
    most = max(map(len, panels.values()))
    figure = Figure(figsize=(6.0 * len(panels), 1.2 + 0.4 * most), layout="constrained")
    for axes, (data, members) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        names = [row.runs[0].experiment for row in members]
        labels = [
            n if names.count(n) == 1 else f"{n} {r.runs[0].key}" for n, r in zip(names, members, strict=True)
        ]
        axes.set_yticks(range(len(members)), [label.replace("$", r"\$") for label in labels])
        axes.set_ylim(most - 0.5, -0.5)
        for y, row in enumerate(members):
            bleu = row.values("tokenised_bleu")
            if not bleu:
                axes.text(0, y, f" {MISSING}", va="center")
                continue
            mean, sd = spread(bleu)
            axes.barh(y, mean, xerr=sd, height=0.6, color="#a6c5e2", ecolor="#333333", capsize=3)
            axes.plot(bleu, [y] * len(bleu), "o", color="#1f4e79", markersize=4, alpha=0.8, zorder=3)
        axes.set(title=data.replace("$", r"\$"), xlabel="test BLEU (tokenised); dots: seeds, whiskers: ± sd")
        axes.set_xlim(left=0)
        axes.spines[["top", "right"]].set_visible(False)
    # A fixed salt and no date: the same runs give the same SVG.
    with matplotlib.rc_context({"svg.hashsalt": "mple"}):
        for path in paths:
            figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)


def show(rows: Sequence[Row], unfinished: Sequence[str]) -> None:
    """Print the table without its empty columns; into a file or pipe, wide enough for a line a row."""
    console = PlainConsole(width=None if is_terminal() else 250, highlight=False)
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    columns = dict(zip(HEADINGS, zip(*(row.cells() for row in rows), strict=True), strict=True))
    columns = {heading: cells for heading, cells in columns.items() if set(cells) != {MISSING}}
    for heading in columns:
        # Names stay whole; numbers break before ±, never inside, as long as there is room.
        table.add_column(heading, overflow="fold", no_wrap=heading in ("experiment", "data", "key"))
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*(cell.replace(", ", "\n") for cell in cells))
    console.print(table)
    for folder in unfinished:
        console.print(f"unfinished: {folder}", soft_wrap=True)


@answered
def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status: 2, with one line on the error stream, after a mistake."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.collect", description="Gather finished runs."
    )
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="folder of the runs (outputs)")
    parser.add_argument("--data", metavar="NAME", help="only the runs of this data set (all)")
    parser.add_argument(
        "--to", type=Path, default=Path("outputs/tables"), help="where to write (outputs/tables)"
    )
    options = parser.parse_args(arguments)
    stem = "results" if options.data is None else f"results_{options.data}"
    rows, unfinished = collect(options.outputs, options.data)
    options.to.mkdir(parents=True, exist_ok=True)
    (options.to / f"{stem}.md").write_text(markdown(rows, unfinished), encoding="utf-8")
    write_csv(rows, options.to / f"{stem}.csv")
    plot(rows, [options.to / f"{stem}.png", options.to / f"{stem}.svg"])
    show(rows, unfinished)
    print(f"written: {options.to / stem}.md, .csv, .png, .svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
