"""GLAT's input: reveal more of T where the model still gets more of it wrong (App. E.6).

l = ⌊λ · Hamming(T, argmax P(. | Z*, X))⌋ tokens, chosen uniformly, are revealed.
"""

import math
from dataclasses import dataclass

import torch

from mple import checks
from mple.proxy_input import reveal
from mple.snapshot import Snapshot
from mple.types import Batch, DecoderInput, Mean, Target


@dataclass(frozen=True)
class Glancing:
    """Reveal ⌊λH⌋ of T's tokens, H how many of them the model's look-ahead gets wrong.

    start, stop: λ falls linearly from `start` to `stop` over `over` of the run, then stays.
    over: share of the run's updates, 1 for all.

    Logs `glancing_ratio` (λ), `revealed` (share of the tokens) and `hamming` (share of wrong tokens).

    Source: Qian et al. (2021a); λ from 0.5 to 0.3. Differences from its code: content tokens only (there bos
    and eos are counted, glanced and in the loss); λ is tied to the length of the run (there to 300,000
    updates, so a shorter run never arrives).
    """

    start: float | int = 0.5
    stop: float | int = 0.3
    over: float | int = 1.0

    def __post_init__(self) -> None:
        checks.share("proxy_input.start", self.start)
        checks.share("proxy_input.stop", self.stop)
        checks.number("proxy_input.over", self.over, 1e-9, 1)

    def ratio(self, step: int, total: int) -> float:
        """λ at an update: a pure function of its number."""
        progress = min(1.0, step / (self.over * total)) if total else 1.0
        return self.start + (self.stop - self.start) * progress

    def __call__(self, batch: Batch, target: Target, snapshot: Snapshot) -> DecoderInput:
        ratio = self.ratio(snapshot.step, snapshot.total)
        wrong = ((snapshot.predictions != target.tokens) & target.counts).sum(1)
        counts = glanced_count(wrong, ratio)
        uniform = snapshot.draws.uniform("glancing", snapshot.ids, target.tokens.shape[1])
        lengths = target.lengths.sum().float()
        log = {
            "glancing_ratio": Mean.of(torch.full_like(wrong, ratio, dtype=torch.float32)),
            "revealed": Mean(counts.sum().float(), lengths),
            "hamming": Mean(wrong.sum().float(), lengths),
        }
        return reveal(target, counts, uniform, log)


def glanced_count(distance: torch.Tensor, ratio: float) -> torch.Tensor:
    """⌊λ·distance⌋, in exact arithmetic: λ is taken to the nearest 1e-9, so that 0.3 · 10 is 3."""
    scale = 10**9
    return distance * math.floor(ratio * scale + 0.5) // scale
