"""A linear layer, with bias and ReLU in the matrix product where that is faster.

Under bf16 autocast much of a linear layer's time would go into writing the bias first and applying ReLU
afterwards, each a pass over the widest tensors of a layer. oneDNN does both in the product; PyTorch reaches
that only through the operator its compiler uses, which has no gradient, so the gradient is here.
"""

import torch
from torch import Tensor
from torch.nn import functional

_HAS_BF16 = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def linear(x: Tensor, weight: Tensor, bias: Tensor, relu: bool = False) -> Tensor:
    is_bf16 = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    if not (is_bf16 and _HAS_BF16):
        y = functional.linear(x, weight, bias)
        return torch.relu_(y) if relu else y
    x, weight, bias = (value.bfloat16() for value in (x, weight, bias))
    activation = "relu" if relu else "none"
    if torch.is_grad_enabled():
        return _Fused.apply(x, weight, bias, activation)
    return _product(x, weight, bias, activation)


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, activation: str) -> Tensor:  # type: ignore[no-untyped-def]
        y = _product(x, weight, bias, activation)
        ctx.save_for_backward(x, weight, y if activation == "relu" else None)
        return y

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:  # type: ignore[no-untyped-def]
        x, weight, y = ctx.saved_tensors
        if y is not None:
            grad = torch.ops.aten.threshold_backward(grad, y, 0)
        rows = grad.flatten(0, -2)
        of_x = (rows @ weight).view_as(x) if ctx.needs_input_grad[0] else None
        return of_x, rows.T @ x.flatten(0, -2), rows.sum(0), None


def _product(x: Tensor, weight: Tensor, bias: Tensor, activation: str) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], "")
