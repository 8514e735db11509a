"""Uniform Copy: canvas position i shows one word of the source, the words spread evenly (App. E.5).

x_i = source word ⌊i · (S − 1) / (T − 1)⌉,   S source words, T canvas positions, halves to the even word
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mple.types import EncoderOutput
from mple.vanilla_input import source_of


@dataclass(frozen=True)
class UniformCopy:
    """The first and the last word of the source stand at the ends of the canvas; a canvas of one position
    shows the first.

    Source: Gu et al. (2018); the rounding is fairseq's. Differences: only content tokens are copied, to
    content positions (there bos and eos too), and S is counted without padding, at whichever side it is.
    """

    def __call__(
        self, lengths: Int[Tensor, "B"], encoder_out: EncoderOutput, positions: Float[Tensor, "L D"]
    ) -> Float[Tensor, "B L D"]:
        source = source_of(encoder_out)
        index = uniform_index(source.is_content.sum(1), lengths, len(positions))
        columns = (~source.is_content).long().argsort(dim=1, stable=True)  # content first, in its order
        chosen = columns.gather(1, index).unsqueeze(-1)
        return source.words.gather(1, chosen.expand(-1, -1, source.words.shape[-1]))


def uniform_index(
    src_lengths: Int[Tensor, "B"], lengths: Int[Tensor, "B"], width: int
) -> Int[Tensor, "B {width}"]:
    """⌊i·(S−1)/(T−1)⌉ in whole numbers, for halves must be seen exactly; at most S − 1 outside the canvas."""
    last = (src_lengths - 1).unsqueeze(1)
    steps = (lengths - 1).clamp(min=1).unsqueeze(1)
    distance = torch.arange(width, device=lengths.device) * last  # (B, L)
    below, rest = distance // steps, distance % steps
    goes_up = (2 * rest > steps) | ((2 * rest == steps) & (below % 2 == 1))
    return torch.minimum(below + goes_up.long(), last)
