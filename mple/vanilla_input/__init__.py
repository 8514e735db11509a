"""Vanilla inputs: what the decoder sees where Z reveals nothing.

They "do not introduce any hints from the target": Z* = f(X), L_input = 0 (App. E.5 of the paper). Each goes
with any Z: a revealed position shows the target's token, and only the others show the vanilla input.
"""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mple.types import EncoderOutput, SourceWords


@runtime_checkable
class VanillaInput(Protocol):
    """A frozen value, or a module where it owns weights."""

    def __call__(
        self, lengths: Int[Tensor, "B"], encoder_out: EncoderOutput, positions: Float[Tensor, "L D"]
    ) -> Float[Tensor, "B L D"] | None:
        """What stands for the word at every position of canvases of `lengths`, before positions are added and
        dropout; None for the embedding of `<mask>`. `positions` are the decoder's position embeddings."""


def source_of(encoder_out: EncoderOutput) -> SourceWords:
    """What there is to copy.

    Raises:
        ValueError: the encoder's output was made without the source's words.
    """
    source = encoder_out.source  # made anew at every look where canvases share a sentence
    if source is None:
        raise ValueError("a decoder input that copies the source needs an EncoderOutput with its `source`")
    return source


def rank(source: SourceWords) -> Int[Tensor, "B S"]:
    """0, 1, … at a sentence's content tokens, wherever its padding is; meaningless elsewhere."""
    return (source.is_content.cumsum(1) - 1).clamp(min=0)


def mixed(scores: Float[Tensor, "B L S"], source: SourceWords) -> Float[Tensor, "B L D"]:
    """The source's words in the shares softmax(`scores`), over content tokens only."""
    shares = scores.masked_fill(~source.is_content.unsqueeze(1), float("-inf")).softmax(-1)
    return torch.matmul(shares, source.words)
