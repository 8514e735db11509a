"""Fills: from empty canvases to tokens, the decoder's part of a decoding.

    filled = OnePass()(model, model.blank(lengths), encoder_out)

A fill is called with canvases in which nothing is revealed and with the encoder's states of the same rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from mple.model.nat import NAT
from mple.types import PAD, DecoderInput, DecoderOutput, EncoderOutput

_CELLS = 1 << 26
"""Logits held at a time: several canvases of a sentence must not need several times the memory."""


@dataclass(frozen=True)
class Filled:
    """What was said on each canvas: tokens (`pad` outside) and their log P(t_i | Z, X) in nats (0 outside).
    `passes` counts decoder calls."""

    tokens: Int[Tensor, "N L"]
    log_probs: Float[Tensor, "N L"]
    passes: int


@runtime_checkable
class Fill(Protocol):
    @property
    def needs_masks(self) -> bool:
        """Whether the decoder sees some of its own tokens."""

    def __call__(self, model: NAT, blank: DecoderInput, encoder_out: EncoderOutput) -> Filled: ...


@dataclass(frozen=True)
class OnePass:
    """argmax P(t_i | Z*, X) at every position of the canvas, Z* fully masked (Default Decoding)."""

    needs_masks: ClassVar[bool] = False

    def __call__(self, model: NAT, blank: DecoderInput, encoder_out: EncoderOutput) -> Filled:
        is_canvas = blank.is_canvas
        best, log_probs = most_probable(model, model.decode(blank, encoder_out), is_canvas)
        tokens = torch.full_like(blank.tokens, PAD)
        tokens[is_canvas] = best
        scores = torch.zeros(tokens.shape, device=tokens.device)
        scores[is_canvas] = log_probs
        return Filled(tokens, scores, passes=1)


def most_probable(
    model: NAT, output: DecoderOutput, at: Bool[Tensor, "N L"]
) -> tuple[Int[Tensor, "M"], Float[Tensor, "M"]]:
    """The most probable token that may be said at the positions `at`, in row-major order, and its
    log-probability among all tokens (nats)."""
    tokens, log_probs = [], []
    for _, logits in _logits(output, at):
        token = logits[:, model.first_sayable :].argmax(-1) + model.first_sayable
        tokens.append(token)
        log_probs.append(_at(logits, token))
    return torch.cat(tokens), torch.cat(log_probs)


def log_probs_of(
    output: DecoderOutput, labels: Int[Tensor, "N L"], at: Bool[Tensor, "N L"]
) -> Float[Tensor, "M"]:
    """log-probabilities (nats) of `labels` at the positions `at`, in row-major order."""
    wanted = labels[at]
    found = [_at(logits, wanted[start : start + len(logits)]) for start, logits in _logits(output, at)]
    return torch.cat(found)


def _at(logits: Float[Tensor, "M V"], labels: Int[Tensor, "M"]) -> Float[Tensor, "M"]:
    """log-probabilities of `labels`; one fused pass over the logits, half the time of a logsumexp."""
    return logits.log_softmax(-1).gather(1, labels.unsqueeze(1)).squeeze(1)


def _logits(output: DecoderOutput, at: Bool[Tensor, "N L"]) -> Iterator[tuple[int, Tensor]]:
    """Logits in float32 of the positions `at`, some at a time, and the number of those before."""
    start = 0
    for part in output.features[at].split(max(1, _CELLS // output.weight.shape[0])):
        yield start, functional.linear(part, output.weight).float()
        start += len(part)
