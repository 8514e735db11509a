"""The look-ahead: lazy, run once, without gradient, and the same whichever way it was come by."""

import pytest
import torch
from torch import Tensor

from mple.backend import chunked
from mple.proxy import Proxy
from mple.proxy.target_first import TargetFirst
from mple.proxy_input.blank import Blank
from mple.proxy_input.glancing import Glancing
from mple.proxy_target.dynamic_kd import DynamicKD
from mple.proxy_target.raw import Raw
from mple.randomness import Draws
from mple.snapshot import Snapshot
from mple.types import MASK, PAD, Batch, DecoderInput, EncoderOutput
from tests.fakes import contents, count_decodes, nat, pad_right, random_batch, snapshot_of, take

CANDIDATE_LENGTHS = [[3, 5, 3], [6, 2, 4], [1, 7, 7]]


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def example() -> Batch:
    return random_batch([4, 2, 6], [5, 2, 7], CANDIDATE_LENGTHS)


def test_nothing_runs_until_asked_and_then_once() -> None:
    model = nat()
    look = snapshot_of(model, example())
    calls = count_decodes(model)
    assert look.inputs.tokens.shape == (3, 7)
    assert calls.rows == []
    first = look.predictions
    assert look.predictions is first
    assert not look.output.features.requires_grad
    assert calls.rows == [3]


def test_predictions_are_those_of_each_sentence_alone() -> None:
    model, batch = nat(), example()
    predictions = snapshot_of(model, batch).predictions
    for b, (source, length) in enumerate(((4, 5), (2, 2), (6, 7))):
        inputs = DecoderInput(torch.full((1, length), MASK), torch.zeros(1, length, dtype=torch.bool))
        logits = model.decode(inputs, model.encode(batch.src_tokens[b : b + 1, : source + 1])).logits
        assert predictions[b, :length].tolist() == logits[0].argmax(-1).tolist()
        assert (predictions[b, length:] == PAD).all()


def test_candidate_nll_equals_one_candidate_at_a_time() -> None:
    model, batch = nat(), example()
    nll = snapshot_of(model, batch).candidate_nll(batch.tgt_candidates)  # type: ignore[arg-type]
    assert not nll.requires_grad
    for b, source in enumerate((4, 2, 6)):
        encoder_out = model.encode(batch.src_tokens[b : b + 1, : source + 1])
        for k, length in enumerate(CANDIDATE_LENGTHS[b]):
            inputs = DecoderInput(torch.full((1, length), MASK), torch.zeros(1, length, dtype=torch.bool))
            log_probs = model.decode(inputs, encoder_out).logits[0].log_softmax(-1)
            tokens = batch.tgt_candidates[b, k, :length]  # type: ignore[index]
            close(nll[b, k], -log_probs.gather(1, tokens.unsqueeze(1)).sum())


def test_candidates_of_one_length_share_a_canvas() -> None:
    model, batch = nat(), example()
    calls = count_decodes(model)
    assert batch.tgt_candidates is not None
    nll = snapshot_of(model, batch).candidate_nll(batch.tgt_candidates)
    assert calls.rows == [2 + 3 + 2]  # the distinct lengths of each sentence, in one pass
    twice = torch.cat([batch.tgt_candidates, batch.tgt_candidates], 1)
    doubled = snapshot_of(model, batch).candidate_nll(twice)
    assert calls.rows == [7, 7]
    close(doubled, torch.cat([nll, nll], 1))


def test_candidate_nll_knows_no_padding() -> None:
    model, batch = nat(), example()
    assert batch.tgt_candidates is not None
    nll = snapshot_of(model, batch).candidate_nll(batch.tgt_candidates)
    close(snapshot_of(model, batch).candidate_nll(pad_right(batch.tgt_candidates, 4)), nll)
    for row in range(3):
        alone = take(batch, [row])
        assert alone.tgt_candidates is not None
        close(snapshot_of(model, alone).candidate_nll(alone.tgt_candidates), nll[row : row + 1])


def test_on_reuses_the_rows_of_candidate_nll() -> None:
    model, batch = nat(), example()
    assert batch.tgt_candidates is not None
    for choice in ([0, 0, 0], [1, 2, 0], [2, 1, 1]):
        look = snapshot_of(model, batch)
        look.candidate_nll(batch.tgt_candidates)
        lengths = torch.tensor([CANDIDATE_LENGTHS[b][k] for b, k in enumerate(choice)])
        calls = count_decodes(model)
        found = look.on(lengths)
        predictions = found.predictions
        assert calls.rows == []
        fresh = snapshot_of(model, batch).on(lengths)
        canvas = fresh.inputs.is_canvas
        assert torch.equal(found.inputs.tokens, fresh.inputs.tokens)
        close(found.output.features[canvas], fresh.output.features[canvas])
        close(found.output.logits_at(canvas), fresh.output.logits_at(canvas))
        assert torch.equal(predictions, fresh.predictions)


def test_log_probs_after_candidate_nll_are_those_of_a_fresh_look_ahead() -> None:
    """What `candidate_nll` keeps of each length is used for the sentence and length that it belongs to."""
    model, batch = nat(), example()
    assert batch.tgt_candidates is not None
    for choice in ([0, 0, 0], [1, 2, 0], [2, 1, 1]):
        look = snapshot_of(model, batch)
        look.candidate_nll(batch.tgt_candidates)
        width = max(CANDIDATE_LENGTHS[b][k] for b, k in enumerate(choice))
        tokens = torch.stack([batch.tgt_candidates[b, k, :width] for b, k in enumerate(choice)])
        lengths = (tokens != PAD).sum(1)
        close(look.on(lengths).log_probs(tokens), snapshot_of(model, batch).on(lengths).log_probs(tokens))


def test_encoder_states_are_computed_when_first_needed_and_once() -> None:
    model, batch = nat(), example()
    calls: list[int] = []

    def encode() -> EncoderOutput:
        calls.append(1)
        return model.encode(batch.src_tokens)

    look = Snapshot(model, encode, batch.ids, batch.tgt_lengths, Draws(1, 0), 0, 1)
    other = look.on(torch.tensor([1, 2, 3]))
    assert calls == []
    assert torch.equal(look.predictions, snapshot_of(model, batch).predictions)
    assert other.predictions.shape == (3, 3)
    assert look.encoder_out is other.encoder_out
    assert calls == [1]


def test_what_is_made_of_the_source_in_the_look_ahead_learns_in_the_training_pass() -> None:
    """Keys and values are made in the look-ahead, without gradient else, and the M-step uses them again."""
    model, batch = nat(dropout=0.1), example()
    assert batch.tgt_candidates is not None
    made: list[int] = []
    for layer in model.decoder.layers:
        layer.cross_attention.key_value.register_forward_hook(lambda *_: made.append(1))  # type: ignore[union-attr, operator]
    found = []
    for looks in (True, False):
        made.clear()
        look = snapshot_of(model, batch)
        if looks:
            look.candidate_nll(batch.tgt_candidates)
            assert not look.on(batch.tgt_candidates[:, 1].ne(PAD).sum(1)).predictions.requires_grad
        features = look.decode(look.inputs).features[look.inputs.is_canvas]
        assert len(made) == len(model.decoder.layers)
        found.append(
            torch.autograd.grad(features.square().sum(), list(model.parameters()), allow_unused=True)
        )
    for grad, wanted in zip(*found, strict=True):
        assert (grad is None) == (wanted is None)
        if grad is not None:
            assert torch.equal(grad, wanted)


def test_on_the_same_lengths_is_the_same_snapshot() -> None:
    model, batch = nat(), example()
    look = snapshot_of(model, batch)
    assert look.on(batch.tgt_lengths) is look
    other = look.on(torch.tensor([1, 2, 3]))
    assert other.inputs.tokens.shape == (3, 3)
    assert (other.step, other.total, other.draws) == (look.step, look.total, look.draws)
    assert torch.equal(other.ids, look.ids)


def test_given_keeps_its_gradient_and_is_not_run_twice() -> None:
    model, batch = nat(), example()
    look = snapshot_of(model, batch)
    tokens = contents([5, 2, 7], seed=9)
    inputs = DecoderInput(tokens, tokens != PAD)
    calls = count_decodes(model)
    given = look.given(inputs)
    assert given.output.features.requires_grad
    assert given.decode(inputs) is given.output
    assert calls.rows == [3]
    assert not given.predictions.requires_grad
    close(given.output.features, model.decode(inputs, look.encoder_out).features)


def test_the_m_step_leaves_out_what_is_revealed_and_what_was_given_does_not() -> None:
    """A loss asks for hidden positions alone; an alignment to what the model says given Z asks for all."""
    model, batch = nat(), example()
    look = snapshot_of(model, batch)
    tokens = contents([5, 2, 7], seed=9)
    is_canvas = tokens != PAD
    revealed = is_canvas & (tokens % 2 == 0)
    assert 0 < int(revealed.sum()) < int(is_canvas.sum())
    inputs = DecoderInput(torch.where(revealed, tokens, is_canvas * MASK), revealed)
    everywhere = model.decode(inputs, look.encoder_out).features
    close(look.given(inputs).output.features[is_canvas], everywhere[is_canvas])
    m_step = look.decode(inputs, is_canvas & ~revealed).features
    close(m_step[is_canvas & ~revealed], everywhere[is_canvas & ~revealed])
    assert not m_step[revealed].any()
    assert everywhere[revealed].any()


def test_decode_never_hands_out_a_look_ahead_without_gradient() -> None:
    model, batch = nat(), example()
    look = snapshot_of(model, batch)
    assert look.predictions.shape == (3, 7)
    assert look.decode(look.inputs).features.requires_grad
    other = look.given(look.inputs)
    elsewhere = DecoderInput(look.inputs.tokens.clone(), look.inputs.revealed)
    assert other.decode(elsewhere) is not other.output


def test_look_ahead_drops_out_while_training() -> None:
    model, batch = nat(dropout=0.5), example()
    model.train()
    look = snapshot_of(model, batch)
    again = look.on(torch.tensor([5, 2, 6]))
    assert (look.output.features[0, :5] - again.output.features[0, :5]).abs().max() > 1e-2


def test_passes_of_each_method() -> None:
    """Plain likelihood never looks ahead, glancing once; Dynamic KD scores in the one pass it needs."""
    names = ("c0", "c1", "c2")
    dynamic = DynamicKD(dict.fromkeys(names, 1.0))
    for target, proxy_input, passes in (
        (Raw(), Blank(), []),
        (Raw(), Glancing(), [3]),
        (dynamic, Blank(), [7]),
        (dynamic, Glancing(), [7]),
    ):
        model, batch = nat(), example()
        look = snapshot_of(model, batch)
        calls = count_decodes(model)
        proxy = TargetFirst(target, proxy_input)
        assert isinstance(proxy, Proxy)
        assert proxy.candidates == target.candidates
        found, inputs, on_canvas = proxy(batch, look)
        assert calls.rows == passes
        assert torch.equal(inputs.is_canvas, found.counts)
        assert on_canvas.decode(inputs).features.shape[:2] == found.tokens.shape


def test_the_vocabulary_is_read_once_for_scores_and_predictions(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    once = chunked._logits
    monkeypatch.setattr(chunked, "_logits", lambda *given: read.append(int(given[2].sum())) or once(*given))
    proxy = TargetFirst(DynamicKD(dict.fromkeys(("c0", "c1", "c2"), 1.0)), Glancing())
    proxy(example(), snapshot_of(nat(), example()))
    assert read == [3 + 5 + 6 + 2 + 4 + 1 + 7]  # a position of every canvas


def test_on_lengths_that_no_candidate_has_runs_a_fresh_pass() -> None:
    model = nat()
    batch = random_batch([4, 5], [3, 4], candidate_lengths=[[3, 4], [4, 5]], names=("base", "raw"))
    look = snapshot_of(model, batch)
    assert batch.tgt_candidates is not None
    look.candidate_nll(batch.tgt_candidates)
    lengths = torch.tensor([2, 3])
    fresh = snapshot_of(model, batch)._copy(lengths)
    assert torch.allclose(look.on(lengths).output.features, fresh.output.features, atol=1e-6)


def test_target_and_input_look_at_the_same_canvas_once() -> None:
    model = nat()
    batch = random_batch(src_lengths=[4, 7], tgt_lengths=[3, 6])
    look = snapshot_of(model, batch)
    calls = count_decodes(model)
    lengths = torch.tensor([5, 4])
    assert torch.equal(look.on(lengths).predictions, look.on(lengths.clone()).predictions)
    assert len(calls.rows) == 1
    assert look.on(torch.tensor([5, 5])).predictions.shape == (2, 5)
    assert len(calls.rows) == 2
