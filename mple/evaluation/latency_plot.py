"""Speed and quality of several systems as tables (Markdown, CSV, terminal) and as a picture (SVG, PNG)."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from rich.table import Table

from mple.files import write_text

_INK = "#2b2b2b"
_STYLE: Any = {
    "font.size": 9,
    "svg.fonttype": "none",
    "svg.hashsalt": "mple",
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "grid.color": "#8d9299",
    "grid.alpha": 0.25,
}
_COLOURS = {"AT": "#8d9299", "shallow AT": "#7a5aa6", "CTranslate2": "#d9772b", "NAT": "#3b7dd8"}
_MARKERS = "osD^vP"
_NOTHING = "–"


@dataclass(frozen=True)
class Spread:
    """A median with its quartiles."""

    median: float
    low: float
    high: float

    def said(self, form: str = ",.1f") -> str:
        return f"{self.median:{form}} ({self.low:{form}}–{self.high:{form}})"


@dataclass(frozen=True)
class Row:
    """One system. `rate` is sentences per second by batch size, `speedup` and `latency_ms` are of batch 1;
    `reason` says why nothing was measured."""

    name: str
    label: str
    family: str
    latency_ms: Spread | None = None
    rate: Mapping[int, Spread] | None = None
    speedup: Spread | None = None
    bleu: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Report:
    """`conditions` (device, dtype, threads …) go into every line of the CSV file and below the tables."""

    title: str
    rows: tuple[Row, ...]
    batch_sizes: tuple[int, ...]
    conditions: Mapping[str, str]
    notes: tuple[str, ...] = ()

    @property
    def headings(self) -> list[str]:
        rates = [f"sentences/s, batch {size}" for size in self.batch_sizes]
        return ["system", "ms a sentence", *rates, "speed-up", "BLEU"]

    def cells(self, row: Row) -> list[str]:
        rates = [_NOTHING if row.rate is None else row.rate[size].said() for size in self.batch_sizes]
        return [
            row.label,
            _NOTHING if row.latency_ms is None else row.latency_ms.said(),
            *rates,
            _NOTHING if row.speedup is None else row.speedup.said(".2f"),
            _NOTHING if row.bleu is None else f"{row.bleu:.2f}",
        ]

    @property
    def footnotes(self) -> list[str]:
        conditions = ", ".join(f"{key} {value}" for key, value in self.conditions.items())
        missing = [f"Not measured: {row.label}: {row.reason}" for row in self.rows if row.reason]
        return [f"Conditions: {conditions}.", *self.notes, *missing]

    def table(self) -> Table:
        table = Table(title=self.title, title_justify="left")
        for heading in self.headings:
            table.add_column(heading, justify="left" if heading == "system" else "right")
        for row in self.rows:
            if not row.reason:
                table.add_row(*self.cells(row))
        return table

    def markdown(self) -> str:
        lines = [self.headings, ["---", *["---:"] * (len(self.headings) - 1)]]
        lines += [self.cells(row) for row in self.rows]
        table = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
        notes = "\n".join(f"- {note}" for note in self.footnotes)
        return f"# {self.title}\n\n{table}\n\n{notes}\n"

    def csv(self) -> str:
        """A line for each system and batch size; one line with a reason for what was not measured."""
        spreads = ("sentences_per_second", "latency_ms", "speedup")
        names = [f"{name}{end}" for name in spreads for end in ("", "_low", "_high")]
        heads = ["system", "label", "family", "batch_size", *names, "tokenised_bleu", "reason"]
        target = io.StringIO()
        writer = csv.DictWriter(target, [*heads, *self.conditions], lineterminator="\n")
        writer.writeheader()
        for row in self.rows:
            common: dict[str, Any] = {"system": row.name, "label": row.label, "family": row.family}
            common |= {"tokenised_bleu": row.bleu, "reason": row.reason} | dict(self.conditions)
            if row.rate is None:
                writer.writerow(common)
                continue
            for size, rate in row.rate.items():
                found = {"sentences_per_second": rate}
                if size == 1 and row.latency_ms and row.speedup:
                    found |= {"latency_ms": row.latency_ms, "speedup": row.speedup}
                values = {
                    f"{name}{end}": value
                    for name, spread in found.items()
                    for end, value in (("", spread.median), ("_low", spread.low), ("_high", spread.high))
                }
                writer.writerow(common | values | {"batch_size": size})
        return target.getvalue()

    def figure(self) -> Figure:
        """BLEU against sentences per second; a system's batch sizes are one line, the larger the marker the
        larger the batch."""
        with matplotlib.rc_context(_STYLE):
            figure = Figure(figsize=(8, 4.5), layout="constrained", facecolor="none")
            axes = figure.subplots()
            axes.set_facecolor("none")
            axes.set_axisbelow(True)
            axes.grid(True)
            shown = [(row, row.rate, row.bleu) for row in self.rows if row.rate and row.bleu is not None]
            rates = [spread for _, rate, _ in shown for spread in rate.values()]
            quality = [bleu for _, _, bleu in shown]
            axes.set_xscale("log")
            # Set before anything is drawn: all may have one speed, or one quality, and no range of their own.
            axes.set_xlim(0.8 * min(r.low for r in rates), 1.25 * max(r.high for r in rates))
            room = 0.5 + 0.05 * (max(quality) - min(quality))
            axes.set_ylim(min(quality) - room, max(quality) + room)
            axes.set_xlabel("sentences per second (quartiles over passes)")
            axes.set_ylabel("tokenised BLEU")
            areas = {size: 18 + 22 * place for place, size in enumerate(self.batch_sizes)}
            members: dict[str, int] = {}
            handles = []
            for row, rate, bleu in shown:
                colour = _COLOURS[row.family]
                number = members[row.family] = members.get(row.family, -1) + 1
                marker = _MARKERS[number % len(_MARKERS)]
                rates = [rate[size] for size in self.batch_sizes]
                middle, height = [spread.median for spread in rates], [bleu] * len(rates)
                axes.hlines(
                    height, [r.low for r in rates], [r.high for r in rates], colour, linewidth=3, alpha=0.4
                )
                axes.plot(middle, height, color=colour, linewidth=0.8, alpha=0.7)
                sizes = [areas[size] for size in self.batch_sizes]
                axes.scatter(middle, height, sizes, c=colour, marker=marker, alpha=0.9)
                handles.append(Line2D([], [], color=colour, marker=marker, linestyle="", label=row.label))
            for size, area in areas.items():
                look: Any = {"markerfacecolor": "none", "markersize": area**0.5, "linestyle": ""}
                handles.append(Line2D([], [], color=_INK, marker="o", label=f"batch {size}", **look))
            figure.legend(handles=handles, loc="outside right upper")
        return figure

    def save(self, stem: Path) -> list[Path]:
        """STEM.md, STEM.csv, STEM.svg and STEM.png."""
        paths = [stem.with_name(f"{stem.name}.{end}") for end in ("md", "csv", "svg", "png")]
        stem.parent.mkdir(exist_ok=True)
        write_text(paths[0], self.markdown())
        write_text(paths[1], self.csv())
        figure = self.figure()
        with matplotlib.rc_context(_STYLE):
            figure.savefig(paths[2], metadata={"Date": None})
            figure.savefig(paths[3], dpi=150, facecolor="white")
        return paths
