"""Tables 4 and 9: Dynamic KD, with and without its regulariser, on a vanilla NAT and GLAT, against the AT."""

import sys
from functools import partial

from experiments.paper_items import plots
from experiments.paper_items.item import Cell, Item, Line, main, paper_number, paper_table
from experiments.paper_items.numbers import Number
from experiments.paper_items.runs import (
    LATENCY,
    LPD,
    Evaluation,
    Library,
    Training,
    at,
    of_metrics,
    of_test,
)

ROWS: dict[str, tuple[Training, Evaluation | None]] = {
    "Transformer": (at("base"), None),
    "MLE": (Training("vanilla_raw"), None),
    "Vanilla + KD": (Training("vanilla_kd"), None),
    "Vanilla + Dynamic KD w/o Regularizer": (Training("vanilla_dynkd_noreg"), None),
    "Vanilla + Dynamic KD": (Training("vanilla_dynkd"), None),
    "Vanilla + Dynamic KD + LPD=3 + Decoding Tricks": (Training("vanilla_dynkd"), LPD),
    "GLAT + KD": (Training("glat_kd"), None),
    "GLAT + Dynamic KD w/o Regularizer": (Training("glat_dynkd_noreg"), None),
    "GLAT + Dynamic KD": (Training("glat_dynkd"), None),
    "GLAT + Dynamic KD + LPD=3 + Decoding Tricks": (Training("glat_dynkd"), LPD),
}
"""The paper's row in Table 9 -> the run and the decoding; rows that it cites from others are left out."""

BLEU, SPEEDUP = "BLEU", "speedup"
COLUMNS = {BLEU: ".2f", SPEEDUP: ".1f"}


def line(library: Library, label: str) -> Line:
    training, decoding = ROWS[label]
    paper = next(row for row in paper_table("table9") if row["model"] == label)
    runs = library.runs(training)
    if decoding is None:
        bleu: Number | None = of_test(runs, "tokenised_bleu")
        # The autoregressive model is what the others are compared with.
        is_compared = training != at("base")
        speedup = of_metrics(library.measured(training, LATENCY), "speedup") if is_compared else None
    else:
        bleu, speedup = of_metrics(library.measured(training, decoding), "tokenised_bleu"), None
    cells = {
        BLEU: Cell(paper_number(paper, "bleu_en_de"), bleu),
        SPEEDUP: Cell(paper_number(paper, "speedup"), speedup),
    }
    return Line(label, cells, tuple(runs))


def make(library: Library) -> Item:
    lines = tuple(line(library, label) for label in ROWS)
    return Item(
        name="table4",
        title="Tables 4 and 9: Dynamic KD",
        about=(
            "For each sentence and at every moment, Dynamic KD trains on the candidate that is easy for "
            "the model and agrees with the others. Without the regulariser it takes the easiest. The "
            "last row of each block chooses among three lengths and removes repeated words."
        ),
        columns=COLUMNS,
        lines=lines,
        figure=partial(plots.versus, lines, COLUMNS),
        notes=tuple(library.notes),
        missing=tuple(library.missing),
        data=library.study.data,
    )


if __name__ == "__main__":
    sys.exit(main(make))
