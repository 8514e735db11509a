"""Glancing: how many tokens, which, and how often the model is asked."""

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor
from torch.nn import functional

from mple import snapshot
from mple.checks import UserError
from mple.proxy_input import ProxyInput, reveal
from mple.proxy_input.blank import Blank
from mple.proxy_input.distance import DISTANCES
from mple.proxy_input.glancing import CHOICES, Glancing, arrivals, glanced_count, log1mexp
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


def saying(logits: Tensor, tokens: Tensor, ids: Tensor, step: int = 0) -> Snapshot:
    """A snapshot whose look-ahead has `logits` (B, L, V) on the canvases of `tokens`."""
    model, lengths = nat(), (tokens != PAD).sum(1)
    encoder_out = model.encode(sources([2])).rows(torch.zeros(len(ids), dtype=torch.long))
    return Snapshot(model, encoder_out, ids, lengths, Draws(1, step), step, 100, output_of(logits))


def with_probabilities(tokens: Tensor, probabilities: Tensor) -> Tensor:
    """Logits under which each of `tokens` has its probability, and another content token the rest."""
    logits = torch.full((*tokens.shape, VOCABULARY), -1e4)
    other = wrong_everywhere(tokens).unsqueeze(-1)
    logits.scatter_(-1, other, torch.log1p(-probabilities).unsqueeze(-1))
    return logits.scatter(-1, tokens.unsqueeze(-1), probabilities.log().unsqueeze(-1))


def drawn_sets(weights: list[float], size: int) -> dict[tuple[int, ...], float]:
    """Probability of each set of `size` items drawn one after the other, by enumeration of all orders."""
    found: dict[tuple[int, ...], float] = {}
    for order in itertools.permutations(range(len(weights)), size):
        probability, left = 1.0, sum(weights)
        for item in order:
            probability *= weights[item] / left
            left -= weights[item]
        key = tuple(sorted(order))
        found[key] = found.get(key, 0.0) + probability
    return found


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


def test_levenshtein_counts_edits() -> None:
    """T = "abcd" said as "bcda": 4 tokens are wrong, 2 edits away."""
    tokens = torch.tensor([[CONTENT, CONTENT + 1, CONTENT + 2, CONTENT + 3]])
    batch = Batch(torch.tensor([3]), sources([2]), tokens)
    for distance, count, share in (("hamming", 4, 1.0), ("levenshtein", 2, 0.5)):
        look = predicting(tokens.roll(-1, 1), torch.tensor([3]))
        inputs = Glancing(1.0, 1.0, distance=distance)(batch, laid_out(tokens), look)
        assert int(inputs.revealed.sum()) == count
        assert set(inputs.log) == {"glancing_ratio", "revealed", distance}
        assert inputs.log[distance].value() == pytest.approx(share)


def test_the_distances_agree_where_what_is_wrong_is_nowhere_in_t() -> None:
    tokens, ids = contents(LENGTHS, seed=2), torch.arange(5)
    predictions = torch.where(contents(LENGTHS, seed=3) % 2 == 0, tokens, MASK).masked_fill(
        tokens == PAD, PAD
    )
    batch = Batch(ids, sources([2] * 5), tokens)
    found = [
        Glancing(0.8, 0.8, distance=distance)(batch, laid_out(tokens), predicting(predictions, ids))
        for distance in DISTANCES
    ]
    assert found[0].revealed.any()
    assert torch.equal(found[0].tokens, found[1].tokens)


@pytest.mark.parametrize(
    ("choice", "probabilities"), [("p_ref", (0.7, 0.2, 0.1)), ("one_minus_p_ref", (0.3, 0.8, 0.9))]
)
def test_one_token_is_chosen_by_its_weight(choice: str, probabilities: tuple[float, ...]) -> None:
    """Weights .7, .2, .1 and l = 1: the shares of the choices are the weights."""
    count, ratio = 20_000, 0.5 if choice == "p_ref" else 1.0  # of 2 tokens wrong, of 1
    tokens, ids = contents([3, 5]).repeat(count, 1), torch.arange(2 * count)
    batch = Batch(ids, sources([2]).expand(2 * count, -1), tokens)
    p = torch.tensor([*probabilities, 0.99, 0.999]).expand(2 * count, -1)
    look = saying(with_probabilities(tokens, p), tokens, ids)
    revealed = Glancing(ratio, ratio, choice=choice)(batch, laid_out(tokens), look).revealed[0::2]
    assert (revealed.sum(1) == 1).all()
    assert stats.chisquare(revealed.sum(0)[:3].numpy(), [0.7 * count, 0.2 * count, 0.1 * count]).pvalue > 1e-3


@pytest.mark.parametrize(
    "weights", [[0.7, 0.2, 0.1], [0.5, 0.5, 0.5], [0.9, 1e-3, 0.6, 0.3], [0.05, 0.4, 1.0, 0.2, 0.7]]
)
def test_every_set_is_as_likely_as_its_draw_orders(weights: list[float]) -> None:
    count, items = 40_000, len(weights)
    log_weights = torch.tensor(weights).log().expand(count, -1)
    uniform = Draws(1, 7).uniform("test", torch.arange(count), items)
    target = laid_out(torch.full((count, items), CONTENT))
    for size in range(1, items):
        shown = reveal(target, torch.full((count,), size), arrivals(uniform, log_weights)).revealed
        expected = drawn_sets(weights, size)
        found = Counter(tuple(row.nonzero()[0].tolist()) for row in shown.numpy())
        assert set(found) <= set(expected)
        likely = [key for key in expected if expected[key] * count >= 5]
        rare = [key for key in expected if key not in likely]
        table = [[found[key], count * expected[key]] for key in likely]
        if rare:
            table.append([sum(found[k] for k in rare), count * sum(expected[k] for k in rare)])
        observed, frequencies = zip(*table, strict=True)
        assert stats.chisquare(observed, frequencies).pvalue > 1e-3


def test_inclusion_of_the_heaviest() -> None:
    """l = 2 of the weights .7, .2, .1: .7 + .2 · .7/.8 + .1 · .7/.9 = .9528, enumerated and drawn."""
    expected = sum(p for chosen, p in drawn_sets([0.7, 0.2, 0.1], 2).items() if 0 in chosen)
    assert expected == pytest.approx(0.9528, abs=5e-5)
    count = 50_000
    tokens, ids = contents([3]).repeat(count, 1), torch.arange(count)
    batch = Batch(ids, sources([2]).expand(count, -1), tokens)
    p = torch.tensor([0.7, 0.2, 0.1]).expand(count, -1)  # two are wrong
    look = saying(with_probabilities(tokens, p), tokens, ids)
    revealed = Glancing(1.0, 1.0, choice="p_ref")(batch, laid_out(tokens), look).revealed
    assert (revealed.sum(1) == 2).all()
    deviation = (expected * (1 - expected) / count) ** 0.5
    assert abs(revealed[:, 0].double().mean().item() - expected) < 4 * deviation


def test_equal_weights_are_the_uniform_choice() -> None:
    uniform = Draws(1, 2).uniform("test", torch.arange(50), 9)
    for log_weight in (0.0, -30.0):
        weighted = arrivals(uniform, torch.full((50, 9), log_weight))
        assert torch.equal(weighted.argsort(1), uniform.argsort(1))


def test_log1mexp_is_precise_at_both_ends() -> None:
    for dtype, accuracy in ((torch.float32, 1e-6), (torch.float64, 1e-14)):
        log_p = -torch.logspace(-30, 1.9, 400, dtype=torch.float64).to(dtype)
        expected = [
            math.log(-math.expm1(x)) if x > -0.5 else math.log1p(-math.exp(x)) for x in log_p.tolist()
        ]
        torch.testing.assert_close(
            log1mexp(log_p).double(), torch.tensor(expected, dtype=torch.float64), rtol=accuracy, atol=0
        )
    assert log1mexp(torch.tensor([0.0])).tolist() == [-math.inf]


def test_certain_tokens_come_last_and_in_random_order() -> None:
    count = 3000
    uniform = Draws(1, 3).uniform("test", torch.arange(count), 5)
    uniform[0] = 0.0
    certain = torch.tensor([0.0, -1e-30, -200.0, 0.0, -0.7])
    arrival = arrivals(uniform, log1mexp(certain).expand(count, -1))
    assert arrival.isfinite().all()
    order = arrival.argsort(1)
    assert (order[:, :3].sort(1).values == torch.tensor([1, 2, 4])).all()
    first = (order[1:, 3] == 0).sum().item()
    assert stats.binomtest(first, count - 1, 0.5).pvalue > 1e-3


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    scale=st.sampled_from([0.1, 3.0, 40.0, 1e4]),
    ratio=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    distance=st.sampled_from(sorted(DISTANCES)),
    choice=st.sampled_from(sorted(CHOICES)),
)
def test_any_look_ahead(seed: int, scale: float, ratio: float, distance: str, choice: str) -> None:
    """The count is the floor, of T's content alone, whatever the probabilities; no certain token is shown as
    difficult."""
    tokens, ids = contents(LENGTHS, seed), torch.arange(5)
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(*tokens.shape, VOCABULARY, generator=generator)
    look, batch = saying(logits, tokens, ids), Batch(ids, sources([2] * 5), tokens)
    target = laid_out(tokens)
    inputs = Glancing(ratio, ratio, distance=distance, choice=choice)(batch, target, look)
    wrong = DISTANCES[distance](look.predictions, tokens)
    assert torch.equal(inputs.revealed.sum(1), (wrong * round(10 * ratio)) // 10)
    assert not (inputs.revealed & ~target.counts).any()
    assert not inputs.tokens[~target.counts].any()
    if choice == "one_minus_p_ref":
        assert (look.log_probs(tokens)[inputs.revealed] < 0).all()


@pytest.mark.parametrize("choice", ["p_ref", "one_minus_p_ref"])
@pytest.mark.parametrize("distance", sorted(DISTANCES))
def test_a_variant_gives_a_sentence_its_z_in_any_batch(choice: str, distance: str) -> None:
    batch = random_batch(SRC_LENGTHS, LENGTHS)
    glancing = Glancing(0.7, 0.7, distance=distance, choice=choice)
    together = glanced(glancing, batch, step=4)[0]
    for row, length in enumerate(LENGTHS):
        alone = glanced(glancing, take(batch, [row]), step=4)[0]
        assert torch.equal(alone.tokens[0], together.tokens[row, :length])


def test_probabilities_are_those_of_the_one_look_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """One decoder pass and one reading give predictions and probabilities, each as when asked alone."""
    model, batch = nat(), random_batch(SRC_LENGTHS, LENGTHS)
    look, plain = snapshot_of(model, batch), snapshot_of(model, batch)
    target = Raw()(batch, look)
    expected = (
        plain.output.logits.double().log_softmax(-1).gather(-1, target.tokens.unsqueeze(-1)).squeeze(-1)
    )
    found, fresh = look.log_probs(target.tokens), plain.predictions
    torch.testing.assert_close(found[target.counts].double(), expected[target.counts], rtol=1e-5, atol=1e-5)
    assert (found[~target.counts] == 0).all()
    assert not found.requires_grad
    assert torch.equal(look.predictions, fresh)

    calls, asked = count_decodes(model), []
    for name in ("normalisers_and_most_probable", "most_probable"):
        once = getattr(snapshot, name)

        def counted(*given: Tensor, name: str = name, once: Callable[..., Tensor] = once) -> Tensor:
            asked.append(name)
            return once(*given)

        monkeypatch.setattr(snapshot, name, counted)
    Glancing(choice="p_ref")(batch, target, snapshot_of(model, batch))
    assert (calls.rows, asked) == ([5], ["normalisers_and_most_probable"])


def test_look_ahead_with_and_without_dropout() -> None:
    batch = random_batch(SRC_LENGTHS, LENGTHS)
    model = nat(dropout=0.5).train()
    model.decoder.layers[0].eval()  # a part that somebody has frozen
    modes = [module.training for module in model.modules()]
    encoder_out = model.encode(batch.src_tokens)

    def shown(glancing: Glancing) -> Tensor:
        look = Snapshot(model, encoder_out, batch.ids, batch.tgt_lengths, Draws(1, 0), 0, 100)
        return glancing(batch, Raw()(batch, look), look).tokens

    clean = Glancing(1.0, 1.0, choice="p_ref", look_ahead_dropout=False)
    noisy = Glancing(1.0, 1.0, choice="p_ref")
    first = shown(clean)
    assert all(torch.equal(shown(clean), first) for _ in range(5))
    assert any(not torch.equal(shown(noisy), first) for _ in range(5))
    assert [module.training for module in model.modules()] == modes
    calls = count_decodes(model)
    shown(clean)
    assert calls.rows == [5]
    model.eval()
    assert torch.equal(shown(clean), first)
    assert torch.equal(shown(noisy), first)


@pytest.mark.parametrize(("name", "value"), [("distance", "cosine"), ("choice", "best")])
def test_unknown_names_are_refused_with_a_list(name: str, value: str) -> None:
    with pytest.raises(UserError, match=rf"proxy_input\.{name} must be one of .*; got '{value}'"):
        dataclasses.replace(Glancing(), **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "value"), [("start", 1.1), ("stop", -0.1), ("over", 0.0), ("over", 2.0)])
def test_refusals_name_the_key(name: str, value: float) -> None:
    with pytest.raises(UserError, match=rf"proxy_input\.{name}"):
        dataclasses.replace(Glancing(), **{name: value})  # type: ignore[arg-type]
