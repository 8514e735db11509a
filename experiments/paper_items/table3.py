"""Table 3: proxy inputs. L_input, L_NAT, L̂_MPLE, BLEU by default and input sampling, of seven Z on KD."""

import sys
from functools import partial

from experiments.paper_items import plots, references
from experiments.paper_items.correlation import beta_of, points, sampled
from experiments.paper_items.item import Cell, Item, Line, main, paper_number, paper_table
from experiments.paper_items.runs import MPLE, Library, Training, of_metrics, of_test
from experiments.paper_items.table2 import SHOWN_AS_IN_TRAINING, has_note, nat_loss

ROWS = {
    "Vanilla": "vanilla_kd",
    "CMLM": "cmlm",
    "CMLM + fixed masking ratio": "cmlm_fixed",
    "GLAT": "glat_kd",
    "GLAT + Levenshtein dist.": "glat_levenshtein",
    "GLAT + mask by P_ref": "glat_pref",
    "GLAT + mask by 1 - P_ref": "glat_one_minus_pref",
}
"""The paper's row -> the experiment; Table 8 has the same rows in the same order under shorter names."""

INPUT, NAT, MPLE_LOSS, SAMPLE, DEFAULT = "L_input", "L_NAT", "L_MPLE", "BLEU sample", "BLEU default"
COLUMNS = {INPUT: ".2f", NAT: ".2f", MPLE_LOSS: ".2f", SAMPLE: ".2f", DEFAULT: ".2f"}


def line(library: Library, label: str, training: Training, paper: dict[str, str]) -> Line:
    runs = library.runs(training)
    measured = library.measured(training, MPLE)
    default = of_test(runs, "tokenised_bleu")
    cells = {
        INPUT: Cell(paper_number(paper, "input_loss"), of_metrics(measured, "input_loss", "bits_per_token")),
        NAT: Cell(paper_number(paper, "nat_loss"), nat_loss(library, training)),
        MPLE_LOSS: Cell(
            paper_number(paper, "mple_loss"), of_metrics(measured, "mple_loss", "bits_per_token")
        ),
        SAMPLE: Cell(paper_number(paper, "bleu_sample"), sampled(library, training)),
        DEFAULT: Cell(paper_number(paper, "bleu_default"), default),
    }
    return Line(label, cells, tuple(runs))


def make(library: Library, table: str = "table3", title: str = "Table 3: proxy inputs") -> Item:
    papers = paper_table(table)
    found = tuple(
        line(library, label, Training(name), paper)
        for (label, name), paper in zip(ROWS.items(), papers, strict=True)
    )
    beta = beta_of(table)
    of_sample, of_default = points(library, ROWS, is_sampled=True), points(library, ROWS)
    return Item(
        name=table,
        title=title,
        about=(
            "Seven proxy inputs Z, all on the base teacher's text, so L_target is the same for all. "
            "L_input says how much Z gives away that X does not tell. Sample: the decoder starts from a "
            "Z drawn from the input predictor; default: from a fully masked one. Ours in bits per "
            "token."
        ),
        columns=COLUMNS,
        lines=found,
        figure=partial(plots.versus, found, COLUMNS),
        notes=(
            references.of(library, map(Training, ROWS.values())),
            *([SHOWN_AS_IN_TRAINING] if any(map(has_note, found)) else []),
            *(f"input sampling: {note}" for note in of_sample.notes(beta, "BLEU")),
            *(f"default decoding: {note}" for note in of_default.notes(beta, "BLEU")[:1]),
            *library.notes,
        ),
        missing=tuple(library.missing),
        data=library.study.data,
    )


if __name__ == "__main__":
    sys.exit(main(make))
