"""Does L̂_MPLE rank methods as BLEU does? Pearson's r, how sure it is, and what it owes to each part and to β.

    report = ObjectiveCorrelation(beta=0.2)(table)         # an MpleTable, one row a method (and seed)
    report.r, report.p                                     # r of L̂_MPLE and BLEU: negative is hoped for
    report.parts["nat_loss"], report.without["nat_loss"]   # r of L_NAT alone; of L̂_MPLE without it
    report.curve                                           # β -> r
    report.p_of_best                                       # p of the best β, paying for having searched it

The paper gives |r| for the β that maximises it on the same 7 or 8 points. So beside r stand the interval over
methods, a permutation p, and the p of the *search*: every order of BLEU takes its own best β.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from mple import checks
from mple.checks import UserError
from mple.estimator.mple_loss import MpleTable
from mple.estimator.statistics import Bootstrap, Interval, Permutation, pearson
from mple.estimator.target_distortion import BETA

BETAS = tuple(round(0.05 * step, 2) for step in range(1, 21))
"""0.05, 0.10, … 1."""


@dataclass(frozen=True)
class CorrelationReport:
    """What `ObjectiveCorrelation` finds. All r are signed: a loss that falls as BLEU rises has r < 0.

    A part that is the same in all rows has no r and is absent from `parts`; `without` lacks it too, since
    leaving it out changes nothing. `best_beta` has the lowest r, the first where S̄ is the same in all rows
    and β cannot matter. Both p are two-sided: of |r|, and of the largest |r| of any β.
    """

    beta: float
    points: int
    r: Interval
    p: float
    parts: dict[str, float]
    without: dict[str, float]
    curve: dict[float, float]
    best_beta: float
    p_of_best: float

    def explained_percent(self) -> dict[str, float]:
        """100 r² of each part alone: the share of BLEU's variance that a line in it explains."""
        return {name: 100 * r * r for name, r in self.parts.items()}

    def metrics(self) -> dict[str, float]:
        """For a record; the curve stays out of it."""
        found = {
            "mple_loss_beta": self.beta,
            "mple_loss_points": float(self.points),
            **self.r.metrics("mple_loss_pearson_r"),
            "mple_loss_permutation_p": self.p,
            "mple_loss_best_beta": self.best_beta,
            "mple_loss_best_beta_permutation_p": self.p_of_best,
        }
        found |= {f"{name}_alone_pearson_r": r for name, r in self.parts.items()}
        found |= {f"without_{name}_pearson_r": r for name, r in self.without.items()}
        return found | {f"{name}_alone_explained_percent": v for name, v in self.explained_percent().items()}


@dataclass(frozen=True)
class ObjectiveCorrelation:
    """Correlates L̂_MPLE with BLEU over the rows of a table, or over methods if `over_seeds` is "mean".

    beta: β of the reported r, bits per BLEU point.
    betas: the values of the curve.
    over_seeds: "mean" averages the runs of a method first, one point a method; "points" takes every run as a
        point, which makes interval and p too sure where a method has several.

    Raises:
        UserError: a setting outside its range; from the call, fewer than 3 points, a constant BLEU or L̂_MPLE.

    Source: Sec. 4.2, Tables 2, 3, 7, 8. Differences: the interval and both p are ours.
    """

    beta: float | int = BETA
    betas: Sequence[float | int] = BETAS
    over_seeds: str = "mean"
    bootstrap: Bootstrap = field(default_factory=Bootstrap)
    permutation: Permutation = field(default_factory=Permutation)

    def __post_init__(self) -> None:
        checks.number("estimator.beta", self.beta, 0, unit="bits per BLEU point")
        checks.one_of("estimator.over_seeds", self.over_seeds, ("mean", "points"))
        if not self.betas:
            raise UserError("estimator.betas must hold at least one number; got none")
        for beta in self.betas:
            checks.number("estimator.betas", beta, 0, unit="bits per BLEU point")

    def __call__(self, table: MpleTable) -> CorrelationReport:
        if self.over_seeds == "mean":
            table = table.averaged()
        bleu, total, parts = table.bleu, table.total(self.beta), table.parts(self.beta)
        varied = {name: values for name, values in parts.items() if np.ptp(values) > 0}
        rows = np.stack([table.total(beta) for beta in self.betas])
        curve = {float(beta): pearson(row, bleu) for beta, row in zip(self.betas, rows, strict=True)}
        return CorrelationReport(
            beta=float(self.beta),
            points=len(bleu),
            r=self.bootstrap.pearson(total, bleu),
            p=self.permutation.p_value(total, bleu),
            parts={name: pearson(values, bleu) for name, values in varied.items()},
            without=_without(total, varied, bleu),
            curve=curve,
            best_beta=min(curve, key=lambda beta: round(curve[beta], 9)),
            p_of_best=self.permutation.p_value_of_best(rows, bleu),
        )


def _without(
    total: Float[np.ndarray, "n"], parts: dict[str, Float[np.ndarray, "n"]], bleu: Float[np.ndarray, "n"]
) -> dict[str, float]:
    """r of the objective without each part; absent where nothing is left that differs between rows."""
    if len(parts) < 2:
        return {}
    return {name: pearson(total - values, bleu) for name, values in parts.items()}
