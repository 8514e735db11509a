"""What is measured on finished runs. An evaluation, called as `evaluation(run)`, returns metrics by name.

run = Finished.open(Path("outputs/glat_dynkd/multi30k_de-en/1a2b3c4d/seed1"))
Text(split="test")(run)                                      # BLEU with another decoding than in training
"""

from typing import ClassVar, Protocol, runtime_checkable

from mple.evaluation.finished import Finished


@runtime_checkable
class Evaluation(Protocol):
    decodes: ClassVar[bool]
    """Whether it measures what the run decodes, so that `decoding=` changes it. One that prints tables of its
    own besides says so with `is_shown = True`, so that its metrics are only kept."""

    def __call__(self, run: Finished) -> dict[str, float]: ...
