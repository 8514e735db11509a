"""Input Sampling: draw a Z from the input predictor, then say the rest of the sentence given it.

z_i masked with probability m_i, else z_i = argmax P(t_i | X)           Sec. 4.3, App. E.6
t_i = z_i where that is not masked, else argmax P(t_i | Z, X)
"""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mple import checks
from mple.checks import UserError
from mple.decoding.fill import Filled, most_probable
from mple.model.autoregressive import Autoregressive
from mple.model.input_predictor import InputDistribution, target_entries
from mple.model.nat import NAT
from mple.randomness import Draws, mix
from mple.types import PAD, DecoderInput, Hypotheses, decoder_input


@dataclass(frozen=True)
class InputSampling:
    """One Z is drawn and read once; its tokens are copied into the output (the copy mechanism of App. E.6).

    Only *whether* a token is masked is drawn; one that is not is the vanilla NAT's most probable token that
    may be said, whatever its probability. The length is the model's most probable one. `scores` are summed
    log P(t_i | Z, X) of the tokens that the model said (nats): a copied token counts with 0.

    seed: of Z. Which tokens of a sentence are masked is a function of this seed and of the source's tokens,
        not of its place in a batch or corpus; equal sources get the same Z.
    input_predictor: which of the run's input predictors, by the name of its folder; None for the only one.
    distribution: P(Z | X), which `prepared` puts here.

    Raises:
        UserError: a value out of range; when called, no `distribution`, or one of another vocabulary.

    Source: Sec. 4.3 (Table 3, "Sample"), App. E.6. Three decoder passes: mask predictor, vanilla NAT, model.
    """

    seed: int = 0
    input_predictor: str | None = None
    distribution: InputDistribution | None = field(default=None, init=False, repr=False, compare=False)

    needs_masks: ClassVar[bool] = True
    teacher: ClassVar[None] = None

    def __post_init__(self) -> None:
        checks.seed("decoding.seed", self.seed)

    def prepared(
        self,
        teacher: Autoregressive | None = None,
        starts_word: Bool[Tensor, "V"] | None = None,
        distribution: InputDistribution | None = None,
    ) -> "InputSampling":
        """With the input predictor. A teacher and the words' beginnings are not needed."""
        if distribution is None:
            return self
        found = replace(self)
        object.__setattr__(found, "distribution", distribution)  # no configuration can give it
        return found

    def __call__(self, model: NAT, src_tokens: Int[Tensor, "B S"]) -> Hypotheses:
        _, filled = self.sampled(model, src_tokens)
        return Hypotheses(filled.tokens, filled.log_probs.sum(1), filled.passes)

    @torch.no_grad()
    def sampled(self, model: NAT, src_tokens: Int[Tensor, "B S"]) -> tuple[DecoderInput, Filled]:
        """Z and what the model makes of it; a copied token has log-probability 0."""
        distribution = self._distribution(model, src_tokens.device)
        encoder_out = model.encode(src_tokens)
        lengths, _ = model.length.predict(encoder_out)
        inputs = self._drawn(distribution, src_tokens, model.blank(lengths[:, 0]))
        is_masked = inputs.is_canvas & ~inputs.revealed
        best, log_probs = most_probable(model, model.decode(inputs, encoder_out), is_masked)
        tokens = inputs.tokens.clone()
        tokens[is_masked] = best
        scores = torch.zeros(tokens.shape, device=tokens.device)
        scores[is_masked] = log_probs
        return inputs, Filled(tokens, scores, passes=3)

    def _drawn(
        self, distribution: InputDistribution, src_tokens: Int[Tensor, "B S"], blank: DecoderInput
    ) -> DecoderInput:
        lengths = blank.is_canvas.sum(1)
        masked = distribution.mask_predictor(src_tokens, lengths).double().sigmoid()  # m
        uniform = Draws(self.seed, step=-1).uniform(
            "input_sampling", sentence_ids(src_tokens), masked.shape[1]
        )
        revealed = blank.is_canvas & (uniform >= masked)
        vanilla = distribution.vanilla
        output = vanilla.decode(vanilla.blank(lengths), vanilla.encode(src_tokens))
        tokens = blank.tokens.clone()
        tokens[revealed], _ = most_probable(vanilla, output, revealed)
        return decoder_input(tokens, blank.is_canvas, revealed)

    def _distribution(self, model: NAT, device: torch.device) -> InputDistribution:
        if self.distribution is None:
            raise UserError(
                "decoding=input_sampling needs a trained input predictor and a trained vanilla NAT, handed "
                "over by decoding.prepared(distribution=…); got neither"
            )
        wanted, entries = target_entries(model), target_entries(self.distribution.vanilla)
        if wanted != entries:
            raise UserError(
                f"decoding=input_sampling needs an input predictor of the model's target vocabulary "
                f"({wanted} entries); got one with {entries}"
            )
        return self.distribution.to(device)


def sentence_ids(src_tokens: Int[Tensor, "B S"]) -> Int[Tensor, "B"]:
    """A hash of each source's tokens and their places, the same with any padding: a decoding knows no line
    ids."""
    positions = torch.arange(src_tokens.shape[1], device=src_tokens.device)
    words = mix(src_tokens ^ mix(positions))
    return words.masked_fill(src_tokens == PAD, 0).sum(1)  # int64 wraps around
