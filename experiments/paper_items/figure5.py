"""Figure 5: L_NAT of proxies against C of the data; and L̂_MPLE against BLEU, with r and the β curve."""

import sys
from dataclasses import dataclass
from functools import partial

import matplotlib
import numpy as np

from experiments.paper_items import plots, table1, table2, table3
from experiments.paper_items.item import Cell, Item, Line, main, paper_number, paper_row
from experiments.paper_items.numbers import Number
from experiments.paper_items.runs import MPLE, Library, Training, of_metrics, of_test
from mple.checks import UserError
from mple.estimator.correlation import CorrelationReport, ObjectiveCorrelation
from mple.estimator.mple_loss import MpleLoss, MpleTable

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


@dataclass(frozen=True)
class Points:
    """One point a method: what `estimator=mple` found, averaged over its runs."""

    rows: tuple[MpleLoss, ...]

    def report(self, beta: float) -> CorrelationReport | None:
        """r of L̂_MPLE and BLEU; None with fewer than 3 methods, or where r is undefined."""
        try:
            return ObjectiveCorrelation(beta=beta)(MpleTable(self.rows)) if len(self.rows) > 2 else None
        except UserError:
            return None


def beta_of(table: str) -> float:
    """The paper's β for a table's language pair."""
    return float(paper_row(table, "KD" if table in ("table2", "table7") else "Vanilla")["beta"])


def points(library: Library, rows: dict[str, str], sampled: bool = False) -> Points:
    """The methods of a table that were measured; with `sampled`, BLEU is that of input sampling."""
    found = []
    for label, experiment in rows.items():
        training = Training(experiment)
        measured = library.measured(training, MPLE)
        bleu = (
            table3.sampled(library, training)
            if sampled
            else of_test(library.runs(training), "tokenised_bleu")
        )
        nat = of_metrics(measured, "nat_loss", "bits_per_token")
        similarity = of_metrics(measured, "similarity")
        given = of_metrics(measured, "input_loss", "bits_per_token")
        if bleu and nat and similarity:
            found.append(MpleLoss(label, nat.mean, similarity.mean, bleu.mean, given.mean if given else 0.0))
    return Points(tuple(found))


def line(library: Library, label: str) -> Line:
    experiment, table, row = ROWS[label]
    training = Training(experiment)
    cells = {NAT: Cell(paper_number(paper_row(table, row), "nat_loss"), table2.nat_loss(library, training))}
    return Line(label, cells, tuple(library.runs(training)))


def draw(lines: tuple[Line, ...], c: Number | None, targets: Points, beta: float) -> matplotlib.figure.Figure:
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
        if c is not None:
            panels[0].axhline(c.mean, color=plots.WARM, linewidth=1.2)
            panels[0].annotate(
                "C, ours", (len(lines) - 0.5, c.mean), color=plots.WARM, ha="right", va="bottom", fontsize=8
            )
        if report is not None:
            table = MpleTable(targets.rows)
            total = table.total(beta)
            panels[1].plot(total, table.bleu, "o", color=plots.OURS, markersize=5)
            for x, y, name in zip(total, table.bleu, table.names, strict=True):
                panels[1].annotate(
                    name.removeprefix("KD + "), (x, y), fontsize=7, xytext=(4, 3), textcoords="offset points"
                )
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
    beta = beta_of("table2")
    targets = points(library, table2.ROWS)
    report = targets.report(beta)
    notes = list(library.notes)
    if report is not None:
        notes.append(f"r of L_MPLE and BLEU over {report.points} proxy targets: {report.r}, p {report.p:.3f}")
        notes += [f"r of {name} alone: {value:.3f}" for name, value in report.parts.items()]
        notes.append(f"best β {report.best_beta:g}; p that pays for the search {report.p_of_best:.3f}")
    else:
        notes.append(f"r needs estimator=mple of at least 3 proxy targets; there are {len(targets.rows)}")
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
