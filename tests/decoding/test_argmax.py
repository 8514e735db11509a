"""One-pass decoding against the model's own probabilities, sentence by sentence."""

import pytest
import torch

from mple.decoding.argmax import Argmax
from mple.model.nat import NAT
from mple.types import MASK, PAD, DecoderInput
from tests.fakes import CONTENT, count_decodes, nat, pad_right, sources

LENGTHS = [5, 2, 9, 1, 7]


def with_loud_special_symbols() -> NAT:
    """A model that would often say a special symbol."""
    model = nat(max_offset=2)
    with torch.no_grad():
        model.decoder.embedding.tokens.weight[:CONTENT] *= 4
    return model


@torch.no_grad()
def test_tokens_lengths_and_scores() -> None:
    model, src_tokens = with_loud_special_symbols(), sources(LENGTHS)
    found = Argmax()(model, src_tokens)
    assert found.passes == 1
    said_special = False
    for b, source in enumerate(LENGTHS):
        encoder_out = model.encode(src_tokens[b : b + 1, : source + 1])
        length = max(1, source + int(model.length.log_probs(encoder_out)[0].argmax()) - 2)
        inputs = DecoderInput(torch.full((1, length), MASK), torch.zeros(1, length, dtype=torch.bool))
        log_probs = model.decode(inputs, encoder_out).logits[0].log_softmax(-1)
        best = log_probs[:, CONTENT:].max(-1)
        said_special |= bool((log_probs.argmax(-1) < CONTENT).any())
        assert found.tokens[b, :length].tolist() == (best.indices + CONTENT).tolist()
        assert (found.tokens[b, length:] == PAD).all()
        assert float(found.scores[b]) == pytest.approx(float(best.values.sum()), abs=1e-4)
    assert said_special  # so that the ban was put to the test


@torch.no_grad()
def test_one_pass_and_no_padding_matters() -> None:
    model, src_tokens = nat(), sources(LENGTHS)
    calls = count_decodes(model)
    together = Argmax()(model, src_tokens)
    assert calls.rows == [5]
    wider = Argmax()(model, pad_right(src_tokens, 6))
    assert torch.equal(wider.tokens, together.tokens)
    torch.testing.assert_close(wider.scores, together.scores, atol=1e-4, rtol=1e-5)
    for b, source in enumerate(LENGTHS):
        alone = Argmax()(model, src_tokens[b : b + 1, : source + 1])
        width = alone.tokens.shape[1]
        assert torch.equal(alone.tokens[0], together.tokens[b, :width])
        assert (together.tokens[b, width:] == PAD).all()
        torch.testing.assert_close(alone.scores[0], together.scores[b], atol=1e-4, rtol=1e-5)
