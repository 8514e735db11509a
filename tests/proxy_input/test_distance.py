"""The distances against the library and against the definitions."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import Hamming, Levenshtein
from torch import Tensor

from mple.proxy_input.distance import DISTANCES, hamming, levenshtein
from tests.fakes import CONTENT, contents, pad_right

A, B, C, D = range(CONTENT, CONTENT + 4)


def pairs(rows: int, longest: int, entries: int, seed: int) -> tuple[Tensor, Tensor, list[int]]:
    """Random pairs of equal lengths from 0 to `longest`; half of them share a shifted part."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, longest + 1, (rows,), generator=generator)
    a, b = torch.randint(CONTENT, CONTENT + entries, (2, rows, longest), generator=generator)
    shift = int(torch.randint(1, longest + 1, (), generator=generator))
    b[::2] = a[::2].roll(shift, 1)
    is_pad = torch.arange(longest) >= lengths.unsqueeze(1)
    return a.masked_fill(is_pad, 0), b.masked_fill(is_pad, 0), lengths.tolist()


def test_equal_the_library_on_thousands_of_pairs() -> None:
    for seed, (longest, entries) in enumerate([(1, 2), (4, 2), (7, 3), (12, 2), (25, 4), (60, 30)]):
        a, b, lengths = pairs(1000, longest, entries, seed)
        texts = [
            (x[:n], y[:n]) for x, y, n in zip(a.tolist(), b.tolist(), lengths, strict=True)
        ]  # without padding
        assert levenshtein(a, b).tolist() == [Levenshtein.distance(x, y) for x, y in texts]
        assert hamming(a, b).tolist() == [Hamming.distance(x, y) for x, y in texts]


def test_a_shifted_text_is_wrong_everywhere_and_two_edits_away() -> None:
    said, wanted = torch.tensor([[A, B, C, D]]), torch.tensor([[B, C, D, A]])
    assert hamming(said, wanted).tolist() == [4]
    assert levenshtein(said, wanted).tolist() == [2]


def test_limits() -> None:
    a, b = contents([5, 1, 3], seed=1), contents([5, 1, 3], seed=2)
    for distance in DISTANCES.values():
        assert distance(a, a).tolist() == [0, 0, 0]
        assert distance(a[:, :0], a[:, :0]).tolist() == [0, 0, 0]
        assert distance(torch.tensor([[A, A]]), torch.tensor([[B, C]])).tolist() == [2]
    assert DISTANCES["hamming"] is hamming
    assert DISTANCES["levenshtein"] is levenshtein
    assert levenshtein(a, b).dtype == hamming(a, b).dtype == torch.int64


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 4))
def test_properties(seed: int, longest: int, entries: int) -> None:
    a, b, lengths = pairs(8, longest, entries, seed)
    found = levenshtein(a, b)
    assert (found <= hamming(a, b)).all()
    assert torch.equal(found, levenshtein(b, a))
    assert ((found == 0) == (a == b).all(1)).all()
    for distance in DISTANCES.values():
        together = distance(a, b)
        assert torch.equal(distance(pad_right(a, 3), pad_right(b, 3)), together)
        for row, length in enumerate(lengths):
            alone = distance(a[row : row + 1, :length], b[row : row + 1, :length])
            assert alone.item() == together[row].item()


def test_inputs_are_left_as_they_were() -> None:
    a, b, _ = pairs(20, 9, 3, seed=5)
    before = a.clone(), b.clone()
    levenshtein(a, b)
    assert torch.equal(a, before[0])
    assert torch.equal(b, before[1])
