"""Table 1: the conditional total correlation C of data sets, and how far an AT is above a NAT there."""

import re
import sys
from functools import partial

from experiments.paper_items import plots
from experiments.paper_items.item import Cell, Item, Line, main, paper_number, paper_row
from experiments.paper_items.numbers import Number
from experiments.paper_items.runs import (
    Evaluation,
    Finished,
    Library,
    Training,
    at,
    of_metrics,
    of_test,
    test_text,
    total_correlation,
)
from mple.data.grammar import Grammar

C, EXACT, GAP, BLEU_AT, BLEU_NAT = "C", "exact C", "ΔBLEU", "BLEU of AT", "BLEU of NAT"
COLUMNS = {C: ".2f", EXACT: ".2f", GAP: ".2f", BLEU_AT: ".2f", BLEU_NAT: ".2f"}
NAT, AT = Training("vanilla_raw"), at("student")


NO_KD = "KD: C needs an AT that was trained on the teacher's text, and no command makes one yet"


def datasets(library: Library) -> dict[str, tuple[str, str]]:
    """Label -> the data set's name, and the paper's line that stands beside it.

    For text: real data, two synthetic ones of its target side and, where there are runs on NAME_kd, the same
    data with a teacher's targets. For the grammar: three probabilities of its modes, since there C is known.
    """
    data = library.study.data
    if data.startswith("grammar"):
        return {
            "Grammar, modes 0.50": ("grammar", ""),
            "Grammar, modes 0.20": ("grammar_p20", ""),
            "Grammar, modes 0.05": ("grammar_p05", ""),
        }
    language = data.rpartition("-")[2] if "-" in data else "en"
    distilled = {f"{data}, KD": (f"{data}_kd", "")} if library.has(f"{data}_kd") else {}
    return {
        data: (data, "WMT14 En-De"),
        **distilled,
        "Synthetic B": (f"synthetic_b_{language}", "Synthetic B"),
        "Synthetic A": (f"synthetic_a_{language}", "Synthetic A"),
    }


def is_known(library: Library) -> bool:
    """Are all rows of the table asked for? The grammar has no KD row."""
    return library.study.data.startswith("grammar") or library.has(f"{library.study.data}_kd")


def correlation(library: Library) -> Number | None:
    """Ĉ in bits per token, of each NAT with the AT of its seed (else of the first seed)."""
    ats = {run.seed: run for run in library.runs(AT)}
    found: list[tuple[Finished, dict[str, float]]] = []
    nats = library.runs(NAT)
    for nat in nats:
        other = ats.get(nat.seed) or next(iter(ats.values()), None)
        folder = other.folder if other else library.future(AT, nat.seed)
        wanted = total_correlation(folder)
        metrics = nat.measured(wanted) if other else None
        if metrics is not None:
            found.append((nat, metrics))
        else:
            library.miss_evaluation(str(nat.folder), wanted)
    if not nats:
        wanted = Evaluation("total_correlation", (f"estimator.at={library.future(AT, 1)}",))
        library.miss_evaluation(library.future(NAT, 1), wanted)
    return of_metrics(found, "total_correlation", "bits_per_token")


def exact(library: Library) -> Number | None:
    """C of the grammar's test sources, bits per token; None for other data."""
    data = library.study.data
    runs = library.runs(NAT, note=False) or library.runs(AT, note=False)
    if not re.fullmatch(r"grammar(_p\d\d)?", data) or not runs:
        return None
    text = test_text(runs[0])
    if text is None:
        return None
    p = float(f"0.{data[-2:]}") if data != "grammar" else 0.5
    information = Grammar(order=p, formality=p, tense=p, separable=p).corpus_information(text[0])
    return Number({0: information.metrics()["total_correlation_bits_per_token"]})


def line(library: Library, label: str, paper: dict[str, str]) -> Line:
    nats, ats = library.runs(NAT), library.runs(AT)
    bleu_at, bleu_nat = of_test(ats, "tokenised_bleu"), of_test(nats, "tokenised_bleu")
    cells = {
        C: Cell(paper_number(paper, "total_correlation"), correlation(library)),
        GAP: Cell(paper_number(paper, "bleu_gap"), bleu_at - bleu_nat if bleu_at and bleu_nat else None),
        BLEU_AT: Cell(paper_number(paper, "bleu_at"), bleu_at),
        BLEU_NAT: Cell(paper_number(paper, "bleu_nat"), bleu_nat),
    }
    if library.study.data.startswith("grammar"):
        cells[EXACT] = Cell(None, exact(library))
    return Line(label, cells, (*nats, *ats))


def make(library: Library) -> Item:
    lines = tuple(
        line(library.on(name), label, paper_row("table1", paper, "dataset"))
        for label, (name, paper) in datasets(library).items()
    )
    return Item(
        name="table1",
        title="Table 1: conditional total correlation and the gap between AT and NAT",
        about=(
            "C is the loss of a NAT less that of an AT of the same size, both trained by maximum "
            "likelihood: the information on how tokens depend on each other, which a NAT must drop. "
            "Ours in bits per token. Where C is small a NAT should be as good as an AT."
        ),
        columns=COLUMNS,
        lines=lines,
        figure=partial(plots.versus, lines, COLUMNS),
        notes=(*library.notes, *([] if is_known(library) else [NO_KD])),
        missing=tuple(library.missing),
        data=library.study.data,
    )


if __name__ == "__main__":
    sys.exit(main(make))
