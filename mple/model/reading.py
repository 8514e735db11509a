"""What is asked of the vocabulary without a gradient: a position's log Σ_v exp(logit), its most probable
token, the logit of one token.

Logits are made some positions at a time, in the autocast type, into one buffer: all at once they would be the
widest tensor of a step, and most of its time would go into moving it. `max` finds the token and not `argmax`,
which is not vectorised for bf16 on a CPU; of equal logits both give the first.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mple.types import PAD

T = TypeVar("T")

_CHUNK = 2**21
"""Logits made at once."""


class Reading(NamedTuple):
    """log Σ_v exp(logit) of every position, in nats, and its most probable token."""

    normaliser: Float[Tensor, "B L"]
    best: Int[Tensor, "B L"]


@torch.no_grad()
def read(
    features: Float[Tensor, "B L D"], weight: Float[Tensor, "V D"], is_canvas: Bool[Tensor, "B L"]
) -> Reading:
    """Both at the positions of the canvas; 0 and `pad` elsewhere."""
    parts = list(_parts(features, weight, is_canvas, lambda logits: logits.max(1)))
    best = torch.full(is_canvas.shape, PAD, device=features.device)
    best[is_canvas] = torch.cat([token for _, token in parts])
    return Reading(_placed([normaliser for normaliser, _ in parts], is_canvas), best)


@torch.no_grad()
def normalisers(
    features: Float[Tensor, "B L D"], weight: Float[Tensor, "V D"], is_canvas: Bool[Tensor, "B L"]
) -> Float[Tensor, "B L"]:
    """log Σ_v exp(logit) alone, in nats, at the positions of the canvas; 0 elsewhere."""
    parts = _parts(features, weight, is_canvas, lambda logits: (logits.amax(1), None))
    return _placed([normaliser for normaliser, _ in parts], is_canvas)


@torch.no_grad()
def logits_of(
    features: Float[Tensor, "N D"], weight: Float[Tensor, "V D"], tokens: Int[Tensor, "N"]
) -> Float[Tensor, "N"]:
    """The logit of one token at each position, summed in float32."""
    return torch.linalg.vecdot(_cast(features).float(), _cast(weight)[tokens].float())


def _parts(
    features: Tensor, weight: Tensor, is_canvas: Tensor, highest: Callable[[Tensor], tuple[Tensor, T]]
) -> Iterator[tuple[Tensor, T]]:
    """For some positions at a time their normalisers, and what `highest` gives beside the highest logit."""
    states, table = _cast(features[is_canvas]), _cast(weight)
    rows = max(1, min(_CHUNK // len(table), len(states)))
    logits = states.new_empty(rows, len(table))
    powers = torch.empty_like(logits, dtype=torch.float32)
    with torch.autocast(features.device.type, enabled=False):
        for some in states.split(rows):
            here, shifted = logits[: len(some)], powers[: len(some)]
            torch.mm(some, table.T, out=here)
            top, token = highest(here)
            torch.sub(here, top.float().unsqueeze(1), out=shifted)
            yield shifted.exp_().sum(1).log_().add_(top), token


def _placed(parts: list[Tensor], is_canvas: Bool[Tensor, "B L"]) -> Float[Tensor, "B L"]:
    found = torch.zeros(is_canvas.shape, device=is_canvas.device)
    found[is_canvas] = torch.cat(parts)
    return found


def _cast(values: Tensor) -> Tensor:
    device = values.device.type
    return values.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else values
