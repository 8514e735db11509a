"""Tables 4 and 9: Dynamic KD, with and without its regulariser, on a vanilla NAT and GLAT, against the AT."""

import sys
from functools import partial

from experiments.paper_items import plots
from experiments.paper_items.item import Cell, Item, Line, main, paper_number, paper_table
from experiments.paper_items.numbers import Number
from experiments.paper_items.runs import (
    LPD,
    Evaluation,
    Finished,
    Library,
    Training,
    at,
    latency,
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

TIMED = (Training("glat_kd"), Training("glat_dynkd"))
"""All NATs of the table are one architecture, so the speed of the first that was timed is theirs."""
BLEU, SPEEDUP = "BLEU", "speedup"
COLUMNS = {BLEU: ".2f", SPEEDUP: ".1f"}


def speedup(library: Library) -> list[tuple[Finished, dict[str, float]]]:
    """The NAT of seed 1 that was timed, and its figures: one sentence at a time over the AT with beam 5,
    `speedup` of argmax and `nat_lpd3_speedup`."""
    for training in TIMED:
        for run in library.runs(training)[:1]:
            other = library.partner(at("base"), run.seed)
            metrics = run.measured(latency(other.folder)) if other else None
            if metrics is not None:
                return [(run, metrics)]
    places = []
    for training in (TIMED[0], at("base")):
        runs = library.runs(training)
        places.append(library.folder(training, runs[0]) if runs else library.future(training, 1))
    library.miss_evaluation(places[0], latency(places[1]))
    return []


def line(library: Library, label: str, timed: list[tuple[Finished, dict[str, float]]]) -> Line:
    training, decoding = ROWS[label]
    paper = next(row for row in paper_table("table9") if row["model"] == label)
    runs = library.runs(training)
    if decoding is None:
        bleu: Number | None = of_test(runs, "tokenised_bleu")
        name = "speedup"
    else:
        bleu, name = of_metrics(library.measured(training, decoding), "tokenised_bleu"), "nat_lpd3_speedup"
    is_at = training == at("base")  # which the others are compared with
    cells = {
        BLEU: Cell(paper_number(paper, "bleu_en_de"), bleu),
        SPEEDUP: Cell(paper_number(paper, "speedup"), None if is_at else of_metrics(timed, name)),
    }
    return Line(label, cells, tuple(runs))


def make(library: Library) -> Item:
    timed = speedup(library)
    lines = tuple(line(library, label, timed) for label in ROWS)
    return Item(
        name="table4",
        title="Tables 4 and 9: Dynamic KD",
        about=(
            "For each sentence and at every moment, Dynamic KD trains on the candidate that is easy for "
            "the model and agrees with the others. Without the regulariser it takes the easiest. The "
            "last row of each block chooses among three lengths and removes repeated words. The speed-up is "
            "of one sentence at a time over the AT with beam 5; all NATs here are one architecture, so it is "
            "measured once."
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
