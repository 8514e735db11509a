"""Sentence BLEU against sacreBLEU itself, pair by pair; corpus BLEU, its two names and its signatures."""

import itertools
import math
import random
import sys
from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
import pytest
import sacrebleu
import sacremoses
from sacrebleu.metrics import BLEU

from mple import bleu
from mple import language as language_module
from mple.bleu import (
    BleuScorer,
    corpus_bleu,
    multi_reference_bleu,
    pairwise_bleu,
    sentence_bleu,
    sentence_signature,
)
from mple.checks import UserError

WORDS = ["a", "b", "c", "d", "the", "house", "3.14", "isn't", "(x)", "e.g.,", "&quot;", "ö", "-", "7-8", "."]


def random_sentences(count: int, seed: int, longest: int = 14, words: Sequence[str] = WORDS) -> list[str]:
    """Few words, so that n-grams match and repeat; every tenth sentence or so is empty or one word."""
    rng = random.Random(seed)
    return [" ".join(rng.choices(words, k=max(0, rng.randint(-1, longest)))) for _ in range(count)]


def noisy(sentences: Sequence[str], seed: int) -> list[str]:
    """The same sentences with words lost, replaced and repeated: 4-grams match too."""
    rng = random.Random(seed)
    edit = [lambda w: [w]] * 8 + [lambda w: [], lambda w: [w, w], lambda w: [rng.choice(WORDS)]]
    return [" ".join(out for w in s.split() for out in rng.choice(edit)(w)) for s in sentences]


def sacrebleu_score(hypothesis: str, references: Sequence[str], tokenize: str) -> float:
    metric = BLEU(effective_order=True, smooth_method="exp", tokenize=tokenize)
    return metric.sentence_score(hypothesis, list(references)).score


@pytest.mark.parametrize("tokenize", ["none", "13a"])
def test_sentence_bleu_is_sacrebleu_s(tokenize: str) -> None:
    references = random_sentences(1500, seed=1) + [
        " ".join(s.split() * 3) for s in random_sentences(500, seed=2)
    ]
    hypotheses = noisy(references, seed=3)[:1700] + random_sentences(300, seed=4)
    got = sentence_bleu(hypotheses, references, tokenize)
    expected = [sacrebleu_score(h, [r], tokenize) for h, r in zip(hypotheses, references, strict=True)]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-9)
    assert 0 in got
    assert got.max() > 99
    assert len(np.unique(got)) > 500  # not a comparison of constants


@pytest.mark.parametrize("tokenize", ["char", "zh"])
def test_chinese_tokenisers_are_sacrebleu_s(tokenize: str) -> None:
    words = ["我们", "的", "房子", "。", "3.", "AI", "（", "ok", " "]
    references = random_sentences(200, seed=5, words=words)
    hypotheses = random_sentences(200, seed=6, words=words)
    got = sentence_bleu(hypotheses, references, tokenize)
    expected = [sacrebleu_score(h, [r], tokenize) for h, r in zip(hypotheses, references, strict=True)]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-9)


def test_13a_is_sacrebleu_s_on_any_characters() -> None:
    """Words are tokenised one by one here, sentences at a time there."""
    rng = random.Random(7)
    characters = "ab1.,-&;'\"()[]{}<>/:!? \t\u00a0\u3000é中~`_^@#%*+=|\\"
    pieces = [*characters, *characters, "\udc80", "😀", "&quot;", "&amp;", "<skipped>", "-\n", "\n"]
    tokenise = BLEU(tokenize="13a").tokenizer
    for count in (1, 2, 3, 0) * 3_000:
        sentences = ["".join(rng.choices(pieces, k=rng.randint(0, 14))) for _ in range(count)]
        found, starts, different = bleu._numbered(sentences, "13a")
        expected = [tokenise(sentence.rstrip()).split() for sentence in sentences]
        number = {token: k for k, token in enumerate(dict.fromkeys(itertools.chain(*expected)), 1)}
        assert found.tolist() == [number[token] for tokens in expected for token in tokens], sentences
        assert np.diff(starts).tolist() == list(map(len, expected))
        assert different == len(number)


def test_white_space_is_python_s() -> None:
    every = [chr(c) for c in range(sys.maxunicode + 1)]
    found, _, different = bleu._numbered(["".join(f"a{c}" for c in every if c != "\n")], "none")
    spaces = [c for c in every if c.isspace() and c != "\n"]
    assert len(found) == len(spaces) + 1
    assert different == len(set("".join(f"a{c}" for c in every if c != "\n").split()))


def test_multi_reference_bleu_is_sacrebleu_s() -> None:
    rng = random.Random(8)
    base = random_sentences(2000, seed=9)
    copies = [noisy(base, seed=s) for s in range(10, 14)]
    references = [[c[b] for c in copies[: rng.randint(1, 4)]] for b in range(len(base))]
    got = multi_reference_bleu(base, references, "none")
    expected = [sacrebleu_score(h, r, "none") for h, r in zip(base, references, strict=True)]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-9)


def test_a_tie_of_reference_lengths_takes_the_shorter() -> None:
    hypothesis, references = "a b c", ["a b c d e", "a"]  # two words away, both
    for order in (references, references[::-1]):
        expected = sacrebleu_score(hypothesis, order, "none")
        assert multi_reference_bleu([hypothesis], [order], "none")[0] == pytest.approx(expected, abs=1e-9)
    assert expected == pytest.approx(100, abs=1e-9)  # the shorter: no brevity penalty


def test_pairwise_bleu_names_reference_first_hypothesis_second() -> None:
    n, names = 300, 4
    candidates = [noisy(random_sentences(n, seed=20), seed=20 + k) for k in range(names)]
    scores = pairwise_bleu(candidates, "none")
    assert scores.shape == (n, names, names)
    assert scores.dtype == np.float32
    for i in range(names):
        for k in range(names):
            expected = [sacrebleu_score(candidates[k][b], [candidates[i][b]], "none") for b in range(n)]
            np.testing.assert_allclose(scores[:, i, k], expected, rtol=0, atol=1e-5)
    assert not np.allclose(scores, scores.transpose(0, 2, 1))
    is_empty = np.array([[not lines[b] for lines in candidates] for b in range(n)])
    diagonal = np.diagonal(scores, axis1=1, axis2=2)
    assert is_empty.any()
    assert (diagonal == np.where(is_empty, 0, 100)).all()


def test_pairwise_bleu_by_hand() -> None:
    """Γ_0 "a b c", Γ_1 "a b": as a hypothesis the shorter is precise but pays for brevity."""
    scores = pairwise_bleu([["a b c"], ["a b"]], "none")[0]
    assert scores[0, 1] == pytest.approx(100 * np.exp(1 - 3 / 2), abs=1e-4)
    precisions = 2 / 3, 1 / 2, 1 / (2 * 1)  # the third order has no match: half a count
    assert scores[1, 0] == pytest.approx(100 * np.prod(precisions) ** (1 / 3), abs=1e-4)


def test_a_line_s_scores_do_not_depend_on_the_other_lines() -> None:
    candidates = [random_sentences(bleu._BLOCK + 50, seed=s, longest=6) for s in (30, 31, 32)]
    whole = pairwise_bleu(candidates, "none")
    parts = [pairwise_bleu([c[s : s + 1000] for c in candidates], "none") for s in range(0, len(whole), 1000)]
    assert np.array_equal(whole, np.concatenate(parts))
    hypotheses, references = candidates[:2]
    np.testing.assert_allclose(sentence_bleu(hypotheses, references, "none"), whole[:, 1, 0], atol=1e-5)


def test_no_lines_give_no_scores() -> None:
    assert pairwise_bleu([[], []], "13a").shape == (0, 2, 2)
    assert sentence_bleu([], [], "13a").shape == (0,)


def test_many_different_words_are_exact_up_to_the_limit() -> None:
    words = [f"w{i}" for i in range(bleu.MAX_DISTINCT_WORDS)]
    line = " ".join(words)
    scores = pairwise_bleu([[line], [" ".join(words[::-1])]], "none")[0]
    assert scores[0, 0] == 100
    assert scores[0, 1] == pytest.approx(sacrebleu_score(line, [" ".join(words[::-1])], "none"), abs=1e-5)
    with pytest.raises(UserError, match="at most 65535 different words; got 65536"):
        pairwise_bleu([[line], ["another"]], "none")
    with pytest.raises(UserError, match="65536, in the group that starts with 'w0 w1 "):
        pairwise_bleu([["a", line], ["b", "another"]], "none")


def test_many_words_in_few_lines_each_are_numbered_line_by_line() -> None:
    rng = random.Random(33)
    words = [[f"w{line}x{k}" for k in range(25)] for line in range(4000)]  # 100,000 in all
    one, two = ([" ".join(rng.choices(some, k=20)) for some in words] for _ in range(2))
    scores = pairwise_bleu([one, two], "none")
    assert len({word for line in (*one, *two) for word in line.split()}) > bleu.MAX_DISTINCT_WORDS
    for line in (0, 1700, 3999):
        assert scores[line, 0, 1] == pytest.approx(sacrebleu_score(two[line], [one[line]], "none"), abs=1e-4)
    alone = np.concatenate(
        [pairwise_bleu([one[s : s + 500], two[s : s + 500]], "none") for s in range(0, 4000, 500)]
    )
    assert np.array_equal(scores, alone)


def test_a_cache_that_cannot_be_written_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = pairwise_bleu([["a b c d"], ["a b d"]], "13a")
    njit = numba.njit

    def refuse(*args: Any, cache: bool = False, **options: Any) -> Any:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return njit(*args, **options)

    monkeypatch.setattr(numba, "njit", refuse)
    bleu._compiled.cache_clear()
    assert np.array_equal(pairwise_bleu([["a b c d"], ["a b d"]], "13a"), expected)
    bleu._compiled.cache_clear()


def test_sentence_signature_says_what_is_computed() -> None:
    version = sacrebleu.__version__
    assert sentence_signature("13a") == f"nrefs:1|case:mixed|eff:yes|tok:13a|smooth:exp|version:{version}"
    assert "nrefs:3|" in sentence_signature("zh", references=3)


def test_corpus_bleu_has_two_values_under_two_names() -> None:
    references = ["Das ist z.B. ein Haus-Boot.", "Er geht (heute) nicht!", "Wir haben 3,5 Millionen."]
    hypotheses = ["Das ist z.B. ein Boot.", "Er geht nicht (heute)!", "Wir haben 3,5 Millionen."]
    result = corpus_bleu(hypotheses, references, "de")
    assert result["sacrebleu"] == sacrebleu.corpus_bleu(hypotheses, [references]).score

    moses = sacremoses.MosesTokenizer(lang="de")
    tokenised = [
        [moses.tokenize(line, return_str=True) for line in side] for side in (hypotheses, references)
    ]
    expected = sacrebleu.corpus_bleu(tokenised[0], [tokenised[1]], tokenize="none", force=True).score
    assert result["tokenised_bleu"] == pytest.approx(expected, abs=1e-9)
    assert result["tokenised_bleu"] != pytest.approx(result["sacrebleu"], abs=0.1)
    assert "tok:13a" in str(result["sacrebleu_signature"])
    assert f"tok:moses-de-sacremoses-{sacremoses.__version__}" in str(result["tokenised_bleu_signature"])


def test_a_chinese_target_is_split_into_characters() -> None:
    references, hypotheses = ["我们的房子很大。", "他有3本书"], ["我们的房子大。", "他有3本新书"]
    scorer = BleuScorer(references, "zh-CN")
    expected = {
        "sacrebleu": sacrebleu.corpus_bleu(hypotheses, [references], tokenize="zh").score,
        "tokenised_bleu": sacrebleu.corpus_bleu(hypotheses, [references], tokenize="char").score,
    }
    assert scorer.score(hypotheses) == expected
    assert "tok:zh" in scorer.signatures["sacrebleu"]
    assert "tok:char" in scorer.signatures["tokenised_bleu"]


@pytest.mark.parametrize("code", ["ja", "jpn", "ja-JP", "JA"])
def test_japanese_bleu_counts_characters(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language_module, "has_tokenizer", lambda name: False)  # without MeCab
    reference = "あかさたなはまやらわいきしちにひみりうく"  # 20 characters
    hypothesis = reference[:10] + "ん" + reference[11:]
    scorer = BleuScorer([reference] * 3, code)
    scores = scorer.score([hypothesis] * 3)
    expected = 100 * math.exp(
        (math.log(19 / 20) + math.log(17 / 19) + math.log(15 / 18) + math.log(13 / 17)) / 4
    )
    assert scores == pytest.approx({"sacrebleu": expected, "tokenised_bleu": expected})
    assert all("tok:char" in signature for signature in scorer.signatures.values())


@pytest.mark.parametrize("code", ["th", "km", "lo", "my"])
def test_bleu_of_languages_without_spaces_is_not_zero(code: str) -> None:
    references, hypotheses = ["กขคงจฉชซ" * 2], ["กขคงจฉชซกขคงจฉชฌ"]
    assert min(BleuScorer(references, code).score(hypotheses).values()) > 80


def test_chinese_candidates_that_share_characters_have_a_score() -> None:
    candidates = [["我喜欢你的猫。"], ["我喜欢你的狗。"]]
    scores = pairwise_bleu(candidates, "zh")[0]
    assert (scores[0, 1], scores[1, 0]) == pytest.approx((64.3459, 64.3459), abs=1e-4)
    assert pairwise_bleu(candidates, "13a")[0, 0, 1] == 0


def test_moses_reads_the_language_of_a_three_letter_code() -> None:
    assert "tok:moses-de-" in BleuScorer(["z.B. so"], "deu-AT").signatures["tokenised_bleu"]


def test_mecab_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bleu, "has_tokenizer", lambda name: name != "ja-mecab")
    bleu._splitter.cache_clear()
    with pytest.raises(
        UserError, match=r"tokenize=ja-mecab needs MeCab, .*mple\[japanese\].* or tokenize=char"
    ):
        pairwise_bleu([["a"]], "ja-mecab")


def test_a_scorer_gives_the_same_score_again() -> None:
    references = random_sentences(50, seed=40)
    scorer = BleuScorer(references, "en")
    first = scorer.score(noisy(references, seed=41))
    assert scorer.score([""] * 50) == {"sacrebleu": 0.0, "tokenised_bleu": 0.0}
    assert scorer.score(noisy(references, seed=41)) == first
    assert scorer.score(references) == pytest.approx({"sacrebleu": 100.0, "tokenised_bleu": 100.0})


def test_corpus_score_of_blocks_is_sacrebleu_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    references = random_sentences(50, seed=42)
    outputs = noisy(references, seed=43)
    whole = BLEU(tokenize="13a").corpus_score(outputs, [references]).score
    assert BleuScorer(references, "en").score(outputs)["sacrebleu"] == whole
    expected = BleuScorer(references, "en").score(outputs)
    for block in (1, 7, 49, 50):
        monkeypatch.setattr("mple.bleu._BLOCK", block)
        scorer = BleuScorer(references, "en")
        assert scorer.score(outputs) == scorer.score(outputs) == expected


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match=r"candidate 1 must have .* 2 lines in all; got 1 lines"):
        pairwise_bleu([["a", "b"], ["a"]], "13a")
    with pytest.raises(UserError, match="candidates must be at least one list"):
        pairwise_bleu([], "13a")
    with pytest.raises(
        UserError, match="tokenize must be one of 13a, char, ja-mecab, ko-mecab, none, zh; got 'moses'"
    ):
        pairwise_bleu([["a"]], tokenize="moses")
    with pytest.raises(UserError, match="references must have"):
        sentence_bleu(["a"], ["a", "b"], "13a")
    with pytest.raises(UserError, match="references of line 2 must be at least one"):
        multi_reference_bleu(["a", "b"], [["a"], []], "13a")
    with pytest.raises(UserError, match="hypotheses must have"):
        BleuScorer(["a"], "de").score([])
    with pytest.raises(UserError, match="references must be at least one sentence"):
        BleuScorer([], "de")


def test_dash_splits_are_those_of_moses_a() -> None:
    hypothesis, reference = "Der Wohn-Zimmer Tisch ist gross .", "Der Wohn-Küchen Tisch ist gross ."
    default, split = BleuScorer([reference], "de"), BleuScorer([reference], "de", dash_splits=True)
    assert default.score([hypothesis])["tokenised_bleu"] == pytest.approx(53.728, abs=5e-4)
    assert split.score([hypothesis])["tokenised_bleu"] == pytest.approx(50.0, abs=5e-4)
    assert default.score([hypothesis])["sacrebleu"] == split.score([hypothesis])["sacrebleu"]
    assert "moses-de-a-sacremoses" in split.signatures["tokenised_bleu"]
    assert "moses-de-sacremoses" in default.signatures["tokenised_bleu"]


def test_dash_splits_take_both_apostrophes_for_one() -> None:
    scorer = BleuScorer(["Das war’s für heute, meinte er."], "de", dash_splits=True)
    assert scorer.score(["Das war's für heute, meinte er."])["tokenised_bleu"] == pytest.approx(100)


def test_dash_splits_of_a_language_in_characters_raise() -> None:
    with pytest.raises(UserError, match=r"data\.dash_splits must be null .* got zh"):
        BleuScorer(["我喜欢你的狗。"], "zh", dash_splits=True)
