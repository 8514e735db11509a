"""C_i: what each step of an iterative refinement cannot know, since it too predicts tokens independently.

    C_i = Σ_k H(y_k | X, Y^(i−1)) − H(Y | X, Y^(i−1))                       Eq. 17, App. A

    Refinement(iterations=4)(model, batches)         # bits, one C_i for each step

Y^(i−1) is what step i sees: Y with all but l_i tokens masked, l_i by mask-predict's schedule, so l_1 = 0 and
C_1 is C. Both entropies are taken from one model that was trained with masks, as V-entropies:

    Σ_k H(y_k | X, Z)    all hidden tokens at once           −Σ_k log P(y_k | Z, X)
    H(Y | X, Z)          one token after the other           −Σ_k log P(y_k | Z ∪ {y before k}, X)

The second is the chain rule in a random order: the model is its own autoregressive one.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mple import checks
from mple.checks import UserError
from mple.decoding.fill import log_probs_of
from mple.decoding.mask_predict import SCHEDULES
from mple.estimator.total_correlation import SentenceLosses, TotalCorrelation
from mple.model.nat import NAT
from mple.randomness import Draws
from mple.types import PAD, Batch, EncoderOutput, decoder_input


@dataclass(frozen=True)
class Refinement:
    """Ĉ_i for i = 1 … `iterations`, on the `tgt_tokens` of the batches.

    iterations, schedule: how many tokens each step sees, as in `decoding.fill` (mask-predict).
    draws: choices of seen tokens and orders for each sentence; the losses are means over them.
    seed: of these, which are functions of seed, draw and line id.
    correlation: makes intervals of the losses.

    Decoder passes: for each step, as many as the longest sentence has hidden tokens. The model is put into
    eval mode. A model that was never trained with masks gives numbers that mean nothing (`needs_masks`).

    Raises:
        UserError: a value out of range, or no batch.

    Source: App. A defines C_i and measures none. Differences: the tokens seen are *data* tokens at random
    places, as in the training of a masked model, not the model's own surest ones. (A Y^(i−1) that is a
    function of X tells nothing about Y beyond X, and then C_i = C.) The AT of App. B is replaced by the model
    itself in a random order, since no AT reads Z; where the model's conditionals contradict each other the
    estimate is off by that and can be negative: it is reported, not clamped.
    """

    iterations: int = 4
    schedule: str = "original"
    draws: int = 1
    seed: int = 0
    correlation: TotalCorrelation = field(default_factory=TotalCorrelation)

    needs_masks: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checks.whole("estimator.iterations", self.iterations, 1, "steps", high=1000)
        checks.one_of("estimator.schedule", self.schedule, SCHEDULES)
        checks.whole("estimator.draws", self.draws, 1, high=10_000)
        checks.seed("estimator.seed", self.seed)

    def __call__(self, model: NAT, batches: Iterable[Batch]) -> dict[str, float]:
        """`step<i>_total_correlation_bits_per_token`, …: the metrics of `TotalCorrelation` for each step,
        `nat_loss` being that of all hidden tokens at once and `at_loss` that of one after the other. Per
        token means per target token, seen ones included."""
        batches = list(batches)
        if not batches:
            raise UserError("C_i needs at least one batch of sentences; got none")
        tokens = np.concatenate([batch.tgt_lengths.cpu().numpy() for batch in batches])
        found: dict[str, float] = {}
        for step in range(1, self.iterations + 1):
            losses = torch.cat([self.losses(model, batch, step) for batch in batches], 1).cpu().numpy()
            at_once, one_by_one = (
                SentenceLosses(name, "", "", nats, tokens)
                for name, nats in zip(("at once", "one by one"), losses, strict=True)
            )
            metrics = self.correlation(at_once, one_by_one)
            found |= {f"step{step}_{key}": value for key, value in metrics.items()}
        return found

    @torch.no_grad()
    def losses(self, model: NAT, batch: Batch, step: int) -> Float[Tensor, "2 B"]:
        """−log P(Y | X, Y^(i−1)) of each sentence at step i = `step`, in nats (float64): all hidden tokens at
        once, and one after the other."""
        encoder_out = model.eval().encode(batch.src_tokens)
        lengths = batch.tgt_lengths
        hidden = SCHEDULES[self.schedule](lengths, step - 1, self.iterations)
        width = batch.tgt_tokens.shape[1]
        found = []
        for draw in range(self.draws):
            priority = Draws(self.seed, draw).uniform("refinement", batch.ids, width)
            priority = priority.masked_fill(batch.tgt_tokens == PAD, torch.inf)
            rank = priority.argsort(1).argsort(1)  # which token is seen first, second, …
            found.append(_losses(model, encoder_out, batch.tgt_tokens, rank, lengths - hidden))
        return torch.stack(found).mean(0)


def _losses(
    model: NAT,
    encoder_out: EncoderOutput,
    tokens: Int[Tensor, "B L"],
    rank: Int[Tensor, "B L"],
    seen: Int[Tensor, "B"],
) -> Float[Tensor, "2 B"]:
    """At once and one by one, when the tokens of the `seen` lowest ranks are seen to begin with."""
    is_content = tokens != PAD
    lengths = is_content.sum(1)
    found = torch.zeros(2, len(tokens), dtype=torch.float64, device=tokens.device)
    for more in range(int((lengths - seen).max())):
        row = (seen + more < lengths).nonzero().squeeze(1)  # those that still have something hidden
        now = (seen[row] + more).unsqueeze(1)
        inputs = decoder_input(tokens[row], is_content[row], rank[row] < now)
        is_next = rank[row] == now
        wanted = is_content[row] & (rank[row] >= now) if more == 0 else is_next
        nats = torch.zeros(wanted.shape, dtype=torch.float64, device=tokens.device)
        output = model.decode(inputs, encoder_out.rows(row))
        nats[wanted] = -log_probs_of(output, tokens[row], wanted).double()
        found[1, row] += nats.masked_fill(~is_next, 0).sum(1)
        if more == 0:
            found[0, row] = nats.sum(1)
    return found
