"""Soft copy: the worked rows, and its limits."""

import math

import pytest
import torch

from mple.checks import UserError
from mple.vanilla_input.soft_copy import SoftCopy
from tests.vanilla_input.copies import D, canvas, sentence, source


def shares(src_length: int, length: int, temperature: float = 0.3) -> torch.Tensor:
    """Of each source word at each position, by solving for them: words are linearly independent."""
    found = SoftCopy(temperature)(torch.tensor([length]), source([src_length]), canvas(length))[0]
    return torch.linalg.lstsq(sentence(src_length, 0).T, found.T).solution.T


def test_worked_rows() -> None:
    rows = [[0.9644, 0.0344, 0.0012], [0.0333, 0.9334, 0.0333], [0.0012, 0.0344, 0.9644]]
    torch.testing.assert_close(shares(3, 3), torch.tensor(rows), atol=6e-5, rtol=0)


def test_is_the_definition() -> None:
    for temperature in (0.3, 2.0, 5):
        found = shares(5, 5, temperature)
        for i in range(5):
            weights = [math.exp(-abs(i - j) / temperature) for j in range(5)]
            expected = torch.tensor([w / sum(weights) for w in weights])
            torch.testing.assert_close(found[i], expected, atol=2e-5, rtol=0)


def test_behind_the_source_the_last_row_is_repeated() -> None:
    found = SoftCopy()(torch.tensor([9]), source([3]), canvas(9))[0]
    for i in range(3, 9):
        assert torch.equal(found[i], found[2])
    assert not torch.equal(found[1], found[2])


def test_limits_of_the_temperature() -> None:
    for src_lengths in ([5], [5, 3]):
        lengths = torch.tensor(src_lengths)
        sharp = SoftCopy(1e-9)(lengths, source(src_lengths), canvas(5))
        flat = SoftCopy(1e6)(lengths, source(src_lengths), canvas(5))
        for b, length in enumerate(src_lengths):
            assert torch.equal(sharp[b, :length], sentence(length, b))
            torch.testing.assert_close(flat[b], sentence(length, b).mean(0).expand(5, D))


@pytest.mark.parametrize("value", [0, -0.3, math.nan])
def test_refusals_name_the_key(value: float | int) -> None:
    with pytest.raises(UserError, match=r"vanilla_input\.temperature"):
        SoftCopy(value)
