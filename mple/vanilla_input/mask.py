"""A full mask: every unrevealed position shows the embedding of `<mask>` (App. E.5)."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from mple.types import EncoderOutput


@dataclass(frozen=True)
class Mask:
    """`<mask>` and the position, nothing of the source.

    Source: Ghazvininejad et al. (2019).
    """

    def __call__(
        self, lengths: Int[Tensor, "B"], encoder_out: EncoderOutput, positions: Float[Tensor, "L D"]
    ) -> None:
        return None
