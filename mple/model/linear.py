"""A linear layer, with bias and ReLU in the matrix product where that is faster.

The look-ahead and decoding under bf16 autocast on a CPU spend most of their time in linear layers, and a
third of that in writing the bias first and applying ReLU afterwards. oneDNN does both in the product;
PyTorch reaches that only through the operator its compiler uses.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Linear(nn.Linear):
    """x Wᵀ + b, after which ReLU if asked."""

    def __init__(self, in_features: int, out_features: int, relu: bool = False) -> None:
        super().__init__(in_features, out_features)
        self.activation = "relu" if relu else "none"

    def forward(self, x: Float[Tensor, "*B I"]) -> Float[Tensor, "*B O"]:
        if _is_fused(x):
            values = (value.bfloat16() for value in (x, self.weight, self.bias))
            return torch.ops.mkldnn._linear_pointwise(*values, self.activation, [], "")
        y = super().forward(x)
        return torch.relu_(y) if self.activation == "relu" else y


def _is_fused(x: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and not torch.is_grad_enabled()
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and _HAS_BF16
    )


_HAS_BF16 = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
