"""Mask-predict against its published tables and a loop over sentences, passes and tokens."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mple.checks import UserError
from mple.decoding.decode import Decode
from mple.decoding.fill import Fill, Filled, OnePass
from mple.decoding.lengths import TopLengths
from mple.decoding.mask_predict import SCHEDULES, MaskPredict, fairseq, original
from mple.model.nat import NAT
from mple.types import MASK, PAD, DecoderInput
from tests.fakes import CONTENT, count_decodes, nat, pad_right, sources

LENGTHS = [5, 2, 9, 1, 7]


def filled(model: NAT, fill: Fill, src_lengths: list[int], lengths: list[int]) -> Filled:
    with torch.no_grad():
        encoder_out = model.encode(sources(src_lengths))
        return fill(model, model.blank(torch.tensor(lengths)), encoder_out)


class TestSchedules:
    @staticmethod
    def table(schedule: str, length: int, iterations: int, last: int) -> list[int]:
        lengths = torch.tensor([length])
        return [int(SCHEDULES[schedule](lengths, done, iterations)) for done in range(1, last + 1)]

    def test_published_tables(self) -> None:
        assert self.table("original", 9, 10, 9) == [8, 7, 6, 5, 4, 3, 2, 1, 1]
        assert self.table("original", 9, 4, 3) == [6, 4, 2]
        assert self.table("fairseq", 8, 10, 10) == [7, 6, 5, 4, 4, 3, 2, 1, 0, 0]
        assert self.table("fairseq", 8, 4, 4) == [6, 4, 2, 0]

    @given(st.integers(1, 300), st.integers(2, 12), st.data())
    def test_exact(self, length: int, iterations: int, data: st.DataObject) -> None:
        done = data.draw(st.integers(1, iterations - 1))
        lengths = torch.tensor([length])
        fewest = int(fairseq(lengths, done, iterations))
        assert fewest * iterations <= length * (iterations - done) < (fewest + 1) * iterations
        assert int(original(lengths, done, iterations)) == max(1, fewest)


def by_loop(
    model: NAT, src_tokens: Tensor, length: int, iterations: int, least: int
) -> tuple[list[int], list[float]]:
    """One sentence, one position at a time."""
    encoder_out = model.encode(src_tokens)
    tokens, scores = [MASK] * length, [0.0] * length
    masked = list(range(length))
    for done in range(iterations):
        if done:
            count = max(least, length * (iterations - done) // iterations)
            masked = sorted(range(length), key=lambda i: (scores[i], i))[:count]
        shown = [MASK if i in masked else token for i, token in enumerate(tokens)]
        inputs = DecoderInput(torch.tensor([shown]), torch.tensor([[token != MASK for token in shown]]))
        log_probs = model.decode(inputs, encoder_out).logits[0].log_softmax(-1)
        for i in masked:
            tokens[i] = CONTENT + int(log_probs[i, CONTENT:].argmax())
            scores[i] = float(log_probs[i, tokens[i]])
    return tokens, scores


@pytest.mark.parametrize(("schedule", "least"), [("original", 1), ("fairseq", 0)])
@pytest.mark.parametrize("iterations", [2, 4, 10])
@torch.no_grad()
def test_against_a_loop(schedule: str, least: int, iterations: int) -> None:
    model, canvas = nat(), [6, 3, 9, 1, 12]
    found = filled(model, MaskPredict(iterations, schedule), LENGTHS, canvas)
    once = filled(model, OnePass(), LENGTHS, canvas)
    assert not torch.equal(found.tokens, once.tokens)  # the later passes mattered
    src_tokens = sources(LENGTHS)
    for row, (source, length) in enumerate(zip(LENGTHS, canvas, strict=True)):
        tokens, scores = by_loop(model, src_tokens[row : row + 1, : source + 1], length, iterations, least)
        assert found.tokens[row].tolist() == tokens + [PAD] * (12 - length)
        torch.testing.assert_close(found.log_probs[row, :length], torch.tensor(scores), atol=1e-4, rtol=1e-4)
        assert (found.log_probs[row, length:] == 0).all()


def test_one_iteration_is_argmax() -> None:
    model = nat()
    found = filled(model, MaskPredict(iterations=1), LENGTHS, [6, 3, 9, 1, 12])
    expected = filled(model, OnePass(), LENGTHS, [6, 3, 9, 1, 12])
    assert torch.equal(found.tokens, expected.tokens)
    assert torch.equal(found.log_probs, expected.log_probs)
    assert found.passes == 1


def test_only_masked_positions_change() -> None:
    model = nat()
    seen: list[DecoderInput] = []
    decode = model.decode

    def noted(inputs: DecoderInput, encoder_out: object) -> object:
        seen.append(inputs)
        return decode(inputs, encoder_out)  # type: ignore[arg-type]

    model.decode = noted  # type: ignore[method-assign, assignment]
    found = filled(model, MaskPredict(4), LENGTHS, [9] * 5)
    assert [int((inputs.tokens == MASK).sum()) for inputs in seen] == [5 * n for n in (9, 6, 4, 2)]
    for inputs in seen:
        assert torch.equal(inputs.revealed, (inputs.tokens != MASK) & inputs.is_canvas)
    kept = seen[-1].revealed
    assert torch.equal(found.tokens[kept], seen[-1].tokens[kept])


def test_passes_that_mask_nothing_are_not_run() -> None:
    model = nat()
    calls = count_decodes(model)
    found = filled(model, MaskPredict(10, "fairseq"), LENGTHS, [4, 2, 1, 3, 4])
    assert found.passes == len(calls.rows) == 8  # ⌊4(10 − t)/10⌋ is above 0 up to t = 7
    calls.rows.clear()
    found = filled(model, MaskPredict(10), LENGTHS, [4, 2, 1, 3, 4])
    assert found.passes == len(calls.rows) == 10


@torch.no_grad()
def test_refines_all_lengths_together() -> None:
    model, src_tokens = nat(), sources(LENGTHS)
    calls = count_decodes(model)
    decoding = Decode(TopLengths(3), MaskPredict(4))
    found = decoding.candidates(model, src_tokens)
    assert found.passes == 4
    assert len(calls.rows) == 4
    assert len(set(calls.rows)) == 1
    wider = decoding.candidates(model, pad_right(src_tokens, 4))
    assert torch.equal(found.tokens, wider.tokens)
    for row, source in enumerate(LENGTHS):
        for k, length in enumerate(found.canvas[row].tolist()):
            if length:
                tokens, scores = by_loop(model, src_tokens[row : row + 1, : source + 1], length, 4, 1)
                assert found.tokens[row, k, :length].tolist() == tokens
                assert float(found.ranks[row, k]) == pytest.approx(sum(scores) / length, abs=1e-4)


def test_needs_masks_beyond_the_first_pass() -> None:
    assert MaskPredict(2).needs_masks
    assert not MaskPredict(1).needs_masks
    assert Decode(fill=MaskPredict(2)).needs_masks
    assert not Decode().needs_masks


def test_refusals_name_the_key() -> None:
    assert dataclasses.asdict(MaskPredict()) == {"iterations": 4, "schedule": "original"}
    for iterations in (0, -1, False):
        with pytest.raises(UserError, match=r"^decoding\.fill\.iterations \(passes\) must be a whole number"):
            MaskPredict(iterations)
    with pytest.raises(
        UserError, match=r"^decoding\.fill\.schedule must be one of fairseq, original; got 'x'$"
    ):
        MaskPredict(schedule="x")
