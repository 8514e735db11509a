"""The length factor λ that gives the best validation BLEU (App. D, "Decoding Tricks")."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from mple import checks
from mple.checks import UserError
from mple.data.corpus import tracked
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
        steps = int((self.high - self.low) / self.step + 1e-9)
        return [round(self.low + i * self.step, 6) for i in range(steps + 1)]

    def __call__(self, run: Finished) -> dict[str, float]:
        decoding = getattr(run.module, "decoding", None)
        if not isinstance(decoding, Decode):
            raise UserError(
                "estimator=length_factor needs decoding=length_parallel, npd or mask_predict; "
                f"got {type(decoding).__name__}"
            )
        _, sources, references = run.data.text("valid")
        found: dict[float, float] = {}
        for factor in tracked(self.factors(), "length factors"):
            lengths = dataclasses.replace(decoding.lengths, factor=factor)  # type: ignore[type-var]
            outputs = run.translate("valid", dataclasses.replace(decoding, lengths=lengths))
            found[factor] = run.module.score("valid", sources, references, outputs)["tokenised_bleu"]
        best = max(found, key=lambda factor: (found[factor], -abs(factor - 1)))
        report = {f"valid_bleu_at_{factor:g}": bleu for factor, bleu in found.items()}
        return report | {"best_factor": best}
