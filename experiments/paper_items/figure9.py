"""Figure 9: the proxy targets of AXE and OaXE for "I eat pizza today", by the code that training uses; exact.

The paper gives the alignments and not the predictions. These are ones that lead to them: position 1 says
"today", 2 "I", 3 "eat", 4 "pizza", and the reference is "I eat pizza today".

    AXE    α = [2, 3, 4, 4], "today" skipped    T* = ε I eat pizza
    OaXE   α = [2, 3, 4, 1]                     T* = today I eat pizza
"""

import math
import sys

import matplotlib
import numpy as np
import torch

from experiments.paper_items import plots
from experiments.paper_items.item import Cell, Item, Line, main
from experiments.paper_items.numbers import Number
from experiments.paper_items.runs import Library
from mple.proxy_target.axe import alignment
from mple.proxy_target.oaxe import assignment

REFERENCE = ("I", "eat", "pizza", "today")
EMPTY = "ε"
PREDICTIONS = {
    # P_j of the four words and of ε, for positions j = 1 … 4
    "I": (0.05, 0.80, 0.05, 0.05),
    "eat": (0.05, 0.05, 0.80, 0.05),
    "pizza": (0.05, 0.05, 0.05, 0.70),
    "today": (0.55, 0.05, 0.05, 0.15),
    EMPTY: (0.30, 0.05, 0.05, 0.05),
}
DELTA = 1
"""The skip penalty: with a large one AXE would rather say "I eat pizza today" as it stands."""

NLL = "L_NAT of T* (nats)"
PENALTY = "skip penalty (nats)"
COLUMNS = {NLL: ".4f", PENALTY: ".4f"}


def nll() -> torch.Tensor:
    """−log P_j(y_i), (4 words, 4 positions), nats."""
    return -torch.tensor([PREDICTIONS[word] for word in REFERENCE]).log()


def axe() -> tuple[tuple[int, ...], tuple[str, ...], tuple[int, ...]]:
    """α, T* and the skipped words (their places in the reference), places counted from 1."""
    blank = -torch.tensor([PREDICTIONS[EMPTY]]).log()
    size = torch.tensor([len(REFERENCE)])
    found = alignment(nll().unsqueeze(0), blank, size, size, DELTA, "original")
    positions, is_skipped = found.positions[0].tolist(), found.is_skipped[0].tolist()
    said = [EMPTY] * len(REFERENCE)
    for word, position, skipped in zip(REFERENCE, positions, is_skipped, strict=True):
        if not skipped:
            said[position] = word
    skips = tuple(place + 1 for place, skipped in enumerate(is_skipped) if skipped)
    return tuple(position + 1 for position in positions), tuple(said), skips


def oaxe() -> tuple[tuple[int, ...], tuple[str, ...]]:
    """α and T*, places counted from 1."""
    order = assignment(nll().unsqueeze(0), torch.ones(1, len(REFERENCE), dtype=torch.bool))[0].tolist()
    return tuple(order.index(word) + 1 for word in range(len(REFERENCE))), tuple(REFERENCE[i] for i in order)


def cost(said: tuple[str, ...]) -> float:
    """−Σ_j log P_j(t_j), nats."""
    return -sum(math.log(PREDICTIONS[word][place]) for place, word in enumerate(said))


def draw() -> matplotlib.figure.Figure:
    target = plots.figure(7.4, 2.4)
    panels = plots.axes(target, 1, 2)[0]
    size = len(REFERENCE)
    positions_axe, said_axe, skips = axe()
    positions_oaxe, said_oaxe = oaxe()
    cases = (("AXE", positions_axe, said_axe, skips), ("OaXE", positions_oaxe, said_oaxe, ()))
    with plots.styled():
        for one, (title, positions, said, skipped) in zip(panels, cases, strict=True):
            one.set_axis_off()
            one.set_title(f"{title}: α = {list(positions)}")
            one.set(xlim=(0.4, size + 0.6), ylim=(-0.5, 2.35))
            for place in range(1, size + 1):
                box = {"boxstyle": "round,pad=0.35", "facecolor": "none", "edgecolor": plots.THEIRS}
                one.text(place, 2.0, REFERENCE[place - 1], ha="center", va="center", bbox=box)
                one.text(place, 0.6, f"P{place}", ha="center", va="center", bbox=box)
                one.text(
                    place, -0.2, said[place - 1], ha="center", va="center", color=plots.OURS, weight="bold"
                )
            for word, position in enumerate(positions, start=1):
                is_skip = word in skipped
                style = {"color": plots.WARM if is_skip else plots.OURS, "linestyle": ":" if is_skip else "-"}
                one.plot([word, position], [1.72, 0.88], **style, linewidth=1.5)
            one.text(0.45, -0.2, "T*", ha="left", va="center")
    return target


def make(library: Library) -> Item:
    """The exact targets; `library` is not asked for anything."""
    positions, said, skips = axe()
    moved, permuted = oaxe()
    skipped = DELTA * float(sum(nll()[place - 1, positions[place - 1] - 1] for place in skips))
    cases = (
        (f"AXE: α = {list(positions)}, T* = {' '.join(said)}", said, skipped),
        (f"OaXE: α = {list(moved)}, T* = {' '.join(permuted)}", permuted, 0.0),
        (f"cross-entropy: T = {' '.join(REFERENCE)}", REFERENCE, 0.0),
    )
    lines = [
        Line(
            label,
            {
                NLL: Cell(None, Number({0: cost(text)})),
                PENALTY: Cell(None, Number({0: float(np.round(extra, 9))})),
            },
        )
        for label, text, extra in cases
    ]
    return Item(
        name="figure9",
        title="Figure 9: how AXE and OaXE choose T (exact)",
        about=(
            'The reference is "I eat pizza today", the model is about to say "today I eat pizza". AXE '
            "keeps the order and lays the reference one place later, which leaves position 1 empty and "
            'skips "today" (dotted); OaXE permutes. Both targets are far easier for the model than the '
            "reference as it stands."
        ),
        columns=COLUMNS,
        lines=tuple(lines),
        figure=draw,
        is_exact=True,
    )


if __name__ == "__main__":
    sys.exit(main(make))
