"""Figure 2: two tokens, two modes. The NAT of greater likelihood mixes the modes; exact, nothing is trained.

    P(y1, y2): "no problem" and "of course", 1/2 each. Both NATs are products P(y1 | X) P(y2 | X).
    θ1: the true marginals, 1/2 each, which is where maximum likelihood ends (Theorem 1)
    θ2: says one mode, each of its words with probability 1 − ε

    E log P_θ1 = −2 bits,   KL(P || θ1) = 2 − H(P) = 1 bit = C,   half of what θ1 says is no sentence
    E log P_θ2 = log2 ε(1 − ε),   of what θ2 says 2 ε(1 − ε) is no sentence

The curves on the right are the paper's continuous picture: two normal modes at ±d/2 in both variables, of
unit variance, and θ1 the product of their marginals; C goes from 0 to 1 bit as the modes separate.
"""

import math
import sys
from dataclasses import dataclass

import matplotlib
import numpy as np

from experiments.paper_items import plots
from experiments.paper_items.item import Cell, Item, Line, main
from experiments.paper_items.numbers import Number
from experiments.paper_items.runs import Library

EPSILON = 0.05
"""What θ2 leaves to the other word. The paper gives no number for it."""

WORDS = (("no", "of"), ("problem", "course"))
DATA = np.array([[0.5, 0.0], [0.0, 0.5]])
"""P(y1, y2): rows are y1, columns y2."""

LIKELIHOOD, KL, INVALID = "E log P (bits)", "KL(P ‖ θ) (bits)", "no sentence (%)"
COLUMNS = {LIKELIHOOD: ".3f", KL: ".3f", INVALID: ".1f"}


@dataclass(frozen=True)
class Pair:
    """A NAT of two tokens: P(y1 = first word) and P(y2 = first word)."""

    first: float
    second: float

    @property
    def joint(self) -> np.ndarray:
        """(2, 2), a product."""
        return np.outer([self.first, 1 - self.first], [self.second, 1 - self.second])

    @property
    def log_likelihood(self) -> float:
        """E_P log2 P_θ(y1, y2)."""
        with np.errstate(divide="ignore"):
            logs = np.log2(self.joint)
        return float((DATA[DATA > 0] * logs[DATA > 0]).sum())

    @property
    def divergence(self) -> float:
        """KL(P || P_θ), bits."""
        return -entropy(DATA) - self.log_likelihood

    @property
    def invalid(self) -> float:
        """The probability of saying what the data never say."""
        return float(self.joint[DATA == 0].sum())


def entropy(probabilities: np.ndarray) -> float:
    """Bits."""
    kept = probabilities[probabilities > 0]
    return float(-(kept * np.log2(kept)).sum())


MARGINAL = Pair(float(DATA.sum(1)[0]), float(DATA.sum(0)[0]))
ONE_MODE = Pair(1 - EPSILON, 1 - EPSILON)


def total_correlation() -> float:
    """C = Σ_i H(y_i) − H(y1, y2), bits."""
    return entropy(DATA.sum(1)) + entropy(DATA.sum(0)) - entropy(DATA)


def continuous_correlation(distance: float, points: int = 401) -> float:
    """C of ½ N(−d/2, I) + ½ N(+d/2, I) in two dimensions, bits: by the trapezium rule, exact to 1e-6."""
    reach = 8 + distance / 2
    axis = np.linspace(-reach, reach, points)
    modes = np.exp(-((axis[:, None] - np.array([-distance / 2, distance / 2])) ** 2) / 2) / math.sqrt(
        2 * math.pi
    )
    joint = (modes[:, None, :] * modes[None, :, :]).mean(-1)
    marginal = modes.mean(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = joint * np.log2(joint / np.outer(marginal, marginal))
    step = axis[1] - axis[0]
    return float(np.nansum(terms) * step * step)


def draw() -> matplotlib.figure.Figure:
    target = plots.figure(9.2, 2.6)
    panels = plots.axes(target, 1, 4)[0]
    axis = np.linspace(-4.5, 4.5, 121)
    sides = np.array([-2.0, 2.0])

    def density(centres: np.ndarray, width: float = 1.0) -> np.ndarray:
        return np.exp(-((axis[:, None] - centres) ** 2) / (2 * width**2))

    both = density(sides).mean(-1)
    one = density(sides[1:]).mean(-1)
    oracle = (density(sides)[:, None, :] * density(sides)[None, :, :]).mean(-1)
    pictures = {
        "P(y1, y2)": oracle,
        "θ1: the marginals": np.outer(both, both),
        "θ2: one mode": np.outer(one, one),
    }
    with plots.styled():
        for place, (title, values) in zip(panels[:3], pictures.items(), strict=True):
            place.contour(axis, axis, values, 6, colors=[plots.OURS], linewidths=1.0)
            place.set(title=title, xlabel="y1", ylabel="y2", aspect="equal", xticks=sides, yticks=sides)
            place.set_xticklabels(WORDS[0])
            place.set_yticklabels(WORDS[1], rotation=90, va="center")
        distances = np.linspace(0, 8, 33)
        panels[3].plot(distances, [continuous_correlation(d) for d in distances], color=plots.WARM)
        panels[3].axhline(total_correlation(), color=plots.THEIRS, linewidth=1, linestyle=":")
        panels[3].set(title="C of two normal modes", xlabel="distance d of the modes", ylabel="bits")
    return target


def make(library: Library) -> Item:
    """The exact numbers; `library` is not asked for anything."""
    lines = []
    for label, pair in (("θ1: the marginals (maximum likelihood)", MARGINAL), ("θ2: one mode", ONE_MODE)):
        values = {LIKELIHOOD: pair.log_likelihood, KL: pair.divergence, INVALID: 100 * pair.invalid}
        lines.append(Line(label, {name: Cell(None, Number({0: value})) for name, value in values.items()}))
    return Item(
        name="figure2",
        title="Figure 2: why likelihood misleads a NAT (exact)",
        about=(
            'Two sentences, "no problem" and "of course", equally likely. The NAT with the true '
            "marginals has the greatest likelihood that a NAT can have, and says a mixture half of the "
            f"time; one that keeps to a single mode (ε = {EPSILON}) is far less likely, and hardly ever "
            f"says nonsense. C is {total_correlation():g} bit."
        ),
        columns=COLUMNS,
        lines=tuple(lines),
        figure=draw,
        is_exact=True,
    )


if __name__ == "__main__":
    sys.exit(main(make))
