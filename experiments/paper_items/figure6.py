"""Figure 6: the teacher's text is nearer to the references than the references are to each other."""

import sys
from functools import partial

from experiments.paper_items import plots, references
from experiments.paper_items.item import Cell, Item, Line, main, paper_number, paper_row
from experiments.paper_items.runs import MPLE, Library, Training, of_metrics

ROWS = {"Raw Data": "vanilla_raw", "KD": "vanilla_kd"}
TARGET, SIMILARITY = "L_target", "mean S(Y, T)"
COLUMNS = {TARGET: ".2f", SIMILARITY: ".2f"}


def line(library: Library, label: str) -> Line:
    training = Training(ROWS[label])
    paper = paper_row("table2", label)
    measured = library.measured(training, MPLE)
    loss, beta = paper_number(paper, "target_loss"), paper_number(paper, "beta")
    cells = {
        TARGET: Cell(loss, of_metrics(measured, "target_loss", "bits_per_token")),
        SIMILARITY: Cell(
            -loss / beta if loss is not None and beta else None, of_metrics(measured, "similarity")
        ),
    }
    return Line(label, cells, tuple(library.runs(training)))


def make(library: Library) -> Item:
    lines = tuple(line(library, label) for label in ROWS)
    return Item(
        name="figure6",
        title="Figure 6: distance of the targets from the references",
        about=(
            "L_target = −β times the mean sentence BLEU between the proxy target and several "
            "references. The paper finds the teacher's text nearer to the references than a reference "
            "is, since a teacher says what most would. The paper's S is its L_target divided by −β."
        ),
        columns=COLUMNS,
        lines=lines,
        figure=partial(plots.versus, lines, COLUMNS),
        notes=(references.of(library, map(Training, ROWS.values())), *library.notes),
        missing=tuple(library.missing),
        data=library.study.data,
    )


if __name__ == "__main__":
    sys.exit(main(make))
