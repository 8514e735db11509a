"""Attention's softmax against torch's in float64, where it takes its own way and where it does not."""

import pytest
import torch
from torch import Tensor

from mple.backend.cpu import softmax
from mple.backend.cpu.softmax import hidden_softmax, softmax_gradient

SCALE = 0.25


@pytest.fixture(autouse=True)
def vectors_of_avx512(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else another CPU would not take the way that is tested."""
    monkeypatch.setattr(softmax, "_VECTOR", 16)


def inputs(length: int, factor: float = 1.0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    torch.manual_seed(length)
    weights = (4 * factor * torch.randn(64, 4, 10, length)).to(dtype)
    hidden = torch.rand(64, 1, 1, length) < 0.3
    hidden[..., 0] = False
    return weights, torch.where(hidden, -torch.inf, 0.0)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What was summed by the own way, and not by torch's."""
    found: list[Tensor] = []
    sums = softmax._row_sums
    monkeypatch.setattr(softmax, "_row_sums", lambda x: found.append(x) or sums(x))
    return found


@pytest.mark.parametrize(
    ("length", "factor", "own"),
    [(2, 1.0, True), (11, 1.0, True), (15, 1.0, True), (16, 1.0, False), (30, 1.0, False), (11, 40.0, False)],
)
def test_value_and_gradient(length: int, factor: float, own: bool, taken: list[Tensor]) -> None:
    weights, bias = inputs(length, factor)
    exact = weights.double().requires_grad_()
    expected = (bias + SCALE * exact).softmax(-1)
    result = hidden_softmax(weights, SCALE, bias)
    assert bool(taken) == (own and weights.numel() >= softmax._FEWEST)
    torch.testing.assert_close(result.double(), expected, rtol=2e-6, atol=1e-9)
    grad = torch.randn_like(result)
    expected.backward(grad.double())
    taken.clear()
    found = SCALE * softmax_gradient(grad.clone(), result)
    assert bool(taken) == (length < 16 and weights.numel() >= softmax._FEWEST)
    torch.testing.assert_close(found.double(), exact.grad, rtol=1e-4, atol=1e-7)


def test_bfloat16_is_widened(taken: list[Tensor]) -> None:
    weights, bias = inputs(11, dtype=torch.bfloat16)
    result = hidden_softmax(weights, SCALE, bias)
    assert taken
    assert result.dtype == torch.float32
    expected = (bias + SCALE * weights.double()).softmax(-1)
    torch.testing.assert_close(result.double(), expected, rtol=2e-6, atol=1e-9)


def test_autocast_changes_nothing(taken: list[Tensor]) -> None:
    weights, bias = inputs(11, dtype=torch.bfloat16)
    grad = torch.randn(weights.shape)
    found = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled):
            result = hidden_softmax(weights, SCALE, bias)
            found.append((result, softmax_gradient(grad.clone(), result)))
    assert len(taken) == 4
    for without, under in zip(*found, strict=True):
        assert torch.equal(without, under)


def test_without_anything_hidden(taken: list[Tensor]) -> None:
    weights, _ = inputs(9)
    result = hidden_softmax(weights, SCALE, torch.zeros(1, 1, 1, 1))
    assert taken
    torch.testing.assert_close(result, (SCALE * weights).softmax(-1))


@pytest.mark.parametrize("logit", [1e4, -1e4, float("nan")])
def test_what_could_leave_the_range_goes_torchs_way(logit: float, taken: list[Tensor]) -> None:
    weights, bias = inputs(11)
    weights[3, 1, 4, 0] = logit
    result = hidden_softmax(weights, SCALE, bias)
    torch.testing.assert_close(result, (bias + SCALE * weights).softmax(-1), equal_nan=True)
    assert not taken


def test_few_elements_go_torchs_way(taken: list[Tensor]) -> None:
    weights, bias = inputs(11)
    hidden_softmax(weights[:2], SCALE, bias[:2])
    assert not taken


def test_a_row_that_sees_nothing_is_not_a_number(taken: list[Tensor]) -> None:
    weights, bias = inputs(11)
    bias[5] = -torch.inf
    result = hidden_softmax(weights, SCALE, bias)
    assert taken
    assert result[5].isnan().all()
    assert not result[:5].isnan().any()
