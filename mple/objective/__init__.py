"""Objectives: the M-step's loss on (T, Z).

An objective is called as `objective(output, target, inputs)` and returns named sums and counts; "nats" is
what is minimised, "nll" the plain negative log-likelihood for the log. `count(target, inputs)` is what "nats"
will be divided by, known before the decoder runs: an update split over batches and processes sums it first.
"""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from mple.types import DecoderInput, DecoderOutput, Mean, Target


@runtime_checkable
class Objective(Protocol):
    def count(self, target: Target, inputs: DecoderInput) -> Float[Tensor, ""]: ...

    def __call__(self, output: DecoderOutput, target: Target, inputs: DecoderInput) -> dict[str, Mean]: ...
