"""Dropout as a module: the rate while training, and the check of it."""

from torch import Tensor, nn

from mple import backend, checks


class Dropout(nn.Module):
    """Zeros a share `p` of the elements while training and scales up the rest."""

    def __init__(self, p: float | int) -> None:
        super().__init__()
        checks.number("dropout", p, 0, 0.99)
        self.p = p

    @property
    def rate(self) -> float | int:
        """`p` while training, else 0."""
        return self.p if self.training else 0

    def forward(self, x: Tensor) -> Tensor:
        return backend.dropout(x, self.rate)

    def add(self, x: Tensor, block: Tensor) -> Tensor:
        """x + dropout(block)."""
        return backend.add_dropout(x, block, self.rate)

    def extra_repr(self) -> str:
        return f"p={self.p}"
