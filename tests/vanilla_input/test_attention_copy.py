"""Attention copy against its equation, one cell at a time."""

import math

import pytest
import torch
from torch import nn

from mple.checks import UserError
from mple.vanilla_input.attention_copy import AttentionCopy
from tests.vanilla_input.copies import D, canvas, places, sentence, source


def attention(seed: int = 0) -> AttentionCopy:
    torch.manual_seed(seed)
    return AttentionCopy(D)


def test_is_the_equation() -> None:
    copy, src_lengths = attention(), [4, 1, 6]
    with torch.no_grad():
        copy.query.weight.mul_(3)
        found = copy(torch.tensor([5, 5, 2]), source(src_lengths), canvas(5))
    matrix = copy.query.weight.detach().double()
    for b, src_length in enumerate(src_lengths):
        words = sentence(src_length, b).double()
        for i in range(5):
            query = matrix @ canvas(5)[i].double()
            scores = [
                float(query @ (words[j] / math.sqrt(D) + places(9)[j].double())) for j in range(src_length)
            ]
            weights = [math.exp(s - max(scores)) for s in scores]
            mixture = torch.stack([w / sum(weights) * word for w, word in zip(weights, words, strict=True)])
            torch.testing.assert_close(found[b, i].double(), mixture.sum(0), atol=1e-4, rtol=1e-4)


def test_owns_one_matrix_and_learns_a_reversal() -> None:
    """A canvas that is to show its source backwards: positions alone say where to look."""
    copy = attention()
    assert [(name, weight.shape) for name, weight in copy.named_parameters()] == [("query.weight", (D, D))]
    assert isinstance(copy, nn.Module)
    encoder_out = source([6, 6])
    wanted = torch.stack([sentence(6, b).flip(0) for b in range(2)])
    optimizer = torch.optim.Adam(copy.parameters(), lr=0.05)
    losses = []
    for _ in range(150):
        loss = (copy(torch.tensor([6, 6]), encoder_out, canvas(6)) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] > 0.5
    assert losses[-1] < 0.05


@pytest.mark.parametrize("value", [0, -8])
def test_refusals_name_the_key(value: int) -> None:
    with pytest.raises(UserError, match=r"vanilla_input\.d_model"):
        AttentionCopy(value)
