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

    For use without gradient, in a function whose backward calls `softmax_gradient`. A row that sees nothing
    is NaN.
    """
    # One pass scales, hides and widens: in bf16 the softmax of short rows is several times slower still.
    logits = torch.add(bias, weights, alpha=scale)
    if torch.jit.is_tracing() or not _is_short(logits):
        return logits.softmax(-1)
    lowest, highest = (float(value) * scale for value in weights.detach().aminmax())
    if not -_RANGE < lowest <= highest < _RANGE:
        return logits.softmax(-1)
    exponentials = logits.exp_()
    return exponentials.div_(_row_sums(exponentials))


def softmax_gradient(grad: Float[Tensor, "B H L S"], y: Float[Tensor, "B H L S"]) -> Float[Tensor, "B H L S"]:
    """The gradient of a softmax's logits, given that of its result `y`; in place of `grad`."""
    if not _is_short(y):
        return torch._softmax_backward_data(grad, y, -1, y.dtype)
    product = grad.mul_(y)
    return product.addcmul_(y, _row_sums(product), value=-1)


def _is_short(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.shape[-1] < _VECTOR and x.numel() >= _FEWEST


def _row_sums(x: Tensor) -> Tensor:
    """The sum over the last axis, kept with length 1: as a product, which is faster than a reduction."""
    with torch.autocast(x.device.type, enabled=False):
        return torch.matmul(x, x.new_ones(x.shape[-1], 1))
