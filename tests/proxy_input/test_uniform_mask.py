"""CMLM's input: how many tokens, which, and that the rest is what is learned."""

import itertools
from collections import Counter

import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.nn import functional

from mple.objective.cross_entropy import CrossEntropy
from mple.proxy_input import ProxyInput
from mple.proxy_input.uniform_mask import UniformMask
from mple.proxy_target import laid_out
from mple.proxy_target.raw import Raw
from mple.randomness import Draws
from mple.snapshot import Snapshot
from mple.types import MASK, PAD, UNK, DecoderInput
from tests.fakes import (
    VOCABULARY,
    contents,
    count_decodes,
    nat,
    output_of,
    pad_right,
    random_batch,
    snapshot_of,
    take,
)

LENGTHS = [5, 1, 8, 3, 7]
BATCH = random_batch([4, 2, 6, 3, 5], LENGTHS)
MODEL = nat()
ENCODER_OUT = MODEL.encode(BATCH.src_tokens)
CALLS = count_decodes(MODEL)


def masked(tokens: Tensor, ids: Tensor | None = None, step: int = 0) -> DecoderInput:
    """Z for the texts `tokens`, by a model that is never asked."""
    ids = torch.arange(len(tokens)) if ids is None else ids
    target = laid_out(tokens)
    look = Snapshot(MODEL, ENCODER_OUT, ids, target.lengths, Draws(1, step), step, 100)
    inputs = UniformMask()(BATCH, target, look)
    assert not CALLS.rows
    return inputs


def test_every_count_and_every_set_of_that_size_is_equally_likely() -> None:
    """L = 4: each l from 0 to 3 with 1/4, and then each of its C(4, l) sets."""
    draws = 20_000
    revealed = masked(contents([4] * draws)).revealed
    seen = Counter(map(tuple, revealed.int().tolist()))
    sets = [s for s in itertools.product((0, 1), repeat=4) if sum(s) < 4]
    assert set(seen) == set(sets)
    of_size = Counter(map(sum, sets))
    expected = [draws / 4 / of_size[sum(s)] for s in sets]
    assert stats.chisquare([seen[s] for s in sets], expected).pvalue > 0.01
    counts = Counter(revealed.sum(1).tolist())
    assert stats.chisquare([counts[size] for size in range(4)]).pvalue > 0.01


def test_the_same_sentence_draws_anew_in_every_update() -> None:
    tokens, ids = contents([4]), torch.tensor([7])
    counts = Counter(int(masked(tokens, ids, step).revealed.sum()) for step in range(400))
    assert stats.chisquare([counts[size] for size in range(4)]).pvalue > 0.01


@pytest.mark.parametrize(("value", "share"), [(0.0, 0), (1 - 2**-53, 1)])
def test_the_ends_of_lambda(value: float, share: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing at the least λ, all but one at the greatest below 1, at every length."""

    def constant(draws: Draws, purpose: str, ids: Tensor, length: int) -> Tensor:
        return torch.full((len(ids), length), value, dtype=torch.float64)

    monkeypatch.setattr(Draws, "uniform", constant)
    lengths = torch.arange(1, 301)
    found = masked(contents(lengths.tolist())).revealed.sum(1)
    assert torch.equal(found, share * (lengths - 1))


def test_z_shows_t_and_hides_the_rest() -> None:
    look = snapshot_of(nat(), BATCH)
    target = Raw()(BATCH, look)
    inputs = UniformMask()(BATCH, target, look)
    assert isinstance(UniformMask(), ProxyInput)
    assert torch.equal(inputs.tokens[inputs.revealed], target.tokens[inputs.revealed])
    assert (inputs.tokens[target.counts & ~inputs.revealed] == MASK).all()
    assert (inputs.tokens[~target.counts] == PAD).all()
    assert not inputs.revealed[~target.counts].any()
    assert 0 < int(inputs.revealed.sum()) < sum(LENGTHS)
    assert inputs.log["revealed"].value() == pytest.approx(int(inputs.revealed.sum()) / sum(LENGTHS))


def test_one_token_is_always_hidden() -> None:
    inputs = masked(contents([1] * 50))
    assert not inputs.revealed.any()
    assert (inputs.tokens == MASK).all()


def test_padding_other_sentences_and_unknown_words_are_nothing() -> None:
    look = snapshot_of(nat(), BATCH)
    target = Raw()(BATCH, look)
    revealed = UniformMask()(BATCH, target, look).revealed
    for b, length in enumerate(LENGTHS):
        one = take(BATCH, [b])
        look = snapshot_of(nat(), one)
        alone = UniformMask()(one, Raw()(one, look), look).revealed
        assert alone[0].tolist() == revealed[b, :length].tolist()
    tokens = contents(LENGTHS)
    unknown = torch.where(tokens == PAD, PAD, UNK)
    assert torch.equal(masked(tokens).revealed, masked(unknown).revealed)
    assert torch.equal(masked(pad_right(tokens, 4)).revealed, masked(tokens).revealed)


def test_only_masked_tokens_are_learned() -> None:
    look = snapshot_of(nat(), BATCH)
    target = Raw()(BATCH, look)
    inputs = UniformMask()(BATCH, target, look)
    logits = torch.randn(*target.tokens.shape, VOCABULARY, generator=torch.Generator().manual_seed(0))
    found = CrossEntropy(0.0)(output_of(logits), target, inputs)
    hidden = inputs.tokens == MASK
    summed = functional.cross_entropy(logits[hidden], target.tokens[hidden], reduction="sum")
    assert float(found["nats"].total) == pytest.approx(float(summed), rel=1e-5)
    assert float(found["nats"].count) == int(hidden.sum())
    assert float(found["nll"].count) == sum(LENGTHS)  # a revealed token counts with 0 in L_NAT
