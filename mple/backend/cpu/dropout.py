"""Dropout whose random numbers are cheap on a CPU.

`bernoulli_` draws one random number per element, which shows in the profile of a training step on a CPU.
Here one 64-bit draw decides eight elements, one byte each, and NumPy's SFC64 makes it faster than torch's
Mersenne Twister. The rate is therefore rounded to a multiple of 1/256 (0.1 becomes 26/256 = 0.1016);
the kept elements are scaled by the rounded rate, so the expectation is exact.
"""

import numpy as np
import torch
from torch import Tensor


def random_bytes(count: int) -> Tensor:
    """`count` uniform bytes; torch's global CPU generator draws their seed and so has all the state."""
    generator = np.random.SFC64(int(torch.randint(2**63 - 1, ())))
    return torch.from_numpy(generator.random_raw((count + 7) // 8).view(np.uint8))[:count]


def draw(shape: torch.Size, rate: float | int) -> tuple[Tensor, float] | None:
    """1 where an element is kept, 0 where it is dropped, and the factor of the kept; None at a rate of 0."""
    if rate == 0:
        return None
    dropped = max(1, round(rate * 256))
    return random_bytes(shape.numel()).ge_(dropped).view(shape), 256 / (256 - dropped)


def dropout(x: Tensor, rate: float | int) -> Tensor:
    return x if rate == 0 else _Dropout.apply(x.contiguous(), rate)


def add_dropout(x: Tensor, block: Tensor, rate: float | int) -> Tensor:
    return x + block if rate == 0 else _AddDropout.apply(x, block.contiguous(), rate)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, rate: float | int) -> Tensor:  # type: ignore[no-untyped-def]
        drawn = draw(x.shape, rate)
        assert drawn is not None
        keep, ctx.scale = drawn
        ctx.save_for_backward(keep)
        return x.mul(keep).mul_(ctx.scale)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        (keep,) = ctx.saved_tensors
        return grad.mul(keep).mul_(ctx.scale), None


class _AddDropout(torch.autograd.Function):
    """x + dropout(block) in one pass over both."""

    @staticmethod
    def forward(ctx, x: Tensor, block: Tensor, rate: float | int) -> Tensor:  # type: ignore[no-untyped-def]
        drawn = draw(block.shape, rate)
        assert drawn is not None
        keep, ctx.scale = drawn
        ctx.save_for_backward(keep)
        return torch.addcmul(x, block, keep.to(block.dtype), value=ctx.scale)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[no-untyped-def]
        (keep,) = ctx.saved_tensors
        return grad, grad.mul(keep).mul_(ctx.scale), None
