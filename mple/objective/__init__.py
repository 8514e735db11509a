"""Objectives: the M-step's loss on (T, Z).

An objective is called as `objective(output, target, inputs)` and returns named sums and counts; "nats" is
the training loss, "nll" the plain negative log-likelihood for the log. `reads(target, inputs)` is True at the
positions whose features it uses. `count(target, inputs)` is the denominator of "nats", known before the
decoder runs: an update split over batches and processes sums it first.
"""

from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor

from mple.types import DecoderInput, DecoderOutput, Mean, Target


@runtime_checkable
class Objective(Protocol):
    def reads(self, target: Target, inputs: DecoderInput) -> Bool[Tensor, "B L"]: ...

    def count(self, target: Target, inputs: DecoderInput) -> Float[Tensor, ""]: ...

    def __call__(self, output: DecoderOutput, target: Target, inputs: DecoderInput) -> dict[str, Mean]: ...
