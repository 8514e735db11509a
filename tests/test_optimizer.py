"""The inverse square-root schedule at its corners, and the optimizer that it is for."""

import pytest
import torch

from mple.checks import UserError
from mple.optimizer import Adam


def test_learning_rate_rises_linearly_and_falls_with_the_inverse_square_root() -> None:
    adam = Adam(lr=5e-4, warmup_steps=10_000)
    for step, rate in ((0, 5e-8), (4_999, 2.5e-4), (9_999, 5e-4), (39_999, 2.5e-4), (89_999, 5e-4 / 3)):
        assert adam.rate(step) == pytest.approx(rate)
    assert Adam(lr=1e-5, warmup_steps=10_000, schedule="fixed").rate(0) == 1e-5
    assert Adam(lr=1e-5, warmup_steps=10_000, schedule="fixed").rate(99_999) == 1e-5


def test_optimizer_is_torchs_adamw_with_these_settings() -> None:
    adam = Adam(lr=1e-3, warmup_steps=1, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.1, clip_norm=0)
    start = torch.tensor([1.0, -2.0])
    own, plain = (torch.nn.Parameter(start.clone()) for _ in range(2))
    expected = torch.optim.AdamW([plain], lr=1e-3, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.1)
    for parameter, optimizer in ((own, adam.build([own])), (plain, expected)):
        for _ in range(3):
            optimizer.zero_grad()
            parameter.square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(own, plain)
    assert not torch.equal(own.detach(), start)


@pytest.mark.parametrize(
    "settings",
    [
        {"lr": -1},
        {"warmup_steps": 0},
        {"schedule": "cosine"},
        {"betas": (0.9,)},
        {"betas": (0.9, 1.0)},
        {"betas": (-0.1, 0.9)},
        {"eps": -1e-8},
        {"weight_decay": -0.1},
        {"clip_norm": -1},
    ],
)
def test_settings_out_of_range_raise(settings: dict) -> None:
    (name,) = settings
    with pytest.raises(UserError, match=rf"^optimizer\.{name}\b.* must be "):
        Adam(**settings)
    Adam(lr=1e-9, warmup_steps=1, betas=(0.0, 0.9999), eps=1e-12, weight_decay=0, clip_norm=0)
