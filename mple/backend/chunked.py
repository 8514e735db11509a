"""The vocabulary's logits, some positions at a time: all at once they would be the widest tensor of a step.

`cpu` and `cuda` share what is here; each brings kernels, what it does to the logits of a chunk.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mple.types import PAD


@dataclass(frozen=True)
class LossKernel:
    """What a device does to a chunk of logits for the loss.

    most: logits computed at once. powers: `(logits, label, states, table)` -> exp(logit − c), the labels'
    logit − c, Σ_v exp(logit − c) and c. put: writes values at the labels, in place.
    """

    most: int
    powers: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor, Tensor | float]]
    put: Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class ReadingKernel:
    """What a device does to a chunk of logits without a gradient.

    most: logits computed at once. log_sum: `(logits, buffer)` -> log Σ_v exp(logit). highest: the place of
    the highest logit, the first of equals.
    """

    most: int
    log_sum: Callable[[Tensor, Tensor], Tensor]
    highest: Callable[[Tensor], Tensor]


def in_autocast(x: Tensor) -> Tensor:
    """x in the type of autocast where that is enabled, else x itself."""
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x


class _LinearCrossEntropy(torch.autograd.Function):
    """The projection and the loss together, some rows at a time: the N x V logits never exist.

    The loss is a sum, so its gradient is known with it up to one factor, which the backward multiplies in. Of
    a row with state s, logits W s, powers q = exp(W s) and z = Σ_v q_v the gradient of the logits is q / z −
    (1 − ε) onehot − ε / V; z divides the narrow states and gradients instead of q, and the uniform part is a
    product of sums.
    """

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx,
        features: Tensor,
        weight: Tensor,
        labels: Tensor,
        smoothing: float | int,
        penalties: Tensor | None,
        kernel: LossKernel,
    ) -> tuple[Tensor, Tensor]:
        size = weight.shape[0]
        states = in_autocast(features)
        table = weight.to(states.dtype)
        is_trained = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        grad_features = torch.empty_like(states) if is_trained else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if is_trained else None
        counted = len(labels) if penalties is None else len(labels) - len(penalties)
        factors = torch.ones(len(labels), 1, device=features.device)
        if penalties is not None:
            factors[counted:, 0] = penalties
        rows = kernel.most // size
        rows = max(1, min(rows - rows % 64 if rows > 64 else rows, len(labels)))  # products prefer that
        buffer = states.new_empty(rows, size)
        nll = torch.empty(len(labels), 1, device=features.device)
        log_sums = torch.empty_like(nll)
        with torch.autocast(features.device.type, enabled=False):
            for start in range(0, len(labels), rows):
                part = slice(start, start + rows)
                some, factor = states[part], factors[part]
                logits = torch.mm(some, table.T, out=buffer[: len(some)])
                label = labels[part].unsqueeze(1)
                powers, own, total, shift = kernel.powers(logits, label, some, table)
                log_total = total.log()
                nll[part], log_sums[part] = log_total - own, log_total + shift
                if grad_features is None or grad_weight is None:
                    continue
                kernel.put(powers, label, (own.exp_() - (1 - smoothing) * total).to(powers.dtype))
                powers, scale = powers.to(states.dtype), factor / total
                grad_features[part] = torch.mm(powers, table).mul(scale)
                grad_weight += torch.mm(powers.T, some.mul(scale).to(states.dtype))
            uniform = log_sums.mul_(factors).sum()
            if smoothing:
                of_states, of_table = states.float().mul(factors).sum(0), table.sum(0, dtype=torch.float32)
                uniform -= of_states.dot(of_table) / size
                if grad_features is not None and grad_weight is not None:
                    grad_features -= factors * (of_table * (smoothing / size))
                    grad_weight -= of_states * (smoothing / size)
        ctx.save_for_backward(grad_features, grad_weight)
        ctx.dtypes = features.dtype, weight.dtype
        plain = nll[:counted].sum()
        ctx.mark_non_differentiable(plain)
        return (1 - smoothing) * nll.mul_(factors).sum() + smoothing * uniform, plain

    @staticmethod
    def backward(  # type: ignore[no-untyped-def]
        ctx, grad: Tensor, _: Tensor
    ) -> tuple[Tensor, Tensor, None, None, None, None]:
        grad_features, grad_weight = ctx.saved_tensors
        of_features, of_weight = ctx.dtypes
        return (
            (grad_features * grad).to(of_features),
            (grad_weight * grad).to(of_weight),
            *(None, None, None, None),
        )


def linear_cross_entropy(
    features: Float[Tensor, "N D"],
    weight: Float[Tensor, "V D"],
    labels: Int[Tensor, "N"],
    smoothing: float | int,
    penalties: Float[Tensor, "P"] | None,
    kernel: LossKernel,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    if not torch.is_grad_enabled():  # a function of autograd would prepare the gradient all the same
        features, weight = features.detach(), weight.detach()
    return _LinearCrossEntropy.apply(features, weight, labels, smoothing, penalties, kernel)


@torch.no_grad()
def normalisers(
    features: Float[Tensor, "B L D"],
    weight: Float[Tensor, "V D"],
    is_canvas: Bool[Tensor, "B L"],
    kernel: ReadingKernel,
) -> Float[Tensor, "B L"]:
    parts: list[Tensor] = []
    for logits in _logits(features, weight, is_canvas, kernel.most):
        if not parts:  # the first are the most
            buffer = torch.empty_like(logits)
        parts.append(kernel.log_sum(logits, buffer[: len(logits)]))
    return _spread(torch.cat(parts), is_canvas, 0.0)


@torch.no_grad()
def most_probable(
    features: Float[Tensor, "B L D"],
    weight: Float[Tensor, "V D"],
    is_canvas: Bool[Tensor, "B L"],
    kernel: ReadingKernel,
) -> Int[Tensor, "B L"]:
    tokens = [kernel.highest(logits) for logits in _logits(features, weight, is_canvas, kernel.most)]
    return _spread(torch.cat(tokens), is_canvas, PAD)


@torch.no_grad()
def normalisers_and_most_probable(
    features: Float[Tensor, "B L D"],
    weight: Float[Tensor, "V D"],
    is_canvas: Bool[Tensor, "B L"],
    kernel: ReadingKernel,
) -> tuple[Float[Tensor, "B L"], Int[Tensor, "B L"]]:
    parts: list[Tensor] = []
    tokens: list[Tensor] = []
    for logits in _logits(features, weight, is_canvas, kernel.most):
        if not parts:  # the first are the most
            buffer = torch.empty_like(logits)
        parts.append(kernel.log_sum(logits, buffer[: len(logits)]))
        tokens.append(kernel.highest(logits))
    return _spread(torch.cat(parts), is_canvas, 0.0), _spread(torch.cat(tokens), is_canvas, PAD)


def _spread(values: Tensor, at: Bool[Tensor, "B L"], fill: float | int) -> Tensor:
    """`values` at the positions `at`, in row-major order; `fill` elsewhere."""
    spread = torch.full(at.shape, fill, dtype=values.dtype, device=values.device)
    return spread.masked_scatter_(at, values)


def _logits(
    features: Tensor, weight: Tensor, at: Bool[Tensor, "B L"], most: int
) -> Iterator[Float[Tensor, "N V"]]:
    """The logits of some positions at a time, in one buffer."""
    states, table = in_autocast(features[at]), in_autocast(weight)
    rows = max(1, min(most // len(table), len(states)))
    buffer = states.new_empty(rows, len(table))
    with torch.autocast(features.device.type, enabled=False):
        for some in states.split(rows):
            yield torch.mm(some, table.T, out=buffer[: len(some)])
