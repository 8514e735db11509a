"""Figure 7: decoding confidence I and BLEU of CMLM and GLAT, with default decoding and input sampling."""

import sys
from functools import partial

from experiments.paper_items import correlation, plots
from experiments.paper_items.item import Cell, Item, Line, main, paper_number, paper_row
from experiments.paper_items.runs import CONFIDENCE, Library, Training, of_metrics, of_test

ROWS = {"CMLM": "cmlm", "GLAT": "glat_kd"}
CONFIDENT, BLEU = "confidence I", "BLEU"
COLUMNS = {CONFIDENT: ".2f", BLEU: ".2f"}
DEFAULT, SAMPLE = "default", "sample"
KEYS = {DEFAULT: "default_confidence", SAMPLE: "sampled_confidence"}
"""Names of I in the evaluation's metrics, in nats per token."""


def lines(library: Library, label: str) -> list[Line]:
    training = Training(ROWS[label])
    runs, measured = library.runs(training), library.measured(training, CONFIDENCE)
    paper = paper_row("table3", label)
    bleu = {
        DEFAULT: of_test(runs, "tokenised_bleu"),
        SAMPLE: correlation.sampled(library, training),
    }
    return [
        Line(
            f"{label}, {way}",
            {
                CONFIDENT: Cell(None, of_metrics(measured, KEYS[way], "nats_per_token")),
                BLEU: Cell(paper_number(paper, f"bleu_{way}"), bleu[way]),
            },
            tuple(runs),
        )
        for way in (DEFAULT, SAMPLE)
    ]


def make(library: Library) -> Item:
    found = tuple(one for label in ROWS for one in lines(library, label))
    return Item(
        name="figure7",
        title="Figure 7: decoding confidence",
        about=(
            "I = log P(Z|X) + log P(T|Z, X), of what the model itself decodes, in nats per token. The "
            "decoding of which a model is surer should give the better BLEU: input sampling for CMLM, "
            "default decoding for GLAT. The paper gives I as a picture only."
        ),
        columns=COLUMNS,
        lines=found,
        figure=partial(plots.versus, found, COLUMNS),
        notes=tuple(library.notes),
        missing=tuple(library.missing),
        data=library.study.data,
    )


if __name__ == "__main__":
    sys.exit(main(make))
