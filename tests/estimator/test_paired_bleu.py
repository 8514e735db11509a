"""The paired difference of BLEU, against sacreBLEU and at its limits."""

import math

import numpy as np
import pytest
import sacrebleu

from mple.checks import UserError
from mple.estimator.paired_bleu import bleu_difference, counts
from mple.estimator.statistics import Bootstrap, Interval


def _sentences(seed: int, count: int = 40) -> list[str]:
    generator = np.random.default_rng(seed)
    words = np.array(["the", "a", "man", "dog", "runs", "sits", "in", "on", "red", "old", "park", "house"])
    return [" ".join(generator.choice(words, generator.integers(1, 9))) for _ in range(count)]


def difference_of(
    left: list[str],
    right: list[str],
    references: list[str],
    bootstrap: Bootstrap | None = None,
    tokenize: str = "13a",
) -> Interval:
    return bleu_difference(counts(left, references, tokenize), counts(right, references, tokenize), bootstrap)


@pytest.mark.parametrize("seed", range(5))
def test_bleu_is_that_of_sacrebleu(seed: int) -> None:
    left, right, references = _sentences(seed), _sentences(seed + 10), _sentences(seed + 20)
    left = [ref if i % 3 else hyp for i, (hyp, ref) in enumerate(zip(left, references, strict=True))]
    found = difference_of(left, right, references)
    scores = [sacrebleu.corpus_bleu(lines, [references]).score for lines in (left, right)]
    assert found.value == pytest.approx(scores[0] - scores[1])
    assert found.low <= found.value <= found.high
    assert found.low > 0  # two thirds of the left are right


def test_bleu_without_any_four_gram_is_smoothed_alike() -> None:
    left, right, references = ["a dog", "x y z u v"], ["a b c d e", "x y"], ["a dog runs", "x y z w v"]
    found = difference_of(left, right, references)
    scores = [sacrebleu.corpus_bleu(lines, [references]).score for lines in (left, right)]
    assert found.value == pytest.approx(scores[0] - scores[1])


def test_without_any_match_it_is_nothing() -> None:
    left, right, references = ["p q r s t"], ["a b x y z"], ["a b c d e"]
    assert difference_of(left, left, references).value == 0
    expected = sacrebleu.corpus_bleu(right, [references]).score
    assert difference_of(right, left, references).value == pytest.approx(expected)


def test_bleu_difference_is_paired() -> None:
    """Against itself there is no difference in any resample; exchanged it has the other sign."""
    left, right, references = _sentences(1), _sentences(2), _sentences(3)
    same = difference_of(left, left, references)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    there, back = difference_of(left, right, references), difference_of(right, left, references)
    assert (there.value, there.low) == pytest.approx((-back.value, -back.high))


def test_wider_with_fewer_sentences() -> None:
    left, right, references = _sentences(1, 400), _sentences(2, 400), _sentences(3, 400)
    left[::2] = references[::2]
    many = difference_of(left, right, references, Bootstrap(resamples=400))
    few = difference_of(left[:40], right[:40], references[:40], Bootstrap(resamples=400))
    assert (few.high - few.low) / (many.high - many.low) == pytest.approx(math.sqrt(10), rel=0.4)


def test_chinese_bleu_difference_is_sacrebleus_with_zh() -> None:
    references = ["我喜欢你的狗。", "他昨天去了北京。", "今天天气很好。"]
    left = ["我喜欢你的猫。", "他昨天去了上海。", "今天天气好。"]
    right = ["我你。", "他北。", "天天天天。"]
    scores = [sacrebleu.corpus_bleu(lines, [references], tokenize="zh").score for lines in (left, right)]
    value = difference_of(left, right, references, tokenize="zh").value
    assert value == pytest.approx(scores[0] - scores[1])
    assert value == pytest.approx(49.963, abs=1e-3)  # 0 with 13a
    with pytest.raises(UserError, match=r"tokenize must be one of 13a, .*; got 'moses'"):
        counts(left, references, "moses")
