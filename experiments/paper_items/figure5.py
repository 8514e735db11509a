"""Figure 5: L_NAT of proxies against C of the data; and L̂_MPLE against BLEU, with r and the β curve."""

import sys
from collections.abc import Sequence
from functools import partial

import matplotlib
import numpy as np

from experiments.paper_items import correlation, plots, references, table1, table2
from experiments.paper_items.item import Cell, Item, Line, main, paper_number, paper_row
from experiments.paper_items.numbers import Number
from experiments.paper_items.runs import Library, Training
from mple.estimator.mple_loss import MpleTable

ROWS = {
    "Raw Data": ("vanilla_raw", "table2", "Raw Data"),
    "KD": ("vanilla_kd", "table2", "KD"),
    "AXE": ("axe_tau5", "table2", "KD + AXE (tau=5)"),
    "OaXE": ("oaxe_300k", "table2", "KD + OaXE (300k)"),
    "GLAT": ("glat_kd", "table3", "GLAT"),
    "CMLM": ("cmlm", "table3", "CMLM"),
}
"""The paper's bars. It does not say which AXE and OaXE; its bars fit τ = 5 and 300k."""

CORRELATION = "C of the data"
NAT = "L_NAT"
COLUMNS = {NAT: ".2f"}


def line(library: Library, label: str) -> Line:
    experiment, table, row = ROWS[label]
    training = Training(experiment)
    cells = {NAT: Cell(paper_number(paper_row(table, row), "nat_loss"), table2.nat_loss(library, training))}
    return Line(label, cells, tuple(library.runs(training)))


def together(
    x: np.ndarray, y: np.ndarray, names: Sequence[str], near: float = 0.03
) -> dict[tuple[float, float], list[str]]:
    """The names of points so close that their labels would lie on each other, at the first of them."""
    groups: dict[tuple[float, float], list[str]] = {}
    for place, name in zip(zip(x.tolist(), y.tolist(), strict=True), names, strict=True):
        close = (
            other
            for other in groups
            if abs(other[0] - place[0]) <= near * np.ptp(x) and abs(other[1] - place[1]) <= near * np.ptp(y)
        )
        groups.setdefault(next(close, (place[0], place[1])), []).append(name)
    return groups


def draw(
    lines: tuple[Line, ...], c: Number | None, targets: correlation.Points, beta: float
) -> matplotlib.figure.Figure:
    report = targets.report(beta)
    target = plots.figure(9.6 if report else 4.2, 3.0)
    panels = plots.axes(target, 1, 3 if report else 1)[0]
    with plots.styled():
        for x, one in enumerate(lines):
            cell = one.cells[NAT]
            if cell.paper is not None:
                panels[0].plot([x], [cell.paper], "D", color=plots.THEIRS, fillstyle="none", markersize=5)
            if cell.ours is not None:
                panels[0].bar(x, cell.ours.mean, color=plots.OURS, alpha=0.35, width=0.6)
                plots.dots(panels[0], x, cell.ours, flat=False)
        panels[0].set_xticks(range(len(lines)), [one.label for one in lines], rotation=30)
        panels[0].set(title="L_NAT against C", ylabel="bits per token", ylim=(0, None))
        paper_c = paper_number(paper_row("table1", "WMT14 En-De", "dataset"), "total_correlation")
        panels[0].axhline(paper_c, color=plots.THEIRS, linewidth=1, linestyle=":")
        panels[0].annotate(
            "C, paper", (len(lines) - 0.5, paper_c), color=plots.THEIRS, ha="right", va="bottom", fontsize=8
        )
        if c is not None:
            panels[0].axhline(c.mean, color=plots.WARM, linewidth=1.2)
            panels[0].annotate(
                "C, ours", (len(lines) - 0.5, c.mean), color=plots.WARM, ha="right", va="bottom", fontsize=8
            )
        if report is not None:
            table = MpleTable(targets.rows)
            total = table.total(beta)
            panels[1].plot(total, table.bleu, "o", color=plots.OURS, markersize=5)
            for place, names in together(total, table.bleu, table.names).items():
                label = ", ".join(name.removeprefix("KD + ") for name in names)
                panels[1].annotate(label, place, fontsize=7, xytext=(4, 3), textcoords="offset points")
            panels[1].set(xlabel=f"L_MPLE (β = {beta:g}, bits per token)", ylabel="BLEU")
            panels[1].set_title(f"r = {report.r.value:.2f} [{report.r.low:.2f}, {report.r.high:.2f}]")
            panels[1].margins(x=0.2)
            panels[2].plot(list(report.curve), np.abs(list(report.curve.values())), color=plots.OURS)
            panels[2].axvline(beta, color=plots.THEIRS, linewidth=1, linestyle=":")
            panels[2].set(title="|r| by β", xlabel="β (bits per BLEU point)", ylim=(0, 1.02))
        plots.legend(target)
    return target


def make(library: Library) -> Item:
    lines = tuple(line(library, label) for label in ROWS)
    c = table1.correlation(library, table1.datasets(library)[0])
    paper_c = paper_number(paper_row("table1", "WMT14 En-De", "dataset"), "total_correlation")
    beta = correlation.beta_of("table2")
    targets = correlation.points(library, table2.ROWS)
    measured_with = references.of(library, map(Training, table2.ROWS.values()))
    notes = [*library.notes, measured_with, *targets.notes(beta, "BLEU")]
    if any(table2.has_note(one) for one in lines):
        notes.append(table2.SHOWN_AS_IN_TRAINING)
    return Item(
        name="figure5",
        title="Figure 5: L_NAT against C, and L_MPLE against BLEU",
        about=(
            "Left, as in the paper: on its own proxy distribution every method but Raw Data should lose "
            "less than C, which no NAT can avoid on the data themselves. A loss is set beside a "
            "difference of two losses here: see the notes of the estimator. Right: does L_MPLE rank the "
            "proxy targets as BLEU does, and how much does that depend on β, which the paper chose on "
            "the same points?"
        ),
        columns=COLUMNS,
        lines=(*lines, Line(CORRELATION, {NAT: Cell(paper_c, c)})),
        figure=partial(draw, lines, c, targets, beta),
        notes=tuple(notes),
        missing=tuple(library.missing),
        data=library.study.data,
    )


if __name__ == "__main__":
    sys.exit(main(make))
