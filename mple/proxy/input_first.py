"""Z first, then the T that the model says best given Z: Q(Z | X) Q(T | Z, X), Eq. 6 of the paper.

A masked model with aligned targets (CMLM with AXE or OaXE): part of the reference R is shown, and the rest
is laid out by the predictions that the model makes with that part in view.
"""

from dataclasses import dataclass

from mple.checks import UserError
from mple.proxy_input import ProxyInput
from mple.proxy_target import AlignedTarget, ProxyTarget
from mple.snapshot import Snapshot
from mple.types import Batch, DecoderInput, Target


@dataclass(frozen=True)
class InputFirst:
    """Choose the reference R, draw Z from it, then align T to log P(. | Z, X).

    T is aligned by the very pass that is trained on, so the M-step runs none of its own. With `blank` as
    input this is `target_first` for one decoder pass instead of two; the alignment then sees the dropout of
    the training pass.

    Raises:
        UserError: the target depends on no predictions (raw, kd) or chooses whole texts (dynamic_kd), so that
            there is nothing to align once Z is given.

    Source: Ghazvininejad et al. (2020) and Du et al. (2021) train CMLMs so. The paper's own experiments do
    not: for all methods of App. E its order is T, then Z given T (Eq. 18), which is `target_first`.
    """

    target: ProxyTarget
    input: ProxyInput

    def __post_init__(self) -> None:
        if not isinstance(self.target, AlignedTarget):
            raise UserError(
                "proxy=input_first draws Z first and then aligns T given Z, so proxy_target must be one that "
                f"aligns (axe, oaxe), or proxy be target_first; got {type(self.target).__name__}"
            )

    @property
    def candidates(self) -> tuple[str, ...]:
        return self.target.candidates

    @property
    def says_blank(self) -> bool:
        return self.target.says_blank

    def __call__(self, batch: Batch, snapshot: Snapshot) -> tuple[Target, DecoderInput, Snapshot]:
        assert isinstance(self.target, AlignedTarget)
        reference = self.target.reference(batch, snapshot)
        snapshot = snapshot.on(reference.lengths)
        inputs = self.input(batch, reference, snapshot)  # Z
        snapshot = snapshot.given(inputs)
        return self.target.align(reference, snapshot), inputs, snapshot  # T given Z
