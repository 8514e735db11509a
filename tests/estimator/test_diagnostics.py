"""Counts that can be checked by hand, and agreement with the code that logs the same in training."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mple.bleu import pairwise_bleu
from mple.checks import UserError
from mple.estimator.diagnostics import (
    agreement,
    distinct,
    identical_percent,
    length_ratio,
    repetition_rate_percent,
    selection,
)
from mple.estimator.text import TextScore
from mple.proxy_target.dynamic_kd import DynamicKD

sentences = st.lists(st.lists(st.sampled_from(["a", "b", "c"]), max_size=6), max_size=6)


def words(*texts: str) -> list[list[str]]:
    return [text.split() for text in texts]


def test_repetition() -> None:
    assert repetition_rate_percent(words("a a a b", "b a")) == pytest.approx(100 * 2 / 6)
    assert repetition_rate_percent(words("a b a b")) == 0  # only neighbours
    assert repetition_rate_percent(words("a", "a")) == 0  # not across sentences
    assert repetition_rate_percent(words("", "")) == repetition_rate_percent([]) == 0


def test_repetition_and_length_are_what_training_logs() -> None:
    outputs, references = ["the the house is", "a a a", ""], ["the house is red", "a dog", "b"]
    logged = TextScore("de")("test", ["x"] * 3, references, outputs)
    assert repetition_rate_percent(words(*outputs)) == pytest.approx(logged["repetition_rate_percent"])
    assert length_ratio(words(*outputs), words(*references)) == pytest.approx(logged["length_ratio"])


def test_length_ratio() -> None:
    assert length_ratio(words("a b c", ""), words("a", "b")) == 1.5
    with pytest.raises(UserError, match="outputs must go line by line with the 1 references; got 2"):
        length_ratio(words("a", "b"), words("a"))
    with pytest.raises(UserError, match="at least one word for a length ratio; got none"):
        length_ratio(words("a"), words(""))


def test_distinct() -> None:
    assert distinct(words("a b a", "b"), 1) == 2 / 4
    assert distinct(words("a b a b", "b a"), 2) == 2 / 4  # ab, ba, ab; ba: no bigram across sentences
    assert distinct(words("a"), 2) == 0
    with pytest.raises(UserError, match="n must be a whole number of at least 1; got 0"):
        distinct(words("a"), 0)


@given(sentences, st.integers(1, 3))
def test_distinct_by_slices(outputs: list[list[str]], n: int) -> None:
    grams = [tuple(output[i : i + n]) for output in outputs for i in range(len(output) - n + 1)]
    assert distinct(outputs, n) == pytest.approx(len(set(grams)) / max(len(grams), 1))


def test_candidates_agree() -> None:
    candidates = [["a b c d", "x y"], ["a b c d", "x z"], ["e f g h", "x y"]]
    scores = pairwise_bleu(candidates, "none")
    got = agreement(scores)
    assert np.diag(got) == pytest.approx([100, 100, 100])
    assert got[0, 1] == pytest.approx((100 + scores[1, 0, 1]) / 2)
    assert got[0, 2] == pytest.approx(50)
    np.testing.assert_allclose(identical_percent(candidates), [[100, 50, 50], [50, 100, 0], [50, 0, 100]])


class TestSelection:
    def test_by_hand(self) -> None:
        nll = np.array([[1.0, 2, 3], [1, 2, 3], [3, 1, 2], [1, 1, 1]])
        distortion = np.array([[0.0, -5, 0], [-5, 0, 0], [0, 0, -5], [0, 0, -1]])
        assert selection(("a", "b", "c"), nll, distortion) == {
            "selected_a_percent": 25,
            "selected_b_percent": 25,
            "selected_c_percent": 50,
            "differs_from_nll_percent": 75,
            "differs_from_agreement_percent": 0,
        }

    def test_limits(self) -> None:
        generator = np.random.default_rng(0)
        nll, distortion = generator.normal(size=(50, 4)), generator.normal(size=(50, 4))
        names = ("a", "b", "c", "d")
        assert selection(names, nll, 0 * distortion)["differs_from_nll_percent"] == 0
        assert selection(names, nll, 1e6 * distortion)["differs_from_agreement_percent"] == 0
        fixed = selection(names, nll, distortion, np.full(50, 2))
        assert fixed["selected_c_percent"] == 100
        assert fixed["differs_from_nll_percent"] == pytest.approx(100 * (nll.argmin(1) != 2).mean())

    def test_it_is_what_dynamic_kd_would_choose(self) -> None:
        generator = np.random.default_rng(1)
        proxy_target = DynamicKD({"a": 1, "b": 0.5, "raw": 2}, beta=0.1)
        nll = torch.from_numpy(generator.gamma(20, size=(40, 3)))
        lengths = torch.from_numpy(generator.integers(3, 12, (40, 3)))
        scores = torch.from_numpy(generator.uniform(0, 100, (40, 3, 3)))
        ease, distortion = proxy_target.cost(nll, lengths), proxy_target.distortion(scores)
        choice = (ease + distortion).argmin(1)
        log = proxy_target._log(choice, ease, distortion)
        found = selection(proxy_target.candidates, ease.numpy(), distortion.numpy())
        for name in proxy_target.candidates:
            assert found[f"selected_{name}_percent"] == pytest.approx(
                100 * float(log[f"selected_{name}"].value())
            )
        for ours, theirs in (("nll", "nll_alone"), ("agreement", "agreement_alone")):
            expected = 100 * (1 - float(log[theirs].value()))
            assert found[f"differs_from_{ours}_percent"] == pytest.approx(expected, abs=1e-4)
            assert 0 < expected < 100

    def test_refusals(self) -> None:
        two = np.zeros((3, 2))
        for nll, distortion in (
            (two, np.zeros((3, 3))),
            (np.zeros((3, 3)), np.zeros((3, 3))),
            (two[:0], two[:0]),
        ):
            with pytest.raises(UserError, match=r"must be \(sentences, 2 candidates\)"):
                selection(("a", "b"), nll, distortion)
        with pytest.raises(UserError, match="choice must go line by line with the 3 sentences; got 2"):
            selection(("a", "b"), two, two, np.zeros(2, int))
        with pytest.raises(UserError, match="at least one sentence"):
            agreement(np.zeros((0, 2, 2)))
        with pytest.raises(UserError, match="at least one list of at least one sentence"):
            identical_percent([])
        with pytest.raises(UserError, match="candidate 1 must go line by line"):
            identical_percent([["a"], ["a", "b"]])
