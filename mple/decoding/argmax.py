"""One pass: the most probable length, a blank canvas, the most probable token of every position."""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from mple.model.nat import NAT
from mple.types import PAD, Hypotheses


@dataclass(frozen=True)
class Argmax:
    """Default Decoding of the paper: argmax P(t_i | Z*, X) at every position, Z* fully masked.

    Special symbols are never said, except `<blank>` by a model that was trained to say it (AXE); texts
    leave it out. `scores` are summed log-probabilities of the tokens, without the length's.
    """

    def __call__(self, model: NAT, src_tokens: Int[Tensor, "B S"]) -> Hypotheses:
        encoder_out = model.encode(src_tokens)
        lengths, _ = model.length.predict(encoder_out)
        inputs = model.blank(lengths[:, 0])
        is_canvas = inputs.is_canvas
        logits = model.decode(inputs, encoder_out).logits_at(is_canvas).float()
        normaliser = logits.logsumexp(-1)
        best, token = logits[:, model.first_sayable :].max(-1)
        tokens = torch.full_like(inputs.tokens, PAD)
        tokens[is_canvas] = token + model.first_sayable
        scores = torch.zeros(tokens.shape, device=tokens.device)
        scores[is_canvas] = best - normaliser
        return Hypotheses(tokens, scores.sum(1), passes=1)
