"""Dropout from random bytes, and the same added to a residual in one pass."""

import pytest
import torch

from mple.model.dropout import Dropout


def test_it_keeps_its_share_and_the_expectation() -> None:
    torch.manual_seed(0)
    y = Dropout(0.25)(torch.ones(400, 500))
    kept = (y != 0).float().mean().item()
    assert kept == pytest.approx(0.75, abs=0.004)  # 4 standard errors
    assert torch.equal(y[y != 0], torch.full_like(y[y != 0], 1 / 0.75))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_added_it_is_the_sum(dtype: torch.dtype) -> None:
    dropout = Dropout(0.1)
    x = torch.randn(6, 7, 8, requires_grad=True)
    block = torch.randn(6, 8, 7, dtype=dtype).transpose(1, 2).requires_grad_()  # not contiguous
    weight = torch.randn(6, 7, 8)
    torch.manual_seed(1)
    found = dropout.add(x, block)
    torch.manual_seed(1)
    expected = x + dropout(block)
    torch.testing.assert_close(found, expected, atol=1e-6 if dtype == torch.float32 else 0.02, rtol=0)
    got = torch.autograd.grad((found * weight).sum(), (x, block))
    wanted = torch.autograd.grad((expected * weight).sum(), (x, block))
    for one, other in zip(got, wanted, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("p", "training"), [(0.0, True), (0.3, False)])
def test_without_dropout_it_is_a_plain_sum(p: float, training: bool) -> None:
    x, block = torch.randn(2, 3), torch.randn(2, 3)
    assert torch.equal(Dropout(p).train(training).add(x, block), x + block)
