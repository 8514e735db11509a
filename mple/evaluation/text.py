"""BLEU and the other metrics of text, of a run's outputs with any decoding."""

from dataclasses import dataclass
from typing import ClassVar

from mple import checks
from mple.data.text import SPLITS
from mple.evaluation.finished import Finished


@dataclass(frozen=True)
class Text:
    """Decodes a split and scores it as the run itself was scored.

    split: "valid" or "test".
    """

    decodes: ClassVar[bool] = True

    split: str = "test"

    def __post_init__(self) -> None:
        checks.one_of("estimator.split", self.split, SPLITS[1:])

    def __call__(self, run: Finished) -> dict[str, float]:
        _, sources, references = run.data.text(self.split)
        outputs = run.translate(self.split, run.module.decoding)
        return run.module.score(self.split, sources, references, outputs)
