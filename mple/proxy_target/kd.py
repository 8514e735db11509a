"""T = what an autoregressive teacher says: sequence-level knowledge distillation (App. E.2)."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Int
from torch import Tensor

from mple.proxy_target import laid_out
from mple.snapshot import Snapshot
from mple.types import Batch, Target


@dataclass(frozen=True)
class KD:
    """T = argmax_Y P_AT(Y | X), found by the `teacher`'s beam search before training.

    Source: Kim & Rush (2016); the paper's teacher is "base" with beam 5.
    """

    says_blank: ClassVar[bool] = False

    teacher: str = "base"

    @property
    def candidates(self) -> tuple[str, ...]:
        return (self.teacher,)

    def text(self, batch: Batch) -> Int[Tensor, "B T"]:
        assert batch.tgt_candidates is not None
        return batch.tgt_candidates[:, batch.candidate_names.index(self.teacher)]

    def __call__(self, batch: Batch, snapshot: Snapshot) -> Target:
        return laid_out(self.text(batch))
