"""The E-step: which of T and Z is chosen first.

A `Proxy` is called as `proxy(batch, snapshot)` and returns `(target, inputs, snapshot)`: T, Z and the
snapshot on T's canvas, whose `decode` the M-step calls (so that a pass made with gradient is used again).
"""

from typing import Protocol, runtime_checkable

from mple.snapshot import Snapshot
from mple.types import Batch, DecoderInput, Target


@runtime_checkable
class Proxy(Protocol):
    @property
    def candidates(self) -> tuple[str, ...]:
        """Names of the target candidates that batches must carry ("raw" or teachers)."""

    @property
    def says_blank(self) -> bool:
        """Whether T may hold `<blank>`, so that decoding may say it."""

    def __call__(self, batch: Batch, snapshot: Snapshot) -> tuple[Target, DecoderInput, Snapshot]: ...
