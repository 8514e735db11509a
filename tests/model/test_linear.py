"""The fused linear layer against torch's own."""

from itertools import product

import pytest
import torch
from torch.nn import functional

from mple.model import linear
from mple.model.linear import Linear


def example(relu: bool) -> tuple[Linear, torch.Tensor]:
    torch.manual_seed(0)
    return Linear(32, 48, relu), torch.randn(3, 5, 32)


@pytest.mark.parametrize(("relu", "autocast", "gradient"), [*product([False, True], repeat=3)])
def test_it_is_linear_then_relu(relu: bool, autocast: bool, gradient: bool) -> None:
    layer, x = example(relu)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), torch.set_grad_enabled(gradient):
        found = layer(x)
        expected = functional.linear(x, layer.weight, layer.bias)
        expected = expected.relu() if relu else expected
    assert found.dtype == (torch.bfloat16 if autocast else torch.float32)
    assert found.requires_grad == gradient
    if autocast:
        torch.testing.assert_close(found, expected, atol=0.01, rtol=0.01)  # a bit or two of bf16
    else:
        assert torch.equal(found, expected)


@pytest.mark.skipif(not linear._HAS_BF16, reason="this CPU has no bf16 products in oneDNN")
def test_the_fused_product_is_for_look_ahead_under_autocast_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = example(relu=True)
    passes: list[str] = []
    monkeypatch.setattr(
        torch.nn.Linear, "forward", lambda self, x: passes.append("plain") or torch.zeros(3, 5, 48)
    )
    layer(x)
    with torch.no_grad():
        layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        layer(x)
    assert passes == ["plain"] * 3
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        layer(x)
    assert passes == ["plain"] * 3


def test_a_look_ahead_leaves_the_gradient_of_the_pass_after_it() -> None:
    layer, x = example(relu=True)
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            layer(x)
        layer(x).float().sum().backward()
    with_look_ahead, layer.weight.grad = layer.weight.grad, None
    with torch.autocast("cpu", torch.bfloat16):
        layer(x).float().sum().backward()
    assert with_look_ahead is not None
    assert torch.equal(with_look_ahead, layer.weight.grad)
