"""Table 5: how small an AT may be and still perform like the NAT, for data sets of different C."""

import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np

from experiments.paper_items import plots, table1
from experiments.paper_items.item import Cell, Item, Line, main, paper_number, paper_row
from experiments.paper_items.numbers import Number
from experiments.paper_items.runs import Finished, Library, at, of_record, of_test
from experiments.paper_items.table1 import Dataset
from mple.estimator.total_correlation import parameter_ratio

C, LOW, HIGH = "C", "AT size from (%)", "AT size to (%)"
BLEU_NAT, BLEU_LOW, BLEU_HIGH = "BLEU of NAT", "AT BLEU from", "AT BLEU to"
COLUMNS = {C: ".2f", LOW: ".1f", HIGH: ".1f", BLEU_NAT: ".2f", BLEU_LOW: ".2f", BLEU_HIGH: ".2f"}
"""The paper's BLEU_AT is a range, too: of the ATs at the two ends of its range of sizes."""

PAPER_SIZES = ("d32", "d48", "d64", "d96", "d128", "d256", "student")
"""The seven ATs of the paper's Table 6, which `budget=paper` has: named by their d_model, but for the last,
Transformer-base, which Table 1 trains anyway as the NAT's equal. All have as many updates as the NAT."""

SIZES = ("micro", "tiny", "small", "student", "base", "big")
"""The ATs that are searched under the other budgets, where Table 6's would be six runs more for each row:
those that other items need too, and a smaller one. All but `student` and `micro` are teachers and have
`teacher_updates`, fewer than the NAT's `student_updates`: such an AT is not as good as its size could be, and
the range of sizes may be too high. A note of the item says so with the numbers of the runs."""

MAIN = ("grammar", "multi30k_de-en", "tatoeba_en-de", "wmt14_en_de", "wmt17_zh_en")
"""Data sets whose base and big ATs are trained anyway, as teachers."""


def sizes(library: Library, of: Dataset) -> tuple[str, ...]:
    """The ATs that are searched for a data set."""
    if library.budget == "paper":
        return PAPER_SIZES
    return SIZES if of.name in MAIN and of.text == "raw" else SIZES[:4]


@dataclass(frozen=True)
class Searched:
    """The runs of one AT size. bleu: of their tests, 0 to 100. parameters: how many the AT has."""

    size: str
    runs: tuple[Finished, ...]
    bleu: Number
    parameters: float


@dataclass(frozen=True)
class Search:
    """The range of sizes around the NAT's mean BLEU, in per cent of its parameters, and the ATs at its ends.

    low is 0 and `smaller` None where the smallest AT is as good already; high is infinite and `larger` None
    where no AT is. nats: the runs of the NAT. ats: all that were searched.
    """

    low: float
    high: float
    smaller: Searched | None
    larger: Searched | None
    nats: tuple[Finished, ...]
    ats: tuple[Searched, ...]


def search(library: Library, of: Dataset) -> Search | None:
    """None where the NAT or every AT is still missing.

    Source: App. B, Tables 5 and 6.
    """
    nats = library.runs(of.nat)
    bleu, size = of_test(nats, "tokenised_bleu"), of_record(nats, "parameters")
    ats: dict[float, Searched] = {}
    for name in sizes(library, of):
        runs = library.runs(at(name, of.text))
        score, parameters = of_test(runs, "tokenised_bleu"), of_record(runs, "parameters")
        if score and parameters:
            ats.setdefault(parameters.mean, Searched(name, tuple(runs), score, parameters.mean))
    if bleu is None or size is None or not ats:
        return None
    scores = np.array([one.bleu.mean for one in ats.values()])
    found = parameter_ratio(bleu.mean, size.mean, scores, np.array(list(ats)), larger_is_better=True)
    by_ratio = {one.parameters / size.mean: one for one in ats.values()}
    return Search(
        low=100 * found.low,
        high=100 * found.high,
        smaller=by_ratio.get(found.low),
        larger=by_ratio.get(found.high),
        nats=tuple(nats),
        ats=tuple(ats.values()),
    )


def line(library: Library, of: Dataset, found: Search | None) -> Line:
    paper, nats = paper_row("table5", of.paper, "dataset"), library.runs(of.nat)
    low, high = (None, None) if found is None else (Number({0: found.low}), Number({0: found.high}))
    smaller, larger = (None, None) if found is None else (found.smaller, found.larger)
    cells = {
        C: Cell(paper_number(paper, "total_correlation"), table1.correlation(library, of)),
        LOW: Cell(paper_number(paper, "parameter_ratio_low_percent"), low),
        HIGH: Cell(paper_number(paper, "parameter_ratio_high_percent"), high),
        BLEU_NAT: Cell(paper_number(paper, "bleu_nat"), of_test(nats, "tokenised_bleu")),
        BLEU_LOW: Cell(paper_number(paper, "bleu_at_low"), None if smaller is None else smaller.bleu),
        BLEU_HIGH: Cell(paper_number(paper, "bleu_at_high"), None if larger is None else larger.bleu),
    }
    ends = [run for one in (smaller, larger) if one is not None for run in one.runs]
    return Line(of.label, cells, (*nats, *ends))


def fewer_updates(searches: Iterable[Search]) -> list[str]:
    """A sentence for each number of updates below the NAT's that ATs had."""
    found: defaultdict[tuple[float, float], dict[str, None]] = defaultdict(dict)
    for one in searches:
        own = of_record(one.nats, "updates")
        for other in one.ats:
            updates = of_record(other.runs, "updates")
            if own is not None and updates is not None and updates.mean < own.mean:
                found[updates.mean, own.mean][other.size] = None
    return [
        f"the ATs {', '.join(names)} had {few:,.0f} updates, the NAT {own:,.0f}: such an AT is not as good "
        "as its size could be, and the range of sizes may be too high"
        for (few, own), names in found.items()
    ]


def make(library: Library) -> Item:
    rows = [(of, own := library.on(of.name), search(own, of)) for of in table1.datasets(library)]
    lines = tuple(line(own, of, found) for of, own, found in rows)
    return Item(
        name="table5",
        title="Table 5: the size of an AT that performs like the NAT",
        about=(
            "The two neighbouring AT sizes between which the NAT's BLEU lies, in per cent of the NAT's "
            "parameters, and the BLEU of these two; 0 where the smallest AT is better already, inf (an arrow "
            "in the picture) where no AT is, and then there is no BLEU at that end. A large C should let a "
            "small AT do."
        ),
        columns=COLUMNS,
        lines=lines,
        figure=partial(plots.versus, lines, COLUMNS),
        notes=(*fewer_updates(found for _, _, found in rows if found), *library.notes),
        missing=tuple(library.missing),
        data=library.study.data,
    )


if __name__ == "__main__":
    sys.exit(main(make))
