"""Input Sampling against a loop over sentences and positions, and at its limits."""

import itertools

import pytest
import torch
from torch import Tensor

from mple.checks import UserError
from mple.decoding import Decoding
from mple.decoding.argmax import Argmax
from mple.decoding.input_sampling import InputSampling, sentence_ids
from mple.model.input_predictor import InputDistribution, MaskPredictor
from mple.model.nat import NAT
from mple.randomness import Draws
from mple.types import MASK, PAD, DecoderInput
from tests.fakes import CONTENT, VOCABULARY, count_decodes, nat, pad_right, sources
from tests.table_models import TableMasks

LENGTHS = [5, 2, 9, 1, 7, 8]


def mask_predictor(seed: int = 2) -> MaskPredictor:
    """A real one whose m differ from position to position."""
    found = MaskPredictor(nat(seed))
    with torch.no_grad():
        found.classes.weight.copy_(0.2 * torch.randn(1, 16, generator=torch.Generator().manual_seed(seed)))
    return found.eval()


def sampling(masks: MaskPredictor, vanilla: NAT | None = None, seed: int = 0) -> InputSampling:
    distribution = InputDistribution(masks, vanilla or nat(seed=1))
    return InputSampling(seed).prepared(distribution=distribution)


def loud(seed: int) -> NAT:
    """A model that would often say a special symbol."""
    model = nat(seed)
    with torch.no_grad():
        model.decoder.embedding.tokens.weight[:CONTENT] *= 4
    return model


@torch.no_grad()
def test_against_a_loop() -> None:
    model, vanilla, masks, src_tokens = loud(0), loud(1), mask_predictor(), sources(LENGTHS)
    decoding = sampling(masks, vanilla, seed=3)
    inputs, filled = decoding.sampled(model, src_tokens)
    found = decoding(model, src_tokens)
    assert torch.equal(found.tokens, filled.tokens)
    assert found.passes == 3
    mixed, banned = 0, False
    for row, source in enumerate(LENGTHS):
        src = src_tokens[row : row + 1, : source + 1]
        length = int(model.length.predict(model.encode(src))[0])
        m = masks(src, torch.tensor([length]))[0].sigmoid()
        uniform = Draws(3, -1).uniform("input_sampling", sentence_ids(src), length)[0]
        blank = DecoderInput(torch.full((1, length), MASK), torch.zeros(1, length, dtype=torch.bool))
        words = vanilla.decode(blank, vanilla.encode(src)).logits[0]
        z = [
            MASK if float(uniform[i]) < float(m[i]) else CONTENT + int(words[i, CONTENT:].argmax())
            for i in range(length)
        ]
        shown = torch.tensor([[token != MASK for token in z]])
        log_probs = model.decode(DecoderInput(torch.tensor([z]), shown), model.encode(src)).logits[0]
        log_probs = log_probs.log_softmax(-1)
        best = log_probs[:, CONTENT:].max(-1)
        expected = [int(best.indices[i]) + CONTENT if token == MASK else token for i, token in enumerate(z)]
        score = sum(float(best.values[i]) for i, token in enumerate(z) if token == MASK)
        assert inputs.tokens[row, :length].tolist() == z
        assert found.tokens[row, :length].tolist() == expected
        assert (found.tokens[row, length:] == PAD).all()
        assert float(found.scores[row]) == pytest.approx(score, abs=1e-4)
        mixed += 0 < int(shown.sum()) < length
        banned |= bool((words.argmax(-1) < CONTENT).any() and (log_probs.argmax(-1) < CONTENT).any())
    assert mixed >= 2
    assert banned  # so that the ban was put to the test


def test_all_masked_is_default_decoding_and_none_masked_is_the_vanilla_nat() -> None:
    model, vanilla, src_tokens = nat(), nat(seed=1), sources(LENGTHS)
    vanilla.length = model.length  # one length for both
    masked, shown = (sampling(TableMasks(m), vanilla)(model, src_tokens) for m in (1.0, 0.0))
    default = Argmax()(model, src_tokens)
    assert torch.equal(masked.tokens, default.tokens)
    torch.testing.assert_close(masked.scores, default.scores.detach())
    inputs, _ = sampling(TableMasks(0.0), vanilla).sampled(model, src_tokens)
    output = vanilla.decode(vanilla.blank(inputs.is_canvas.sum(1)), vanilla.encode(src_tokens))
    words = output.logits[..., CONTENT:].argmax(-1) + CONTENT
    assert torch.equal(shown.tokens, words.masked_fill(~inputs.is_canvas, PAD))
    assert (shown.scores == 0).all()
    assert (shown.tokens != default.tokens).any()


@torch.no_grad()
def test_three_passes_and_neither_batch_nor_padding_matters() -> None:
    model, vanilla, masks, src_tokens = nat(), nat(seed=1), mask_predictor(), sources(LENGTHS)
    decoding = sampling(masks, vanilla)
    calls = [count_decodes(m) for m in (model, vanilla, masks.nat)]
    together = decoding(model, src_tokens)
    assert [call.rows for call in calls] == [[len(LENGTHS)]] * 3
    wider = decoding(model, pad_right(src_tokens, 6))
    backwards = decoding(model, src_tokens.flip(0))
    assert torch.equal(wider.tokens, together.tokens)
    assert torch.equal(backwards.tokens.flip(0), together.tokens)
    torch.testing.assert_close(wider.scores, together.scores, atol=1e-4, rtol=1e-5)
    for row, source in enumerate(LENGTHS):
        alone = decoding(model, src_tokens[row : row + 1, : source + 1])
        width = alone.tokens.shape[1]
        assert torch.equal(alone.tokens[0], together.tokens[row, :width])
        torch.testing.assert_close(alone.scores[0], together.scores[row], atol=1e-4, rtol=1e-5)


def test_the_share_of_masks_is_m_and_the_seed_chooses() -> None:
    model = nat()
    src_tokens = torch.cat([sources([9] * 200, seed=s) for s in range(2)])
    shown = []
    for seed in (0, 1):
        inputs, _ = sampling(TableMasks(0.3), seed=seed).sampled(model, src_tokens)
        assert float(inputs.revealed.sum() / inputs.is_canvas.sum()) == pytest.approx(0.7, abs=0.04)
        shown.append(inputs.revealed)
    assert not torch.equal(*shown)


def test_ids_tell_sources_apart() -> None:
    every = torch.tensor(list(itertools.product(range(1, VOCABULARY), repeat=3)))
    assert len(sentence_ids(every).unique()) == len(every)
    assert torch.equal(sentence_ids(pad_right(every, 4)), sentence_ids(every))
    swapped: Tensor = every[:, [1, 0, 2]]
    same = sentence_ids(swapped) == sentence_ids(every)
    assert torch.equal(same, every[:, 0] == every[:, 1])


def test_dropout_is_off() -> None:
    model, src_tokens = nat(), sources(LENGTHS)
    masks, vanilla = MaskPredictor(nat(seed=2, dropout=0.5)), nat(seed=1, dropout=0.5)
    torch.nn.init.normal_(masks.classes.weight, std=0.2, generator=torch.Generator().manual_seed(2))
    decoding = sampling(masks.train(), vanilla.train())
    assert decoding.sampled(model, src_tokens)[0].revealed.any()  # so that the vanilla NAT is read
    assert torch.equal(decoding(model, src_tokens).tokens, decoding(model, src_tokens).tokens)


def test_unprepared() -> None:
    decoding = InputSampling(seed=4)
    for unprepared in (decoding, decoding.prepared(), decoding.prepared(starts_word=torch.ones(3).bool())):
        with pytest.raises(UserError, match=r"^decoding=input_sampling needs a trained input predictor"):
            unprepared(nat(), sources([3]))


def test_other_vocabularies() -> None:
    other = nat()
    other.decoder.embedding.tokens = torch.nn.Embedding(VOCABULARY + 1, 16, padding_idx=PAD)
    with pytest.raises(UserError, match=r"target vocabulary \(20 entries\); got one with 21"):
        InputDistribution(TableMasks(), other)
    with pytest.raises(UserError, match=r"vocabulary \(21 entries\); got one with 20"):
        sampling(TableMasks())(other, sources([3]))


def test_is_a_value() -> None:
    decoding = sampling(TableMasks())
    assert isinstance(decoding, Decoding)
    assert decoding.needs_masks
    assert decoding.teacher is None
    assert repr(decoding) == "InputSampling(seed=0, input_predictor=None)"
    assert decoding == InputSampling()
    with pytest.raises(UserError, match=r"^decoding\.seed must be a whole number of at least 0; got -1$"):
        InputSampling(seed=-1)
