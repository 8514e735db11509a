"""The vocabulary read some positions at a time, against the whole table of logits."""

import pytest
import torch

from mple.model import reading
from mple.types import PAD


@pytest.fixture(params=[2**21, 50, 1], ids=["at once", "in parts", "one by one"])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_CHUNK", request.param)


def example() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = 3 * torch.randn(4, 7, 8, generator=generator)
    is_canvas = torch.arange(7) < torch.tensor([7, 1, 4, 6]).unsqueeze(1)
    return features, torch.randn(23, 8, generator=generator), is_canvas


@pytest.mark.usefixtures("chunk")
def test_read_agrees_with_the_whole_table() -> None:
    features, weight, is_canvas = example()
    logits = features @ weight.T
    found = reading.read(features, weight, is_canvas)
    expected = logits.logsumexp(-1).masked_fill(~is_canvas, 0)
    torch.testing.assert_close(found.normaliser, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(found.best, logits.argmax(-1).masked_fill(~is_canvas, PAD))
    torch.testing.assert_close(reading.normalisers(features, weight, is_canvas), expected)


def test_large_logits_do_not_overflow() -> None:
    features, weight, is_canvas = example()
    logits = 1e3 * features @ weight.T
    found = reading.read(1e3 * features, weight, is_canvas).normaliser
    torch.testing.assert_close(found, logits.logsumexp(-1).masked_fill(~is_canvas, 0))


@pytest.mark.usefixtures("chunk")
def test_under_autocast_it_is_the_same_rounding_as_a_linear_layer() -> None:
    features, weight, is_canvas = example()
    with torch.autocast("cpu", torch.bfloat16):
        found = reading.read(features, weight, is_canvas)
        logits = torch.nn.functional.linear(features, weight)
    assert logits.dtype == torch.bfloat16
    expected = logits.float().logsumexp(-1).masked_fill(~is_canvas, 0)
    torch.testing.assert_close(found.normaliser, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(found.best, logits.float().argmax(-1).masked_fill(~is_canvas, PAD))


def test_of_equal_logits_the_first() -> None:
    features, weight = torch.ones(1, 2, 3), torch.zeros(5, 3)
    weight[2:] = 1.0
    found = reading.read(features, weight, torch.ones(1, 2, dtype=torch.bool))
    assert found.best.tolist() == [[2, 2]]


def test_an_empty_canvas() -> None:
    features, weight, is_canvas = example()
    found = reading.read(features, weight, torch.zeros_like(is_canvas))
    assert found.normaliser.count_nonzero() == 0
    assert (found.best == PAD).all()
