"""C_i of iterative refinement: what each step of a model trained with masks cannot know (App. A, Eq. 17).

python evaluate.py run=CMLM estimator=refinement estimator.iterations=10
"""

import csv
import dataclasses
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from rich.table import Table

from mple import checks
from mple.checks import UserError
from mple.estimator.refinement import Refinement as Estimate
from mple.evaluation.finished import Finished
from mple.launch import console
from mple.modules.non_autoregressive import NonAutoregressive
from mple.types import PAD, Batch


@dataclass(frozen=True)
class Refinement:
    """Ĉ_i in bits per token for i = 1 … `iterations`, of the targets that the run learned (its own T).

    Writes the table as CSV and a picture into the run's evaluations/. The other settings are those of
    `mple.estimator.refinement.Refinement`, which says how it is estimated.
    """

    decodes: ClassVar[bool] = False
    is_shown: ClassVar[bool] = True

    split: str = "valid"
    iterations: int = 4
    schedule: str = "original"
    draws: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        checks.one_of("estimator.split", self.split, ("valid", "test"))
        self._estimate()

    def _estimate(self) -> Estimate:
        return Estimate(self.iterations, self.schedule, self.draws, self.seed)

    def __call__(self, run: Finished) -> dict[str, float]:
        """
        Raises:
            UserError: a model that was never shown part of a target, or a split without the run's T.
        """
        proxy = run.job.proxy
        if proxy is None or proxy.input.law == "none":
            raise UserError(
                "estimator=refinement needs a model trained with masks (cmlm, glat_kd, …), which can read "
                f"a partly revealed Z; got {run.name}"
            )
        module = run.module
        assert isinstance(module, NonAutoregressive)
        found = self._estimate()(module.model, _learned(run, self.split))
        name = f"refinement-{self.split}-{self.schedule}-{self.iterations}-{self.draws}-{self.seed}"
        stem = run.folder / "evaluations" / name  # of every setting: none writes over another's
        stem.parent.mkdir(exist_ok=True)
        rows: list[Row] = [
            (step, *(found[f"step{step}_{name}_bits_per_token"] for name in COLUMNS))
            for step in range(1, self.iterations + 1)
        ]
        show(rows)
        if below := [str(row[0]) for row in rows if row[-1] < 0]:
            run.note(
                f"C_i is never below 0, so at step {', '.join(below)} the estimate is off: the model's "
                "predictions contradict each other, perhaps for want of Z that reveal so much in training"
            )
        write(rows, stem)
        console.print(f"table and picture: {stem}.csv, .svg, .png", soft_wrap=True)
        return found


Row = tuple[float | int, ...]
"""The step and its COLUMNS."""

COLUMNS = {
    "nat_loss": "all hidden at once",
    "at_loss": "one after the other",
    "total_correlation": "C_i",
    "total_correlation_low": "from",
    "total_correlation_high": "to",
}


@torch.no_grad()
def _learned(run: Finished, split: str) -> Iterator[Batch]:
    """Batches with the run's own T in the place of the reference."""
    module = run.module
    assert isinstance(module, NonAutoregressive)
    for batch in run.batches_with_candidates(split):
        encode = functools.partial(module.model.encode, batch.src_tokens)
        target, _, _ = module.proxy(batch, module.snapshot(batch, encode))
        yield dataclasses.replace(batch, tgt_tokens=target.tokens.masked_fill(~target.counts, PAD))


def show(rows: list[Row]) -> None:
    table = Table(title="bits per token, of each step", title_justify="left")
    for heading in ("step", *COLUMNS.values()):
        table.add_column(heading, justify="right")
    for step, *numbers in rows:
        table.add_row(str(step), *(f"{number:.3f}" for number in numbers))
    console.print(table)


def write(rows: list[Row], stem: Path) -> None:
    """STEM.csv, STEM.svg and STEM.png."""
    with Path(f"{stem}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["step", *(f"{name}_bits_per_token" for name in COLUMNS)])
        writer.writerows(rows)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.subplots()
    steps, _, _, value, low, high = zip(*rows, strict=True)
    below = [max(0.0, v - end) for v, end in zip(value, low, strict=True)]
    above = [max(0.0, end - v) for v, end in zip(value, high, strict=True)]
    axes.bar(steps, value, yerr=[below, above], color="#3b7dd8", ecolor="#2b2b2b", capsize=3, width=0.6)
    axes.set_xticks(steps)
    axes.set_xlabel("step of refinement")
    axes.set_ylabel("C of the step, bits per token")
    axes.spines[["top", "right"]].set_visible(False)
    for suffix in ("svg", "png"):
        figure.savefig(f"{stem}.{suffix}", dpi=150)
