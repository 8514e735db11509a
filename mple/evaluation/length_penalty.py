"""The length penalty of beam search that gives the best validation BLEU (App. F, for Zh-En's teachers)."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from mple import checks
from mple.checks import UserError
from mple.decoding.beam import Beam
from mple.evaluation.finished import Finished
from mple.evaluation.length_factor import grid, tuned


@dataclass(frozen=True)
class LengthPenalty:
    """Validation BLEU of an autoregressive model at every length penalty from `low` to `high`, and the best
    one; of equal ones the nearest to 1.

    Raises:
        UserError: a value out of range, or a run that no beam search decodes.
    """

    decodes: ClassVar[bool] = True

    low: float | int = 0.4
    high: float | int = 1.6
    step: float | int = 0.2

    def __post_init__(self) -> None:
        checks.number("estimator.low", self.low, 0, 10)
        checks.number("estimator.high", self.high, self.low, 10)
        checks.number("estimator.step", self.step, 0.001, 1)

    def __call__(self, run: Finished) -> dict[str, float]:
        beam = getattr(run.module, "decoding", None)
        if not isinstance(beam, Beam):
            raise UserError(
                "estimator=length_penalty needs an autoregressive run, which beam search decodes; "
                f"got {run.name}, decoded by {type(beam).__name__}"
            )

        def with_penalty(penalty: float) -> Beam:
            return dataclasses.replace(beam, length_penalty=penalty)

        report, best = tuned(run, grid(self.low, self.high, self.step), with_penalty, "length penalties")
        return report | {"best_length_penalty": best}
