"""T first, then a Z that reveals part of it: Q(T | X) Q(Z | T, X), Eq. 18 of the paper. GLAT, Dynamic KD."""

from dataclasses import dataclass

from mple.proxy_input import ProxyInput
from mple.proxy_target import ProxyTarget
from mple.snapshot import Snapshot
from mple.types import Batch, DecoderInput, Target


@dataclass(frozen=True)
class TargetFirst:
    """Choose T under a fully masked Z*, then Z given T (App. F: Z is ignored when T is chosen)."""

    target: ProxyTarget
    input: ProxyInput

    @property
    def candidates(self) -> tuple[str, ...]:
        return self.target.candidates

    @property
    def says_blank(self) -> bool:
        return self.target.says_blank

    def __call__(self, batch: Batch, snapshot: Snapshot) -> tuple[Target, DecoderInput, Snapshot]:
        target = self.target(batch, snapshot)
        snapshot = snapshot.on(target.lengths)
        return target, self.input(batch, target, snapshot), snapshot
