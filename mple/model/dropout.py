"""Dropout whose random numbers are cheap on a CPU.

`bernoulli_` draws one random number per element, which shows in the profile of a training step on a CPU.
Here one 64-bit draw decides eight elements, one byte each, and NumPy's SFC64 makes it faster than torch's
Mersenne Twister. The rate is therefore rounded to a multiple of 1/256 (0.1 becomes 26/256 = 0.1016);
the kept elements are scaled by the rounded rate, so the expectation is exact. On other devices this is
`torch.nn.functional.dropout`.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mple import checks


def random_bytes(count: int) -> Tensor:
    """`count` uniform bytes; torch's global CPU generator draws their seed and so has all the state."""
    generator = np.random.SFC64(int(torch.randint(2**63 - 1, ())))
    return torch.from_numpy(generator.random_raw((count + 7) // 8).view(np.uint8))[:count]


def _kept(shape: torch.Size, dropped: int) -> Tensor:
    """1 where an element is kept, 0 where not, which `dropped` of 256 are."""
    return random_bytes(shape.numel()).ge_(dropped).view(shape)


class _ByteDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, dropped: int) -> Tensor:  # type: ignore[no-untyped-def]
        keep = _kept(x.shape, dropped)
        ctx.save_for_backward(keep)
        ctx.scale = 256 / (256 - dropped)
        return x.mul(keep).mul_(ctx.scale)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        (keep,) = ctx.saved_tensors
        return grad.mul(keep).mul_(ctx.scale), None


class _AddByteDropout(torch.autograd.Function):
    """x + dropout(block) in one pass over both."""

    @staticmethod
    def forward(ctx, x: Tensor, block: Tensor, dropped: int) -> Tensor:  # type: ignore[no-untyped-def]
        keep = _kept(block.shape, dropped)
        ctx.save_for_backward(keep)
        ctx.scale = 256 / (256 - dropped)
        return torch.addcmul(x, block, keep.to(block.dtype), value=ctx.scale)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[no-untyped-def]
        (keep,) = ctx.saved_tensors
        return grad, grad.mul(keep).mul_(ctx.scale), None


class Dropout(nn.Module):
    """Zero a share `p` of the elements while training and scale up the rest."""

    def __init__(self, p: float | int) -> None:
        super().__init__()
        checks.number("dropout", p, 0, 0.99)
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        if x.device.type != "cpu":
            return functional.dropout(x, self.p)
        return _ByteDropout.apply(x.contiguous(), self._dropped)

    def add(self, x: Tensor, block: Tensor) -> Tensor:
        """x + dropout(block)."""
        if not self.training or self.p == 0 or x.device.type != "cpu":
            return x + self(block)
        return _AddByteDropout.apply(x, block.contiguous(), self._dropped)

    def draw(self, shape: torch.Size) -> tuple[Tensor, float] | None:
        """What `forward` would keep of such a tensor on a CPU, 0 or 1, and by how much it would scale that
        up; None where it would change nothing."""
        if not self.training or self.p == 0:
            return None
        return _kept(shape, self._dropped), 256 / (256 - self._dropped)

    @property
    def _dropped(self) -> int:
        """Of 256."""
        return max(1, round(self.p * 256))

    def extra_repr(self) -> str:
        return f"p={self.p}"
