"""CMLM's input: as many tokens of T as chance will have it, anything from none to all but one (App. E.6).

l = ⌊λL⌋ tokens are revealed,     λ ~ U(0, 1)
"""

from dataclasses import dataclass
from typing import ClassVar

from mple.proxy_input import reveal
from mple.snapshot import Snapshot
from mple.types import Batch, DecoderInput, Mean, Target


@dataclass(frozen=True)
class UniformMask:
    """Reveal l tokens of T, every l from 0 to L − 1 equally likely, and every set of l tokens.

    The loss is on masked tokens only (the objective's copy mechanism), so there always is one, and Z* itself,
    which decoding starts from, is among the inputs seen.

    Logs `revealed`, the share of the tokens.

    Source: Ghazvininejad et al. (2019), without iterations. The paper says both l = λL and l ∈ [1, L], of
    which l = L would leave nothing to learn. Differences from its code: there 1 to L − 1 tokens are masked,
    so never all of them; fairseq masks 1 to L, as here.
    """

    law: ClassVar[str] = "uniform_count"

    def __call__(self, batch: Batch, target: Target, snapshot: Snapshot) -> DecoderInput:
        ratio = snapshot.draws.uniform("uniform_mask_ratio", snapshot.ids, 1).squeeze(1)  # λ, float64
        counts = (ratio * target.lengths).long()
        priority = snapshot.draws.uniform("uniform_mask", snapshot.ids, target.tokens.shape[1])
        log = {"revealed": Mean(counts.sum().float(), target.lengths.sum().float())}
        return reveal(target, counts, priority, log)
