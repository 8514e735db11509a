"""Beam search on models whose log-probability of every sequence is known: a random table of all prefixes."""

import dataclasses
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mple.checks import UserError
from mple.decoding.beam import Beam, NBest
from mple.types import BOS, EOS, PAD, SPECIAL_TOKENS, UNK
from tests.fakes import autoregressive

CONTENT = range(len(SPECIAL_TOKENS), len(SPECIAL_TOKENS) + 3)
Sequence_ = tuple[int, ...]


@dataclass
class TableState:
    """Rows as (source, tokens so far) pairs."""

    rows: list[tuple[Sequence_, Sequence_]]

    def select(self, rows: Tensor) -> "TableState":
        return TableState([self.rows[row] for row in rows.flatten().tolist()])


class TableModel:
    """log P(next | source, prefix) is the log-softmax of normal draws seeded by source and prefix.

    `levels` rounds the draws to that many values a unit: exact ties. `eos_bias` is added to eos.
    """

    def __init__(self, seed: int, content: int = 3, levels: int = 0, eos_bias: float = 0.0) -> None:
        self.seed, self.size, self.levels, self.eos_bias = (
            seed,
            len(SPECIAL_TOKENS) + content,
            levels,
            eos_bias,
        )
        self.known: dict[tuple[Sequence_, Sequence_], Tensor] = {}
        self.rows_stepped: list[int] = []

    def log_probs(self, source: Sequence_, prefix: Sequence_) -> Tensor:
        if (source, prefix) not in self.known:
            draws = np.random.default_rng([self.seed, *source, 0, *prefix]).normal(size=self.size)
            draws = np.round(draws * self.levels) / self.levels if self.levels else draws
            draws[EOS] += self.eos_bias
            self.known[source, prefix] = torch.tensor(draws, dtype=torch.float32).log_softmax(0)
        return self.known[source, prefix]

    def score(self, source: Sequence_, tokens: Sequence_) -> float:
        """log P(tokens, eos | source)."""
        ends = [*tokens, EOS]
        return sum(float(self.log_probs(source, tokens[:i])[token]) for i, token in enumerate(ends))

    max_length = 1000

    def start(self, src_tokens: Tensor) -> TableState:
        return TableState([(source_of(row), ()) for row in src_tokens])

    def step(self, last_tokens: Tensor, state: TableState) -> Tensor:
        assert len(last_tokens) == len(state.rows)
        self.rows_stepped.append(len(state.rows))
        last = [() if token == BOS else (token,) for token in last_tokens.tolist()]
        state.rows = [
            (source, prefix + more) for (source, prefix), more in zip(state.rows, last, strict=True)
        ]
        return torch.stack([self.log_probs(*row) for row in state.rows])


def source_of(row: Tensor) -> Sequence_:
    return tuple(token for token in row.tolist() if token not in (PAD, EOS))


def sources(*lengths: int, width: int = 0) -> Tensor:
    """Different sources of these content lengths, eos at the end, padded to `width` or the longest."""
    src = torch.full((len(lengths), max(width, max(lengths) + 1)), PAD)
    for row, length in enumerate(lengths):
        src[row, :length] = torch.arange(length) + 6 + row
        src[row, length] = EOS
    return src


def content_of(tokens: Tensor) -> Sequence_:
    kept = [token for token in tokens.tolist() if token != PAD]
    assert tokens.tolist() == kept + [PAD] * (len(tokens) - len(kept))  # pad at the right only
    return tuple(kept)


def listed(found: NBest, row: int = 0) -> list[Sequence_]:
    """The hypotheses of a sentence, those that exist."""
    real = (found.scores[row] > -torch.inf).tolist()
    return [content_of(tokens) for tokens, is_real in zip(found.tokens[row], real, strict=True) if is_real]


def plain_greedy(log_probs: Callable[[Sequence_], Tensor], limit: int) -> Sequence_:
    tokens: Sequence_ = ()
    while len(tokens) < limit:
        allowed = log_probs(tokens).clone()
        allowed[[PAD, BOS, UNK, *range(UNK + 1, len(SPECIAL_TOKENS))]] = -torch.inf
        if not tokens:
            allowed[EOS] = -torch.inf
        best = int(allowed.argmax())
        if best == EOS:
            break
        tokens = (*tokens, best)
    return tokens


def plain_beam(
    log_probs: Callable[[Sequence_], Tensor], limit: int, beam: int, penalty: float
) -> list[Sequence_]:
    """The search's definition in lists, for one sentence, without the early stop by a bound."""
    live: list[tuple[float, Sequence_]] = [(0.0, ())]
    finished: list[tuple[float, Sequence_]] = []
    for length in range(limit + 1):
        options = []
        for score, prefix in live:
            next_scores = log_probs(prefix)
            for token in (EOS, *range(len(SPECIAL_TOKENS), len(next_scores))):
                if (token == EOS and length == 0) or (token != EOS and length == limit):
                    continue
                options.append((score + float(next_scores[token]), prefix, token))
        options.sort(key=lambda option: -option[0])
        for score, prefix, token in options[:beam]:
            if token == EOS:
                finished.append((score / (length + 1) ** penalty, prefix))
        live = [(score, (*prefix, token)) for score, prefix, token in options if token != EOS][:beam]
        if len(finished) >= beam:
            break
    finished.sort(key=lambda hypothesis: -hypothesis[0])
    return [prefix for _, prefix in finished[:beam]]


@pytest.mark.parametrize("penalty", [0.0, 0.6, 1.0, 2.0])
@pytest.mark.parametrize("seed", range(5))
def test_a_wide_beam_is_exhaustive_search(seed: int, penalty: float) -> None:
    model, src = TableModel(seed), sources(2, 3)
    every = [s for length in range(1, 5) for s in itertools.product(CONTENT, repeat=length)]
    decoding = Beam(beam=256, length_penalty=penalty, max_length_factor=0.0, max_length_offset=4)
    best, ranked = decoding(model, src), decoding.search(model, src, n_best=len(every))
    for row in range(len(src)):
        source = source_of(src[row])
        expected = sorted(every, key=lambda s: -model.score(source, s) / (len(s) + 1) ** penalty)
        assert content_of(best.tokens[row]) == expected[0]
        assert listed(ranked, row) == expected
        scores = [model.score(source, s) for s in expected]
        torch.testing.assert_close(ranked.scores[row], torch.tensor(scores), rtol=0, atol=1e-5)


@pytest.mark.parametrize("beam", [2, 3, 5])
@pytest.mark.parametrize("penalty", [0.0, 1.0, 1.5])
def test_beam_search_is_its_plain_definition(beam: int, penalty: float) -> None:
    """Also: stopping at the bound changes nothing (the plain search has no bound)."""
    src = sources(1, 4, 2, 6, 3, 5)
    for seed in range(8):
        model = TableModel(seed, content=7, eos_bias=0.5)
        decoding = Beam(beam, penalty, max_length_factor=1.5, max_length_offset=2)
        best, ranked = decoding(model, src), decoding.search(model, src, n_best=beam)
        for row in range(len(src)):
            source = source_of(src[row])
            limit = int(1.5 * len(source)) + 2
            expected = plain_beam(partial(model.log_probs, source), limit, beam, penalty)
            assert content_of(best.tokens[row]) == expected[0]
            found = listed(ranked, row)
            assert found == expected[: len(found)]
            assert len(found) == len(expected) or penalty == 0  # at 0 the bound may end it before


def test_equal_scores_go_to_the_better_prefix_then_to_the_lower_id() -> None:
    class Uniform(TableModel):
        def log_probs(self, source: Sequence_, prefix: Sequence_) -> Tensor:
            return torch.zeros(self.size).log_softmax(0)

    model, src = Uniform(0), sources(3)
    decoding = Beam(beam=4, length_penalty=0.0, max_length_factor=0.0, max_length_offset=3)
    expected = plain_beam(partial(model.log_probs, source_of(src[0])), limit=3, beam=4, penalty=0.0)
    found = listed(decoding.search(model, src, n_best=4))
    assert found == expected[: len(found)]
    assert len(found) >= 3


@pytest.mark.parametrize("content", [20, 90])
@pytest.mark.parametrize("levels", [0, 1])
def test_beam_one_is_greedy_search(levels: int, content: int) -> None:
    """With `levels`, many tokens tie: the lowest id wins, eos before any content."""
    src = sources(1, 9, 4, 2)
    for seed in range(10):
        model = TableModel(seed, content=content, levels=levels, eos_bias=2.0)
        got = Beam(beam=1)(model, src)
        for row in range(len(src)):
            source = source_of(src[row])
            limit = int(1.5 * len(source)) + 10
            expected = plain_greedy(partial(model.log_probs, source), limit)
            assert content_of(got.tokens[row]) == expected


@pytest.mark.parametrize("beam", [1, 4])
@pytest.mark.parametrize("levels", [0, 1])
def test_a_batch_is_its_sentences_one_by_one(beam: int, levels: int) -> None:
    """Very different maximum lengths, wider or narrower padding, ties."""
    lengths = (1, 30, 2, 12, 5, 1)
    model, decoding = (
        TableModel(3, content=5, levels=levels, eos_bias=-1.0),
        Beam(beam, max_length_factor=2.0),
    )
    whole = decoding(model, sources(*lengths, width=50))
    for row in range(len(lengths)):
        src = sources(*lengths)[row : row + 1]
        for one in (decoding(model, src), decoding(model, src[:, : lengths[row] + 1])):
            assert content_of(one.tokens[0]) == content_of(whole.tokens[row])
            assert one.scores[0] == whole.scores[row]
            assert one.passes <= whole.passes
    shuffled = decoding(model, sources(*lengths).flip(0))
    assert torch.equal(shuffled.scores.flip(0), whole.scores)
    assert torch.equal(shuffled.tokens.flip(0), whole.tokens)


def test_scores_are_the_log_probabilities_of_the_tokens() -> None:
    model, src = TableModel(4, content=8), sources(3, 8, 1)
    found = Beam(beam=4).search(model, src, n_best=4)
    for row in range(len(src)):
        for rank, tokens in enumerate(listed(found, row)):
            expected = model.score(source_of(src[row]), tokens)
            assert float(found.scores[row, rank]) == pytest.approx(expected, abs=1e-4)


def test_the_maximum_length_is_the_sentence_s_own_and_eos_is_counted() -> None:
    model, src = TableModel(5, eos_bias=-50.0), sources(2, 10, 4)
    hypotheses = Beam(beam=3, max_length_factor=0.5, max_length_offset=2)(model, src)
    assert (hypotheses.tokens != PAD).sum(1).tolist() == [3, 7, 4]
    assert (hypotheses.scores < -50).all()
    assert hypotheses.passes == 8  # seven tokens and eos


def test_finished_sentences_leave_the_batch() -> None:
    model, src = TableModel(6, eos_bias=-50.0), sources(2, 10, 4)
    Beam(beam=2, max_length_factor=1.0, max_length_offset=1)(model, src)
    # One row a sentence first, then two; sources of 2, 4 and 10 tokens stop after 4, 6 and 12 steps.
    assert model.rows_stepped == [3, 6, 6, 6, 4, 4, 2, 2, 2, 2, 2, 2]


def test_special_tokens_are_never_said_and_unk_only_where_allowed() -> None:
    class Special(TableModel):
        def log_probs(self, source: Sequence_, prefix: Sequence_) -> Tensor:
            pull = torch.tensor([9.0, 9, 0, 5, 9, 9] + [0.0] * 3)
            return (super().log_probs(source, prefix) + pull).log_softmax(0)

    src = sources(3, 5)
    said = Beam(beam=3)(Special(7), src).tokens
    assert set(said.flatten().tolist()) <= {PAD, *CONTENT}
    said = Beam(beam=3, allow_unk=True)(Special(7), src).tokens
    assert UNK in said
    assert set(said.flatten().tolist()) <= {PAD, UNK, *CONTENT}


def test_min_length_holds_and_zero_allows_the_empty_sentence() -> None:
    model, src = TableModel(8, eos_bias=20.0), sources(3, 5)
    for least in (0, 1, 4):
        hypotheses = Beam(beam=2, min_length=least)(model, src)
        assert (hypotheses.tokens != PAD).sum(1).tolist() == [least, least]
    assert hypotheses.tokens.shape == (2, 4)  # no wider than the longest
    empty = Beam(beam=2, min_length=0)(model, src)
    assert empty.tokens.shape == (2, 0)
    assert empty.scores[0] == pytest.approx(model.score(source_of(src[0]), ()), abs=1e-5)


def test_at_penalty_zero_the_bound_ends_the_search() -> None:
    """A likely finished hypothesis that no prefix can reach any more: no step to the maximum length."""
    model, src = TableModel(9, eos_bias=6.0), sources(20)
    assert Beam(beam=5, length_penalty=0.0)(model, src).passes == 2


def test_impossible_tokens_and_nan() -> None:
    class Only(TableModel):
        """Says one token until eos, with certainty; NaN where the table says so."""

        def log_probs(self, source: Sequence_, prefix: Sequence_) -> Tensor:
            certain = torch.full((self.size,), -torch.inf)
            certain[EOS if len(prefix) == 2 else CONTENT[0]] = 0.0
            return certain * (math.nan if self.seed else 1)

    hypotheses = Beam(beam=3)(Only(0), sources(4, 4))
    assert hypotheses.tokens.tolist() == [[CONTENT[0]] * 2] * 2
    assert hypotheses.scores.tolist() == [0.0, 0.0]
    with pytest.raises(FloatingPointError, match="NaN"):
        Beam(beam=3)(Only(1), sources(4, 4))


def test_it_leaves_the_model_s_answer_and_its_input_alone() -> None:
    model, src = TableModel(10), sources(3, 2)
    before = src.clone()
    Beam(beam=3)(model, src)
    assert torch.equal(src, before)
    fresh = TableModel(10)
    assert all(torch.equal(known, fresh.log_probs(*row)) for row, known in model.known.items())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("beam", 0),
        ("beam", 2.0),
        ("length_penalty", -0.1),
        ("max_length_factor", -1.0),
        ("max_length_offset", 0),
        ("min_length", -1),
        ("min_length", 11),
    ],
)
def test_values_out_of_range_are_named(key: str, value: Any) -> None:
    with pytest.raises((UserError, TypeError)) as caught:
        dataclasses.replace(Beam(), **{key: value})
    assert key in str(caught.value) or value == 11


def test_n_best_is_at_most_the_beam() -> None:
    with pytest.raises(UserError, match="n_best must be a number from 1 to 2; got 3"):
        Beam(beam=2).search(TableModel(0), sources(2), n_best=3)


def test_never_longer_than_the_model_has_positions() -> None:
    model = autoregressive(max_positions=6)
    found = Beam(beam=2, max_length_factor=5.0)(model, sources(5, 2))
    assert found.tokens.shape[1] <= 5
