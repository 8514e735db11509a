"""Table 1: the conditional total correlation C of data sets, and how far an AT is above a NAT there."""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import cycle

from matplotlib.figure import Figure

from experiments.paper_items import plots
from experiments.paper_items.item import Cell, Item, Line, main, paper_number, paper_row
from experiments.paper_items.numbers import Number
from experiments.paper_items.runs import (
    Finished,
    Library,
    Training,
    at,
    of_metrics,
    of_test,
    total_correlation,
)
from mple.data.grammar import Grammar
from mple.data.text import GrammarSource

C, EXACT, GAP, BLEU_AT, BLEU_NAT = "C", "exact C", "ΔBLEU", "BLEU of AT", "BLEU of NAT"
VALID_GAP = "Δvalid %"
COLUMNS = {C: ".2f", EXACT: ".2f", GAP: ".2f", BLEU_AT: ".2f", BLEU_NAT: ".2f", VALID_GAP: ".1f"}


@dataclass(frozen=True)
class Dataset:
    """A row: a data set, the text that both models learn, and the paper's line that stands beside it.

    name: as below a run's folder. text: "raw", or "kd" for what the base teacher says. is_extra: beyond the
    paper's rows, so that nothing of it is missing until it is asked for or a run of it is there.
    """

    label: str
    name: str
    text: str = "raw"
    paper: str = ""
    is_extra: bool = False

    @property
    def nat(self) -> Training:
        return Training(f"vanilla_{self.text}")

    @property
    def at(self) -> Training:
        """The autoregressive model of the NAT's size."""
        return at("student", self.text)


def datasets(library: Library) -> tuple[Dataset, ...]:
    """Text: real data, a teacher's text for them, and two synthetic ones of their target side (not of
    Tatoeba, which has no file of one language). Grammar: the same, and as extras other probabilities of its
    modes, where C is known too."""
    data = library.study.data
    if data.startswith("grammar"):
        rows = (
            Dataset("Grammar, modes 0.50", "grammar"),
            Dataset("Grammar, modes 0.50, KD", "grammar", "kd"),
            Dataset("Grammar, modes 0.20", "grammar_p20", is_extra=True),
            Dataset("Grammar, modes 0.05", "grammar_p05", is_extra=True),
            Dataset("Grammar, one mode", "grammar_p00", is_extra=True),
            Dataset("Grammar, Synthetic B", "grammar_synthetic_b", paper="Synthetic B"),
            Dataset("Grammar, Synthetic A", "grammar_synthetic_a", paper="Synthetic A"),
        )
        wanted = library.study.degrees
        return tuple(row for row in rows if wanted or not row.is_extra or library.has(row.name))
    own = (Dataset(data, data, paper="WMT14 En-De"), Dataset(f"{data}, KD", data, "kd"))
    if data.startswith("tatoeba"):
        return own
    language = data.rpartition("-")[2] if "-" in data else "en"
    return (
        *own,
        Dataset("Synthetic B", f"synthetic_b_{language}", paper="Synthetic B"),
        Dataset("Synthetic A", f"synthetic_a_{language}", paper="Synthetic A"),
    )


def correlation(library: Library, of: Dataset) -> Number | None:
    """Ĉ in bits per token, of each NAT with the AT of its seed (else of the first seed)."""
    found: list[tuple[Finished, dict[str, float]]] = []
    nats = library.runs(of.nat)
    for nat in nats:
        other = library.partner(of.at, nat.seed)
        metrics = nat.measured(total_correlation(other.folder, of.text)) if other else None
        if metrics is not None:
            found.append((nat, metrics))
        else:
            folder = library.folder(of.at, other) if other else library.future(of.at, nat.seed)
            library.miss_evaluation(library.folder(of.nat, nat), total_correlation(folder, of.text))
    if not nats:
        wanted = total_correlation(library.future(of.at, 1), of.text)
        library.miss_evaluation(library.future(of.nat, 1), wanted)
    return of_metrics(found, "total_correlation", "bits_per_token")


def exact(library: Library, of: Dataset) -> Number | None:
    """C of the grammar's test sources, bits per token; None for other data and for a teacher's text."""
    data = library.study.data
    runs = library.runs(of.nat, note=False) or library.runs(of.at, note=False)
    if of.text != "raw" or not re.fullmatch(r"grammar(_p\d\d)?", data) or not runs:
        return None
    return Number({0: exact_c(float(f"0.{data[-2:]}") if data != "grammar" else 0.5)})


@cache
def exact_c(p: float) -> float:
    """C of the test sources of the grammar whose modes all have the probability `p`, bits per token."""
    grammar = Grammar(order=p, formality=p, tense=p, separable=p)
    return grammar.corpus_information(sources_of_test()).metrics()["total_correlation_bits_per_token"]


@cache
def sources_of_test() -> tuple[str, ...]:
    """The grammar's test sources, which are the same for all probabilities of its modes."""
    return tuple(source for _, source, _ in GrammarSource(Grammar()).pairs("test"))


def line(library: Library, of: Dataset) -> Line:
    library, paper = library.on(of.name), paper_row("table1", of.paper, "dataset")
    nats, ats = library.runs(of.nat), library.runs(of.at)
    bleu_at, bleu_nat = of_test(ats, "tokenised_bleu"), of_test(nats, "tokenised_bleu")
    cells = {
        C: Cell(paper_number(paper, "total_correlation"), correlation(library, of)),
        GAP: Cell(paper_number(paper, "bleu_gap"), bleu_at - bleu_nat if bleu_at and bleu_nat else None),
        BLEU_AT: Cell(paper_number(paper, "bleu_at"), bleu_at),
        BLEU_NAT: Cell(paper_number(paper, "bleu_nat"), bleu_nat),
    }
    if library.study.data.startswith("grammar"):
        valid_at, valid_nat = of_test(ats, "valid_rate_percent"), of_test(nats, "valid_rate_percent")
        cells[EXACT] = Cell(None, exact(library, of))
        cells[VALID_GAP] = Cell(None, valid_at - valid_nat if valid_at and valid_nat else None)
    return Line(of.label, cells, (*nats, *ats))


def against_exact(lines: Sequence[Line]) -> Figure:
    """Where C is known: the estimate, and the gaps of BLEU and of the valid rate, above the exact C. Last, of
    all data sets, the gap above the estimate, which is what the paper's claim is of."""
    shown = [(line, c) for line in lines if (c := line.cells.get(EXACT, Cell()).ours) is not None]
    target = plots.figure(12, 3.1)
    panels = plots.axes(target, 1, 4)[0]
    titles = {C: "estimated C", GAP: "BLEU of AT − NAT", VALID_GAP: "valid % of AT − NAT"}
    with plots.styled():
        for one, column in zip(panels[:3], titles, strict=True):
            for line, c in shown:
                if (number := line.cells.get(column, Cell()).ours) is not None:
                    plots.dots(one, c.mean, number, flat=False)
            one.set_title(titles[column])
            one.set_xlabel("exact C, bits per token")
            one.grid()
        end = max(c.mean for _, c in shown) * 1.15
        panels[0].plot([0, end], [0, end], color=plots.THEIRS, linewidth=1, linestyle=":")
        for line, marker in zip(lines, cycle("os^vPXp*"), strict=False):
            estimate, gap = (line.cells.get(column, Cell()) for column in (C, GAP))
            if estimate.ours is not None and gap.ours is not None:
                plots.dots(panels[3], estimate.ours.mean, gap.ours, marker=marker, flat=False)
                label = line.label.removeprefix("Grammar, ")
                panels[3].plot([], [], marker, color=plots.OURS, markersize=5, label=label)
            if estimate.paper is not None and gap.paper is not None:
                panels[3].plot([estimate.paper], [gap.paper], "D", color=plots.THEIRS, fillstyle="none")
        panels[3].legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
        panels[3].set(title="BLEU of AT − NAT, all data", xlabel="estimated C, bits per token")
        panels[3].grid()
        plots.legend(target)
    return target


def picture(lines: Sequence[Line]) -> Figure:
    exact = [line for line in lines if line.cells.get(EXACT, Cell()).ours is not None]
    return against_exact(lines) if len(exact) > 1 else plots.versus(lines, COLUMNS)


def realised(library: Library, of: Dataset) -> str | None:
    """What was done to the words of a synthetic source; None of other data, or where no run says it."""
    for run in library.all():
        if run.data == of.name and (splits := run.record.get("realised")):
            said = []
            for split, rates in splits.items():
                parts = (
                    f"{rate:.1f} % {kind.removesuffix('_percent')}"
                    for kind, rate in rates.items()
                    if kind.endswith("_percent")
                )
                said.append(f"{split} {', '.join(parts)}")
            return f"{of.label}, words of the source: {'; '.join(said)}"
    return None


def make(library: Library) -> Item:
    lines = tuple(line(library, of) for of in datasets(library))
    rates = tuple(filter(None, (realised(library, of) for of in datasets(library))))
    return Item(
        name="table1",
        title="Table 1: conditional total correlation and the gap between AT and NAT",
        about=(
            "C is the loss of a NAT less that of an AT of the same size, both trained by maximum "
            "likelihood: the information on how tokens depend on each other, which a NAT must drop. "
            "Ours in bits per token. Where C is small a NAT should be as good as an AT. The grammar knows "
            "its C; where it was made at several probabilities of its modes, the picture begins with these, "
            "and the dotted line is where the estimate equals the exact C."
        ),
        columns=COLUMNS,
        lines=lines,
        figure=partial(picture, lines),
        notes=(*library.notes, *rates),
        missing=tuple(library.missing),
        data=library.study.data,
    )


if __name__ == "__main__":
    sys.exit(main(make))
