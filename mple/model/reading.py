"""What is asked of the vocabulary without a gradient: a position's log Σ_v exp(logit), its most probable
token, the logit of one token.

Logits are made some positions at a time, in the autocast type, into one buffer: all at once they would be the
widest tensor of a step, and most of its time would go into moving it. Of equal logits the first is the token.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mple.types import PAD

_CHUNK, _CHUNK_OF_GPU = 2**20, 2**25
"""Logits made at once: few enough to stay in a CPU's cache, many enough to keep a GPU busy."""
_BLOCK = 128
"""Logits of which the highest is sought at once."""
_SAFE = 60.0
"""Nats; float32 reaches from −87 to 88."""


@torch.no_grad()
def normalisers(
    features: Float[Tensor, "B L D"], weight: Float[Tensor, "V D"], is_canvas: Bool[Tensor, "B L"]
) -> Float[Tensor, "B L"]:
    """log Σ_v exp(logit) in nats, float32, at the positions of the canvas; 0 elsewhere."""
    parts: list[Tensor] = []
    for logits in _logits(features, weight, is_canvas):
        if not parts:  # the first are the most
            powers = torch.empty_like(logits)
        parts.append(_log_sum(logits, powers[: len(logits)]))
    found = torch.zeros(is_canvas.shape, device=features.device)
    found[is_canvas] = torch.cat(parts)
    return found


def _log_sum(logits: Float[Tensor, "N V"], powers: Float[Tensor, "N V"]) -> Float[Tensor, "N"]:
    """log Σ_v exp(logit), with `powers` to compute in; the sum is float32. That the exponential of a bf16
    logit is rounded to bf16 again is an error far below that of the logit. The highest logit is subtracted
    first only where the sum might otherwise leave float32's range; on an accelerator always, since asking
    would wait for it."""
    if logits.device.type == "cpu":
        found = torch.exp(logits, out=powers).sum(1, dtype=torch.float32).log_()
        if bool((found.abs() < _SAFE).all()):
            return found
    top = logits.amax(1, keepdim=True).float()
    return (logits - top).exp_().sum(1).log_().add_(top.squeeze(1))


def _highest(logits: Float[Tensor, "N V"]) -> Int[Tensor, "N"]:
    """The place of the highest logit, the first of equals. On a CPU PyTorch's `max` and `argmax` are not
    vectorised where they give places, and `amax` is: so the highest block is found first. For bf16 that would
    be slow, too; but bf16 numbers above 0 have the order of their bits."""
    blocks = logits.shape[1] // _BLOCK
    if logits.device.type != "cpu" or not blocks:
        return logits.max(1).indices
    values = logits.view(torch.int16) if logits.dtype == torch.bfloat16 else logits
    most = values[:, : blocks * _BLOCK].unflatten(1, (blocks, _BLOCK))
    top, block = most.amax(2).max(1)
    found = block * _BLOCK + most[torch.arange(len(block)), block].max(1).indices
    if logits.shape[1] % _BLOCK:
        other, place = values[:, blocks * _BLOCK :].max(1)
        found = torch.where(other > top, blocks * _BLOCK + place, found)
        top = torch.maximum(top, other)
    if values is not logits and bool((top <= 0).any()):
        return logits.max(1).indices
    return found


@torch.no_grad()
def most_probable(
    features: Float[Tensor, "B L D"], weight: Float[Tensor, "V D"], is_canvas: Bool[Tensor, "B L"]
) -> Int[Tensor, "B L"]:
    """The token of the highest logit at the positions of the canvas; `pad` elsewhere."""
    tokens = torch.cat([_highest(logits) for logits in _logits(features, weight, is_canvas)])
    return torch.full(is_canvas.shape, PAD, device=features.device).masked_scatter_(is_canvas, tokens)


@torch.no_grad()
def both(
    features: Float[Tensor, "B L D"], weight: Float[Tensor, "V D"], is_canvas: Bool[Tensor, "B L"]
) -> tuple[Float[Tensor, "B L"], Int[Tensor, "B L"]]:
    """`normalisers` and `most_probable` of one reading."""
    parts: list[Tensor] = []
    tokens: list[Tensor] = []
    for logits in _logits(features, weight, is_canvas):
        if not parts:  # the first are the most
            powers = torch.empty_like(logits)
        parts.append(_log_sum(logits, powers[: len(logits)]))
        tokens.append(_highest(logits))
    found = torch.zeros(is_canvas.shape, device=features.device)
    found[is_canvas] = torch.cat(parts)
    best = torch.full(is_canvas.shape, PAD, device=features.device)
    return found, best.masked_scatter_(is_canvas, torch.cat(tokens))


@torch.no_grad()
def logits_of(
    features: Float[Tensor, "N D"], weight: Float[Tensor, "V D"], tokens: Int[Tensor, "N"]
) -> Float[Tensor, "N"]:
    """The logit of one token at each position, summed in float32."""
    # No product of matrices, not even `vecdot`: autocast would make it, and the logit, in its own type.
    return (_cast(features).float() * _cast(weight)[tokens].float()).sum(1)


def _logits(features: Tensor, weight: Tensor, is_canvas: Tensor) -> Iterator[Float[Tensor, "N V"]]:
    """The logits of some positions at a time, in one buffer."""
    states, table = _cast(features[is_canvas]), _cast(weight)
    chunk = _CHUNK if states.device.type == "cpu" else _CHUNK_OF_GPU
    rows = max(1, min(chunk // len(table), len(states)))
    buffer = states.new_empty(rows, len(table))
    with torch.autocast(features.device.type, enabled=False):
        for some in states.split(rows):
            yield torch.mm(some, table.T, out=buffer[: len(some)])


def _cast(values: Tensor) -> Tensor:
    device = values.device.type
    return values.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else values
