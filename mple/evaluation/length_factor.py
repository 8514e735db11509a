"""The length factor λ that gives the best validation BLEU (App. D, "Decoding Tricks")."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from mple import checks
from mple.checks import UserError
from mple.data.corpus import tracked
from mple.decoding.beam import Beam
from mple.decoding.decode import Decode
from mple.evaluation.finished import Finished


@dataclass(frozen=True)
class LengthFactor:
    """Validation BLEU at every λ from `low` to `high`, and the best λ; of equal ones the nearest to 1.

    Needs a decoding with candidates of length (length_parallel, npd, mask_predict).
    """

    decodes: ClassVar[bool] = True

    low: float | int = 0.9
    high: float | int = 1.15
    step: float | int = 0.05

    def __post_init__(self) -> None:
        checks.number("estimator.low", self.low, 0.1, 10)
        checks.number("estimator.high", self.high, self.low, 10)
        checks.number("estimator.step", self.step, 0.001, 1)

    def factors(self) -> list[float]:
        return grid(self.low, self.high, self.step)

    def __call__(self, run: Finished) -> dict[str, float]:
        decoding = getattr(run.module, "decoding", None)
        if not isinstance(decoding, Decode):
            raise UserError(
                "estimator=length_factor needs decoding=length_parallel, npd or mask_predict; "
                f"got {type(decoding).__name__}"
            )

        def with_factor(factor: float) -> Decode:
            lengths = dataclasses.replace(decoding.lengths, factor=factor)  # type: ignore[type-var]
            return dataclasses.replace(decoding, lengths=lengths)

        report, best = tuned(run, self.factors(), with_factor, "length factors")
        return report | {"best_factor": best}


def grid(low: float, high: float, step: float) -> list[float]:
    """`low`, `low` + `step` and so on, up to `high`."""
    return [round(low + i * step, 6) for i in range(int((high - low) / step + 1e-9) + 1)]


def tuned(
    run: Finished, values: list[float], decoding: Callable[[float], Decode | Beam], label: str
) -> tuple[dict[str, float], float]:
    """Validation BLEU with the decoding of each value, and the best value; of equal ones the nearest to 1."""
    _, sources, references = run.data.text("valid")
    bleu: dict[float, float] = {}
    for value in tracked(values, label):
        outputs = run.translate("valid", decoding(value))
        bleu[value] = run.module.score("valid", sources, references, outputs)["tokenised_bleu"]
    best = max(bleu, key=lambda value: (bleu[value], -abs(value - 1)))
    return {f"valid_bleu_at_{value:g}": score for value, score in bleu.items()}, best
