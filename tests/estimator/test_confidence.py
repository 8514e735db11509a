"""I against a sum over positions, and its limits."""

import numpy as np
import pytest
import torch

from mple.checks import UserError
from mple.decoding.argmax import Argmax
from mple.decoding.input_sampling import InputSampling
from mple.estimator.confidence import Confidence, decode_default, decode_sampled
from mple.estimator.statistics import Bootstrap
from mple.model.input_predictor import InputDistribution, MaskPredictor
from mple.types import MASK, DecoderInput
from tests.fakes import nat, pad_right, sources
from tests.table_models import TableMasks

LENGTHS = [5, 2, 9, 1, 7]


def example() -> tuple[InputDistribution, InputSampling]:
    masks = MaskPredictor(nat(2))
    with torch.no_grad():
        masks.classes.weight.copy_(0.2 * torch.randn(1, 16, generator=torch.Generator().manual_seed(2)))
    distribution = InputDistribution(masks, nat(1))
    return distribution, InputSampling(seed=1).prepared(distribution=distribution)


@torch.no_grad()
def test_position_by_position() -> None:
    model, src_tokens = nat(), sources(LENGTHS)
    distribution, sampling = example()
    inputs, filled = sampling.sampled(model, src_tokens)
    default = Argmax()(model, src_tokens)
    found = decode_sampled(model, src_tokens, sampling), decode_default(model, src_tokens, distribution)
    mixed = 0
    for row, source in enumerate(LENGTHS):
        src = src_tokens[row : row + 1, : source + 1]
        length = int(inputs.is_canvas[row].sum())
        z = inputs.tokens[row : row + 1, :length]
        hidden = torch.full((1, length), MASK)
        m = distribution.mask_predictor(src, torch.tensor([length]))[0].sigmoid()
        vanilla = distribution.vanilla
        words = vanilla.decode(DecoderInput(hidden, hidden == 0), vanilla.encode(src)).logits[0].softmax(-1)
        given = [
            model.decode(DecoderInput(shown, shown != MASK), model.encode(src)).logits[0].softmax(-1)
            for shown in (z, hidden)
        ]
        expected = [0.0, 0.0]
        for i, token in enumerate(z[0].tolist()):
            masked, said = float(m[i]), int(filled.tokens[row, i])
            p = masked * float(given[0][i, said]) if token == MASK else (1 - masked) * float(words[i, token])
            expected[0] += np.log(p)
            expected[1] += np.log(masked * float(given[1][i, int(default.tokens[row, i])]))
        mixed += 0 < int(inputs.revealed[row].sum()) < length
        assert [confidence.nats[row] for confidence in found] == pytest.approx(expected, abs=1e-4)
        assert found[0].tokens[row] == found[1].tokens[row] == length
    assert mixed >= 2


def test_limits() -> None:
    model, src_tokens, vanilla = nat(), sources(LENGTHS), nat(1)
    half = decode_default(model, src_tokens, InputDistribution(TableMasks(0.5), vanilla))
    np.testing.assert_allclose(half.input_log_prob, -np.log(2) * half.tokens, rtol=1e-6)
    np.testing.assert_allclose(half.target_log_prob, Argmax()(model, src_tokens).scores.detach(), atol=1e-4)
    plain = decode_default(model, src_tokens)
    assert (plain.input_log_prob == 0).all()
    np.testing.assert_array_equal(plain.nats, plain.target_log_prob)
    always = InputDistribution(TableMasks(1 - 1e-7), vanilla)
    sampled = decode_sampled(model, src_tokens, InputSampling().prepared(distribution=always))
    np.testing.assert_allclose(sampled.nats, decode_default(model, src_tokens, always).nats, atol=1e-4)


def test_batch_and_padding() -> None:
    model, src_tokens = nat(), sources(LENGTHS)
    distribution, sampling = example()
    for measure in (
        lambda src: decode_default(model, src, distribution),
        lambda src: decode_sampled(model, src, sampling),
    ):
        together, wider = measure(src_tokens), measure(pad_right(src_tokens, 5))
        alone = [measure(src_tokens[row : row + 1, : n + 1]) for row, n in enumerate(LENGTHS)]
        joined = sum(alone[1:], alone[0])
        for found in (wider, joined):
            np.testing.assert_allclose(found.nats, together.nats, atol=1e-4)
            np.testing.assert_array_equal(found.tokens, together.tokens)


def test_metrics() -> None:
    found = Confidence(np.array([-1.0, -2.0]), np.array([-3.0, 0.0]), np.array([2, 4]))
    metrics = found.metrics(Bootstrap(100))
    assert metrics["confidence_nats_per_sentence"] == pytest.approx(-3)
    assert metrics["confidence_nats_per_token"] == pytest.approx(-1)
    assert metrics["confidence_input_nats_per_token"] == pytest.approx(-0.5)
    assert metrics["confidence_target_nats_per_token"] == pytest.approx(-0.5)
    assert metrics["confidence_low_nats_per_sentence"] >= -4


def test_unprepared() -> None:
    with pytest.raises(UserError, match="needs a trained input predictor"):
        decode_sampled(nat(), sources([3]), InputSampling())
