"""Figure 8: Dynamic KD against NATs that were trained on the text of one teacher, or on the references."""

import sys
from functools import partial

import matplotlib

from experiments.paper_items import plots
from experiments.paper_items.item import Cell, Item, Line, main, paper_number, paper_row
from experiments.paper_items.runs import Library, Training, of_test, student_of

TEACHERS = ("tiny", "small", "base", "big", "raw")
DYNAMIC = "Dynamic KD"
COLUMNS = {"Vanilla": ".2f", "GLAT": ".2f"}
MODELS = {"Vanilla": ("vanilla_kd", "vanilla_dynkd"), "GLAT": ("glat_kd", "glat_dynkd")}
KNOWN = {
    ("Vanilla", "base"): ("table9", "Vanilla + KD"),
    ("Vanilla", "raw"): ("table9", "MLE"),
    ("Vanilla", DYNAMIC): ("table9", "Vanilla + Dynamic KD"),
    ("GLAT", "base"): ("table9", "GLAT + KD"),
    ("GLAT", DYNAMIC): ("table9", "GLAT + Dynamic KD"),
}
"""The bars whose numbers the paper also prints in a table."""


def training(model: str, target: str) -> Training:
    single, dynamic = MODELS[model]
    return Training(dynamic) if target == DYNAMIC else student_of(single, target)


def line(library: Library, target: str) -> Line:
    cells, runs = {}, []
    for model in MODELS:
        own = library.runs(training(model, target))
        table, label = KNOWN.get((model, target), ("table9", ""))
        paper = paper_number(paper_row(table, label), "bleu_en_de")
        cells[model] = Cell(paper, of_test(own, "tokenised_bleu"))
        runs += own
    return Line(target, cells, tuple(runs))


def draw(lines: tuple[Line, ...]) -> matplotlib.figure.Figure:
    target = plots.figure(5.6, 3.1)
    one = plots.axes(target)[0, 0]
    with plots.styled():
        for shift, (model, colour) in zip(
            (-0.1, 0.1), (("Vanilla", plots.OURS), ("GLAT", plots.WARM)), strict=True
        ):
            for x, entry in enumerate(lines):
                number = entry.cells[model].ours
                if number is not None:
                    plots.dots(one, x + shift, number, colour, flat=False)
                    if entry.label == DYNAMIC:
                        one.axhline(number.mean, color=colour, linewidth=0.9, linestyle="--", alpha=0.7)
        one.set_xticks(range(len(lines)), [entry.label for entry in lines])
        one.set_xlim(-0.5, len(lines) - 0.5)
        one.margins(y=0.12)
        one.grid(axis="y")
        one.set(ylabel="BLEU", xlabel="trained on the text of this teacher, or on all of them")
        plots.legend(target, {"Vanilla": ("o", plots.OURS), "GLAT": ("o", plots.WARM)})
    return target


def make(library: Library) -> Item:
    lines = tuple(line(library, target) for target in (*TEACHERS, DYNAMIC))
    return Item(
        name="figure8",
        title="Figure 8: Dynamic KD against every single teacher",
        about=(
            "The BLEU of a NAT trained on one teacher's text, on the references (raw), and by Dynamic KD, "
            "which has all of them to choose from (dashed: its mean). The paper's numbers are known where "
            "a table has them."
        ),
        columns=COLUMNS,
        lines=lines,
        figure=partial(draw, lines),
        notes=tuple(library.notes),
        missing=tuple(library.missing),
        data=library.study.data,
    )


if __name__ == "__main__":
    sys.exit(main(make))
