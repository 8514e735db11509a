"""Table 10: the autoregressive teachers of Dynamic KD, their sizes and BLEU."""

import sys
from functools import partial

from experiments.paper_items import plots
from experiments.paper_items.item import Cell, Item, Line, main, paper_number, paper_row
from experiments.paper_items.runs import Library, at, of_record, of_test

SIZES = ("tiny", "small", "base", "big")
PARAMETERS, BLEU = "parameters (M)", "BLEU"
COLUMNS = {PARAMETERS: ".2f", BLEU: ".2f"}


def line(library: Library, size: str) -> Line:
    runs = library.runs(at(size))
    paper, parameters = paper_row("table10", size), of_record(runs, "parameters")
    # The paper's numbers of parameters are those of Table 6, which has the same architectures.
    same = paper_row("table6", paper["d_model"], "d_model")
    cells = {
        PARAMETERS: Cell(paper_number(same, "parameters_millions"), parameters and parameters.scaled(1e-6)),
        BLEU: Cell(paper_number(paper, "bleu_en_de"), of_test(runs, "tokenised_bleu")),
    }
    return Line(size, cells, tuple(runs))


def make(library: Library) -> Item:
    lines = tuple(line(library, size) for size in SIZES)
    return Item(
        name="table10",
        title="Table 10: the autoregressive teachers",
        about="The four teachers whose translations, with the references, are Dynamic KD's candidates.",
        columns=COLUMNS,
        lines=lines,
        figure=partial(plots.versus, lines, COLUMNS),
        notes=tuple(library.notes),
        missing=tuple(library.missing),
        data=library.study.data,
    )


if __name__ == "__main__":
    sys.exit(main(make))
