"""Proxy inputs Z: what the decoder sees beside X.

A proxy input is called as `proxy_input(batch, target, snapshot)`, with the snapshot on T's canvas, and
returns a `DecoderInput`. It reveals content of T at some positions and leaves `<mask>` at the others.
"""

from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from mple.snapshot import Snapshot
from mple.types import Batch, DecoderInput, Target, decoder_input


@runtime_checkable
class ProxyInput(Protocol):
    @property
    def law(self) -> str:
        """Name of log Q(Z | T, X) in `mple.estimator.input_loss.LAWS`; "none" where Z hints nothing."""

    def __call__(self, batch: Batch, target: Target, snapshot: Snapshot) -> DecoderInput: ...


def reveal(
    target: Target, counts: Int[Tensor, "B"], priority: Float[Tensor, "B L"], log: dict | None = None
) -> DecoderInput:
    """Z that shows, of each sentence, the `counts` content tokens of T with the smallest `priority`.

    With independent uniform priorities every subset of that size is equally likely.
    """
    order = priority.masked_fill(~target.counts, float("inf")).argsort(1).argsort(1)
    return decoder_input(target.tokens, target.counts, order < counts.unsqueeze(1), log)
