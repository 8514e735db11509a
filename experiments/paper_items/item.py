"""What an item is: lines of numbers, the paper's and ours, a picture, and what is missing; and its command.

def make(library: Library) -> Item: ...
if __name__ == "__main__":
    sys.exit(main(make))
"""

import argparse
import csv
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table

from experiments.collect import MISSING
from experiments.paper_items import plots
from experiments.paper_items.numbers import Number
from experiments.paper_items.runs import Finished, Library, Missing, Study
from mple.checks import UserError, one_of
from mple.command import answered
from mple.plain import PlainConsole, plain, sheet
from mple.settings import choices
from mple.streams import is_terminal

PAPER = Path(__file__).parents[1] / "paper"


def paper_table(name: str) -> list[dict[str, str]]:
    """A table of the paper, from experiments/paper/NAME.csv."""
    with (PAPER / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def paper_row(name: str, label: str, column: str = "model") -> dict[str, str]:
    """Its first line with this label; empty where the paper has no such line."""
    return next((row for row in paper_table(name) if row[column] == label), {})


def paper_number(row: Mapping[str, str], column: str) -> float | None:
    """A number of a line; None where the paper has none."""
    return float(row[column]) if row.get(column) else None


@dataclass(frozen=True)
class Cell:
    """The paper's number and ours; None for what is not there."""

    paper: float | None = None
    ours: Number | None = None


@dataclass(frozen=True)
class Line:
    """One row: cells by column; `runs` are where its numbers are from."""

    label: str
    cells: Mapping[str, Cell]
    runs: tuple[Finished, ...] = ()

    @property
    def is_measured(self) -> bool:
        return any(cell.ours is not None for cell in self.cells.values())


@dataclass(frozen=True)
class Item:
    """A table or figure of the paper with ours beside it.

    columns: heading -> format. figure: draws it. is_exact: its numbers are computed, and need no runs.
    """

    name: str
    title: str
    about: str
    columns: Mapping[str, str]
    lines: tuple[Line, ...]
    figure: Callable[[], Figure] | None = None
    notes: tuple[str, ...] = ()
    missing: tuple[Missing, ...] = ()
    data: str = ""
    is_exact: bool = False
    lower_is_better: frozenset[str] = field(default_factory=frozenset)

    @property
    def stem(self) -> str:
        return f"{self.name}_{self.data}" if self.data else self.name

    @property
    def is_measured(self) -> bool:
        return self.is_exact or any(line.is_measured for line in self.lines)

    def cell(self, label: str, column: str) -> Cell:
        """The cell of a line; an empty one where there is none."""
        found = (line for line in self.lines if line.label == label)
        return next((line.cells.get(column, Cell()) for line in found), Cell())


def ours_text(number: Number | None, form: str) -> str:
    return MISSING if number is None else number.text(form) + ("*" if number.note else "")


def paper_text(number: float | None, form: str) -> str:
    return MISSING if number is None else f"{number:{form}}"


def records(item: Item) -> list[dict[str, object]]:
    """One dictionary a line: the paper's number, our mean, deviation, number of seeds and interval."""
    found = []
    for line in item.lines:
        record: dict[str, object] = {"row": line.label}
        for column in item.columns:
            cell = line.cells.get(column, Cell())
            record[f"{column}: paper"] = cell.paper
            if cell.ours is not None:
                interval = cell.ours.interval()
                record |= {f"{column}: mean": cell.ours.mean, f"{column}: sd": cell.ours.sd}
                record |= {f"{column}: n": len(cell.ours.values), f"{column}: note": cell.ours.note or None}
                record |= {f"{column}: interval": cell.ours.basis}
                if interval is not None:
                    record |= {f"{column}: low": interval.low, f"{column}: high": interval.high}
        record |= {
            name: ", ".join(dict.fromkeys(origin(line, name))) for name in ("commit", "date", "machine")
        }
        record["seeds"] = " ".join(str(run.seed) for run in line.runs)
        found.append(record)
    return found


def origin(line: Line, name: str) -> list[str]:
    return [str(run.record[name]) for run in line.runs if run.record.get(name)]


def write_csv(item: Item, path: Path) -> None:
    rows = records(item)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [sheet(name) for name in columns])
        writer.writeheader()
        writer.writerows({sheet(name): sheet(value) for name, value in row.items()} for row in rows)


def write(item: Item, to: Path) -> list[Path]:
    """The item's numbers as CSV and its picture as SVG and PNG; returns what was written."""
    to.mkdir(parents=True, exist_ok=True)
    paths = [to / f"{item.stem}.csv"]
    write_csv(item, paths[0])
    if item.figure is not None:
        paths += plots.save(item.figure(), to / item.stem)
    return paths


def show(item: Item, console: Console) -> None:
    """The table, with the paper's numbers beside ours; what was not measured is marked."""
    console.print(f"\n{item.title}" + (f" ({item.data})" if item.data else ""), style="bold")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    shown = [c for c in item.columns if any(c in line.cells for line in item.lines)]
    for column in shown:
        for whose in ("paper", "ours"):
            table.add_column(f"{column}\n{whose}", justify="right", overflow="fold")
    for line in item.lines:
        cells = []
        for column in shown:
            cell, form = line.cells.get(column, Cell()), item.columns[column]
            cells += [paper_text(cell.paper, form), ours_text(cell.ours, form)]
        table.add_row(line.label if line.is_measured else f"{line.label} (not run)", *cells)
    console.print(table)
    for note in item.notes:
        console.print(f"  {note}", soft_wrap=True)


def missing_text(missing: Iterable[Missing]) -> list[str]:
    commands = [str(entry) for entry in missing]
    return [f"missing ({len(commands)}):", *(f"  {command}" for command in commands)] if commands else []


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options that say which runs; the same for items, `reproduce` and `report`."""
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="folder of the runs (outputs)")
    parser.add_argument("--data", metavar="NAME", default="grammar", help="data set of the runs (grammar)")
    parser.add_argument("--seeds", type=int, default=1, help="seeds 1 … N are wanted of each run (1)")
    parser.add_argument("--budget", help="only runs of this budget, and new ones with it (the data's own)")
    parser.add_argument("--root", help="data.root of the commands that are printed (as in finished runs)")
    parser.add_argument("--records", type=Path, help="recorded runs count as made: experiments/results/runs")
    parser.add_argument(
        "--degrees",
        action="store_true",
        help="also the grammar at three other probabilities of its modes, where C is known (Tables 1 and 5)",
    )
    parser.add_argument(
        "--to", type=Path, default=Path("outputs/paper"), help="where to write (outputs/paper)"
    )


def study(options: argparse.Namespace) -> Study:
    if options.seeds < 1:
        raise UserError(f"--seeds must be a whole number of at least 1; got {options.seeds}")
    if options.budget is not None:
        one_of("--budget", options.budget, choices("budget"))
    if options.records is not None and not options.records.is_dir():
        raise UserError(f"--records must be a folder that experiments.record wrote; got {options.records}")
    return Study(
        outputs=options.outputs,
        data=options.data,
        seeds=options.seeds,
        budget=options.budget,
        root=options.root,
        records=options.records,
        degrees=options.degrees,
    )


@answered
def main(make: Callable[[Library], Item], arguments_given: Sequence[str] | None = None) -> int:
    """An item's command. Status 0 where there is anything of ours to show, 2 with one line otherwise."""
    description = (sys.modules[make.__module__].__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog=f"python -m {_module(make)}", description=description)
    arguments(parser)
    options = parser.parse_args(arguments_given)
    library = Library(study(options))
    item = make(library)
    if not item.is_measured:
        command = f"; make one with: {item.missing[0]}" if item.missing else ""
        raise UserError(
            f"no finished run of {item.name} on data {options.data!r} below {options.outputs}{command}"
        )
    paths = write(item, options.to)
    show(item, PlainConsole(width=None if is_terminal() else 200, highlight=False))
    print(plain("\n".join([*missing_text(item.missing), f"written: {', '.join(map(str, paths))}"])))
    return 0


def _module(make: Callable[[Library], Item]) -> str:
    name = sys.modules[make.__module__].__spec__
    return make.__module__ if name is None else name.name
