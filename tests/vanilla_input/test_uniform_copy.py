"""Uniform copy: its indices, in whole numbers and in words."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mple.vanilla_input.uniform_copy import UniformCopy, uniform_index
from tests.vanilla_input.copies import canvas, sentence, source


def index(src_length: int, length: int) -> list[int]:
    return uniform_index(torch.tensor([src_length]), torch.tensor([length]), length)[0].tolist()


def test_worked_numbers() -> None:
    assert index(4, 7) == [0, 0, 1, 2, 2, 2, 3]
    assert index(5, 3) == [0, 2, 4]
    for length in (1, 2, 9):
        assert index(length, length) == list(range(length))


def test_limits() -> None:
    assert index(6, 1) == [0]
    assert index(1, 4) == [0, 0, 0, 0]


@given(st.integers(1, 40), st.integers(2, 40))
@settings(deadline=None)
def test_index_is_pythons_rounding_and_lies_in_the_source(src_length: int, length: int) -> None:
    found = index(src_length, length)
    # Python rounds halves to even, and i·(S−1)/(T−1) is a half in floating point exactly when it is one
    assert found == [round(i * (src_length - 1) / (length - 1)) for i in range(length)]
    assert (found[0], found[-1]) == (0, src_length - 1)
    beyond = uniform_index(torch.tensor([src_length]), torch.tensor([length]), length + 9)[0]
    assert int(beyond.max()) == src_length - 1


def test_copies_the_words_of_each_sentences_own_source() -> None:
    lengths, src_lengths = [7, 3, 1, 5], [4, 5, 3, 5]
    found = UniformCopy()(torch.tensor(lengths), source(src_lengths), canvas(7))
    for b, (length, src_length) in enumerate(zip(lengths, src_lengths, strict=True)):
        assert torch.equal(found[b, :length], sentence(src_length, b)[index(src_length, length)])
