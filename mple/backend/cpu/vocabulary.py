"""The sum of the exponentials of logits, and the highest of them, in calls that are vectorised on a CPU."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mple.backend import chunked, cuda

_BLOCK = 128
"""Logits of which the highest is sought at once."""
SAFE = 60.0
"""Nats; float32 reaches from −87 to 88."""


def log_sum(logits: Float[Tensor, "N V"], buffer: Float[Tensor, "N V"]) -> Float[Tensor, "N"]:
    """log Σ_v exp(logit); the sum is float32. That the exponential of a bf16 logit is rounded to bf16 again
    is an error far below that of the logit. The highest logit is subtracted first only where the sum might
    otherwise leave float32's range."""
    log_sums = torch.exp(logits, out=buffer).sum(1, dtype=torch.float32).log_()
    return log_sums if bool((log_sums.abs() < SAFE).all()) else cuda.log_sum(logits, buffer)


def highest(logits: Float[Tensor, "N V"]) -> Int[Tensor, "N"]:
    """PyTorch's `max` and `argmax` are not vectorised where they give places, and `amax` is: so the highest
    block comes first. For bf16 that would be slow, too; but bf16 numbers above 0 have the order of their
    bits."""
    blocks = logits.shape[1] // _BLOCK
    if not blocks:
        return logits.max(1).indices
    values = logits.view(torch.int16) if logits.dtype == torch.bfloat16 else logits
    most = values[:, : blocks * _BLOCK].unflatten(1, (blocks, _BLOCK))
    top, block = most.amax(2).max(1)
    place = block * _BLOCK + most[torch.arange(len(block)), block].max(1).indices
    if logits.shape[1] % _BLOCK:
        other, rest = values[:, blocks * _BLOCK :].max(1)
        place = torch.where(other > top, blocks * _BLOCK + rest, place)
        top = torch.maximum(top, other)
    if values is not logits and bool((top <= 0).any()):
        return logits.max(1).indices
    return place


READING = chunked.ReadingKernel(2**20, log_sum, highest)


def normalisers(
    features: Float[Tensor, "B L D"], weight: Float[Tensor, "V D"], is_canvas: Bool[Tensor, "B L"]
) -> Float[Tensor, "B L"]:
    return chunked.normalisers(features, weight, is_canvas, READING)


def most_probable(
    features: Float[Tensor, "B L D"], weight: Float[Tensor, "V D"], is_canvas: Bool[Tensor, "B L"]
) -> Int[Tensor, "B L"]:
    return chunked.most_probable(features, weight, is_canvas, READING)


def normalisers_and_most_probable(
    features: Float[Tensor, "B L D"], weight: Float[Tensor, "V D"], is_canvas: Bool[Tensor, "B L"]
) -> tuple[Float[Tensor, "B L"], Int[Tensor, "B L"]]:
    return chunked.normalisers_and_most_probable(features, weight, is_canvas, READING)
