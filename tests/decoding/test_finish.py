"""Blanks and repeats against `itertools`, one text at a time."""

from itertools import groupby

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mple.data.vocabulary import BPE, Words, WordVocabulary
from mple.decoding.finish import without_blank, without_repeated_tokens, without_repeated_words
from mple.types import BLANK, PAD, UNK

A, B, AT, BT = 6, 7, 8, 9  # AT and BT begin a word: ▁a, ▁b
STARTS = torch.tensor([False] * 8 + [True] * 2)

texts = st.lists(st.lists(st.sampled_from([BLANK, A, B, AT, BT]), max_size=9), min_size=1, max_size=5)


def padded(rows: list[list[int]]) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [PAD] * (width - len(row)) for row in rows], dtype=torch.long).reshape(
        len(rows), width
    )


def contents(tokens: Tensor) -> list[list[int]]:
    """The rows without padding, which must be at the right."""
    rows = []
    for row in tokens.tolist():
        length = sum(token != PAD for token in row)
        assert all(token == PAD for token in row[length:])
        rows.append(row[:length])
    return rows


def words(text: list[int]) -> list[tuple[int, ...]]:
    found: list[tuple[int, ...]] = []
    for i, token in enumerate(text):
        if i == 0 or STARTS[token]:
            found.append((token,))
        else:
            found[-1] += (token,)
    return found


def test_worked_example() -> None:
    assert contents(without_repeated_tokens(padded([[A, A, B, B, A]]))) == [[A, B, A]]
    text = without_blank(padded([[A, BLANK, A, B, B, A, BLANK], [BLANK, BLANK]]))
    assert contents(text) == [[A, A, B, B, A], []]
    assert contents(without_repeated_tokens(text)) == [[A, B, A], []]


def test_words_and_tokens_differ() -> None:
    new_new_s, very_very = [AT, A, A, B], [BT, A, BT, A]
    assert contents(without_repeated_words(padded([new_new_s, very_very]), STARTS)) == [new_new_s, [BT, A]]
    assert contents(without_repeated_tokens(padded([new_new_s, very_very]))) == [[AT, A, B], very_very]


def test_a_word_is_not_its_own_prefix() -> None:
    rows = [[AT, A, AT], [AT, AT, A], [AT, AT, A, A], [A, AT]]
    assert contents(without_repeated_words(padded(rows), STARTS)) == [
        [AT, A, AT],
        [AT, AT, A],
        rows[2],
        [A, AT],
    ]


@given(texts)
def test_tokens_against_groupby(rows: list[list[int]]) -> None:
    without = [[token for token in row if token != BLANK] for row in rows]
    assert contents(without_blank(padded(rows))) == without
    once = without_repeated_tokens(padded(without))
    assert contents(once) == [[token for token, _ in groupby(row)] for row in without]
    assert torch.equal(without_repeated_tokens(once), once)


@given(texts)
def test_words_against_groupby(rows: list[list[int]]) -> None:
    rows = [[token for token in row if token != BLANK] for row in rows]
    once = without_repeated_words(padded(rows), STARTS)
    assert contents(once) == [[token for word, _ in groupby(words(row)) for token in word] for row in rows]
    assert torch.equal(without_repeated_words(once, STARTS), once)


class TestStartsWord:
    def test_sentencepiece(self) -> None:
        lines = ["der neue neue hund", "neuer neuester hund hunde", "ein kleiner hund"]
        vocabulary = BPE(size=40).learn([(line, line) for line in lines], "de", "de")[1]
        starts_word = vocabulary.starts_word()
        assert starts_word.dtype == bool
        assert starts_word.shape == (len(vocabulary),)
        assert not starts_word[:6].any()
        for line in lines:
            ids = vocabulary.encode([line])[0].astype(np.int64)
            assert starts_word[ids].sum() == len(line.split())
            begins = np.flatnonzero(starts_word[ids]).tolist()
            pieces = np.split(ids, begins[1:])
            assert [vocabulary.decode(piece) for piece in pieces] == line.split()

    def test_a_repeated_word_of_several_pieces(self) -> None:
        lines = ["der neue hund", "neuer neuester hund hunde", "ein kleiner hund"]
        vocabulary = BPE(size=30).learn([(line, line) for line in lines], "de", "de")[1]
        ids = vocabulary.encode(["der neue neue hund hund hunde"])[0].astype(np.int64)
        assert len(ids) > 8
        found = without_repeated_words(torch.tensor(ids).unsqueeze(0), torch.tensor(vocabulary.starts_word()))
        assert vocabulary.decode(contents(found)[0]) == "der neue hund hunde"

    def test_words(self) -> None:
        vocabulary = Words().learn([("a b", "c d e")], "x", "y")[1]
        assert isinstance(vocabulary, WordVocabulary)
        assert vocabulary.starts_word().tolist() == [i == UNK or i >= 6 for i in range(9)]
