"""Z = a fully masked canvas: the vanilla NAT's input, which hints nothing (App. E.5; L_input = 0)."""

from dataclasses import dataclass
from typing import ClassVar

from mple.snapshot import Snapshot
from mple.types import Batch, DecoderInput, Target


@dataclass(frozen=True)
class Blank:
    """Z = Z*, `<mask>` at every position of T's canvas, in training as in decoding."""

    law: ClassVar[str] = "none"

    def __call__(self, batch: Batch, target: Target, snapshot: Snapshot) -> DecoderInput:
        return snapshot.inputs
