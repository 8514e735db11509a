"""On a GPU: PyTorch's fused attention, large chunks of logits, and no question that waits for the device."""

from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from mple.backend import chunked
from mple.backend.reference import add_dropout as add_dropout
from mple.backend.reference import dropout as dropout
from mple.backend.reference import hide_padding as hide_padding
from mple.backend.reference import linear as linear
from mple.backend.reference import rows as rows
from mple.backend.reference import split_heads as split_heads


def attend(
    query: Float[Tensor, "B H L d"] | None,
    heads: Float[Tensor, "P B H S d"],
    hidden: Bool[Tensor, "#B #L #S"] | None,
    dropout: float | int,
) -> Float[Tensor, "B H L d"]:
    query, key, value = heads if query is None else (query, *heads)
    seen = None if hidden is None else ~hidden.unsqueeze(1)
    return functional.scaled_dot_product_attention(query, key, value, seen, float(dropout))


def powers(
    logits: Float[Tensor, "N V"], label: Int[Tensor, "N 1"], states: Tensor, table: Tensor
) -> tuple[Float[Tensor, "N V"], Float[Tensor, "N 1"], Float[Tensor, "N 1"], Tensor | float]:
    """With c = log Σ exp(logit), so the sum is 1: whether c = 0 would do is a question to the device."""
    log_probs = logits.float().log_softmax(1)
    own = log_probs.gather(1, label)
    return log_probs.exp_(), own, torch.ones_like(own), logits.gather(1, label).float() - own


def log_sum(logits: Float[Tensor, "N V"], buffer: Float[Tensor, "N V"]) -> Float[Tensor, "N"]:
    top = logits.amax(1, keepdim=True).float()
    return (logits - top).exp_().sum(1).log_().add_(top.squeeze(1))


def put(x: Float[Tensor, "N V"], label: Int[Tensor, "N 1"], values: Tensor) -> Tensor:
    return x.scatter_(1, label, values)


def highest(logits: Float[Tensor, "N V"]) -> Int[Tensor, "N"]:
    return logits.max(1).indices


LOSS = chunked.LossKernel(2**25, powers, put)
READING = chunked.ReadingKernel(2**25, log_sum, highest)


def linear_cross_entropy(
    features: Float[Tensor, "N D"],
    weight: Float[Tensor, "V D"],
    labels: Int[Tensor, "N"],
    smoothing: float | int,
    penalties: Float[Tensor, "P"] | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    return chunked.linear_cross_entropy(features, weight, labels, smoothing, penalties, LOSS)


normalisers = partial(chunked.normalisers, kernel=READING)
most_probable = partial(chunked.most_probable, kernel=READING)
normalisers_and_most_probable = partial(chunked.normalisers_and_most_probable, kernel=READING)
