"""The cross-entropy against torch's, the worked number, and what enters which denominator."""

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from mple.backend import linear_cross_entropy
from mple.backend.cpu import loss as cpu_loss
from mple.checks import UserError
from mple.objective import Objective
from mple.objective.cross_entropy import CrossEntropy
from mple.types import MASK, PAD, DecoderInput, Penalty, Target
from tests.fakes import VOCABULARY, contents, output_of


def example(revealed_share: float = 0.0) -> tuple[Tensor, Target, DecoderInput]:
    tokens = contents([4, 6, 1])
    generator = torch.Generator().manual_seed(4)
    logits = 3 * torch.randn(*tokens.shape, VOCABULARY, generator=generator)
    counts = tokens != PAD
    revealed = (torch.rand(tokens.shape, generator=generator) < revealed_share) & counts
    shown = torch.where(revealed, tokens, torch.where(counts, MASK, PAD))
    return logits, Target(tokens, counts, tokens), DecoderInput(shown, revealed)


def test_worked_number() -> None:
    logits = torch.tensor([[0.7, 0.1, 0.1, 0.1]]).log()
    smoothed, nll = linear_cross_entropy(logits, torch.eye(4), torch.tensor([0]), 0.1)
    assert float(smoothed) == pytest.approx(0.5026, abs=5e-5)
    assert float(nll) == pytest.approx(0.3567, abs=5e-5)


def test_smoothing_spread_over_the_others_is_fairseqs() -> None:
    """V = 50, ε = 0.1: (1 − ε)·NLL + ε/(V − 1) of each other token's, against ε/V of all tokens'."""
    logits = torch.zeros(1, 1, 50)
    logits[0, 0, 7] = -6.0
    target = torch.tensor([[7]])
    counts = torch.ones(1, 1, dtype=torch.bool)
    blank = DecoderInput(torch.full((1, 1), MASK), ~counts)
    log_probs = logits[0, 0].double().log_softmax(0)
    others = -(log_probs.sum() - log_probs[7])
    expected = {
        "others": -0.9 * log_probs[7] + 0.1 / 49 * others,
        "vocabulary": -0.9 * log_probs[7] + 0.1 / 50 * (others - log_probs[7]),
    }
    for spread, loss in expected.items():
        losses = CrossEntropy(0.1, spread)(output_of(logits), Target(target, counts, target), blank)
        assert losses["nats"].value() == pytest.approx(float(loss), abs=1e-5)
        assert losses["nll"].value() == pytest.approx(-float(log_probs[7]), abs=1e-5)
    assert abs(expected["others"] - expected["vocabulary"]) > 1e-3
    assert CrossEntropy(0.1).smoothing(50) == 0.1
    with pytest.raises(UserError, match=r"objective\.spread must be one of"):
        CrossEntropy(0.1, "all")


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_equals_torch_with_its_gradient(smoothing: float) -> None:
    logits, target, inputs = example(0.4)
    masked = target.counts & ~inputs.revealed
    assert 0 < int(masked.sum()) < int(target.counts.sum())
    own, torchs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    nats = CrossEntropy(smoothing)(output_of(own), target, inputs)["nats"]
    expected = functional.cross_entropy(torchs[masked], target.tokens[masked], label_smoothing=smoothing)
    (nats.total / nats.count).backward()
    expected.backward()
    torch.testing.assert_close(nats.total / nats.count, expected)
    torch.testing.assert_close(own.grad, torchs.grad)
    assert not own.grad[~masked].any()  # type: ignore[index]


def test_denominators() -> None:
    logits, target, inputs = example(0.4)
    objective = CrossEntropy(0.1)
    assert isinstance(objective, Objective)
    found = objective(output_of(logits), target, inputs)
    masked = target.counts & ~inputs.revealed
    assert float(found["nats"].count) == int(masked.sum())
    assert torch.equal(objective.count(target, inputs), found["nats"].count)
    assert float(found["nll"].count) == int(target.counts.sum())
    log_probs = logits.log_softmax(-1)
    nll = -sum(float(log_probs[b, j, target.tokens[b, j]]) for b, j in masked.nonzero().tolist())
    assert float(found["nll"].total) == pytest.approx(nll, rel=1e-5)  # never smoothed


def test_nll_has_no_gradient() -> None:
    logits, target, inputs = example()
    for smoothing in (0.0, 0.1):
        found = CrossEntropy(smoothing)(output_of(logits.clone().requires_grad_()), target, inputs)
        assert found["nats"].total.requires_grad
        assert not found["nll"].total.requires_grad
        assert not found["nats"].count.requires_grad


def test_what_is_outside_the_canvas_does_not_matter() -> None:
    logits, target, inputs = example(0.4)
    before = CrossEntropy()(output_of(logits), target, inputs)
    logits = logits.masked_fill((~target.counts | inputs.revealed).unsqueeze(-1), 50.0)
    after = CrossEntropy()(output_of(logits), target, inputs)
    assert {name: m.value() for name, m in after.items()} == {name: m.value() for name, m in before.items()}


def test_everything_revealed() -> None:
    logits, target, inputs = example(1.1)
    assert torch.equal(inputs.revealed, target.counts)
    found = CrossEntropy()(output_of(logits), target, inputs)
    assert (float(found["nats"].total), float(found["nats"].count)) == (0, 0)
    assert found["nll"].value() == 0


def test_bf16_is_close_to_float32() -> None:
    features, weight, labels = projection()
    high = linear_cross_entropy(features, weight, labels, 0.1)
    with torch.autocast("cpu", torch.bfloat16):
        low = linear_cross_entropy(features, weight, labels, 0.1)
    for a, b in zip(low, high, strict=True):
        assert a.dtype == torch.float32
        assert float(a) == pytest.approx(float(b), rel=1e-2)


def projection() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(50, 16, generator=generator)
    weight = torch.randn(30, 16, generator=generator)
    return features, weight, torch.randint(30, (50,), generator=generator)


@pytest.mark.parametrize("chunk", [1, 30 * 7, 2**21])
def test_chunks_change_neither_loss_nor_gradients(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_loss, "LOSS", dataclasses.replace(cpu_loss.LOSS, most=chunk))
    features, weight, labels = projection()
    own = [features.clone().requires_grad_(), weight.clone().requires_grad_()]
    torchs = [features.clone().requires_grad_(), weight.clone().requires_grad_()]
    loss, nll = linear_cross_entropy(own[0], own[1], labels, 0.1)
    expected = functional.cross_entropy(torchs[0] @ torchs[1].T, labels, label_smoothing=0.1, reduction="sum")
    (3 * loss).backward()
    (3 * expected).backward()
    assert not nll.requires_grad
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    for mine, theirs in zip(own, torchs, strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        assert torch.allclose(mine.grad, theirs.grad, atol=1e-5)


@pytest.mark.parametrize("safe", [60.0, 0.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("shift", [0.0, 100.0, -100.0])
@pytest.mark.parametrize("chunk", [30 * 7, 2**21])
def test_logits_beyond_the_range_of_an_exponential(
    safe: float, smoothing: float, shift: float, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All logits of a row moved by the same change nothing; and both ways to a loss give the same."""
    monkeypatch.setattr(cpu_loss, "LOSS", dataclasses.replace(cpu_loss.LOSS, most=chunk))
    monkeypatch.setattr(cpu_loss, "SAFE", safe)
    features, weight, labels = projection()
    moved = torch.zeros(50, 1)
    moved[10:30] = shift  # some chunks have such rows and some not
    own = [torch.cat([features, moved], 1), torch.cat([weight, torch.ones(30, 1)], 1)]
    exact = [features.double().requires_grad_(), weight.double().requires_grad_()]
    for value in own:
        value.requires_grad_()
    penalties = torch.tensor([0.5, 2.0])
    loss, nll = linear_cross_entropy(own[0], own[1], labels, smoothing, penalties)
    logits = exact[0] @ exact[1].T
    rows = functional.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
    expected = rows[:48].sum() + (rows[48:] * penalties).sum()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    plain = functional.cross_entropy(logits[:48], labels[:48], reduction="sum")
    assert float(nll) == pytest.approx(float(plain.detach()), rel=1e-5)
    loss.backward()
    expected.backward()
    for mine, theirs in zip(own, exact, strict=True):
        assert mine.grad is not None
        torch.testing.assert_close(mine.grad[:, :16].double(), theirs.grad, atol=3e-4, rtol=1e-3)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("safe", [60.0, 0.0])
def test_gradients_in_bf16(smoothing: float, safe: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_loss, "SAFE", safe)
    features, weight, labels = projection()
    features, weight = features.bfloat16().float(), weight.bfloat16().float()
    features[:20] = 3 * weight[labels[:20]]  # nearly certain
    penalties = torch.tensor([0.5, 2.0])
    found = []
    for enabled in (False, True):
        own = [features.clone().requires_grad_(), weight.clone().requires_grad_()]
        with torch.autocast("cpu", torch.bfloat16, enabled):
            loss, _ = linear_cross_entropy(own[0], own[1], labels, smoothing, penalties)
        found.append(torch.autograd.grad(loss, own))
    for high, low in zip(*found, strict=True):
        assert float((high - low).norm()) < 0.02 * float(high.norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_certain_token_costs_nothing_and_never_less(dtype: torch.dtype) -> None:
    weight = torch.eye(30)
    features = 40 * weight
    with torch.autocast("cpu", torch.bfloat16, dtype == torch.bfloat16):
        _, nll = linear_cross_entropy(features, weight, torch.arange(30), 0.0)
    assert abs(float(nll)) < 1e-3


def test_a_logit_that_is_no_number_is_seen() -> None:
    features, weight, labels = projection()
    features[7, 3] = torch.nan
    loss, nll = linear_cross_entropy(features, weight, labels, 0.1)
    assert loss.isnan()
    assert nll.isnan()


@pytest.mark.parametrize("label", [-1, 30])
def test_a_label_outside_the_vocabulary(label: int) -> None:
    features, weight, labels = projection()
    labels[20] = label
    with pytest.raises(IndexError, match="rows of the 30"):
        linear_cross_entropy(features, weight, labels, 0.1)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, float("nan")])
def test_refusal_names_the_key(smoothing: float) -> None:
    with pytest.raises(UserError, match=r"objective\.label_smoothing"):
        CrossEntropy(smoothing)


def penalised(target: Target, scale: float = 1.0) -> Target:
    """Every third token or so penalised, at random positions of its sentence's canvas."""
    generator = torch.Generator().manual_seed(9)
    positions = (torch.rand(target.tokens.shape, generator=generator) * target.lengths.unsqueeze(1)).long()
    weights = scale * (1 + torch.rand(target.tokens.shape, generator=generator))
    is_none = (torch.rand(target.tokens.shape, generator=generator) < 0.6) | ~target.counts
    return dataclasses.replace(
        target, penalty=Penalty(positions, target.tokens, weights.masked_fill(is_none, 0.0))
    )


@pytest.mark.parametrize("chunk", [1, VOCABULARY * 4, 2**21])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_penalty_is_minimised_but_neither_counted_nor_nll(
    smoothing: float, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_loss, "LOSS", dataclasses.replace(cpu_loss.LOSS, most=chunk))
    logits, plain, inputs = example(0.4)
    target = penalised(plain)
    own, torchs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    found = CrossEntropy(smoothing)(output_of(own), target, inputs)
    before = CrossEntropy(smoothing)(output_of(logits), plain, inputs)
    expected = torch.zeros(())
    due = dropped = 0
    assert target.penalty is not None
    for b, i in plain.counts.nonzero().tolist():
        label, weight = target.penalty.tokens[b, i], target.penalty.weights[b, i]
        if not inputs.revealed[b, i]:
            said = plain.tokens[b, i]
            expected = expected + functional.cross_entropy(torchs[b, i], said, label_smoothing=smoothing)
        j = int(target.penalty.positions[b, i])
        if weight and inputs.revealed[b, j]:
            dropped += 1
        elif weight:
            due += 1
            loss = functional.cross_entropy(torchs[b, j], label, label_smoothing=smoothing)
            expected = expected + weight * loss
    assert due  # else nothing is tested
    assert dropped
    found["nats"].total.backward()
    expected.backward()
    torch.testing.assert_close(found["nats"].total, expected)
    torch.testing.assert_close(own.grad, torchs.grad)
    assert torch.equal(found["nats"].count, before["nats"].count)
    assert torch.equal(CrossEntropy(smoothing).count(target, inputs), before["nats"].count)
    torch.testing.assert_close(found["nll"].total, before["nll"].total)
    assert torch.equal(found["nll"].count, before["nll"].count)


def test_a_penalty_of_nothing_is_none() -> None:
    logits, plain, inputs = example(0.4)
    found = CrossEntropy()(output_of(logits), penalised(plain, 0.0), inputs)
    before = CrossEntropy()(output_of(logits), plain, inputs)
    assert {name: m.value() for name, m in found.items()} == {name: m.value() for name, m in before.items()}


def test_without_gradient_nothing_is_prepared_for_one() -> None:
    """A validation loss is one product of matrices, not three, and makes no gradient of the vocabulary."""

    class Products(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            self.count += func._schema.name == "aten::mm"
            return func(*args, **(kwargs or {}))

    features, weight = torch.randn(5, 8, requires_grad=True), torch.nn.Parameter(torch.randn(7, 8))
    labels = torch.arange(5)
    with Products() as trained:
        expected = linear_cross_entropy(features, weight, labels, 0.1)
    with Products() as measured, torch.no_grad():
        found = linear_cross_entropy(features, weight, labels, 0.1)
    assert (trained.count, measured.count) == (3, 1)
    assert [float(value) for value in found] == [float(value) for value in expected]
