"""Length candidates against the definition by hand, and at the borders of what is possible."""

import math
from decimal import ROUND_HALF_UP, Decimal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mple.checks import UserError
from mple.decoding.lengths import Lengths, TopLengths, WindowLengths, scaled
from mple.model.length import LengthPredictor
from mple.types import EncoderOutput

KINDS = pytest.mark.parametrize("kind", [TopLengths, WindowLengths])


def encoded(lengths: list[int], seed: int = 0) -> EncoderOutput:
    """Random states of sources with `lengths` content tokens."""
    is_pad = torch.arange(max(lengths) + 1) > torch.tensor(lengths).unsqueeze(1)
    return EncoderOutput(
        torch.randn(*is_pad.shape, 16, generator=torch.Generator().manual_seed(seed)), is_pad
    )


def predictor(max_offset: int = 3, max_length: int = 64) -> LengthPredictor:
    torch.manual_seed(1)
    return LengthPredictor(16, max_length, max_offset)


def says(offset: int, max_offset: int = 3, max_length: int = 64) -> LengthPredictor:
    """A predictor whose most probable offset is `offset` and whose others fall off on both sides."""
    found = predictor(max_offset, max_length)
    with torch.no_grad():
        found.classes.weight.zero_()
        distance = (torch.arange(-max_offset, max_offset + 1) - offset).abs()
        found.classes.bias.copy_(-distance - 0.25 * (torch.arange(2 * max_offset + 1) < offset + max_offset))
    return found


def candidates(found: tuple[Tensor, Tensor], row: int = 0) -> list[int]:
    lengths, log_probs = found
    return lengths[row][log_probs[row] != -math.inf].tolist()


class TestScaled:
    def test_worked_numbers(self) -> None:
        lengths = torch.tensor([20, 10, 30, 1, 9])
        assert scaled(lengths, 1.05, 256).tolist() == [21, 11, 32, 1, 9]  # 21, 10.5, 31.5, 1.05, 9.45
        assert scaled(torch.arange(1, 257), 1, 256).tolist() == list(range(1, 257))
        assert scaled(torch.arange(1, 257), 1.0, 100).tolist() == [min(n, 100) for n in range(1, 257)]
        assert scaled(torch.tensor([1, 2, 4]), 0.1, 9).tolist() == [1, 1, 1]

    @given(st.integers(10, 1000), st.integers(1, 300))
    def test_is_the_exact_product_rounded(self, percent: int, length: int) -> None:
        exact = (Decimal(percent) / 100 * length).quantize(Decimal(1), ROUND_HALF_UP)
        assert scaled(torch.tensor([length]), percent / 100, 10**6).tolist() == [max(1, int(exact))]


class TestPredictedLengths:
    """`LengthPredictor.predict` when several classes mean the same length."""

    @pytest.mark.parametrize("max_length", [4, 64])
    @torch.no_grad()
    def test_distinct_and_the_most_probable(self, max_length: int) -> None:
        model, sources = predictor(4, max_length), [1, 2, 3, 5, 8]
        encoder_out = encoded(sources)
        everything = model.log_probs(encoder_out)
        found = model.predict(encoder_out, beam=9)
        for row, source in enumerate(sources):
            best: dict[int, float] = {}
            for offset in range(-4, 5):
                length = min(max(source + offset, 1), max_length)
                best[length] = max(best.get(length, -math.inf), float(everything[row, offset + 4]))
            expected = sorted(best, key=lambda length: -best[length])
            assert candidates(found, row) == expected
            assert found[1][row, : len(expected)].tolist() == [best[length] for length in expected]
            assert (found[1][row, len(expected) :] == -math.inf).all()
        assert torch.equal(model.predict(encoder_out)[0], found[0][:, :1])


class TestTopLengths:
    @torch.no_grad()
    def test_is_what_the_predictor_says(self) -> None:
        model, encoder_out = predictor(), encoded([8, 5, 6])
        lengths, log_probs = TopLengths(beam=3)(model, encoder_out, 64)
        expected = model.predict(encoder_out, 3)
        assert torch.equal(lengths, expected[0])
        assert torch.equal(log_probs, expected[1])

    @torch.no_grad()
    def test_the_factor_and_lengths_that_it_makes_equal(self) -> None:
        model, encoder_out = says(0), encoded([20])  # 20, 21, 19, 22, 18, …
        assert candidates(TopLengths(5, 1.05)(model, encoder_out, 64)) == [21, 22, 20, 23, 19]
        assert candidates(TopLengths(5, 0.1)(model, encoder_out, 64)) == [2]
        assert candidates(TopLengths(5, 1.05)(model, encoder_out, 21)) == [21, 20, 19]

    def test_more_candidates_than_classes(self) -> None:
        assert len(TopLengths(7)(predictor(3), encoded([8]), 64)[0][0]) == 7
        with pytest.raises(UserError, match=r"^decoding\.lengths\.beam must be at most 7, .*; got 8$"):
            TopLengths(8)(predictor(3), encoded([8]), 64)


class TestWindowLengths:
    @pytest.mark.parametrize(
        ("beam", "expected"),
        [(1, [9]), (2, [9, 8]), (3, [9, 8, 10]), (4, [9, 8, 10, 7]), (5, [9, 8, 10, 7, 11])],
    )
    @torch.no_grad()
    def test_sizes(self, beam: int, expected: list[int]) -> None:
        assert candidates(WindowLengths(beam)(says(1), encoded([8]), 64)) == expected

    @torch.no_grad()
    def test_borders_leave_candidates_out(self) -> None:
        assert candidates(WindowLengths(5)(says(0), encoded([1]), 64)) == [1, 2, 3]
        assert candidates(WindowLengths(5)(says(0), encoded([9]), 9)) == [9, 8, 7]
        assert candidates(WindowLengths(5)(says(0), encoded([9]), 1)) == [1]

    @torch.no_grad()
    def test_the_factor_moves_the_window(self) -> None:
        assert candidates(WindowLengths(3, 1.05)(says(0), encoded([20]), 64)) == [21, 20, 22]

    @torch.no_grad()
    def test_log_probs_are_the_predictors(self) -> None:
        model, encoder_out = says(3), encoded([8])  # the window reaches beyond the last class, +3
        everything = model.log_probs(encoder_out)[0]
        _, log_probs = WindowLengths(3, 1.5)(model, encoder_out, 64)
        assert log_probs[0].tolist() == [float(everything[i]) for i in (6, 5, 6)]


@KINDS
@torch.no_grad()
def test_one_candidate_is_argmax_and_batches_do_not_matter(kind: type[TopLengths | WindowLengths]) -> None:
    model, sources = predictor(), [3, 1, 9, 5]
    encoder_out = encoded(sources)
    assert torch.equal(kind(1)(model, encoder_out, 64)[0], model.predict(encoder_out)[0])
    together = kind(5, 1.3)(model, encoder_out, 64)
    for row, source in enumerate(sources):
        own = EncoderOutput(
            encoder_out.states[row : row + 1, : source + 1], encoder_out.is_pad[row : row + 1, : source + 1]
        )
        alone = candidates(kind(5, 1.3)(model, own, 64))
        assert alone == candidates(together, row)
        assert len(set(alone)) == len(alone)
        assert together[1][row, 0] != -math.inf


@KINDS
def test_refusals_name_the_key(kind: type[TopLengths | WindowLengths]) -> None:
    assert isinstance(kind(), Lengths)
    for wrong in (0, -1, True):
        with pytest.raises(
            UserError, match=r"^decoding\.lengths\.beam \(candidates\) must be a whole number"
        ):
            kind(beam=wrong)
    for factor in (0, -1.0, 11, math.nan):
        with pytest.raises(
            UserError, match=r"^decoding\.lengths\.factor must be a number from 0\.1 to 10; got"
        ):
            kind(factor=factor)
