"""The fixed masking ratio: exactly ⌊ratio · L⌋ tokens, any of them."""

import itertools
import math
from collections import Counter

import pytest
import torch
from scipy import stats
from torch import Tensor

from mple.checks import UserError
from mple.proxy_input import ProxyInput
from mple.proxy_input.blank import Blank
from mple.proxy_input.fixed_mask import FixedMask
from mple.proxy_target import laid_out
from mple.proxy_target.raw import Raw
from mple.randomness import Draws
from mple.snapshot import Snapshot
from mple.types import MASK, PAD, DecoderInput
from tests.fakes import contents, count_decodes, nat, pad_right, random_batch, snapshot_of, take

LENGTHS = [5, 1, 14, 10, 4]
BATCH = random_batch([4, 2, 6, 3, 5], LENGTHS)


def masked(strategy: FixedMask, tokens: Tensor) -> DecoderInput:
    """Z for the texts `tokens`, by a model that is never asked."""
    model, target = nat(), laid_out(tokens)
    encoder_out = model.encode(BATCH.src_tokens[:1])
    calls = count_decodes(model)
    look = Snapshot(model, encoder_out, torch.arange(len(tokens)), target.lengths, Draws(1, 0), 0, 100)
    inputs = strategy(random_batch([1], [1]), target, look)
    assert not calls.rows
    return inputs


def test_a_fifth_is_revealed() -> None:
    look = snapshot_of(nat(), BATCH)
    target = Raw()(BATCH, look)
    inputs = FixedMask()(BATCH, target, look)
    assert isinstance(FixedMask(), ProxyInput)
    assert inputs.revealed.sum(1).tolist() == [1, 0, 2, 2, 0]
    assert torch.equal(inputs.tokens[inputs.revealed], target.tokens[inputs.revealed])
    assert (inputs.tokens[target.counts & ~inputs.revealed] == MASK).all()
    assert (inputs.tokens[~target.counts] == PAD).all()
    assert inputs.log["revealed"].value() == pytest.approx(5 / 34)


def test_the_count_is_exact_for_decimal_ratios() -> None:
    """In floating point 0.29 · 100 and 0.57 · 100 are below 29 and 57."""
    lengths = list(range(1, 121))
    tokens = contents(lengths)
    for percent in (0, 1, 7, 20, 29, 30, 57, 58, 70, 99):
        found = masked(FixedMask(percent / 100), tokens).revealed.sum(1).tolist()
        assert found == [length * percent // 100 for length in lengths]
        assert all(count < length for count, length in zip(found, lengths, strict=True))


def test_every_set_of_that_size_is_equally_likely() -> None:
    draws = 10_000
    seen = Counter(
        map(
            tuple, masked(FixedMask(0.4), contents([5] * draws)).revealed.nonzero()[:, 1].view(-1, 2).tolist()
        )
    )
    sets = list(itertools.combinations(range(5), 2))
    assert set(seen) == set(sets)
    assert stats.chisquare([seen[s] for s in sets]).pvalue > 0.01


def test_ratio_zero_is_the_blank_input() -> None:
    look = snapshot_of(nat(), BATCH)
    target = Raw()(BATCH, look)
    inputs, blank = FixedMask(0)(BATCH, target, look), Blank()(BATCH, target, look)
    assert torch.equal(inputs.tokens, blank.tokens)
    assert torch.equal(inputs.revealed, blank.revealed)


def test_padding_and_other_sentences_are_nothing() -> None:
    look = snapshot_of(nat(), BATCH)
    revealed = FixedMask(0.5)(BATCH, Raw()(BATCH, look), look).revealed
    for b, length in enumerate(LENGTHS):
        one = take(BATCH, [b])
        look = snapshot_of(nat(), one)
        alone = FixedMask(0.5)(one, Raw()(one, look), look).revealed
        assert alone[0].tolist() == revealed[b, :length].tolist()
    tokens = contents(LENGTHS)
    assert torch.equal(masked(FixedMask(), pad_right(tokens, 4)).tokens, masked(FixedMask(), tokens).tokens)


@pytest.mark.parametrize("ratio", [-0.1, 1, 1.5, math.nan, True])
def test_refusals_name_the_key(ratio: float) -> None:
    with pytest.raises(UserError, match=r"proxy_input\.ratio must be a number from 0 to 0\.99; got"):
        FixedMask(ratio)
