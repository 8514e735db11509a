"""The vocabulary read some positions at a time, against the whole table of logits."""

import dataclasses
from collections.abc import Callable

import pytest
import torch

from mple import backend
from mple.backend import chunked
from mple.backend.cpu import vocabulary
from mple.types import PAD


@pytest.fixture(params=[2**21, 50, 1], ids=["at once", "in parts", "one by one"])
def kernel(request: pytest.FixtureRequest) -> chunked.ReadingKernel:
    return dataclasses.replace(vocabulary.READING, most=request.param)


def example() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = 3 * torch.randn(4, 7, 8, generator=generator)
    is_canvas = torch.arange(7) < torch.tensor([7, 1, 4, 6]).unsqueeze(1)
    return features, torch.randn(23, 8, generator=generator), is_canvas


def test_both_agree_with_the_whole_table(kernel: chunked.ReadingKernel) -> None:
    features, weight, is_canvas = example()
    logits = features @ weight.T
    expected = logits.logsumexp(-1).masked_fill(~is_canvas, 0)
    found = chunked.normalisers(features, weight, is_canvas, kernel)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    best = chunked.most_probable(features, weight, is_canvas, kernel)
    assert torch.equal(best, logits.argmax(-1).masked_fill(~is_canvas, PAD))
    normaliser, token = chunked.normalisers_and_most_probable(features, weight, is_canvas, kernel)
    torch.testing.assert_close(normaliser, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(token, best)


@pytest.mark.parametrize("to", [lambda x: 1e3 * x, lambda x: 50 * x.abs(), lambda x: -1e3 * x.abs()])
def test_logits_beyond_the_range_of_exp(to: Callable[[torch.Tensor], torch.Tensor]) -> None:
    features, weight, is_canvas = example()
    features, weight = to(features), weight.abs()
    logits = features @ weight.T
    found = backend.normalisers(features, weight, is_canvas)
    expected = logits.logsumexp(-1).masked_fill(~is_canvas, 0)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        backend.normalisers_and_most_probable(features, weight, is_canvas)[0], expected
    )


def test_under_autocast_it_is_the_same_rounding_as_a_linear_layer(kernel: chunked.ReadingKernel) -> None:
    features, weight, is_canvas = example()
    with torch.autocast("cpu", torch.bfloat16):
        found = chunked.normalisers(features, weight, is_canvas, kernel)
        best = chunked.most_probable(features, weight, is_canvas, kernel)
        logits = torch.nn.functional.linear(features, weight)
    assert logits.dtype == torch.bfloat16
    expected = logits.float().logsumexp(-1).masked_fill(~is_canvas, 0)
    rounding = {"atol": 2**-8, "rtol": 0}  # nats: an exponential has 8 bits of its own
    torch.testing.assert_close(found, expected, **rounding)
    assert torch.equal(best, logits.float().argmax(-1).masked_fill(~is_canvas, PAD))
    with torch.autocast("cpu", torch.bfloat16):
        normaliser, token = chunked.normalisers_and_most_probable(features, weight, is_canvas, kernel)
    torch.testing.assert_close(normaliser, expected, **rounding)
    assert torch.equal(token, best)


def test_rounded_exponentials_of_a_vocabulary_sum_to_the_same() -> None:
    """Their roundings cancel: what is left is a twentieth of what rounding the logits costs."""
    generator = torch.Generator().manual_seed(0)
    features, weight = torch.randn(1, 64, 16, generator=generator), torch.randn(4000, 16, generator=generator)
    canvas = torch.ones(1, 64, dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16):
        found = backend.normalisers(features, weight, canvas)
        logits = torch.nn.functional.linear(features, weight).float()
    of_logits = (logits.logsumexp(-1) - (features @ weight.T).logsumexp(-1)).abs().mean()
    assert 0 < float((found - logits.logsumexp(-1)).abs().mean()) < 0.1 * float(of_logits)


def test_of_equal_logits_the_first() -> None:
    features, weight = torch.ones(1, 2, 3), torch.zeros(5, 3)
    weight[2:] = 1.0
    best = backend.most_probable(features, weight, torch.ones(1, 2, dtype=torch.bool))
    assert best.tolist() == [[2, 2]]
    assert backend.normalisers_and_most_probable(features, weight, torch.ones(1, 2, dtype=torch.bool))[
        1
    ].tolist() == [[2, 2]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [5, 127, 128, 129, 256, 700])
@pytest.mark.parametrize("shift", [0.0, -9.0, 9.0])
def test_the_highest_is_the_first_of_equals(dtype: torch.dtype, size: int, shift: float) -> None:
    """Rounded so that there are many equals, and in every block; below 0, above and on both sides."""
    generator = torch.Generator().manual_seed(size)
    logits = (torch.randn(300, size, generator=generator).round() + shift).to(dtype)
    logits[0] = -torch.inf
    logits[1] = 0.0
    logits[1, 0] = -0.0
    logits[2], logits[2, -1] = -1e-3, -1e-4
    found = vocabulary.highest(logits)
    assert torch.equal(found, torch.from_numpy(logits.float().numpy().argmax(1)))


def test_an_empty_canvas() -> None:
    features, weight, is_canvas = example()
    nothing = torch.zeros_like(is_canvas)
    assert backend.normalisers(features, weight, nothing).count_nonzero() == 0
    assert (backend.most_probable(features, weight, nothing) == PAD).all()
    normaliser, token = backend.normalisers_and_most_probable(features, weight, nothing)
    assert normaliser.count_nonzero() == 0
    assert (token == PAD).all()


def test_a_token_s_logit_is_summed_in_float32_under_autocast() -> None:
    """What autocast rounds is the states and the table, not what is summed of them."""
    features, weight, is_canvas = example()
    states, tokens = 9 * features[is_canvas], torch.arange(int(is_canvas.sum()))
    expected = (states.bfloat16().double() * weight.bfloat16()[tokens].double()).sum(1)
    with torch.autocast("cpu", torch.bfloat16):
        found = backend.logits_of(states, weight, tokens)
    assert expected.abs().max() > 50
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
