"""CMLM's input with a fixed masking ratio: always the same share of T is revealed (App. E.6).

l = ⌊0.2 L⌋ tokens are revealed
"""

from dataclasses import dataclass

from mple import checks
from mple.proxy_input import reveal
from mple.proxy_input.glancing import glanced_count
from mple.snapshot import Snapshot
from mple.types import Batch, DecoderInput, Mean, Target


@dataclass(frozen=True)
class FixedMask:
    """Reveal ⌊ratio · L⌋ tokens of T, every set of that size equally likely.

    ratio: share of T that is revealed, 0.2 in the paper; the others are masked and learned. 0 is the blank
        input.

    Short sentences show nothing: with 0.2, those below 5 tokens. Logs `revealed`, the share of the tokens.

    Raises:
        UserError: `ratio` is not from 0 to 0.99; 1 would leave nothing to learn.

    Source: Qian et al. (2021a), who compare it with GLAT; App. E.6 of the paper. Difference: the public code
    rounds to the nearest number.
    """

    ratio: float | int = 0.2

    def __post_init__(self) -> None:
        checks.number("proxy_input.ratio", self.ratio, 0, 0.99)

    @property
    def law(self) -> str:
        return "given_count" if self.ratio else "none"

    def __call__(self, batch: Batch, target: Target, snapshot: Snapshot) -> DecoderInput:
        counts = glanced_count(target.lengths, float(self.ratio))
        priority = snapshot.draws.uniform("fixed_mask", snapshot.ids, target.tokens.shape[1])
        log = {"revealed": Mean(counts.sum().float(), target.lengths.sum().float())}
        return reveal(target, counts, priority, log)
