"""Figure 1: log-likelihood and BLEU on the plane in weight space through three checkpoints.

From one early checkpoint of maximum likelihood (◆) the same number of updates again with maximum likelihood
(▲) and with GLAT + KD (★). The first should raise the likelihood, the second BLEU. A plane goes through three
checkpoints of one seed, so however many seeds a study wants, this item needs its runs once.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import matplotlib
import numpy as np

from experiments.paper_items import plots
from experiments.paper_items.item import Cell, Item, Line, main
from experiments.paper_items.numbers import Number
from experiments.paper_items.runs import CONF, EVALUATE, Evaluation, Finished, Library, Missing, Training

NAT, BLEU = "L_NAT of the references", "BLEU"
COLUMNS = {NAT: ".2f", BLEU: ".2f"}
CORNERS = ("initial checkpoint", "+ MLE", "+ GLAT + KD")
MARKERS = ("D", "^", "*")
PLANE = Evaluation("plane")
SEED = 1
"""Of a plane that is still to be made."""


def updates(library: Library) -> int:
    """A third of a student's updates: what the initial checkpoint and each continuation gets."""
    path = CONF / "budget" / f"{library.budget}.yaml"
    found = re.search(
        r"^student_updates: (\d+)", path.read_text(encoding="utf-8") if path.exists() else "", re.MULTILINE
    )
    return int(found[1]) // 3 if found else 1000


def initial(library: Library) -> Training:
    return Training("vanilla_raw", (f"updates={updates(library)}",), "figure1_initial")


def first(library: Library) -> Finished | None:
    """The initial checkpoint's run: one whose plane was measured, else one whose weights are here, else that
    of the lowest seed; None where there is none."""
    runs = library.runs(initial(library), note=False)
    order = {run.seed: (run.measured(PLANE) is None, not run.has_weights, run.seed) for run in runs}
    return min(runs, key=lambda run: order[run.seed], default=None)


def trainings(library: Library) -> tuple[Training, Training, Training]:
    """Of the three corners; the second and third start from the checkpoint of the first, once it is there."""
    begin, run = initial(library), first(library)
    if run is not None and run.has_weights:
        start = f"start={run.folder}/last.ckpt"
    else:
        folder = library.future(begin, SEED if run is None else run.seed)
        start = f"start={folder.removesuffix(')')}/last.ckpt)"
    overrides = (*begin.overrides, start)
    return (
        begin,
        Training("vanilla_raw", overrides, "figure1_mle"),
        Training("glat_kd", overrides, "figure1_glat"),
    )


def measured(library: Library) -> tuple[list[Finished], Mapping[str, Any] | None]:
    """The runs of the three corners, all of one seed, and the grid where it was measured. Where it was not,
    what is missing for it is noted: of that seed alone, whatever seeds the study wants."""
    begin = first(library)
    grid = None if begin is None else begin.measured(PLANE)
    seed = SEED if begin is None else begin.seed
    runs: list[Finished] = []
    folders: list[str] = []
    for training in trainings(library):
        run = next((run for run in library.runs(training, note=False) if run.seed == seed), None)
        if run is not None:
            runs.append(run)
        if grid is None:
            folders.append(library.place(training, seed, run))
    if grid is None:
        library.miss(Missing(("python", "-m", "experiments.paper_items.plane", *folders), EVALUATE))
    return runs, grid


def at_corner(grid: Mapping[str, Any], name: str, corner: int) -> float:
    """The value at a corner's own (a, b), between the points of the grid: linear."""
    a, b = ((0, 0), (1, 0), (0, 1))[corner]
    rows = [np.interp(a, grid["a"], row) for row in grid[name]]
    return float(np.interp(b, grid["b"], rows))


def draw(grid: Mapping[str, Any]) -> matplotlib.figure.Figure:
    corners = np.array(grid["corners"])
    a, b = np.meshgrid(grid["a"], grid["b"])
    x = a * corners[1, 0] + b * corners[2, 0]
    y = b * corners[2, 1]
    target = plots.figure(8.4, 3.6)
    panels = plots.axes(target, 1, 2)[0]
    pictures: Sequence[tuple[str, Any]] = (
        ("log-likelihood of the references (bits per token)", -np.array(grid["nat_loss_bits_per_token"])),
        ("BLEU", np.array(grid["bleu"])),
    )
    with plots.styled():
        for one, (title, values) in zip(panels, pictures, strict=True):
            drawn = one.contourf(x, y, values, 12, cmap="viridis")
            target.colorbar(drawn, ax=one, shrink=0.9)
            for (left, up), marker, label in zip(corners, MARKERS, CORNERS, strict=True):
                style = {"color": "white", "markeredgecolor": "black", "markersize": 10, "linestyle": "none"}
                one.plot(left, up, marker, **style, label=label)
            one.set(title=title, aspect="equal", xlabel="distance of weights")
        entries = dict(zip(CORNERS, ((marker, plots.THEIRS) for marker in MARKERS), strict=True))
        plots.legend(target, entries)
    return target


def make(library: Library) -> Item:
    runs, grid = measured(library)
    names = {NAT: "nat_loss_bits_per_token", BLEU: "bleu"}
    seed = runs[0].seed if runs else SEED
    lines = [
        Line(
            label,
            {
                column: Cell(None, None if grid is None else Number({seed: at_corner(grid, name, corner)}))
                for column, name in names.items()
            },
            tuple(runs) if grid is not None else (),
        )
        for corner, label in enumerate(CORNERS)
    ]
    notes = [] if grid is None else [f"on {grid['sentences']} sentences of the validation set; one seed"]
    return Item(
        name="figure1",
        title="Figure 1: likelihood and BLEU in the space of weights",
        about=(
            "From one checkpoint, the same number of updates with maximum likelihood and with GLAT + "
            "KD. The plane through the three is drawn in true proportions. Likelihood and BLEU should "
            "rise in different directions. Numbers in the table are read off the grid."
        ),
        columns=COLUMNS,
        lines=tuple(lines),
        figure=None if grid is None else partial(draw, grid),
        notes=(*notes, *library.notes),
        missing=tuple(library.missing),
        data=library.study.data,
    )


if __name__ == "__main__":
    sys.exit(main(make))
