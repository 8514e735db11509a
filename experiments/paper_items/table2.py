"""Table 2: proxy targets. L_NAT, L̂_target, L̂_MPLE and BLEU of eight T, all with a vanilla input."""

import sys
from functools import partial

from experiments.paper_items import plots, references
from experiments.paper_items.correlation import beta_of, points
from experiments.paper_items.item import Cell, Item, Line, main, paper_number, paper_row
from experiments.paper_items.numbers import Number
from experiments.paper_items.runs import MPLE, Library, Training, of_metrics, of_test, of_valid

ROWS = {
    "Raw Data": "vanilla_raw",
    "KD": "vanilla_kd",
    "KD + AXE (tau=1)": "axe_tau1",
    "KD + AXE (tau=5)": "axe_tau5",
    "KD + AXE (tau=10)": "axe_tau10",
    "KD + OaXE (10k)": "oaxe_10k",
    "KD + OaXE (50k)": "oaxe_50k",
    "KD + OaXE (300k)": "oaxe_300k",
}
"""The paper's row -> the experiment."""

NAT, TARGET, MPLE_LOSS, BLEU = "L_NAT", "L_target", "L_MPLE", "BLEU"
COLUMNS = {NAT: ".2f", TARGET: ".2f", MPLE_LOSS: ".2f", BLEU: ".2f"}
SHOWN_AS_IN_TRAINING = "* from the run's own validation, not from estimator=mple"


def nat_loss(library: Library, training: Training) -> Number | None:
    """L_NAT on the proxy distribution, bits per token: of estimator=mple, else of the last validation."""
    found = of_metrics(library.measured(training, MPLE), "nat_loss", "bits_per_token")
    if found is not None:
        return found
    raw = ("nat_loss_raw_bits_per_token",) if training.experiment.endswith("_raw") else ()
    names = ("nat_loss_proxy_bits_per_token", *raw, "nat_loss_base_bits_per_token")
    own = of_valid(library.runs(training, note=False), *names)
    return own and Number(own.values, note=SHOWN_AS_IN_TRAINING)


def line(library: Library, label: str, training: Training, paper: dict[str, str]) -> Line:
    runs = library.runs(training)
    measured = library.measured(training, MPLE)
    cells = {
        NAT: Cell(paper_number(paper, "nat_loss"), nat_loss(library, training)),
        TARGET: Cell(
            paper_number(paper, "target_loss"), of_metrics(measured, "target_loss", "bits_per_token")
        ),
        MPLE_LOSS: Cell(
            paper_number(paper, "mple_loss"), of_metrics(measured, "mple_loss", "bits_per_token")
        ),
        BLEU: Cell(paper_number(paper, "bleu"), of_test(runs, "tokenised_bleu")),
    }
    return Line(label, cells, tuple(runs))


def has_note(one: Line) -> bool:
    """Is one of its numbers from the run's own validation?"""
    return any(cell.ours is not None and cell.ours.note for cell in one.cells.values())


def lines(library: Library, table: str = "table2") -> tuple[Line, ...]:
    return tuple(
        line(library, label, Training(name), paper_row(table, label)) for label, name in ROWS.items()
    )


def make(library: Library, table: str = "table2", title: str = "Table 2: proxy targets") -> Item:
    found = lines(library, table)
    return Item(
        name=table,
        title=title,
        about=(
            "Eight proxy targets T with the same vanilla input. L_NAT says how hard T is for the model, "
            "L_target how far T is from the references; their sum should rank the methods as BLEU does. "
            "Ours in bits per token; the paper does not state its unit, and its numbers are of another "
            "corpus."
        ),
        columns=COLUMNS,
        lines=found,
        figure=partial(plots.versus, found, COLUMNS),
        notes=(
            references.of(library, map(Training, ROWS.values())),
            *([SHOWN_AS_IN_TRAINING] if any(map(has_note, found)) else []),
            *points(library, ROWS).notes(beta_of(table), "BLEU"),
            *library.notes,
        ),
        missing=tuple(library.missing),
        data=library.study.data,
    )


if __name__ == "__main__":
    sys.exit(main(make))
