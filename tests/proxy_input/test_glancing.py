"""Glancing: how many tokens, which, and how often the model is asked."""

import itertools
from collections import Counter

import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.nn import functional

from mple.checks import UserError
from mple.proxy_input import ProxyInput, reveal
from mple.proxy_input.blank import Blank
from mple.proxy_input.glancing import Glancing, glanced_count
from mple.proxy_target import laid_out
from mple.proxy_target.raw import Raw
from mple.randomness import Draws
from mple.snapshot import Snapshot
from mple.types import MASK, PAD, Batch, DecoderInput, Target
from tests.fakes import (
    CONTENT,
    VOCABULARY,
    contents,
    count_decodes,
    nat,
    output_of,
    random_batch,
    snapshot_of,
    sources,
    take,
)

SRC_LENGTHS, LENGTHS = [4, 2, 6, 3, 5], [5, 1, 8, 3, 7]


def glanced(glancing: Glancing, batch: Batch, step: int = 0) -> tuple[DecoderInput, Target, Snapshot]:
    look = snapshot_of(nat(), batch, step=step)
    target = Raw()(batch, look)
    return glancing(batch, target, look), target, look


def predicting(predictions: Tensor, ids: Tensor, step: int = 0, total: int = 100) -> Snapshot:
    """A snapshot whose look-ahead says `predictions`."""
    model, lengths = nat(), (predictions != PAD).sum(1)
    output = output_of(functional.one_hot(predictions, VOCABULARY).float())
    encoder_out = model.encode(sources([2])).rows(torch.zeros(len(ids), dtype=torch.long))
    return Snapshot(model, encoder_out, ids, lengths, Draws(1, step), step, total, output)


def wrong_everywhere(tokens: Tensor) -> Tensor:
    other = CONTENT + (tokens - CONTENT + 1) % (VOCABULARY - CONTENT)
    return torch.where(tokens == PAD, PAD, other)


@pytest.mark.parametrize(
    ("length", "same", "ratio", "count"),
    [(8, 3, 0.5, 2), (10, 9, 0.5, 0), (7, 3, 0.5, 2), (10, 10, 0.5, 0), (10, 0, 0.3, 3), (12, 2, 0.4, 4)],
)
def test_count_table(length: int, same: int, ratio: float, count: int) -> None:
    assert glanced_count(torch.tensor([length - same]), ratio).tolist() == [count]
    tokens = contents([length])
    predictions = torch.where(torch.arange(length) < same, tokens, wrong_everywhere(tokens))
    look = predicting(predictions, torch.tensor([3]))
    batch = Batch(torch.tensor([3]), sources([2]), tokens)
    inputs = Glancing(ratio, ratio)(batch, laid_out(tokens), look)
    assert int(inputs.revealed.sum()) == count
    assert inputs.log["hamming"].value() == pytest.approx((length - same) / length)
    assert inputs.log["revealed"].value() == pytest.approx(count / length)
    assert inputs.log["glancing_ratio"].value() == pytest.approx(ratio)


def test_count_is_exact_for_decimal_ratios() -> None:
    distance = torch.arange(257)
    for percent in range(101):
        expected = [d * percent // 100 for d in range(257)]
        assert glanced_count(distance, percent / 100).tolist() == expected


def test_schedule() -> None:
    glancing = Glancing()
    assert glancing.ratio(0, 1000) == 0.5
    assert glancing.ratio(500, 1000) == pytest.approx(0.4)
    assert [glancing.ratio(step, 1000) for step in (1000, 5000)] == pytest.approx([0.3, 0.3])
    half = Glancing(over=0.5)
    assert half.ratio(250, 1000) == pytest.approx(0.4)
    assert [half.ratio(step, 1000) for step in (500, 999)] == pytest.approx([0.3, 0.3])


def test_step_and_total_come_from_the_snapshot() -> None:
    batch = random_batch(SRC_LENGTHS, LENGTHS)
    for step, ratio in ((0, 0.5), (50, 0.4), (100, 0.3), (200, 0.3)):
        inputs = glanced(Glancing(), batch, step)[0]
        assert inputs.log["glancing_ratio"].value() == pytest.approx(ratio)


def test_ratio_zero_is_the_blank_input() -> None:
    batch = random_batch(SRC_LENGTHS, LENGTHS)
    inputs, target, look = glanced(Glancing(0.0, 0.0), batch)
    blank = Blank()(batch, target, look)
    assert torch.equal(inputs.tokens, blank.tokens)
    assert torch.equal(inputs.revealed, blank.revealed)
    assert not blank.revealed.any()


def test_ratio_one_reveals_as_many_as_are_wrong() -> None:
    batch = random_batch(SRC_LENGTHS, LENGTHS)
    inputs, target, look = glanced(Glancing(1.0, 1.0), batch)
    wrong = ((look.predictions != target.tokens) & target.counts).sum(1)
    assert inputs.revealed.sum(1).tolist() == wrong.tolist()


def test_the_smallest_priorities_are_revealed() -> None:
    tokens = contents([4, 3, 1])
    priority = torch.tensor([[0.9, 0.1, 0.2, 0.5], [0.3, 0.8, 0.2, 0.0], [0.7, 0.1, 0.1, 0.1]])
    revealed = reveal(laid_out(tokens), torch.tensor([2, 1, 1]), priority).revealed
    assert revealed.int().tolist() == [[0, 1, 1, 0], [0, 0, 1, 0], [1, 0, 0, 0]]


@pytest.mark.parametrize("step", range(5))
def test_what_is_shown(step: int) -> None:
    batch = random_batch(SRC_LENGTHS, LENGTHS, seed=step)
    inputs, target, look = glanced(Glancing(0.8, 0.8), batch, step)
    assert isinstance(Glancing(), ProxyInput)
    assert isinstance(Blank(), ProxyInput)
    assert inputs.revealed.any()
    assert not (inputs.revealed & ~target.counts).any()  # padding is never revealed
    for b, j in itertools.product(*map(range, target.tokens.shape)):
        shown = int(inputs.tokens[b, j])
        if inputs.revealed[b, j]:
            assert shown == int(target.tokens[b, j])
        else:
            assert shown == (MASK if j < LENGTHS[b] else PAD)
    wrong = [
        sum(int(look.predictions[b, j]) != int(target.tokens[b, j]) for j in range(n))
        for b, n in enumerate(LENGTHS)
    ]
    assert inputs.revealed.sum(1).tolist() == [8 * w // 10 for w in wrong]


def test_every_subset_is_equally_likely() -> None:
    """5 tokens on a canvas of 9 columns, all wrong, λ = .5: 2 are shown."""
    ids = torch.arange(800)
    tokens = contents([5, 9] * 400)
    batch = Batch(ids, sources([2] * 800), tokens)
    target, predictions = laid_out(tokens), wrong_everywhere(tokens)
    found: Counter[tuple[int, ...]] = Counter()
    for step in range(20):
        revealed = Glancing(0.5, 0.5)(batch, target, predicting(predictions, ids, step)).revealed
        assert (revealed[1::2].sum(1) == 4).all()
        found.update(tuple(row.nonzero().flatten().tolist()) for row in revealed[0::2])
    assert set(found) == set(itertools.combinations(range(5), 2))
    assert stats.chisquare(list(found.values())).pvalue > 1e-3


def test_a_sentence_gets_its_z_in_any_batch() -> None:
    batch = random_batch(SRC_LENGTHS, LENGTHS)
    together = glanced(Glancing(0.7, 0.7), batch, step=4)[0]
    for row, length in enumerate(LENGTHS):
        alone = glanced(Glancing(0.7, 0.7), take(batch, [row]), step=4)[0]
        assert torch.equal(alone.tokens[0], together.tokens[row, :length])
    assert not torch.equal(glanced(Glancing(0.7, 0.7), batch, step=5)[0].tokens, together.tokens)


def test_looks_ahead_once_and_blank_never() -> None:
    model, batch = nat(), random_batch(SRC_LENGTHS, LENGTHS)
    look = snapshot_of(model, batch)
    target = Raw()(batch, look)
    calls = count_decodes(model)
    Blank()(batch, target, look)
    assert calls.rows == []
    Glancing()(batch, target, look)
    assert calls.rows == [5]
    Glancing()(batch, target, look)
    assert calls.rows == [5]


@pytest.mark.parametrize(("name", "value"), [("start", 1.1), ("stop", -0.1), ("over", 0.0), ("over", 2.0)])
def test_refusals_name_the_key(name: str, value: float) -> None:
    with pytest.raises(UserError, match=rf"proxy_input\.{name}"):
        Glancing(**{name: value})
