"""GLAT's input: reveal more of T where the model still gets more of it wrong (App. E.6).

    l = ⌊λ · distance(T, argmax P(. | Z*, X))⌋ tokens are revealed

Which ones they are is the other choice, and with it Table 3 has these rows:

    GLAT                        distance: hamming        choice: uniform
    GLAT + Levenshtein          distance: levenshtein    choice: uniform
    GLAT + mask by P_ref        distance: hamming        choice: p_ref
    GLAT + mask by 1 − P_ref    distance: hamming        choice: one_minus_p_ref
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import torch
from jaxtyping import Float
from torch import Tensor

from mple import checks
from mple.proxy_input import reveal
from mple.proxy_input.distance import DISTANCES
from mple.snapshot import Snapshot
from mple.types import PAD, Batch, DecoderInput, Mean, Target

_NEVER = -1e6
"""Log-weight of a token of weight 0: below every float32 logarithm, and small enough for float64 to keep the
draw beside it."""


def log1mexp(log_p: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """log(1 − p) from log p ≤ 0, −∞ at p = 1, to the precision of the type at both ends.

    Source: Mächler (2012), "Accurately computing log(1 − exp(−|a|))".
    """
    near_one = log_p > -math.log(2)
    return torch.where(near_one, torch.log(-torch.expm1(log_p)), torch.log1p(-torch.exp(log_p)))


CHOICES: dict[str, Callable[[Tensor], Tensor] | None] = {
    "uniform": None,
    "p_ref": lambda log_p: log_p,
    "one_minus_p_ref": log1mexp,
}
"""Log-weight of a token from its log P(t_i | Z*, X); None where all weigh the same."""


@dataclass(frozen=True)
class Glancing:
    """Reveal ⌊λ·distance⌋ of T's tokens, the distance that of the model's look-ahead from T.

    start, stop: λ falls linearly from `start` to `stop` over `over` of the run, then stays.
    over: share of the run's updates, 1 for all.
    distance: `hamming`, the tokens that are wrong, or `levenshtein`, the edits away from T.
    choice: which tokens are revealed. `uniform`: every set of l is equally likely. `p_ref`: one after the
        other, each time with probabilities proportional to P(t_i | Z*, X) among those left, so the easy ones
        are shown; `one_minus_p_ref`: the same with 1 − P(t_i | Z*, X), so the difficult ones are.
    look_ahead_dropout: whether dropout is on in the look-ahead while training.

    A token that the model is certain of (P = 1 in float32) weighs 0 under `one_minus_p_ref`. It is never
    shown: l is at most the number of wrong tokens, and each of those weighs at least 1/2. Were l greater,
    such tokens would come last, in random order.

    Without `look_ahead_dropout` the look-ahead is a decoder pass of its own (one that Dynamic KD made, with
    dropout, is not used), from the encoder states of the training pass.

    Logs `glancing_ratio` (λ), `revealed` (share of the tokens) and, under the distance's name, the distance
    per token.

    Raises:
        UserError: a value out of range, or an unknown `distance` or `choice`.

    Source: Qian et al. (2021a); λ from 0.5 to 0.3. Differences from its code: content tokens only (there bos
    and eos are counted, glanced and in the loss); λ is tied to the length of the run (there to 300,000
    updates, so a shorter run never arrives); the two passes have dropout masks of their own (there the same).
    """

    start: float | int = 0.5
    stop: float | int = 0.3
    over: float | int = 1.0
    distance: str = "hamming"
    choice: str = "uniform"
    look_ahead_dropout: bool = True

    def __post_init__(self) -> None:
        checks.share("proxy_input.start", self.start)
        checks.share("proxy_input.stop", self.stop)
        checks.number("proxy_input.over", self.over, 1e-9, 1)
        checks.one_of("proxy_input.distance", self.distance, DISTANCES)
        checks.one_of("proxy_input.choice", self.choice, CHOICES)

    @property
    def law(self) -> str:
        if not self.start and not self.stop:
            return "none"
        return "given_count" if self.choice == "uniform" else self.choice

    def ratio(self, step: int, total: int) -> float:
        """λ at an update: a pure function of its number."""
        progress = min(1.0, step / (self.over * total)) if total else 1.0
        return self.start + (self.stop - self.start) * progress

    def __call__(self, batch: Batch, target: Target, snapshot: Snapshot) -> DecoderInput:
        look = snapshot if self.look_ahead_dropout else snapshot.without_dropout()
        priority = look.draws.uniform("glancing", look.ids, target.tokens.shape[1])
        log_weight = CHOICES[self.choice]
        if log_weight is not None:  # before the predictions, which the same reading gives
            priority = arrivals(priority, log_weight(look.log_probs(target.tokens)))
        said, wanted = (x.masked_fill(~target.counts, PAD) for x in (look.predictions, target.tokens))
        distance = DISTANCES[self.distance](said, wanted)
        ratio = self.ratio(snapshot.step, snapshot.total)
        counts = glanced_count(distance, ratio)
        lengths = target.lengths.sum().float()
        log = {
            "glancing_ratio": Mean.of(torch.full_like(distance, ratio, dtype=torch.float32)),
            "revealed": Mean(counts.sum().float(), lengths),
            self.distance: Mean(distance.sum().float(), lengths),
        }
        return reveal(target, counts, priority, log)


def glanced_count(distance: torch.Tensor, ratio: float) -> torch.Tensor:
    """⌊λ·distance⌋ in exact arithmetic: λ is the fraction that its float stands for, so that 0.3 · 10 is 3
    and 1/3 · 3, as in update 50 of 60, is 1."""
    exact = Fraction(ratio).limit_denominator(10**8)
    return distance * exact.numerator // exact.denominator


def arrivals(uniform: Float[Tensor, "B L"], log_weights: Float[Tensor, "B L"]) -> Float[Tensor, "B L"]:
    """Logarithms of arrival times: item i arrives after Exponential(w_i). The first l to arrive are l drawn
    one after the other without replacement, with probabilities proportional to the weights of those left.

    The draws are float64 numbers in [0, 1). Items of weight 0 arrive after all others, in the order of their
    draws.

    Source: Efraimidis and Spirakis (2006); with negated signs it is the Gumbel top-k trick.
    """
    waited = -torch.log1p(-uniform.clamp(min=2.0**-54))  # Exponential(1), never 0
    return waited.log() - log_weights.to(uniform.dtype).clamp(min=_NEVER)
