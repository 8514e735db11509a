"""OaXE against enumeration of all permutations, the paper's Fig. 9 and worked numbers, and its limits."""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mple.checks import UserError
from mple.objective.cross_entropy import CrossEntropy
from mple.proxy_input.glancing import Glancing
from mple.proxy_input.uniform_mask import UniformMask
from mple.proxy_target import AlignedTarget, ProxyTarget
from mple.proxy_target.axe import AXE
from mple.proxy_target.dynamic_kd import DynamicKD
from mple.proxy_target.kd import KD
from mple.proxy_target.oaxe import OaXE, assignment
from mple.proxy_target.raw import Raw
from mple.randomness import Draws
from mple.snapshot import Snapshot
from mple.types import MASK, PAD, DecoderInput, DecoderOutput, Target
from tests.fakes import (
    CONTENT,
    VOCABULARY,
    contents,
    count_decodes,
    nat,
    output_of,
    random_batch,
    snapshot_of,
    take,
)


def saying(
    logits: Tensor, tokens: Tensor, revealed: Tensor | None = None
) -> tuple[Snapshot, Target, DecoderInput]:
    """A model that says `logits` (B, L, V) on the canvases of `tokens`, R itself, and the Z that it sees."""
    counts = tokens != PAD
    revealed = torch.zeros_like(counts) if revealed is None else revealed
    shown = torch.where(revealed, tokens, torch.where(counts, MASK, PAD))
    inputs = DecoderInput(shown, revealed)
    batch, model = random_batch([3] * len(tokens), counts.sum(1).tolist()), nat()
    look = Snapshot(
        model,
        model.encode(batch.src_tokens),
        batch.ids,
        batch.tgt_lengths,
        Draws(1, 0),
        0,
        1,
        output_of(logits),
        inputs,
    )
    return look, Target(tokens, counts, tokens), inputs


def random_logits(tokens: Tensor, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(*tokens.shape, VOCABULARY, generator=generator)


def loss(target: Target, logits: Tensor, inputs: DecoderInput) -> float:
    return float(CrossEntropy(0.0)(output_of(logits), target, inputs)["nats"].total)


def least(nll: Tensor, tokens: list[int], fixed: Sequence[int] = ()) -> tuple[float, list[int]]:
    """The least cost of any permutation of `tokens` that keeps the positions `fixed`, and what it says."""
    costs, found = nll.tolist(), (math.inf, tokens)
    for order in itertools.permutations(range(len(tokens))):
        if all(order[j] == j for j in fixed):
            said = [tokens[i] for i in order]
            cost = sum(costs[t][j] for j, t in enumerate(said) if j not in fixed)
            found = min(found, (cost, said))
    return found


LENGTHS = [6, 1, 4, 5, 2, 3]


@pytest.mark.parametrize("seed", range(3))
def test_least_of_all_permutations(seed: int) -> None:
    tokens = contents(LENGTHS, seed)
    logits = random_logits(tokens, seed)
    look, reference, inputs = saying(logits, tokens)
    target = OaXE(Raw()).align(reference, look)
    nll = -logits.log_softmax(-1).mT
    costs = []
    for b, length in enumerate(LENGTHS):
        cost, said = least(nll[b], tokens[b, :length].tolist())
        costs.append(cost)
        assert target.tokens[b].tolist() == said + [PAD] * (6 - length)
    assert loss(target, logits, inputs) == pytest.approx(sum(costs), rel=1e-5)
    assert torch.equal(target.counts, reference.counts)
    assert target.reference is reference.reference


def test_revealed_tokens_do_not_count_as_truncated() -> None:
    """Position 1 is revealed where P(its token) is 1e-6; nothing else is below the limit."""
    tokens = contents([2])
    logits = torch.zeros(1, 2, VOCABULARY)
    logits[0, 0, tokens[0, 0]] = -12
    logits[0, 1, tokens[0, 1]] = 12
    for is_revealed, share in ((True, 0.0), (False, 0.5)):
        look, reference, _ = saying(logits, tokens, torch.tensor([[is_revealed, False]]))
        target = OaXE(Raw(), truncation=0.01, truncation_unit="probability").align(reference, look)
        assert target.log["truncated"].value() == share


@pytest.mark.parametrize("seed", range(3))
def test_revealed_positions_keep_their_tokens(seed: int) -> None:
    """The others are the best permutation of what is left, whatever the model says of the revealed ones."""
    tokens = contents(LENGTHS, seed)
    logits = random_logits(tokens, seed)
    revealed = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(seed)) < 0.4
    revealed[3] = True  # nothing is left to permute
    revealed &= tokens != PAD
    look, reference, inputs = saying(logits, tokens, revealed)
    target = OaXE(Raw()).align(reference, look)
    nll = -logits.log_softmax(-1).mT
    costs = []
    for b, length in enumerate(LENGTHS):
        fixed = revealed[b].nonzero().squeeze(1).tolist()
        cost, said = least(nll[b], tokens[b, :length].tolist(), fixed)
        costs.append(cost)
        assert target.tokens[b, :length].tolist() == said
    assert loss(target, logits, inputs) == pytest.approx(sum(costs), rel=1e-5)
    blind, _, _ = saying(logits, tokens)
    assert not torch.equal(OaXE(Raw()).align(reference, blind).tokens, target.tokens)


PROBABILITIES = [[0.6, 0.1, 0.1, 0.1, 0.1], [0.1, 0.6, 0.1, 0.1, 0.1], [0.05, 0.05, 0.7, 0.1, 0.1]]
PROBABILITIES.append([0.05, 0.05, 0.1, 0.6, 0.2])
OTHER, EGO, EAT, PIZZA, TODAY = range(CONTENT, CONTENT + 5)


def figure_9() -> tuple[Tensor, Tensor]:
    """Logits and R of Fig. 9 of the paper; OTHER stands for its ε."""
    logits = torch.full((1, 4, VOCABULARY), -200.0)
    logits[..., OTHER : TODAY + 1] = torch.tensor(PROBABILITIES).log()
    return logits, torch.tensor([[EGO, EAT, PIZZA, TODAY]])


def test_figure_9() -> None:
    logits, tokens = figure_9()
    look, reference, inputs = saying(logits, tokens)
    target = OaXE(Raw()).align(reference, look)
    assert target.tokens.tolist() == [[TODAY, EGO, EAT, PIZZA]]
    found = CrossEntropy(0.0)(output_of(logits), target, inputs)
    assert float(found["nats"].total) == pytest.approx(3.6809, abs=5e-5)
    assert found["nll"].value() == pytest.approx(0.9202, abs=5e-5)
    assert loss(reference, logits, inputs) == pytest.approx(8.5172, abs=5e-5)
    assert target.log["moved"].value() == 1
    assert "truncated" not in target.log


def test_three_tokens_by_hand() -> None:
    logits = torch.full((1, 3, VOCABULARY), -200.0)
    logits[..., CONTENT : CONTENT + 3] = torch.tensor(
        [[0.2, 0.7, 0.1], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8]]
    ).log()
    tokens = torch.tensor([[CONTENT, CONTENT + 1, CONTENT + 2]])
    look, reference, inputs = saying(logits, tokens)
    target = OaXE(Raw()).align(reference, look)
    assert (target.tokens - CONTENT).tolist() == [[1, 0, 2]]
    assert loss(target, logits, inputs) == pytest.approx(1.0906, abs=5e-5)
    assert loss(reference, logits, inputs) == pytest.approx(3.0366, abs=5e-5)
    assert target.log["moved"].value() == pytest.approx(2 / 3)


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 6),
    st.integers(1, 25),
    st.sampled_from(["random", "ties", "alike", "wide", "negative"]),
    st.floats(0, 1),
    st.integers(0, 10**6),
)
def test_the_least_cost_is_scipy_s(rows: int, length: int, kind: str, share: float, seed: int) -> None:
    """Of any costs, with any positions free; the order is SciPy's where no other is as good."""
    draw = np.random.default_rng(seed)
    costs = draw.exponential(5.0, (rows, length, length)).astype(np.float32)
    if kind == "ties":
        costs = np.floor(costs / 5)
    elif kind == "alike":
        costs[:] = costs[:, :1]
    elif kind == "wide":
        costs = np.exp((2 * costs).clip(max=np.log(1e6)))
    elif kind == "negative":
        costs = -costs
    free = draw.random((rows, length)) < share
    junk = np.where(free[:, :, None] & free[:, None, :], costs, np.nan)
    order = assignment(torch.tensor(junk), torch.tensor(free)).numpy()
    for own, row, cost in zip(order, free, costs.astype(np.float64), strict=True):
        (places,) = row.nonzero()
        assert (own[~row] == np.arange(length)[~row]).all()
        assert sorted(own[places]) == places.tolist()
        token, position = linear_sum_assignment(cost[np.ix_(places, places)])
        least = cost[places[token], places[position]].sum()
        assert cost[own[places], places].sum() == pytest.approx(least, rel=1e-9, abs=1e-9)
        if kind in ("random", "negative"):
            assert (own[places[position]] == places[token]).all()


def test_no_sentence_or_no_position_has_an_order() -> None:
    for shape in ((0, 4), (3, 0)):
        found = assignment(torch.zeros(*shape, shape[1]), torch.zeros(shape, dtype=torch.bool))
        assert found.shape == shape


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.integers(CONTENT, CONTENT + 5), min_size=1, max_size=7), min_size=1, max_size=4),
    st.integers(0, 10**6),
    st.sampled_from([1.0, 30.0]),
    st.sampled_from([None, 0.05]),
)
def test_gradients_are_finite_and_those_of_the_loss_gathered_again(
    texts: list[list[int]], seed: int, scale: float, truncation: float | None
) -> None:
    width = max(map(len, texts))
    tokens = torch.tensor([text + [PAD] * (width - len(text)) for text in texts])
    logits = scale * random_logits(tokens, seed)
    revealed = (tokens != PAD) & (torch.arange(width) % 3 == 1)
    look, reference, inputs = saying(logits, tokens, revealed)
    oaxe = OaXE(Raw(), truncation, None if truncation is None else "probability")
    target = oaxe.align(reference, look)
    is_trained = target.counts & ~revealed
    if target.truncated is not None:
        is_trained = is_trained & ~target.truncated
    own, again = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    CrossEntropy(0.1)(output_of(own), target, inputs)["nats"].total.backward()
    log_probs = again.log_softmax(-1)
    nll = -log_probs.gather(2, target.tokens.unsqueeze(2)).squeeze(2)
    (0.9 * nll - 0.1 * log_probs.mean(-1))[is_trained].sum().backward()
    assert own.grad is not None
    assert again.grad is not None
    assert own.grad.isfinite().all()
    torch.testing.assert_close(own.grad, again.grad)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(CONTENT, CONTENT + 3), min_size=1, max_size=6), st.integers(0, 10**6), st.randoms()
)
def test_the_order_of_the_reference_is_nothing(tokens: list[int], seed: int, random: Any) -> None:
    """Four different tokens in up to six places, so most references repeat one: T is still unique."""
    text = torch.tensor([tokens])
    logits = random_logits(text, seed)
    look, reference, inputs = saying(logits, text)
    target = OaXE(Raw()).align(reference, look)
    cost, said = least(-logits[0].log_softmax(-1).T, tokens)
    assert target.tokens.tolist() == [said]
    assert loss(target, logits, inputs) == pytest.approx(cost, rel=1e-5)
    assert loss(target, logits, inputs) <= loss(reference, logits, inputs) + 1e-4
    random.shuffle(tokens)
    look, shuffled, _ = saying(logits, torch.tensor([tokens]))
    assert torch.equal(OaXE(Raw()).align(shuffled, look).tokens, target.tokens)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.integers(CONTENT, CONTENT + 5), min_size=1, max_size=8), min_size=1, max_size=5),
    st.integers(0, 10**6),
    st.integers(0, 3),
    st.sampled_from([-50.0, 0.0, 50.0]),
    st.sampled_from([None, 1.0]),
)
def test_a_batch_is_its_sentences_and_padding_is_nothing(
    texts: list[list[int]], seed: int, extra: int, junk: float, truncation: float | None
) -> None:
    """At most cross-entropy; each sentence as if alone, whatever the model says beyond its canvas."""
    oaxe = OaXE(Raw(), truncation, None if truncation is None else "nats")
    width = max(map(len, texts)) + extra
    tokens = torch.tensor([text + [PAD] * (width - len(text)) for text in texts])
    logits = random_logits(tokens, seed)
    logits[tokens == PAD] = junk * torch.arange(VOCABULARY) / VOCABULARY
    look, reference, _ = saying(logits, tokens)
    together = oaxe.align(reference, look)
    for b, text in enumerate(texts):
        row = slice(b, b + 1), slice(0, len(text))
        look, reference_alone, inputs_alone = saying(logits[row], tokens[row])
        alone = oaxe.align(reference_alone, look)
        assert together.tokens[b].tolist() == alone.tokens[0].tolist() + [PAD] * (width - len(text))
        if truncation is not None:
            assert together.truncated is not None
            assert alone.truncated is not None
            assert torch.equal(together.truncated[row], alone.truncated)
            assert not together.truncated[b, len(text) :].any()
        own = dataclasses.replace(alone, truncated=None)
        most = loss(reference_alone, logits[row], inputs_alone)
        assert loss(own, logits[row], inputs_alone) <= most + 1e-4


def test_a_model_that_says_the_reference_is_left_alone() -> None:
    tokens = contents([7, 3, 5])
    logits = 20 * torch.nn.functional.one_hot(tokens, VOCABULARY).float()
    look, reference, _ = saying(logits, tokens)
    target = OaXE(Raw()).align(reference, look)
    assert torch.equal(target.tokens, tokens)
    assert target.log["moved"].value() == 0


def test_what_is_not_free_has_no_effect() -> None:
    lengths = torch.tensor(LENGTHS)
    costs = torch.rand(6, 6, 6, generator=torch.Generator().manual_seed(0))
    free = torch.arange(6) < lengths.unsqueeze(1)
    inside = free.unsqueeze(1) & free.unsqueeze(2)
    order = assignment(costs, free)
    for junk in (-50.0, 50.0, math.inf, math.nan):
        assert torch.equal(assignment(costs.masked_fill(~inside, junk), free), order)
    wide = torch.full((6, 9, 9), -50.0)
    wide[:, :6, :6] = costs
    found = assignment(wide, torch.nn.functional.pad(free, (0, 3)))
    assert torch.equal(found[:, :6], order)
    assert found[:, 6:].tolist() == [[6, 7, 8]] * 6
    for b, length in enumerate(LENGTHS):
        one = assignment(costs[b : b + 1, :length, :length], free[b : b + 1, :length])
        assert one[0].tolist() == order[b, :length].tolist()
        assert order[b, length:].tolist() == list(range(length, 6))


def test_a_model_that_has_diverged_shows_in_the_loss() -> None:
    tokens = contents([3, 2])
    logits = random_logits(tokens)
    logits[0, 1] = math.nan
    look, reference, inputs = saying(logits, tokens)
    target = OaXE(Raw()).align(reference, look)
    assert sorted(target.tokens[0].tolist()) == sorted(tokens[0].tolist())
    assert math.isnan(loss(target, logits, inputs))


def test_one_copy_to_the_cpu_for_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = contents(LENGTHS)
    look, reference, _ = saying(random_logits(tokens), tokens)
    copies, cpu = [], Tensor.cpu

    def counted(tensor: Tensor) -> Tensor:
        copies.append((tensor.dtype, tuple(tensor.shape)))
        return cpu(tensor)

    monkeypatch.setattr(Tensor, "cpu", counted)
    OaXE(Raw()).align(reference, look)
    assert copies == [(torch.float32, (6, 7, 6))]  # the costs, and below them what is free


BATCH = random_batch([4, 2, 6], [5, 2, 7], [[3, 5], [6, 2], [1, 7]], names=("base", "raw"))
REFERENCES: list[ProxyTarget] = [Raw(), KD("base"), DynamicKD({"base": 1.0, "raw": 2.0}, 0.02)]


@pytest.mark.parametrize("reference", REFERENCES, ids=["raw", "kd", "dynamic_kd"])
def test_on_every_reference(reference: ProxyTarget) -> None:
    model, oaxe = nat(), OaXE(reference)
    assert isinstance(oaxe, AlignedTarget)
    assert not oaxe.says_blank
    assert oaxe.candidates == reference.candidates
    plain = reference(BATCH, snapshot_of(model, BATCH))
    calls = count_decodes(model)
    target = oaxe(BATCH, snapshot_of(model, BATCH))
    assert len(calls.rows) == 1  # Dynamic KD's own pass serves the alignment
    assert torch.equal(target.counts, plain.counts)
    assert torch.equal(target.lengths, plain.lengths)
    assert torch.equal(target.reference, plain.reference)
    assert set(target.log) == set(plain.log) | {"moved"}
    assert torch.equal(target.tokens.sort(1).values, plain.tokens.sort(1).values)
    assert (target.tokens[~target.counts] == PAD).all()
    assert target.log["moved"].value() > 0
    for b in range(3):
        one = take(BATCH, [b])
        alone = oaxe(one, snapshot_of(model, one))
        assert alone.tokens.tolist() == [target.tokens[b, : int(target.lengths[b])].tolist()]


def test_given_some_z_no_gradient_flows() -> None:
    model = nat()
    look = snapshot_of(model, BATCH)
    seen = look.given(model.blank(BATCH.tgt_lengths))
    assert seen.output.features.requires_grad
    found = OaXE(Raw()).align(Raw()(BATCH, look), seen)
    assert not any(mean.total.requires_grad for mean in found.log.values())
    assert torch.equal(found.tokens, OaXE(Raw())(BATCH, look).tokens)  # this Z is Z*


def test_float32_costs_even_under_autocast() -> None:
    """States and weights that bfloat16 holds exactly, logits near 64 that it would round by up to 0.25."""
    tokens = contents([8] * 30)
    generator = torch.Generator().manual_seed(0)
    states, weight = (torch.randn(n, 16, generator=generator).bfloat16().float() for n in (240, VOCABULARY))
    states[:, 0], weight[:, 0] = 1, 64
    output = DecoderOutput(states.view(30, 8, 16), weight)
    look, reference, _ = saying(output.logits, tokens)
    look = Snapshot(look.model, look.encoder_out, look.ids, look.lengths, look.draws, 0, 1, output)
    exact = OaXE(Raw()).align(reference, look).tokens
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(OaXE(Raw()).align(reference, look).tokens, exact)
    rounded, _, _ = saying(output.logits.bfloat16().float(), tokens)
    assert not torch.equal(OaXE(Raw()).align(reference, rounded).tokens, exact)


@pytest.mark.parametrize("choose", [Glancing(1.0, 1.0), UniformMask()], ids=["glancing", "uniform_mask"])
def test_inputs_reveal_what_t_says(choose: Any) -> None:
    look = snapshot_of(nat(), BATCH)
    target = OaXE(Raw())(BATCH, look)
    inputs = choose(BATCH, target, look)
    assert inputs.revealed.any()
    assert torch.equal(inputs.tokens[inputs.revealed], target.tokens[inputs.revealed])


@pytest.mark.parametrize(
    ("value", "unit", "nats"),
    [
        (2, "nats", 2.0),
        (2.737, "nats", 2.737),
        (1, "bits", 0.6931),
        (3.0, "bits", 2.0794),
        (0.15, "probability", 1.8971),
        (None, None, None),
    ],
)
def test_the_limit_in_nats(value: float | None, unit: str | None, nats: float | None) -> None:
    limit = OaXE(Raw(), value, unit).limit
    assert limit == (None if nats is None else pytest.approx(nats, abs=5e-5))


@pytest.mark.parametrize(
    ("value", "unit", "minimised", "left_out"),
    [
        (0.15, "probability", 1.3783, 1),  # what is meant by π = 0.15
        (1.897, "nats", 1.3783, 1),
        (2.737, "nats", 3.6809, 0),  # what the published code does with it
        (2.737, "bits", 1.3783, 1),
        (0.4, "nats", 0.3567, 3),
        (0.3, "nats", 0.0, 4),
    ],
)
def test_truncation_of_figure_9(value: float, unit: str, minimised: float, left_out: int) -> None:
    logits, tokens = figure_9()
    look, reference, inputs = saying(logits, tokens)
    target = OaXE(Raw(), value, unit).align(reference, look)
    assert target.tokens.tolist() == [[TODAY, EGO, EAT, PIZZA]]
    assert target.lengths.tolist() == [4]
    assert target.log["truncated"].value() == left_out / 4
    found = CrossEntropy(0.0)(output_of(logits), target, inputs)
    assert float(found["nats"].total) == pytest.approx(minimised, abs=5e-5)
    assert float(found["nats"].count) == 4
    assert found["nll"].value() == pytest.approx(0.9202, abs=5e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_truncated_token_has_no_gradient(smoothing: float) -> None:
    tokens = contents(LENGTHS)
    logits = random_logits(tokens)
    revealed = (tokens != PAD) & (torch.arange(6) == 1)
    look, reference, inputs = saying(logits, tokens, revealed)
    target = OaXE(Raw(), 0.1, "probability").align(reference, look)
    log_probs = logits.log_softmax(-1)
    said = log_probs.gather(2, target.tokens.unsqueeze(2)).squeeze(2)
    is_trained = target.counts & ~revealed & (said > math.log(0.1))
    assert 0 < int(is_trained.sum()) < int((target.counts & ~revealed).sum())
    own, again = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    found = CrossEntropy(smoothing)(output_of(own), target, inputs)["nats"]
    log_probs = again.log_softmax(-1)
    nll = -log_probs.gather(2, target.tokens.unsqueeze(2)).squeeze(2)
    expected = ((1 - smoothing) * nll - smoothing * log_probs.mean(-1))[is_trained].sum()
    assert float(found.total.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert float(found.count) == int((target.counts & ~revealed).sum())
    found.total.backward()
    expected.backward()
    assert own.grad is not None
    assert again.grad is not None
    torch.testing.assert_close(own.grad, again.grad)
    assert not own.grad[~is_trained].any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"truncation": 2}, r"proxy_target\.truncation_unit .* must be given together.*; got 2 and None"),
        ({"truncation_unit": "nats"}, r"proxy_target\.truncation .*; got None and 'nats'"),
        ({"truncation": 2, "truncation_unit": "dits"}, r"truncation_unit must be one of .*; got 'dits'"),
        (
            {"truncation": 2, "truncation_unit": "probability"},
            r"truncation \(probability\) must be .*; got 2",
        ),
        ({"truncation": 0, "truncation_unit": "nats"}, r"truncation \(nats\) must be .*; got 0"),
        ({"truncation": math.inf, "truncation_unit": "bits"}, r"truncation \(bits\) must be .*; got inf"),
        ({"truncation": math.nan, "truncation_unit": "bits"}, r"truncation \(bits\) must be .*; got nan"),
    ],
)
def test_refusals_name_the_key(changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        OaXE(Raw(), **changes)


@pytest.mark.parametrize("reference", [AXE(Raw()), OaXE(Raw())], ids=["axe", "oaxe"])
def test_an_aligned_reference_is_refused(reference: ProxyTarget) -> None:
    with pytest.raises(UserError, match=r"proxy_target\.reference must choose a text .*; got (AXE|OaXE),"):
        OaXE(reference)
