"""Sources to copy, for the tests of vanilla inputs."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mple.types import EncoderOutput, SourceWords

D = 8


def source(lengths: Sequence[int], left: int = 0, right: int = 0, seed: int = 0) -> EncoderOutput:
    """Sentences of `lengths` content tokens and eos, with random words: `left` pads before and as many after
    as are needed, and `right` more. Eos and pads have words too, large ones, so that a copy of them shows."""
    width = left + max(lengths) + 1 + right
    words = torch.full((len(lengths), width, D), 1e3)
    is_content = torch.zeros(len(lengths), width, dtype=torch.bool)
    is_pad = torch.ones(len(lengths), width, dtype=torch.bool)
    for b, length in enumerate(lengths):
        words[b, left : left + length] = sentence(length, seed + b)
        is_content[b, left : left + length] = True
        is_pad[b, left : left + length + 1] = False
    return EncoderOutput(words, is_pad, SourceWords(words, places(width), is_content))


def sentence(length: int, seed: int) -> Tensor:
    return torch.randn(length, D, generator=torch.Generator().manual_seed(seed))


def places(width: int, seed: int = 99) -> Tensor:
    """Position embeddings: those of a longer table begin with those of a shorter one."""
    return torch.randn(200, D, generator=torch.Generator().manual_seed(seed))[:width]


def canvas(width: int) -> Tensor:
    return places(width, seed=98)
