"""Decoding confidence: how probable the model finds the Z that it decodes from and the sentence it says.

    I = log P(Z | X) + log P(T | Z, X)                                      Fig. 7

    decode_default(model, src_tokens, distribution).metrics()
    decode_sampled(model, src_tokens, sampling).metrics()

Z and T are the decoder's own, not those of a reference. The two decodings of one model can be compared: the
one with the larger I should have the larger BLEU (in the paper Input Sampling for CMLM, Default Decoding for
GLAT).
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mple.decoding.fill import Filled, OnePass
from mple.decoding.input_sampling import InputSampling
from mple.estimator.statistics import Bootstrap
from mple.model.input_predictor import InputDistribution
from mple.model.nat import NAT
from mple.types import DecoderInput


@dataclass(frozen=True, eq=False)
class Confidence:
    """Of n decoded sentences, in nats: log P(Z | X) and log P(T | Z, X); `tokens` is their canvas length.

    A token that Z shows is copied into T, so its log P(t_i | Z, X) is 0. log P(L | X) is in neither.

    Source: Fig. 7, whose axis fits nats or bits per token; which is not said.
    """

    input_log_prob: Float[np.ndarray, "n"]
    target_log_prob: Float[np.ndarray, "n"]
    tokens: Int[np.ndarray, "n"]

    @property
    def nats(self) -> Float[np.ndarray, "n"]:
        """I of each sentence."""
        return self.input_log_prob + self.target_log_prob

    def __add__(self, other: "Confidence") -> "Confidence":
        """Both one after the other."""
        return Confidence(
            np.concatenate([self.input_log_prob, other.input_log_prob]),
            np.concatenate([self.target_log_prob, other.target_log_prob]),
            np.concatenate([self.tokens, other.tokens]),
        )

    def metrics(self, bootstrap: Bootstrap | None = None) -> dict[str, float]:
        """I per sentence, with an interval over sentences, and per token; the two terms per token."""
        bootstrap = Bootstrap() if bootstrap is None else bootstrap
        total = int(self.tokens.sum())
        return {
            **bootstrap.mean(self.nats).metrics("confidence", "nats_per_sentence"),
            "confidence_nats_per_token": float(self.nats.sum()) / total,
            "confidence_input_nats_per_token": float(self.input_log_prob.sum()) / total,
            "confidence_target_nats_per_token": float(self.target_log_prob.sum()) / total,
        }


@torch.no_grad()
def decode_default(
    model: NAT, src_tokens: Int[Tensor, "B S"], distribution: InputDistribution | None = None
) -> Confidence:
    """I of Default Decoding, where Z is Z*, fully masked: log P(Z* | X) = Σ_i log m_i.

    distribution: None for a model whose Z never was anything but Z*; then log P(Z* | X) is 0.
    """
    encoder_out = model.encode(src_tokens)
    lengths, _ = model.length.predict(encoder_out)
    inputs = model.blank(lengths[:, 0])
    return _confidence(src_tokens, inputs, OnePass()(model, inputs, encoder_out), distribution)


def decode_sampled(model: NAT, src_tokens: Int[Tensor, "B S"], sampling: InputSampling) -> Confidence:
    """I of Input Sampling, which `prepared` must have made ready.

    A shown token counts with log(1 − m_i) + log P(t_i | X), though the decoding takes the most probable one
    instead of drawing it.

    Raises:
        UserError: `sampling` lacks the input predictor.
    """
    inputs, filled = sampling.sampled(model, src_tokens)
    return _confidence(src_tokens, inputs, filled, sampling.distribution)


def _confidence(
    src_tokens: Int[Tensor, "B S"],
    inputs: DecoderInput,
    filled: Filled,
    distribution: InputDistribution | None,
) -> Confidence:
    target = filled.log_probs.double().sum(1)
    lengths = inputs.is_canvas.sum(1)
    of_input = (
        torch.zeros_like(target)
        if distribution is None
        else distribution.to(src_tokens.device).log_prob(src_tokens, inputs)
    )
    return Confidence(of_input.cpu().numpy(), target.cpu().numpy(), lengths.cpu().numpy())
