"""The definition of every backend function: plain PyTorch on any device, padding computed and hidden."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from mple.backend.rows import DenseRows, DenseView, hidden_future
from mple.backend.rows import split_heads as split_heads
from mple.types import PAD


def rows(
    is_token: Bool[Tensor, "B L"],
    num_heads: int,
    sees_future: bool,
    memory_is_pad: Bool[Tensor, "A S"] | None,
    memory_row: Int[Tensor, "B"] | None,
    training: bool,
) -> DenseRows:
    length = is_token.shape[1]
    own = hide_padding(~is_token) if sees_future else hidden_future(length, is_token.device)
    source = None
    if memory_is_pad is not None:
        source = memory_is_pad if memory_row is None else memory_is_pad.index_select(0, memory_row)
        source = hide_padding(source)
    return DenseRows(DenseView(num_heads, own), DenseView(num_heads, source, memory_row))


def hide_padding(is_pad: Bool[Tensor, "B S"]) -> Bool[Tensor, "B 1 S"]:
    return is_pad.unsqueeze(1)


def linear(x: Tensor, weight: Tensor, bias: Tensor, relu: bool = False) -> Tensor:
    y = functional.linear(x, weight, bias)
    return torch.relu(y) if relu else y


def attend(
    query: Float[Tensor, "B H L d"] | None,
    heads: Float[Tensor, "P B H S d"],
    hidden: Bool[Tensor, "#B #L #S"] | None,
    dropout: float | int,
) -> Float[Tensor, "B H L d"]:
    query, key, value = heads if query is None else (query, *heads)
    logits = torch.matmul(query, key.transpose(-1, -2)) * query.shape[-1] ** -0.5
    if hidden is not None:
        logits = logits.masked_fill(hidden.unsqueeze(1), -torch.inf)
    weights = functional.dropout(logits.float().softmax(-1), dropout)
    return torch.matmul(weights.to(value.dtype), value)


def dropout(x: Tensor, rate: float | int) -> Tensor:
    return functional.dropout(x, rate)


def add_dropout(x: Tensor, block: Tensor, rate: float | int) -> Tensor:
    return x + functional.dropout(block, rate)


def linear_cross_entropy(
    features: Float[Tensor, "N D"],
    weight: Float[Tensor, "V D"],
    labels: Int[Tensor, "N"],
    smoothing: float | int,
    penalties: Float[Tensor, "P"] | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    log_probs = functional.linear(features, weight).float().log_softmax(1)
    nll = -log_probs.gather(1, labels.unsqueeze(1)).squeeze(1)
    smoothed = (1 - smoothing) * nll - smoothing * log_probs.mean(1)
    if penalties is None:
        return smoothed.sum(), nll.detach().sum()
    counted = len(labels) - len(penalties)
    factors = torch.cat([smoothed.new_ones(counted), penalties])
    return (smoothed * factors).sum(), nll[:counted].detach().sum()


def normalisers(
    features: Float[Tensor, "B L D"], weight: Float[Tensor, "V D"], is_canvas: Bool[Tensor, "B L"]
) -> Float[Tensor, "B L"]:
    return normalisers_and_most_probable(features, weight, is_canvas)[0]


def most_probable(
    features: Float[Tensor, "B L D"], weight: Float[Tensor, "V D"], is_canvas: Bool[Tensor, "B L"]
) -> Int[Tensor, "B L"]:
    return normalisers_and_most_probable(features, weight, is_canvas)[1]


@torch.no_grad()
def normalisers_and_most_probable(
    features: Float[Tensor, "B L D"], weight: Float[Tensor, "V D"], is_canvas: Bool[Tensor, "B L"]
) -> tuple[Float[Tensor, "B L"], Int[Tensor, "B L"]]:
    logits = functional.linear(features, weight)
    log_sums = logits.float().logsumexp(-1).masked_fill(~is_canvas, 0.0)
    return log_sums, logits.argmax(-1).masked_fill(~is_canvas, PAD)
