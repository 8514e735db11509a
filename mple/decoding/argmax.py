"""One pass: the most probable length, a blank canvas, the most probable token of every position."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Bool, Int
from torch import Tensor

from mple.decoding.fill import OnePass
from mple.model.autoregressive import Autoregressive
from mple.model.nat import NAT
from mple.types import Hypotheses


@dataclass(frozen=True)
class Argmax:
    """Default Decoding of the paper: argmax P(t_i | Z*, X) at every position, Z* fully masked.

    Special symbols are never said, except `<blank>` by a model that was trained to say it (AXE); texts
    leave it out. `scores` are summed log-probabilities of the tokens, without the length's.
    """

    needs_masks: ClassVar[bool] = False
    teacher: ClassVar[None] = None

    def prepared(
        self, teacher: Autoregressive | None = None, starts_word: Bool[Tensor, "V"] | None = None
    ) -> "Argmax":
        return self

    def __call__(self, model: NAT, src_tokens: Int[Tensor, "B S"]) -> Hypotheses:
        encoder_out = model.encode(src_tokens)
        lengths, _ = model.length.predict(encoder_out)
        filled = OnePass()(model, model.blank(lengths[:, 0]), encoder_out)
        return Hypotheses(filled.tokens, filled.log_probs.sum(1), filled.passes)
