"""The softmax of attention's logits, for rows as short as sentences.

PyTorch's CPU kernel takes a row's last, incomplete vector element by element. Where a whole row is shorter
than a vector (16 numbers with AVX-512) it does nothing else, and is several times slower than exponential,
sum and quotient as three calls, forward and backward. It also seeks each row's highest logit, which is needed
only where an exponential could leave float32's range; here one look at all logits says whether it could.
"""

import torch
from jaxtyping import Float
from torch import Tensor

_VECTOR = {"AVX512": 16, "AVX2": 8}.get(torch.backends.cpu.get_cpu_capability(), 0)
_FEWEST = 4096
"""Elements below which calls cost more than arithmetic."""
_RANGE = 60.0
"""exp(±60) is far from both ends of float32, and so is the sum of a row."""


def hidden_softmax(
    weights: Float[Tensor, "B H L S"], scale: float, bias: Float[Tensor, "#B 1 #L #S"]
) -> Float[Tensor, "B H L S"]:
    """softmax over S of scale · weights + bias, in float32; `bias` is 0, or -inf where nothing may be seen.

    A row that sees nothing is NaN.
    """
    # One pass scales, hides and widens: in bf16 the softmax of short rows is several times slower still.
    logits = torch.add(bias, weights, alpha=scale)
    is_short = logits.shape[-1] < _VECTOR and logits.numel() >= _FEWEST
    if not is_short or logits.device.type != "cpu" or torch.jit.is_tracing():
        return logits.softmax(-1)
    lowest, highest = (float(value) * scale for value in weights.detach().aminmax())
    if not -_RANGE < lowest <= highest < _RANGE:
        return logits.softmax(-1)
    return _ShortSoftmax.apply(logits)


class _ShortSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        with torch.autocast(logits.device.type, enabled=False):  # the sums are products
            exponentials = logits.exp()
            y = exponentials.div_(_row_sums(exponentials))
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        (y,) = ctx.saved_tensors
        product = grad * y
        return product.addcmul_(y, _row_sums(product), value=-1)


def _row_sums(x: Tensor) -> Tensor:
    """The sum over the last axis, kept with length 1: as a product, which is faster than a reduction."""
    return torch.matmul(x, x.new_ones(x.shape[-1], 1))
