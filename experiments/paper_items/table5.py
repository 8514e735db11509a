"""Table 5: how small an AT may be and still perform like the NAT, for data sets of different C."""

import sys
from functools import partial

import numpy as np

from experiments.paper_items import plots, table1
from experiments.paper_items.item import Cell, Item, Line, main, paper_number, paper_row
from experiments.paper_items.numbers import Number
from experiments.paper_items.runs import Library, at, of_record, of_test
from experiments.paper_items.table1 import Dataset
from mple.estimator.total_correlation import parameter_ratio

C, LOW, HIGH, BLEU_NAT = "C", "AT size from (%)", "AT size to (%)", "BLEU of NAT"
COLUMNS = {C: ".2f", LOW: ".1f", HIGH: ".1f", BLEU_NAT: ".2f"}
SIZES = ("tiny", "small", "student", "base", "big")
"""Of the ATs that are searched: those that other items need too. The paper's Table 6 has seven."""


def ratio(library: Library, of: Dataset) -> tuple[Number, Number] | None:
    """The range of AT sizes around the NAT's mean BLEU, in per cent of its parameters."""
    nats = library.runs(of.nat)
    bleu, size = of_test(nats, "tokenised_bleu"), of_record(nats, "parameters")
    scores, sizes = [], []
    for name in SIZES if of.name in MAIN and of.text == "raw" else SIZES[:3]:
        runs = library.runs(at(name, of.text))
        score, parameters = of_test(runs, "tokenised_bleu"), of_record(runs, "parameters")
        if score and parameters and parameters.mean not in sizes:
            scores.append(score.mean)
            sizes.append(parameters.mean)
    if bleu is None or size is None or not scores:
        return None
    found = parameter_ratio(bleu.mean, size.mean, np.array(scores), np.array(sizes), larger_is_better=True)
    return Number({0: 100 * found.low}), Number({0: 100 * found.high})


MAIN = ("grammar", "multi30k_de-en", "tatoeba_en-de", "wmt14_en_de", "wmt17_zh_en")
"""Data sets whose base and big ATs are trained anyway, as teachers."""


def line(library: Library, of: Dataset) -> Line:
    library, paper = library.on(of.name), paper_row("table5", of.paper, "dataset")
    found, nats = ratio(library, of), library.runs(of.nat)
    low, high = found or (None, None)
    cells = {
        C: Cell(paper_number(paper, "total_correlation"), table1.correlation(library, of)),
        LOW: Cell(paper_number(paper, "parameter_ratio_low_percent"), low),
        HIGH: Cell(paper_number(paper, "parameter_ratio_high_percent"), high),
        BLEU_NAT: Cell(paper_number(paper, "bleu_nat"), of_test(nats, "tokenised_bleu")),
    }
    return Line(of.label, cells, tuple(nats))


def make(library: Library) -> Item:
    lines = tuple(line(library, of) for of in table1.datasets(library))
    return Item(
        name="table5",
        title="Table 5: the size of an AT that performs like the NAT",
        about=(
            "The two neighbouring AT sizes between which the NAT's BLEU lies, in per cent of the NAT's "
            "parameters; 0 where the smallest AT is better already, inf where no AT is. A large C "
            "should let a small AT do."
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
