"""The pictures' look, and the small multiples that every table gets. SVG text takes the page's colour."""

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.paper_items.numbers import Number

if TYPE_CHECKING:
    from experiments.paper_items.item import Line

INK = "#2b2b2b"
"""Text and axes; `inline` turns it into the colour of the page's text."""
OURS, THEIRS, WARM, GREEN = "#3b7dd8", "#8d9299", "#d9772b", "#2f9e77"
STYLE: Any = {
    "font.size": 9,
    "font.family": "DejaVu Sans",
    "svg.fonttype": "none",
    "svg.hashsalt": "mple",
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 9,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "grid.color": THEIRS,
    "grid.alpha": 0.25,
}


def styled() -> AbstractContextManager[None]:
    """The style, for what is drawn inside."""
    return matplotlib.rc_context(STYLE)


def figure(width: float, height: float) -> Figure:
    """An empty figure (inches) on a transparent ground."""
    with styled():
        return Figure(figsize=(width, height), layout="constrained", facecolor="none")


def axes(target: Figure, rows: int = 1, columns: int = 1, **shared: Any) -> Any:
    """Its axes as an array (rows, columns), in the same style."""
    with styled():
        grid = target.subplots(rows, columns, squeeze=False, **shared)
    for one in grid.flat:
        one.set_facecolor("none")
        one.set_axisbelow(True)
    return grid


def save(target: Figure, stem: Path) -> list[Path]:
    """STEM.svg, transparent, and STEM.png, on white; the same numbers give the same files."""
    svg, png = Path(f"{stem}.svg"), Path(f"{stem}.png")
    with styled():
        target.savefig(svg, metadata={"Date": None})
        target.savefig(png, dpi=150, facecolor="white")
    return [svg, png]


def inline(svg: str, name: str) -> str:
    """An SVG file's text for the body of a page: no header, ids of its own, text in the page's colour."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    svg = svg.replace("url(#", f"url(#{name}-").replace(INK, "currentColor")
    return svg.strip()


def dots(
    one: Axes, x: float, number: Number, colour: str = OURS, marker: str = "o", flat: bool = True
) -> None:
    """Mean with its 95% interval, and every seed as a small dot; at height x (`flat`), or above x."""
    interval = number.interval()
    seeds = list(number.values.values())
    place = [x] * len(seeds)
    one.plot(*((seeds, place) if flat else (place, seeds)), "o", color=colour, markersize=2.5, alpha=0.5)
    style: Any = {"fmt": marker, "color": colour, "markersize": 5.5, "capsize": 2.5, "linewidth": 1.2}
    if interval is not None:
        error = [[max(0, number.mean - interval.low)], [max(0, interval.high - number.mean)]]
        style["xerr" if flat else "yerr"] = error
    one.errorbar(*(([number.mean], [x]) if flat else ([x], [number.mean])), **style)


def versus(lines: Sequence["Line"], columns: Mapping[str, str]) -> Figure:
    """A panel a column, a row a line: the paper's number a grey diamond, ours a dot with its interval."""
    shown = [c for c in columns if any(c in line.cells for line in lines)]
    height = 1.1 + 0.32 * len(lines)
    target = figure(2.2 + 1.9 * len(shown), height)
    panels = axes(target, 1, len(shown), sharey=True)[0]
    with styled():
        for one, column in zip(panels, shown, strict=True):
            for y, line in enumerate(lines):
                cell = line.cells.get(column)
                if cell is not None and cell.paper is not None:
                    one.plot([cell.paper], [y], "D", color=THEIRS, fillstyle="none", markersize=5)
                if cell is not None and cell.ours is not None and math.isfinite(cell.ours.mean):
                    dots(one, y, cell.ours)
                elif cell is not None and cell.ours is not None:  # beyond all that was looked at
                    place = one.get_yaxis_transform()
                    one.plot([1], [y], ">", color=OURS, markersize=6, transform=place, clip_on=False)
            one.set_title(column)
            one.grid(axis="y")
            one.set_yticks(range(len(lines)), [line.label for line in lines])
            one.tick_params(axis="y", length=0)
            one.set_ylim(len(lines) - 0.5, -0.5)
            one.margins(x=0.15)
        legend(target)
    return target


def legend(target: Figure, entries: Mapping[str, tuple[str, str]] | None = None) -> None:
    """Below the figure: name -> (marker, colour)."""
    from matplotlib.lines import Line2D

    entries = entries or {"paper (WMT)": ("D", THEIRS), "ours, 95% interval": ("o", OURS)}
    handles = [
        Line2D(
            [],
            [],
            marker=marker,
            color=colour,
            linestyle="none",
            markersize=5,
            label=name,
            fillstyle="none" if marker == "D" else "full",
        )
        for name, (marker, colour) in entries.items()
    ]
    target.legend(
        handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, labelcolor=INK
    )
