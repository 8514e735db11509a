"""Mask-predict: say all, hide what the model is least sure of, say that again.

pass 0     Z = Z*, fully masked: argmax
pass t     the n_t least probable tokens are masked and predicted given the others, t = 1 … T − 1
original   n_t = max(1, ⌊L(T − t)/T⌋)
fairseq    n_t = ⌊L(T − t)/T⌋
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mple import checks
from mple.decoding.fill import Filled, OnePass, most_probable
from mple.model.nat import NAT
from mple.types import MASK, DecoderInput, EncoderOutput

Schedule = Callable[[Int[Tensor, "N"], int, int], Int[Tensor, "N"]]
"""(canvas lengths, passes done t, passes in all T) -> tokens to mask before the next pass."""


def fairseq(lengths: Int[Tensor, "N"], done: int, iterations: int) -> Int[Tensor, "N"]:
    """⌊L(T − t)/T⌋, in integers: fairseq's int(L · (1 − (s + 1)/T)) with t = s + 1."""
    return lengths * (iterations - done) // iterations


def original(lengths: Int[Tensor, "N"], done: int, iterations: int) -> Int[Tensor, "N"]:
    """The same, but at least one token."""
    return fairseq(lengths, done, iterations).clamp(min=1)


SCHEDULES: dict[str, Schedule] = {"original": original, "fairseq": fairseq}


@dataclass(frozen=True)
class MaskPredict:
    """Iterative refinement: `iterations` decoder passes over each canvas.

    Only the tokens that are predicted again change, and with them their log-probabilities: a token kept since
    an early pass keeps the score of that pass. Of equally probable tokens the first is masked first. All
    lengths of a sentence are refined together.

    iterations: T, decoder passes in all; 1 is argmax. Passes that would mask nothing are not run.
    schedule: "original" or "fairseq".

    Raises:
        UserError: a value out of range.

    Source: Ghazvininejad et al. (2019); "fairseq" is CMLM's there, whose max_iter is T − 1. Both are computed
    in integers: in floating point 20 · (1 − 9/10) is below 2. eos is not on the canvas, so it is never
    masked. The paper itself decodes CMLM in one pass.
    """

    iterations: int = 4
    schedule: str = "original"

    def __post_init__(self) -> None:
        checks.whole("decoding.fill.iterations", self.iterations, 1, "passes", high=1000)
        checks.one_of("decoding.fill.schedule", self.schedule, SCHEDULES)

    @property
    def needs_masks(self) -> bool:
        return self.iterations > 1

    def __call__(self, model: NAT, blank: DecoderInput, encoder_out: EncoderOutput) -> Filled:
        filled, _ = deque(self.passes(model, blank, encoder_out), maxlen=1).pop()
        return filled

    def passes(
        self, model: NAT, blank: DecoderInput, encoder_out: EncoderOutput
    ) -> Iterator[tuple[Filled, Bool[Tensor, "N L"]]]:
        """The canvases after each pass, and which positions it said."""
        filled = OnePass()(model, blank, encoder_out)
        is_canvas = blank.is_canvas
        yield filled, is_canvas
        lengths = is_canvas.sum(1)
        for done in range(1, self.iterations):
            counts = SCHEDULES[self.schedule](lengths, done, self.iterations)
            if int(counts.max()) == 0:
                break
            sure = filled.log_probs.masked_fill(~is_canvas, torch.inf)
            order = sure.argsort(stable=True, dim=1).argsort(1)
            is_masked = order < counts.unsqueeze(1)
            shown = replace(
                blank,
                tokens=filled.tokens.masked_fill(is_masked, MASK),
                revealed=is_canvas & ~is_masked,
            )
            tokens, log_probs = filled.tokens.clone(), filled.log_probs.clone()
            tokens[is_masked], log_probs[is_masked] = most_probable(
                model, model.decode(shown, encoder_out), is_masked
            )
            filled = Filled(tokens, log_probs, filled.passes + 1)
            yield filled, is_masked
