"""The vocabulary's cross-entropy on a CPU: the logits are read once, to make their exponentials in place,
unless these could leave the floats' range."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mple.backend import chunked, cuda

SAFE = 60.0
"""Nats; float32 and bf16 reach from −87 to 88."""


def powers(
    logits: Float[Tensor, "N V"], label: Int[Tensor, "N 1"], states: Tensor, table: Tensor
) -> tuple[Float[Tensor, "N V"], Float[Tensor, "N 1"], Float[Tensor, "N 1"], Tensor | float]:
    """exp(logit − c), in place of the logits where it can be; the labels' logit − c; Σ_v exp(logit − c); c.

    The last three are float32, but the powers of what is no label are summed in float32 and that sum has the
    logits' type: a copy of them all would be slower, and bf16 logits are rounded more. A label counts with
    its exact power: with a bf16 one a loss near 0 could be clearly negative. The powers at the labels are
    undefined. c is 0 unless a sum could leave the floats' range.
    """
    if logits.dtype == torch.float16:
        return cuda.powers(logits, label, states, table)
    own = logits.take(_flat(label, logits.shape[1])).float().unsqueeze(1)
    exponentials = put(logits.exp_(), label, logits.new_zeros(len(logits), 1))
    total = exponentials.sum(1, keepdim=True).float() + own.exp()
    if bool((total.log().abs() < SAFE).all()):
        return exponentials, own, total, 0.0
    return cuda.powers(states @ table.T, label, states, table)


def put(x: Float[Tensor, "N V"], label: Int[Tensor, "N 1"], values: Tensor) -> Tensor:
    """By their places in memory, since `scatter_` is far slower."""
    return x.put_(_flat(label, x.shape[1]), values.squeeze(1))


def _flat(label: Int[Tensor, "N 1"], size: int) -> Int[Tensor, "N"]:
    return label.squeeze(1) + torch.arange(len(label)) * size


LOSS = chunked.LossKernel(2**21, powers, put)


def linear_cross_entropy(
    features: Float[Tensor, "N D"],
    weight: Float[Tensor, "V D"],
    labels: Int[Tensor, "N"],
    smoothing: float | int,
    penalties: Float[Tensor, "P"] | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    if labels.numel():
        low, high = (int(label) for label in labels.aminmax())
        if low < 0 or high >= len(weight):
            raise IndexError(f"labels must be rows of the {len(weight)}; got {low} to {high}")
    return chunked.linear_cross_entropy(features, weight, labels, smoothing, penalties, LOSS)
