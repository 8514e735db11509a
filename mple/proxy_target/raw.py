"""T = Y: the reference itself (App. E.1 of the paper)."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Int
from torch import Tensor

from mple.proxy_target import laid_out
from mple.snapshot import Snapshot
from mple.types import Batch, Target


@dataclass(frozen=True)
class Raw:
    """Q(T = Y | X) = 1: with a blank Z this is plain maximum likelihood, which loses the conditional total
    correlation of the data (Theorem 1)."""

    says_blank: ClassVar[bool] = False

    @property
    def candidates(self) -> tuple[str, ...]:
        return ()

    def text(self, batch: Batch) -> Int[Tensor, "B T"]:
        return batch.tgt_tokens

    def __call__(self, batch: Batch, snapshot: Snapshot) -> Target:
        return laid_out(self.text(batch))
