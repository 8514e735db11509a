"""Decoder inputs: what they show, and when they are blank."""

import dataclasses

import torch

from mple.types import MASK, PAD, DecoderInput, decoder_input
from tests.fakes import contents, nat, random_batch

TOKENS = contents([5, 3])
CANVAS = TOKENS != PAD
NOTHING = torch.zeros_like(CANVAS)


def test_decoder_input_reveals_content_alone() -> None:
    revealed = torch.zeros_like(CANVAS)
    revealed[0, 1] = revealed[1, 4] = True  # the second is outside its canvas
    found = decoder_input(TOKENS, CANVAS, revealed)
    assert found.tokens.tolist() == [
        [MASK, int(TOKENS[0, 1]), MASK, MASK, MASK],
        [MASK, MASK, MASK, PAD, PAD],
    ]
    assert found.revealed.nonzero().tolist() == [[0, 1]]
    assert torch.equal(found.is_canvas, CANVAS)
    assert found.latent is None
    assert found.log == {}


def test_blank_inputs_show_no_token_and_have_no_latent() -> None:
    blank = decoder_input(TOKENS, CANVAS, NOTHING)
    assert blank.is_blank
    assert not decoder_input(TOKENS, CANVAS, CANVAS).is_blank
    assert not DecoderInput(TOKENS, NOTHING).is_blank  # shown, though nothing is said to be revealed
    assert not dataclasses.replace(blank, latent=torch.zeros(2, 5, 16)).is_blank


def test_unrevealed_tokens_are_decoded_without_gradient_as_with_it() -> None:
    model, batch = nat(), random_batch([4, 6], [5, 3])
    shown = DecoderInput(TOKENS, NOTHING)
    encoder_out = model.encode(batch.src_tokens)
    expected = model.decode(shown, encoder_out).features.detach()
    blank = model.decode(model.blank(CANVAS.sum(1)), encoder_out).features.detach()
    with torch.no_grad():
        found = model.decode(shown, encoder_out).features
    torch.testing.assert_close(found[CANVAS], expected[CANVAS], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found[CANVAS], blank[CANVAS], atol=1e-2)
