"""A linear layer, and several of them of the same input in one product."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mple import backend


class Linear(nn.Linear):
    """x Wᵀ + b, after which ReLU with `relu`."""

    def __init__(self, in_features: int, out_features: int, relu: bool = False) -> None:
        super().__init__(in_features, out_features)
        self.relu = relu

    def forward(self, x: Float[Tensor, "*P I"]) -> Float[Tensor, "*P O"]:
        return backend.linear(x, self.weight, self.bias, self.relu)


def side_by_side(x: Float[Tensor, "*P I"], *layers: Linear) -> Float[Tensor, "*P O"]:
    """The outputs of these layers without activation, one after the other: x is read once, and so is its
    gradient written."""
    weight, bias = (
        torch.cat(parts) for parts in zip(*((one.weight, one.bias) for one in layers), strict=True)
    )
    return backend.linear(x, weight, bias)
