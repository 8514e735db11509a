"""L̂_MPLE, the objective that ranks proxies: the sum of what three parts cost.

    L̂_MPLE = L_NAT + L̂_target + L_input,   L̂_target = −β S̄          Eq. 8 and 14, Sec. 4 Metrics

L_NAT says how hard Q(T | Z, X) is for the model, L̂_target how far T is from the real targets (S̄ is the mean
sentence BLEU S(Y, T) over sentences and their references), L_input how far Z is from what X tells. A row is
kept as S̄, not as L̂_target, so that β can be chosen afterwards.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from mple import checks
from mple.checks import UserError

PARTS = ("nat_loss", "target_loss", "input_loss")
"""The three summands, by the name under which `MpleTable.parts` has them."""


@dataclass(frozen=True)
class MpleLoss:
    """One measured run.

    name: the method; runs that differ in the seed alone share it.
    nat_loss: L_NAT, bits per token.
    similarity: S̄, 0 to 100.
    bleu: of the run's outputs, 0 to 100.
    input_loss: L_input, bits per token; 0 for a method without a proxy input. It can come out below 0 when
        it is estimated from draws.

    Raises:
        UserError: a number outside its range, or not finite.
    """

    name: str
    nat_loss: float | int
    similarity: float | int
    bleu: float | int
    input_loss: float | int = 0.0

    def __post_init__(self) -> None:
        checks.number(f"{self.name}: nat_loss", self.nat_loss, 0, unit="bits per token")
        checks.number(f"{self.name}: similarity", self.similarity, 0, 100)
        checks.number(f"{self.name}: bleu", self.bleu, 0, 100)
        for loss in ("nat_loss", "input_loss"):
            if not np.isfinite(getattr(self, loss)):
                raise UserError(f"{self.name}: {loss} must be a finite number; got {getattr(self, loss)!r}")

    def target_loss(self, beta: float | int) -> float:
        """L̂_target = −β S̄, in bits per token when β is in bits per BLEU point."""
        return -beta * self.similarity

    def total(self, beta: float | int) -> float:
        """L̂_MPLE."""
        return self.nat_loss + self.target_loss(beta) + self.input_loss

    def metrics(self, beta: float | int) -> dict[str, float]:
        """One row of a table like Table 2, for a run's record."""
        return {
            "nat_loss_bits_per_token": float(self.nat_loss),
            "target_loss_bits_per_token": self.target_loss(beta),
            "input_loss_bits_per_token": float(self.input_loss),
            "mple_loss_bits_per_token": self.total(beta),
            "bleu": float(self.bleu),
        }


@dataclass(frozen=True)
class MpleTable:
    """Rows to compare, n of them.

    The unit matters to the sum: β is per BLEU point in the unit of the losses. The paper's tables do not
    state theirs. `DynamicKD.beta` is in nats, so the same β weighs 1/ln 2 times as much there.

    Raises:
        UserError: no rows.
    """

    rows: tuple[MpleLoss, ...]

    def __post_init__(self) -> None:
        if not self.rows:
            raise UserError("a table of L_MPLE must have at least one row; got none")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(row.name for row in self.rows)

    @property
    def bleu(self) -> Float[np.ndarray, "n"]:
        return self._column("bleu")

    def parts(self, beta: float | int) -> dict[str, Float[np.ndarray, "n"]]:
        """The summands of L̂_MPLE, in the order of `PARTS`."""
        checks.number("beta", beta, 0, unit="bits per BLEU point")
        columns = (self._column("nat_loss"), -beta * self._column("similarity"), self._column("input_loss"))
        return dict(zip(PARTS, columns, strict=True))

    def total(self, beta: float | int) -> Float[np.ndarray, "n"]:
        """L̂_MPLE of every row."""
        return np.sum(list(self.parts(beta).values()), axis=0)

    def averaged(self) -> "MpleTable":
        """One row a method, the mean over its runs; methods in order of their first run.

        Runs of one method are not independent points: a correlation over methods is of these means.
        """
        groups: dict[str, list[MpleLoss]] = {}
        for row in self.rows:
            groups.setdefault(row.name, []).append(row)
        fields = ("nat_loss", "similarity", "bleu", "input_loss")
        return MpleTable(
            tuple(
                MpleLoss(name, *(float(np.mean([getattr(row, f) for row in rows])) for f in fields))
                for name, rows in groups.items()
            )
        )

    def _column(self, name: str) -> Float[np.ndarray, "n"]:
        return np.array([getattr(row, name) for row in self.rows], np.float64)
