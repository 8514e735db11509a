"""Which lengths a sentence is decoded at: the candidates of length parallel decoding and of NPD.

    lengths, log_probs = TopLengths(beam=3, factor=1.05)(model.length, encoder_out, limit=256)

A canvas has max(1, ⌊λL + ½⌋) positions, L the predicted length and λ `factor`, and at most `limit`.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mple import checks
from mple.model.length import LengthPredictor
from mple.types import EncoderOutput


@runtime_checkable
class Lengths(Protocol):
    def __call__(
        self, predictor: LengthPredictor, encoder_out: EncoderOutput, limit: int
    ) -> tuple[Int[Tensor, "B K"], Float[Tensor, "B K"]]:
        """Canvas lengths (1 to `limit`), the predicted one first, and log P(L | X) in nats of the lengths
        they were made from. −∞ marks a slot without a candidate: no sentence has one length twice."""


@dataclass(frozen=True)
class TopLengths:
    """The `beam` most probable lengths, each times λ.

    Lengths that λ makes equal are one candidate, so a λ below 1 may leave fewer than `beam`.

    beam: length candidates, from 1 (argmax) to the number of classes of the length predictor.
    factor: λ, from 0.1 to 10; 1 leaves the predicted lengths as they are.

    Raises:
        UserError: a value out of range; `beam` above the predictor's classes (when called).

    Source: the top lengths are Ghazvininejad et al. (2019)'s; λ is App. D's (Ghazvininejad et al., 2020),
    1 for En-De and 1.05 for Zh-En, tuned on the validation set. Halves are rounded up and the product is
    exact (λ to the nearest 1e-9), where DA-Transformer's code rounds down in floating point.
    """

    beam: int = 3
    factor: float | int = 1.0

    def __post_init__(self) -> None:
        _check(self.beam, self.factor)

    def __call__(
        self, predictor: LengthPredictor, encoder_out: EncoderOutput, limit: int
    ) -> tuple[Int[Tensor, "B K"], Float[Tensor, "B K"]]:
        classes = 2 * predictor.max_offset + 1
        if self.beam > classes:
            raise checks.UserError(
                f"decoding.lengths.beam must be at most {classes}, the classes of the length predictor "
                f"(2 * model.length.max_offset + 1); got {self.beam}"
            )
        lengths, log_probs = predictor.predict(encoder_out, self.beam)
        lengths = scaled(lengths, self.factor, limit)
        return lengths, log_probs.masked_fill(_is_repeated(lengths, log_probs), -torch.inf)


@dataclass(frozen=True)
class WindowLengths:
    """`beam` neighbouring lengths around the most probable one, after that was multiplied by λ.

    beam 3 is −1 … +1 and 5 is −2 … +2; an even number has one more below: 2 is −1 … 0, 4 is −2 … +1. The
    order is by distance, the shorter first. Lengths below 1 or above the limit are left out, not moved.

    beam: length candidates, from 1. factor: λ, from 0.1 to 10.

    Raises:
        UserError: a value out of range.

    Source: fairseq's length beam, which clamps instead and so decodes short sentences twice.
    """

    beam: int = 3
    factor: float | int = 1.0

    def __post_init__(self) -> None:
        _check(self.beam, self.factor)

    def __call__(
        self, predictor: LengthPredictor, encoder_out: EncoderOutput, limit: int
    ) -> tuple[Int[Tensor, "B K"], Float[Tensor, "B K"]]:
        predicted, _ = predictor.predict(encoder_out)  # (B, 1)
        below = self.beam // 2
        steps = sorted(range(-below, self.beam - below), key=lambda step: (abs(step), step))
        window = torch.tensor(steps, device=predicted.device)
        lengths = scaled(predicted, self.factor, limit) + window
        # A length outside the predictor's classes counts as their border, as when it learns.
        offsets = predicted + window - predictor.source_lengths(encoder_out).unsqueeze(1)
        classes = offsets.clamp(-predictor.max_offset, predictor.max_offset) + predictor.max_offset
        log_probs = predictor.log_probs(encoder_out).gather(1, classes)
        outside = (lengths < 1) | (lengths > limit)
        return lengths.clamp(1, limit), log_probs.masked_fill(outside, -torch.inf)


def scaled(lengths: Int[Tensor, "*B"], factor: float | int, limit: int) -> Int[Tensor, "*B"]:
    """⌊λL + ½⌋, at least 1 and at most `limit`; λ is taken to the nearest 1e-9, so that 1.05 · 10 is 10.5."""
    unit = 10**9
    return ((2 * lengths * round(factor * unit) + unit) // (2 * unit)).clamp(1, limit)


def _is_repeated(lengths: Int[Tensor, "B K"], log_probs: Float[Tensor, "B K"]) -> Tensor:
    """True at lengths that an earlier candidate of the sentence has."""
    is_candidate = log_probs != -torch.inf
    same = (lengths.unsqueeze(2) == lengths.unsqueeze(1)) & is_candidate.unsqueeze(1)
    return same.tril(-1).any(2)


def _check(beam: int, factor: float | int) -> None:
    checks.whole("decoding.lengths.beam", beam, 1, "candidates", high=1000)
    checks.number("decoding.lengths.factor", factor, 0.1, 10)
