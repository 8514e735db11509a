"""Attention as two matrix products with a softmax between them, and its gradient written out.

PyTorch's fused kernel is made for long sequences; at sentence lengths this is faster, forward and backward.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mple.backend.cpu.dropout import draw
from mple.backend.cpu.softmax import hidden_softmax, softmax_gradient


def attend(
    query: Float[Tensor, "B H L d"] | None,
    heads: Float[Tensor, "P B H S d"],
    hidden: Bool[Tensor, "#B #L #S"] | None,
    dropout: float | int,
) -> Float[Tensor, "B H L d"]:
    bias = torch.zeros(1, 1, 1, 1)
    if hidden is not None:
        bias = torch.where(hidden.unsqueeze(1), -torch.inf, 0.0)
    if torch.is_grad_enabled():
        return _Attend.apply(query, heads, bias, dropout)
    return _attend(query, heads, bias, dropout)[0]


def _attend(
    query: Float[Tensor, "B H L d"] | None,
    heads: Float[Tensor, "P B H S d"],
    bias: Float[Tensor, "#B 1 #L #S"],
    dropout: float | int,
) -> tuple[
    Float[Tensor, "B H L d"],
    Float[Tensor, "B H L S"],
    Float[Tensor, "B H L S"],
    tuple[Tensor, float] | None,
]:
    """The mixed values; the weights before dropout, float32, and after; what dropout has drawn."""
    query, key, value = heads if query is None else (query, *heads)
    scale = query.shape[-1] ** -0.5
    weights = hidden_softmax(torch.matmul(query, key.transpose(-1, -2)), scale, bias)
    drawn, kept = draw(weights.shape, dropout), weights.to(value.dtype)
    if drawn is not None:
        kept = (kept.mul(drawn[0]) if kept is weights else kept.mul_(drawn[0])).mul_(drawn[1])
    return torch.matmul(kept, value), weights, kept, drawn


class _Attend(torch.autograd.Function):
    """`_attend` with its gradient written out: autograd's would copy every transposed head."""

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx, query: Tensor | None, heads: Tensor, bias: Tensor, dropout: float | int
    ) -> Tensor:
        mixed, weights, kept, drawn = _attend(query, heads, bias, dropout)
        is_kept, ctx.factor = (None, 1.0) if drawn is None else drawn
        ctx.save_for_backward(query, heads, weights, kept, is_kept)
        return mixed

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor, None, None]:  # type: ignore[no-untyped-def]
        query, heads, weights, kept, is_kept = ctx.saved_tensors
        of_heads = torch.empty_like(heads)
        *queries, key, value = heads
        *of_queries, of_key, of_value = of_heads
        of_query = torch.empty_like(query) if query is not None else of_queries[0]
        torch.matmul(kept.transpose(-1, -2), grad, out=of_value)
        of_logits = torch.matmul(grad, value.transpose(-1, -2)).to(weights.dtype)
        of_logits.mul_(ctx.factor * key.shape[-1] ** -0.5)
        if is_kept is not None:
            of_logits.mul_(is_kept)
        of_logits = softmax_gradient(of_logits, weights).to(heads.dtype)
        torch.matmul(of_logits.transpose(-1, -2), queries[0] if query is None else query, out=of_key)
        torch.matmul(of_logits, key, out=of_query)
        return (None if query is None else of_query), of_heads, None, None
