"""Soft copy: every canvas position shows the source words around the same position.

x_i = Σ_j softmax_j(−|i − j| / τ) · source word j
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mple import checks
from mple.types import EncoderOutput
from mple.vanilla_input import mixed, rank, source_of


@dataclass(frozen=True)
class SoftCopy:
    """A position behind the source's end shows what its last word's position shows.

    temperature: τ in positions, a constant; near 0 it copies word i alone.

    Source: Wei et al. (2019); τ = 0.3 as in the code of latent-GLAT (Bao et al., 2022) and Fully-NAT (Gu and
    Kong, 2021), which can also learn it. Difference: content tokens only.

    Raises:
        UserError: `temperature` is not above 0.
    """

    temperature: float | int = 0.3

    def __post_init__(self) -> None:
        checks.number("vanilla_input.temperature", self.temperature, 1e-9, 1e6, unit="positions")

    def __call__(
        self, lengths: Int[Tensor, "B"], encoder_out: EncoderOutput, positions: Float[Tensor, "L D"]
    ) -> Float[Tensor, "B L D"]:
        source = source_of(encoder_out)
        last = source.is_content.sum(1, keepdim=True) - 1
        place = torch.minimum(torch.arange(len(positions), device=lengths.device), last)  # (B, L)
        distance = (place.unsqueeze(2) - rank(source).unsqueeze(1)).abs()
        return mixed(distance.float() / -self.temperature, source)
