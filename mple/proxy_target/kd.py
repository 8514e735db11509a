"""T = what an autoregressive teacher says: sequence-level knowledge distillation (App. E.2)."""

from dataclasses import dataclass
from typing import ClassVar

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

    def __call__(self, batch: Batch, snapshot: Snapshot) -> Target:
        assert batch.tgt_candidates is not None
        return laid_out(batch.tgt_candidates[:, batch.candidate_names.index(self.teacher)])
