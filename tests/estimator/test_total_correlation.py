"""C against closed forms and the grammar, whose entropies are exact; the parameter ratio against Table 5."""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from experiments.paper import table
from mple.checks import UserError
from mple.data.grammar import Grammar
from mple.estimator.statistics import Bootstrap
from mple.estimator.total_correlation import SentenceLosses, TotalCorrelation, parameter_ratio

FAST = TotalCorrelation(Bootstrap(200))
MODES = {
    "all": Grammar(),
    "order and separable": Grammar(order=0.25, formality=0, tense=0, separable=0.5),
    "formality": Grammar(order=0, formality=0.5, tense=0, separable=0),
    "one target": Grammar(order=0, formality=0, tense=0, separable=0),
    "skewed": Grammar(order=0.25, formality=0.25, tense=0.5, separable=0.25),
}


def losses(nats: object, tokens: object, model: str = "nat", **names: str) -> SentenceLosses:
    prints = {"data": "d1", "vocabulary": "v1"} | names
    return SentenceLosses(
        model, prints["data"], prints["vocabulary"], np.array(nats, float), np.array(tokens)
    )


Row = tuple[float, float, float, int]


def pair_of(rows: list[Row]) -> tuple[SentenceLosses, SentenceLosses]:
    """From (nats of the NAT's tokens, of its length, nats of the AT, tokens)."""
    nat, length, at, tokens = zip(*rows, strict=True)
    return replace(losses(nat, tokens), length_nats=np.array(length, float)), losses(at, tokens, "at")


def table_models(grammar: Grammar, source: str, target: str) -> Row:
    """What the best NAT and the best AT lose on one pair. The NAT is given the length and predicts it apart;
    the AT says it with its last token."""
    words = target.split()
    marginals = grammar.marginals(source, len(words))
    nat = -sum(math.log(marginal[word]) for marginal, word in zip(marginals, words, strict=True))
    targets = grammar.targets(source)
    of_length = sum(p for other, p in targets.items() if len(other.split()) == len(words))
    return nat, -math.log(of_length), -math.log(targets[target]), len(words)


def whole_distribution(grammar: Grammar, sources: list[str]) -> Iterator[Row]:
    """Every target of every source, 256 P(Y|X) times: a sample without sampling error."""
    for source in sources:
        for target, p in grammar.targets(source).items():
            copies = 256 * p
            assert copies == round(copies)
            yield from [table_models(grammar, source, target)] * round(copies)


def test_no_problem_of_course() -> None:
    """Two modes of two words: 1 + 1 − 1 = 1 bit, half a bit per token."""
    nat, at = pair_of([(2 * math.log(2), 0, math.log(2), 2)] * 10)
    found = FAST(nat, at)
    assert found["total_correlation_bits_per_sentence"] == pytest.approx(1)
    assert found["total_correlation_bits_per_token"] == pytest.approx(0.5)
    assert found["nat_loss_bits_per_token"] == pytest.approx(1)
    assert found["at_loss_bits_per_token"] == pytest.approx(0.5)


def test_the_paper_s_own_difference() -> None:
    """methods.md 1.10: C = 2.50 of En-De is the raw NAT's 4.41 less the AT's 1.91, bits per token."""
    tokens = np.array([3, 5, 11])
    nat, at = (
        losses(bits * math.log(2) * tokens, tokens, name) for bits, name in ((4.41, "nat"), (1.91, "at"))
    )
    found = FAST(nat, at)
    assert found["total_correlation_bits_per_token"] == pytest.approx(2.50)
    assert found["total_correlation_bits_per_sentence"] == pytest.approx(2.50 * 19 / 3)
    assert found["nat_loss_bits_per_token"] == pytest.approx(4.41)
    assert found["at_loss_bits_per_token"] == pytest.approx(1.91)


def test_independent_tokens_have_none() -> None:
    nats = np.random.default_rng(0).gamma(3, size=20)
    found = FAST(losses(nats, np.arange(1, 21)), losses(nats, np.arange(1, 21), "at"))
    for end in ("", "_low", "_high"):
        assert found[f"total_correlation{end}_bits_per_token"] == 0


@pytest.mark.parametrize("modes", MODES)
def test_it_is_the_grammar_s(modes: str) -> None:
    grammar = MODES[modes]
    sources = [source for source, _ in grammar.sample(6, seed=4)]
    exact = grammar.corpus_information(sources).metrics()
    found = FAST(*pair_of(list(whole_distribution(grammar, sources))))
    for unit in ("bits_per_token", "bits_per_sentence"):
        assert found[f"total_correlation_{unit}"] == pytest.approx(
            exact[f"total_correlation_{unit}"], abs=1e-9
        )
    assert found["nat_loss_bits_per_token"] == pytest.approx(exact["nat_loss_bits_per_token"])
    length = exact["length_entropy_bits_per_sentence"] / exact["tokens_per_sentence"]
    assert found["length_loss_bits_per_token"] == pytest.approx(length, abs=1e-9)
    of_sentence = exact["joint_entropy_bits_per_token"] + length
    assert found["at_loss_bits_per_token"] == pytest.approx(of_sentence, abs=1e-9)
    assert (exact["total_correlation_bits_per_token"] > 0.01) == (modes != "one target")


@pytest.mark.parametrize("modes", MODES)
def test_a_sample_s_interval_holds_the_exact_value(modes: str) -> None:
    """Of 400 pairs; and it is narrow enough to tell the settings from nothing."""
    grammar = MODES[modes]
    pairs = list(grammar.sample(400, seed=5))
    exact = grammar.corpus_information([source for source, _ in pairs]).metrics()
    found = TotalCorrelation(Bootstrap(1000, level=0.99))(
        *pair_of([table_models(grammar, *p) for p in pairs])
    )
    length = exact["length_entropy_bits_per_sentence"] / exact["tokens_per_sentence"]
    entropies = {
        "nat_loss": exact["nat_loss_bits_per_token"],  # Σ_i H(y_i | X, L)
        "length_loss": length,  # H(L | X)
        "at_loss": exact["joint_entropy_bits_per_token"] + length,  # H(Y | X)
    }
    for name, entropy in entropies.items():
        low, high = (found[f"{name}_{end}_bits_per_token"] for end in ("low", "high"))
        assert low - 1e-9 <= entropy <= high + 1e-9, name
        assert (low < high) == (entropy > 1e-9), name
    value, low, high = (found[f"total_correlation{end}_bits_per_token"] for end in ("", "_low", "_high"))
    if modes == "one target":
        assert [low, value, high] == pytest.approx([0, 0, 0], abs=1e-9)
        return
    assert 0 < low < exact["total_correlation_bits_per_token"] < high < 2 * value


def test_coverage() -> None:
    """Two words, two modes of .3 and .7: C = h(.3). About as many intervals as they say hold it."""
    generator = np.random.default_rng(1)
    truth = -(0.3 * math.log2(0.3) + 0.7 * math.log2(0.7))
    estimator = TotalCorrelation(Bootstrap(300, level=0.8))
    hits = 0
    for _ in range(150):
        nats = -np.log(np.where(generator.random(80) < 0.3, 0.3, 0.7))
        interval = estimator.per_sentence(losses(2 * nats, [2] * 80), losses(nats, [2] * 80, "at"))
        hits += interval.low <= truth <= interval.high
    assert 0.68 <= hits / 150 <= 0.9


def test_a_length_that_is_left_out_is_missed() -> None:
    """Of the true model, too: the AT pays for its last token what the NAT pays in its length predictor."""
    grammar = Grammar()
    sources = [source for source, _ in grammar.sample(6, seed=4)]
    nat, at = pair_of(list(whole_distribution(grammar, sources)))
    with_length, without = FAST(nat, at), FAST(replace(nat, length_nats=None), at)
    exact = grammar.corpus_information(sources).metrics()["length_entropy_bits_per_sentence"]
    gap = with_length["total_correlation_bits_per_sentence"] - without["total_correlation_bits_per_sentence"]
    assert gap == pytest.approx(exact)
    assert "length_loss_bits_per_token" not in without


def test_a_weak_autoregressive_model_makes_it_negative() -> None:
    found = FAST(losses([1, 1], [2, 2]), losses([2, 2], [2, 2], "at"))
    assert found["total_correlation_bits_per_token"] == pytest.approx(-0.5 / math.log(2))


def test_sentences_of_float32_are_summed_in_float64() -> None:
    nat, at = np.full(20_000, 1e4, np.float32), np.full(20_000, 1e4 - 1, np.float32)
    tokens = np.ones(20_000, int)
    pair = (SentenceLosses("a", "d", "v", nat, tokens), SentenceLosses("b", "d", "v", at, tokens))
    for interval in (FAST.per_token(*pair), FAST.per_sentence(*pair)):
        assert interval.value == pytest.approx(1 / math.log(2), rel=1e-6)


@pytest.mark.parametrize(
    ("at", "message"),
    [
        (losses([1, 2], [1, 2], "at", data="d2"), "same data to give C; got d1 and d2"),
        (losses([1, 2], [1, 2], "at", vocabulary="v2"), "same vocabulary to give C; got v1 and v2"),
        (losses([1], [1], "at"), "as many sentences to give C; got 2 and 1"),
        (losses([1, 2], [1, 3], "at"), "differ in 1 sentences, first in number 2: 2 and 3"),
    ],
)
def test_models_that_cannot_be_compared(at: SentenceLosses, message: str) -> None:
    for call in (FAST, FAST.per_token, FAST.per_sentence):
        with pytest.raises(UserError, match=message):
            call(losses([1, 2], [1, 2]), at)


def test_losses_without_counts() -> None:
    with pytest.raises(UserError, match="got 2 losses and 1 counts"):
        losses([1, 2], [1])


class TestParameterRatio:
    @pytest.mark.parametrize("row", range(4))
    def test_table_5(self, row: int) -> None:
        """The two AT sizes of Table 6 around the NAT's BLEU are the range that Table 5 prints."""
        paper, sizes = table(5), table(6)
        ends = [paper.numbers(f"parameter_ratio_{end}_percent")[row] for end in ("low", "high")]
        bleu = [paper.numbers(f"bleu_at_{end}")[row] for end in ("low", "high")]
        at = [list(sizes.numbers("parameter_ratio_percent")).index(end) for end in ends]
        millions = sizes.numbers("parameters_millions")
        found = parameter_ratio(
            paper.numbers("bleu_nat")[row], 62.6, np.array(bleu), millions[at], larger_is_better=True
        )
        assert [100 * found.low, 100 * found.high] == pytest.approx(ends, abs=0.06)

    def test_losses_fall_with_size(self) -> None:
        at, sizes = np.array([2.0, 4.0, 3.0]), np.array([40, 10, 20])  # in any order
        assert str(parameter_ratio(3.5, 100, at, sizes)) == "10.0% ~ 20.0%"
        assert str(parameter_ratio(3.0, 100, at, sizes)) == "10.0% ~ 20.0%"  # as good is good enough
        below, above = parameter_ratio(5, 100, at, sizes), parameter_ratio(1, 100, at, sizes)
        assert (below.low, below.high) == (0, 0.1)
        assert (above.low, above.high) == (0.4, math.inf)
        assert above.metrics() == {
            "parameter_ratio_low_percent": 40,
            "parameter_ratio_high_percent": math.inf,
        }

    def test_sizes_that_disagree_widen_the_range(self) -> None:
        found = parameter_ratio(3.5, 100, np.array([5.0, 3.0, 4.0, 2.0]), np.array([1, 2, 3, 4]))
        assert (found.low, found.high) == (0.01, 0.04)

    @pytest.mark.parametrize(
        ("scores", "sizes", "message"),
        [
            ([], [], "at least one AT; got none"),
            ([1.0, 2.0], [1, 1], "above 0 and differ between ATs; got 1, 1, 100"),
            ([1.0, 2.0], [0, 1], "above 0"),
            ([1.0, math.nan], [1, 2], "finite numbers; got 3, 1.0, nan"),
        ],
    )
    def test_refusals(self, scores: list, sizes: list, message: str) -> None:
        with pytest.raises(UserError, match=message):
            parameter_ratio(3, 100, np.array(scores, float), np.array(sizes, int))
