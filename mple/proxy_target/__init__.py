"""Proxy targets T: what the model is trained to say instead of Y.

A proxy target is called as `proxy_target(batch, snapshot)` and returns a `Target`. It never changes its
inputs, takes no gradient, and asks the snapshot only if T depends on the model. One file each.
"""

from typing import ClassVar, Protocol, runtime_checkable

from jaxtyping import Int
from torch import Tensor

from mple.checks import UserError
from mple.snapshot import Snapshot
from mple.types import PAD, Batch, Target


@runtime_checkable
class ProxyTarget(Protocol):
    says_blank: ClassVar[bool]
    """Whether T may hold `<blank>`, the empty token."""

    @property
    def candidates(self) -> tuple[str, ...]:
        """Names of the target candidates that batches must carry ("raw" or teachers); () for none."""

    def __call__(self, batch: Batch, snapshot: Snapshot) -> Target: ...


@runtime_checkable
class TextTarget(ProxyTarget, Protocol):
    """A T that no model chooses: a text that stands beside the source, which an AT can learn as well."""

    def text(self, batch: Batch) -> Int[Tensor, "B T"]: ...


@runtime_checkable
class AlignedTarget(ProxyTarget, Protocol):
    """A T that is a reference R laid anew on R's canvas, where the model's predictions suggest.

    Its `__call__` is `reference`, then `align` under the fully masked Z*. An order that chooses Z first calls
    the two itself, with `snapshot.given(Z)` between them.
    """

    @property
    def reference(self) -> ProxyTarget:
        """What chooses R: raw text, a teacher's, or Dynamic KD's choice."""

    def align(self, reference: Target, snapshot: Snapshot) -> Target:
        """R laid out by the predictions of `snapshot`, whose canvas must be R's. Takes no gradient, even
        where the snapshot has one."""


def check_reference(reference: ProxyTarget) -> None:
    """Refuses a reference R that is laid anew itself.

    Raises:
        UserError: `reference` is an `AlignedTarget`.
    """
    if isinstance(reference, AlignedTarget):
        raise UserError(
            "proxy_target.reference must choose a text (raw, kd, dynamic_kd); "
            f"got {type(reference).__name__}, which is aligned itself"
        )


def laid_out(tokens: Int[Tensor, "B T"]) -> Target:
    """A sentence laid on a canvas of its own length, every token counted."""
    is_content = tokens != PAD
    width = int(is_content.sum(1).max())
    return Target(tokens[:, :width], is_content[:, :width], reference=tokens)
