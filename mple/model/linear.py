"""A linear layer, with bias and ReLU in the matrix product where that is faster.

Under bf16 autocast on a CPU much of a linear layer's time would go into writing the bias first and applying
ReLU afterwards, each a pass over the widest tensors of a layer. oneDNN does both in the product; PyTorch
reaches that only through the operator its compiler uses, which has no gradient, so the gradient is here.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class Linear(nn.Linear):
    """x Wᵀ + b, after which ReLU if asked."""

    def __init__(self, in_features: int, out_features: int, relu: bool = False) -> None:
        super().__init__(in_features, out_features)
        self.activation = "relu" if relu else "none"

    def forward(self, x: Float[Tensor, "*B I"]) -> Float[Tensor, "*B O"]:
        return _linear(x, self.weight, self.bias, self.activation)


def side_by_side(x: Float[Tensor, "*B I"], *layers: Linear) -> Float[Tensor, "*B O"]:
    """What these layers without activation make of the same x, in one product: it is read once, and so is its
    gradient written."""
    weight, bias = (
        torch.cat(parts) for parts in zip(*((one.weight, one.bias) for one in layers), strict=True)
    )
    return _linear(x, weight, bias, "none")


def _linear(x: Tensor, weight: Tensor, bias: Tensor, activation: str) -> Tensor:
    if _is_fused(x):
        x, weight, bias = (value.bfloat16() for value in (x, weight, bias))
        if torch.is_grad_enabled():
            return _Fused.apply(x, weight, bias, activation)
        return _product(x, weight, bias, activation)
    y = functional.linear(x, weight, bias)
    return torch.relu_(y) if activation == "relu" else y


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


def _is_fused(x: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and _HAS_BF16
    )


_HAS_BF16 = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
