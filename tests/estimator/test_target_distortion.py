"""L̂_target against sacreBLEU's sentence BLEU, averaged by hand, and against the grammar's distribution."""

import gzip
import random
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from sacrebleu.metrics import BLEU

from mple.checks import UserError
from mple.data.grammar import Grammar
from mple.estimator.statistics import Bootstrap
from mple.estimator.target_distortion import TargetDistortion, check_leak

WORDS = ["the", "house", "is", "big", ",", "red", ".", "isn't", "small"]
FAST = TargetDistortion(tokenize="13a", bootstrap=Bootstrap(200))
REFERENCES = Path(__file__).parents[3] / "shared" / "data" / "wmt14_references" / "wmt14-en-de.extra_refs.gz"


def s(reference: str, hypothesis: str, tokenize: str = "13a") -> float:
    metric = BLEU(effective_order=True, smooth_method="exp", tokenize=tokenize)
    return metric.sentence_score(hypothesis, [reference]).score


def example(count: int, seed: int = 0) -> tuple[list[str], list[list[str]]]:
    """Targets with 2 to 5 references each, of few words, so that n-grams match."""
    rng = random.Random(seed)

    def sentence() -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(1, 9)))

    return [sentence() for _ in range(count)], [
        [sentence() for _ in range(rng.randint(2, 5))] for _ in range(count)
    ]


@pytest.mark.parametrize("tokenize", ["13a", "none"])
def test_it_is_sacrebleu_s_averaged(tokenize: str) -> None:
    targets, references = example(60)
    expected = [np.mean([s(y, t, tokenize) for y in ys]) for t, ys in zip(targets, references, strict=True)]
    distortion = TargetDistortion(beta=0.25, tokenize=tokenize, bootstrap=Bootstrap(200))
    np.testing.assert_allclose(distortion.similarity(targets, references), expected, atol=1e-9)
    found = distortion(targets, references)
    assert found["target_similarity_bleu"] == pytest.approx(np.mean(expected))
    assert found["target_loss_bits_per_token"] == pytest.approx(-0.25 * np.mean(expected))
    low, high = found["target_loss_low_bits_per_token"], found["target_loss_high_bits_per_token"]
    assert low < found["target_loss_bits_per_token"] < high
    pooled = [s(y, t, tokenize) for t, ys in zip(targets, references, strict=True) for y in ys]
    assert np.mean(pooled) != pytest.approx(np.mean(expected), abs=0.05)  # not a mean over all references


def test_the_reference_is_y() -> None:
    """A short T is punished for its length, a long one for its precision."""
    found = FAST.similarity(["a b c", "a b c d e f"], [["a b c d e f"] * 2, ["a b c"] * 2])
    assert found == pytest.approx([s("a b c d e f", "a b c"), s("a b c", "a b c d e f")])
    assert found[0] != pytest.approx(found[1], abs=1)


def test_a_sentence_s_number_depends_on_that_sentence_alone() -> None:
    targets, references = example(30, seed=1)
    whole = FAST.similarity(targets, references)
    order = np.random.default_rng(0).permutation(30)[:11]
    some = FAST.similarity([targets[i] for i in order], [references[i] for i in order])
    np.testing.assert_array_equal(some, whole[order])
    np.testing.assert_allclose(FAST.similarity(targets, [ys[::-1] for ys in references]), whole, atol=1e-12)


def test_limits() -> None:
    targets, references = example(10, seed=2)
    assert FAST(targets, [[t, t] for t in targets]) == {
        "target_loss_bits_per_token": pytest.approx(-20),
        "target_loss_low_bits_per_token": pytest.approx(-20),
        "target_loss_high_bits_per_token": pytest.approx(-20),
        "target_similarity_bleu": pytest.approx(100),
        "target_similarity_low_bleu": pytest.approx(100),
        "target_similarity_high_bleu": pytest.approx(100),
        "target_is_reference_percent": 100,
    }
    assert FAST([""] * 10, references)["target_similarity_bleu"] == 0
    assert TargetDistortion(tokenize="13a", beta=0)(targets, references)["target_loss_bits_per_token"] == 0
    half = [[t, *ys] if i % 2 else ys for i, (t, ys) in enumerate(zip(targets, references, strict=True))]
    assert FAST(targets, half)["target_is_reference_percent"] >= 50


@pytest.mark.parametrize(
    "grammar",
    [
        Grammar(),
        Grammar(0.1, 0.2, 0.3, 0.4),
        Grammar(order=0.5, formality=0, tense=0, separable=0),
        Grammar(order=0, formality=0, tense=0, separable=0),  # one target a source: C = 0
    ],
    ids=["all", "skewed", "order", "one target"],
)
class TestExact:
    def test_a_sample_s_interval_holds_the_exact_value(self, grammar: Grammar) -> None:
        """One target and one reference, drawn apart, of each of 400 sources; and it is narrow."""
        generator = np.random.default_rng(7)
        sources = [source for source, _ in grammar.sample(400, seed=8)]
        tables = [grammar.targets(source) for source in sources]
        drawn = [generator.choice(list(t), 2, p=list(t.values())) for t in tables]
        targets, references = [str(t) for t, _ in drawn], [[str(y)] for _, y in drawn]
        estimate = TargetDistortion(tokenize="13a", min_references=1, bootstrap=Bootstrap(1000, level=0.99))
        found = estimate(targets, references)
        exact = estimate.exact(grammar, sources, targets)["target_loss_bits_per_token"]
        low, high = (found[f"target_loss_{end}_bits_per_token"] for end in ("low", "high"))
        assert low - 1e-9 <= exact <= high + 1e-9
        assert high - low < 0.25 * 20
        if max(map(len, tables)) == 1:
            assert [low, exact, high] == pytest.approx([-20] * 3)
        else:
            assert high > low > -20

    def test_by_enumeration(self, grammar: Grammar) -> None:
        pairs = list(grammar.sample(12, seed=3))
        sources, targets = [p[0] for p in pairs], [p[1] for p in pairs]
        expected = [
            sum(p * s(y, t, "13a") for y, p in grammar.targets(x).items())
            for x, t in zip(sources, targets, strict=True)
        ]
        np.testing.assert_allclose(FAST.exact_similarity(grammar, sources, targets), expected, atol=1e-9)
        assert FAST.exact(grammar, sources, targets)["target_loss_bits_per_token"] == pytest.approx(
            -0.2 * np.mean(expected)
        )

    def test_references_drawn_from_it_converge_to_it(self, grammar: Grammar) -> None:
        generator = np.random.default_rng(4)
        pairs = list(grammar.sample(40, seed=5))
        sources, targets = [p[0] for p in pairs], [p[1] for p in pairs]
        exact = FAST.exact_similarity(grammar, sources, targets)
        tables = [grammar.targets(x) for x in sources]
        drawn = [list(generator.choice(list(t), 300, p=list(t.values()))) for t in tables]
        got = FAST.similarity(targets, [[str(y) for y in ys] for ys in drawn])
        assert got.mean() == pytest.approx(exact.mean(), abs=0.5)
        np.testing.assert_allclose(got, exact, atol=12)  # 50 BLEU at most of spread, / √300, four times

    def test_the_mode_is_closer_than_a_draw(self, grammar: Grammar) -> None:
        """Sec. 4.2, "Secret Advantage of KD": S(Y, T) for a fixed good T against that of a second draw."""
        skewed = Grammar(
            *(getattr(grammar, mode) / 2 for mode in ("order", "formality", "tense", "separable"))
        )
        pairs = list(skewed.sample(300, seed=6))
        sources = [p[0] for p in pairs]
        raw = FAST.exact_similarity(skewed, sources, [p[1] for p in pairs]).mean()
        mode = FAST.exact_similarity(skewed, sources, list(map(skewed.most_likely, sources))).mean()
        assert mode > raw or mode == raw == pytest.approx(100)  # where a source has one target


def test_references_that_do_not_fit() -> None:
    with pytest.raises(UserError, match="references must go line by line with the 2 targets; got 1"):
        FAST(["a", "b"], [["a", "b"]])
    with pytest.raises(UserError, match=r"sentence 2 must be at least 2 .*min_references\); got 1"):
        FAST(["a", "b"], [["a", "b"], ["c"]])
    with pytest.raises(UserError, match="targets must go line by line with the 1 sources; got 2"):
        FAST.exact(Grammar(), ["you see the book"], ["a", "b"])
    one = TargetDistortion(tokenize="13a", min_references=1)
    np.testing.assert_allclose(one.similarity(["a b", "c"], [["a b"], ["d"]]), [100, 0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"beta": -0.1},
            r"estimator\.beta \(bits per BLEU point\) must be a number of at least 0; got -0\.1",
        ),
        ({"tokenize": "words"}, r"estimator\.tokenize must be one of"),
        ({"min_references": 0}, r"estimator\.min_references"),
    ],
)
def test_settings(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        TargetDistortion(**({"tokenize": "13a"} | settings))


class TestLeak:
    def test_none(self) -> None:
        assert check_leak(["a", "b"], iter(["c", "a b"])) == 0

    def test_the_first_are_named(self) -> None:
        sources = ["new", *(f"seen {i}" for i in range(5))]
        with pytest.raises(UserError) as caught:
            check_leak(sources, (f" seen {i} " for i in range(4)))
        assert str(caught.value) == (
            "sources must not be sources of training unless estimator.references.allow_leak=true; "
            "4 of 6 are: line 2 ('seen 0'), line 3 ('seen 1'), line 4 ('seen 2') and 1 more"
        )

    def test_allowed_ones_are_counted(self) -> None:
        assert check_leak(["a", "a", "b"], ["a", "a"], allow=True) == 2  # lines, not different sentences


@pytest.mark.real
@pytest.mark.skipif(not REFERENCES.is_file(), reason=f"no {REFERENCES}")
def test_raw_targets_of_newstest() -> None:
    """Table 2, Raw Data: −6.42 with 10 extra references; here its public 500 sentences, other tokens."""
    lines: dict[str, dict[str, str]] = defaultdict(dict)
    with gzip.open(REFERENCES, "rt", encoding="utf-8") as file:
        for line in file:
            key, text = line.rstrip("\n").split("\t")
            kind, number = key.split("-")
            lines[number][kind] = text
    references = [[line[f"R{i}"] for i in range(1, 11)] for line in lines.values()]
    found = TargetDistortion(tokenize="13a")([line["T"] for line in lines.values()], references)
    assert len(references) == 500
    assert found["target_loss_bits_per_token"] == pytest.approx(-6.42, abs=0.6)
