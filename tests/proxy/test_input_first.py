"""Z first: T keeps what Z shows, and the pass that aligned it is the pass that is trained."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from mple.checks import UserError
from mple.objective.cross_entropy import CrossEntropy
from mple.proxy import Proxy
from mple.proxy.input_first import InputFirst
from mple.proxy.target_first import TargetFirst
from mple.proxy_input import ProxyInput
from mple.proxy_input.blank import Blank
from mple.proxy_input.fixed_mask import FixedMask
from mple.proxy_input.glancing import Glancing
from mple.proxy_input.uniform_mask import UniformMask
from mple.proxy_target import ProxyTarget
from mple.proxy_target.axe import AXE, alignment, canvas_nll
from mple.proxy_target.dynamic_kd import DynamicKD
from mple.proxy_target.kd import KD
from mple.proxy_target.oaxe import OaXE
from mple.proxy_target.raw import Raw
from mple.randomness import Draws
from mple.snapshot import Snapshot
from mple.types import BLANK, PAD, Batch
from tests.fakes import count_decodes, nat, random_batch, snapshot_of, take

LENGTHS = [5, 1, 6, 3, 4]
CANDIDATES = [[4, 5], [2, 1], [6, 6], [3, 3], [6, 4]]
BATCH = random_batch([4, 2, 6, 3, 5], LENGTHS, CANDIDATES, names=("base", "raw"))
INPUTS: list[ProxyInput] = [UniformMask(), FixedMask(0.5), Glancing(0.5, 0.5)]
TEXTS: list[ProxyTarget] = [Raw(), KD("base"), DynamicKD({"base": 1.0, "raw": 2.0}, 0.02)]


@pytest.mark.parametrize("choose", INPUTS, ids=lambda x: type(x).__name__)
@pytest.mark.parametrize("text", TEXTS, ids=lambda x: type(x).__name__)
def test_t_is_the_best_order_that_keeps_what_z_shows(text: ProxyTarget, choose: ProxyInput) -> None:
    """Against all permutations, under the predictions given Z."""
    model = nat()
    reference = text(BATCH, snapshot_of(model, BATCH))
    proxy = InputFirst(OaXE(text), choose)
    assert isinstance(proxy, Proxy)
    assert proxy.candidates == text.candidates
    target, inputs, look = proxy(BATCH, snapshot_of(model, BATCH))
    assert inputs.revealed.any()
    assert torch.equal(inputs.tokens[inputs.revealed], reference.tokens[inputs.revealed])
    assert torch.equal(target.tokens[inputs.revealed], reference.tokens[inputs.revealed])
    assert torch.equal(target.counts, reference.counts)
    with torch.no_grad():
        log_probs = model.decode(inputs, model.encode(BATCH.src_tokens)).logits.log_softmax(-1)
    least = 0.0
    for b, length in enumerate(reference.lengths.tolist()):
        hidden = (~inputs.revealed[b, :length]).nonzero().squeeze(1)
        orders = torch.tensor(list(itertools.permutations(reference.tokens[b, hidden].tolist())))
        costs = -log_probs[b, hidden].expand(len(orders), -1, -1).gather(2, orders.unsqueeze(2)).sum((1, 2))
        least += float(costs.min())
        assert target.tokens[b, hidden].tolist() == orders[costs.argmin()].tolist()
        assert (target.tokens[b, length:] == PAD).all()
    found = CrossEntropy(0.0)(look.decode(inputs), target, inputs)["nats"]
    assert float(found.total.detach()) == pytest.approx(least, rel=1e-5)
    assert float(found.count) == int((target.counts & ~inputs.revealed).sum())


def gradient(model: Any, loss: Tensor) -> list[Tensor]:
    """The encoder's graph is kept: two losses share it."""
    return list(torch.autograd.grad(loss, list(model.parameters()), retain_graph=True, allow_unused=True))


@pytest.mark.parametrize("aligned", [OaXE(Raw()), AXE(Raw(), 1)], ids=["oaxe", "axe"])
def test_one_pass_serves_alignment_and_training(aligned: Any) -> None:
    model = nat()
    encoder_out = model.encode(BATCH.src_tokens)
    calls = count_decodes(model)
    look = Snapshot(model, encoder_out, BATCH.ids, BATCH.tgt_lengths, Draws(1, 0), 0, 100)
    target, inputs, look = InputFirst(aligned, UniformMask())(BATCH, look)
    output = look.decode(inputs)
    assert calls.rows == [5]
    again = model.decode(inputs, encoder_out)
    assert calls.rows == [5, 5]
    own, expected = (CrossEntropy()(x, target, inputs)["nats"].total for x in (output, again))
    assert torch.equal(own, expected)
    pairs = list(zip(gradient(model, own), gradient(model, expected), strict=True))
    assert sum(x is not None and bool(x.any()) for x, _ in pairs) > 10  # encoder and decoder
    for x, y in pairs:
        assert (x is None) == (y is None)
        if x is not None:
            torch.testing.assert_close(x, y)


@pytest.mark.parametrize("aligned", [OaXE(KD("base")), AXE(KD("base"), 1)], ids=["oaxe", "axe"])
def test_with_a_blank_input_it_is_target_first_for_half_the_passes(aligned: Any) -> None:
    model = nat()
    calls = count_decodes(model)
    found: list[tuple[Tensor, Tensor, float]] = []
    for order, passes in ((TargetFirst(aligned, Blank()), [5, 5]), (InputFirst(aligned, Blank()), [5])):
        target, inputs, look = order(BATCH, snapshot_of(model, BATCH))
        loss = CrossEntropy()(look.decode(inputs), target, inputs)["nats"].detach().value()
        assert calls.rows == passes
        calls.rows.clear()
        found.append((target.tokens, inputs.tokens, loss))
    for first, second in zip(*found, strict=True):
        assert torch.equal(torch.as_tensor(first), torch.as_tensor(second))


@pytest.mark.parametrize("delta", [0.5, 5])
def test_what_z_shows_cuts_axe_into_alignments_of_their_own(delta: float) -> None:
    model = nat()
    target, inputs, look = InputFirst(AXE(Raw(), delta, "strict"), FixedMask(0.4))(
        BATCH, snapshot_of(model, BATCH)
    )
    tokens = BATCH.tgt_tokens
    assert inputs.revealed.any()
    assert torch.equal(target.tokens[inputs.revealed], tokens[inputs.revealed])
    assert target.penalty is not None
    nll, blank = canvas_nll(look.output, target.counts, tokens)
    has_moved = False
    for b, length in enumerate(LENGTHS):
        walls = [-1, *inputs.revealed[b].nonzero().squeeze(1).tolist(), length]
        for before, after in itertools.pairwise(walls):
            part = slice(before + 1, after)
            n = torch.tensor([after - before - 1])
            if n > 0:
                found = alignment(nll[b : b + 1, part, part], blank[b : b + 1, part], n, n, delta, "strict")
                assert torch.equal(target.penalty.weights[b, part] > 0, (delta * found.is_skipped[0]) > 0)
                said = torch.full((int(n),), BLANK)
                kept = ~found.is_skipped[0]
                said[found.positions[0, kept]] = tokens[b, part][kept]
                assert torch.equal(target.tokens[b, part], said)
                has_moved |= not torch.equal(said, tokens[b, part])
    assert has_moved == (delta < 5)


def test_what_z_shows_changes_t() -> None:
    """T is aligned to the predictions given Z, not to those under the fully masked Z*."""
    model = nat()
    aligned = OaXE(Raw())
    target, _, _ = InputFirst(aligned, FixedMask(0.5))(BATCH, snapshot_of(model, BATCH))
    blind = aligned(BATCH, snapshot_of(model, BATCH))
    assert not torch.equal(target.tokens, blind.tokens)


def test_a_batch_is_its_sentences() -> None:
    model, proxy = nat(), InputFirst(OaXE(KD("base")), UniformMask())
    target, inputs, _ = proxy(BATCH, snapshot_of(model, BATCH))
    for b, length in enumerate(target.lengths.tolist()):
        one: Batch = take(BATCH, [b])
        own, shown, _ = proxy(one, snapshot_of(model, one))
        assert own.tokens.tolist() == [target.tokens[b, :length].tolist()]
        assert shown.tokens.tolist() == [inputs.tokens[b, :length].tolist()]


def test_blanks_are_the_target_s_to_say() -> None:
    assert InputFirst(AXE(Raw()), UniformMask()).says_blank
    assert not InputFirst(OaXE(Raw()), UniformMask()).says_blank


@pytest.mark.parametrize("text", TEXTS, ids=lambda x: type(x).__name__)
def test_a_target_that_does_not_align_is_refused(text: Any) -> None:
    with pytest.raises(
        UserError, match=rf"proxy=input_first .* \(axe, oaxe\), .*; got {type(text).__name__}$"
    ):
        InputFirst(text, UniformMask())
