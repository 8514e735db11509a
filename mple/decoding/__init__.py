"""Decodings: from X to sentences. Called as `decoding(model, src_tokens)`, they return `Hypotheses`."""

from typing import Protocol, runtime_checkable

from jaxtyping import Int
from torch import Tensor

from mple.model.nat import NAT
from mple.types import Hypotheses


@runtime_checkable
class Decoding(Protocol):
    def __call__(self, model: NAT, src_tokens: Int[Tensor, "B S"]) -> Hypotheses: ...
