"""The fused linear layer against torch's own."""

from itertools import product

import pytest
import torch
from torch.nn import functional

from mple.backend.cpu.linear import _HAS_BF16
from mple.model.linear import Linear, side_by_side


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


@pytest.mark.skipif(not _HAS_BF16, reason="this CPU has no bf16 products in oneDNN")
def test_the_fused_product_is_for_autocast_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = example(relu=True)
    passes: list[str] = []
    plain = functional.linear
    monkeypatch.setattr(functional, "linear", lambda *given: passes.append("plain") or plain(*given))
    for gradient in (False, True):
        with torch.set_grad_enabled(gradient):
            layer(x)
            with torch.autocast("cpu", torch.bfloat16):
                layer(x)
    assert passes == ["plain"] * 2


@pytest.mark.parametrize(("relu", "autocast"), [*product([False, True], repeat=2)])
def test_gradients_are_torchs(relu: bool, autocast: bool) -> None:
    layer, x = example(relu)
    exact = [value.detach().double().requires_grad_() for value in (x, layer.weight, layer.bias)]
    y = functional.linear(*exact)
    x.requires_grad_()
    grad = torch.randn(3, 5, 48)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = layer(x)
    (y.relu() if relu else y).backward(grad.double())
    found.backward(grad.to(found.dtype))
    wide = {"atol": 0.05, "rtol": 0.03} if autocast else {"atol": 1e-5, "rtol": 1e-5}
    for mine, theirs in zip((x, layer.weight, layer.bias), exact, strict=True):
        assert mine.grad is not None
        assert mine.grad.dtype == torch.float32
        torch.testing.assert_close(mine.grad.double(), theirs.grad, **wide)


@pytest.mark.parametrize("autocast", [False, True])
def test_layers_side_by_side(autocast: bool) -> None:
    torch.manual_seed(0)
    layers, x = [Linear(32, 48), Linear(32, 16)], torch.randn(3, 5, 32)
    grad = torch.randn(3, 5, 64)

    def run(together: bool) -> list[torch.Tensor]:
        own = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y = side_by_side(own, *layers) if together else torch.cat([layer(own) for layer in layers], -1)
        y.backward(grad.to(y.dtype))
        found = [y.detach(), own.grad, *(value.grad for layer in layers for value in layer.parameters())]
        for layer in layers:
            layer.zero_grad()
        return found

    wide = {"atol": 0.03, "rtol": 0.02} if autocast else {"atol": 1e-5, "rtol": 1e-5}
    for one, other in zip(run(True), run(False), strict=True):
        torch.testing.assert_close(one, other, **wide)


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
