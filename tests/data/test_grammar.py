"""The oracle of other tests, checked here by hand and by brute force over its targets."""

import itertools
import math
import os
import subprocess
import sys
from collections import Counter, defaultdict

import numpy as np
import pytest
from scipy.stats import binomtest, chisquare

from mple.checks import UserError
from mple.data.grammar import NUM_SOURCES, SPLITS, SRC_WORDS, TGT_WORDS, Grammar, split_of

MODES = ("order", "formality", "tense", "separable")
UNIFORM = Grammar()
SKEWED = Grammar(order=0.1, formality=0.2, tense=0.3, separable=0.45)
DETERMINISTIC = Grammar(0.0, 0.0, 0.0, 0.0)
ALL_FOUR = "you helped the man today"


def only(**modes: float) -> Grammar:
    """A grammar with these modes, and all others deterministic."""
    return Grammar(**{mode: modes.get(mode, 0.0) for mode in MODES})


def sources_of(grammar: Grammar, count: int) -> list[str]:
    return [source for source, _ in grammar.sample(count, seed=11)]


def entropy(probabilities: np.ndarray) -> float:
    p = probabilities[probabilities > 0]
    return float(-(p * np.log2(p)).sum())


def brute_force(targets: dict[str, float]) -> dict[str, float]:
    """The measures from a table of targets, by one-hot counting."""
    words = [target.split() for target in targets]
    p = np.array(list(targets.values()))
    lengths = np.array([len(w) for w in words])
    out = {"joint": 0.0, "marginal": 0.0, "tokens": float((p * lengths).sum())}
    p_length = np.array([p[lengths == length].sum() for length in np.unique(lengths)])
    out["length"] = entropy(p_length)
    for length, p_l in zip(np.unique(lengths), p_length, strict=True):
        rows = np.array([w for w in words if len(w) == length])
        weights = p[lengths == length] / p_l
        out["joint"] += p_l * entropy(weights)
        for position in range(length):
            onehot = rows[:, position, None] == np.unique(rows[:, position])[None]
            out["marginal"] += p_l * entropy(weights @ onehot)
    return out


class TestWorkedExamples:
    def test_the_targets_of_each_mode(self) -> None:
        assert only(order=0.5).targets("i see the book today") == {
            "ich sehe heute das Buch": 0.5,
            "heute sehe ich das Buch": 0.5,
        }
        assert only(formality=0.25).targets("you see the book") == {
            "Sie sehen das Buch": 0.75,
            "du siehst das Buch": 0.25,
        }
        assert only(tense=0.5).targets("i saw the book") == {
            "ich habe das Buch gesehen": 0.5,
            "ich sah das Buch": 0.5,
        }
        assert only(separable=0.5).targets("i help a good woman") == {
            "ich stehe einer guten Frau bei": 0.5,
            "ich unterstütze eine gute Frau": 0.5,
        }
        assert only(separable=0.5).targets("a man and the girl followed a little child") == {
            "ein Mann und das Mädchen sind einem kleinen Kind nachgelaufen": 0.5,
            "ein Mann und das Mädchen haben ein kleines Kind verfolgt": 0.5,
        }

    def test_two_adverbials(self) -> None:
        assert only(order=0.5).targets("the new teacher buys a card in the garden this evening") == {
            "der neue Lehrer kauft am Abend im Garten eine Karte": 0.5,
            "am Abend kauft der neue Lehrer im Garten eine Karte": 0.5,
        }

    def test_modes_are_independent(self) -> None:
        p = SKEWED.targets(ALL_FOUR)
        assert len(p) == 16
        assert p["Sie haben heute dem Mann beigestanden"] == pytest.approx(0.9 * 0.8 * 0.7 * 0.55)
        assert p["heute hast du dem Mann beigestanden"] == pytest.approx(0.1 * 0.2 * 0.7 * 0.55)
        assert p["heute unterstütztest du den Mann"] == pytest.approx(0.1 * 0.2 * 0.3 * 0.45)
        assert SKEWED.most_likely(ALL_FOUR) == max(p, key=p.__getitem__)

    @pytest.mark.parametrize("p", [0.0, 0.1, 0.5])
    def test_formality_alone_by_hand(self, p: float) -> None:
        """Pronoun and verb each have the entropy h(p), and so has the pair: C = 2h − h = h."""
        h = 0.0 if p == 0 else -p * math.log2(p) - (1 - p) * math.log2(1 - p)
        measures = only(formality=p).information("you see the book")
        assert measures.lengths == {4: 1.0}
        assert measures.token_entropies[4] == pytest.approx((h, h, 0, 0))
        assert measures.joint_entropy == pytest.approx(h)
        assert measures.total_correlation == pytest.approx(h)
        assert p != 0.5 or measures.total_correlation == 1

    def test_tense_alone_shows_in_the_length(self) -> None:
        measures = only(tense=0.5).information("i saw the book")
        assert measures.lengths == {4: 0.5, 5: 0.5}
        assert (measures.length_entropy, measures.joint_entropy, measures.total_correlation) == (1, 0, 0)

    def test_tense_and_separable_by_hand(self) -> None:
        """5 words: stand dem Mann bei | habe dem Mann beigestanden | habe den Mann unterstützt, 1/3 each."""
        third, two = math.log2(3), math.log2(3) - 2 / 3  # entropies of (1/3, 1/3, 1/3) and of (1/3, 2/3)
        measures = only(tense=0.5, separable=0.5).information("i helped the man")
        assert measures.lengths == pytest.approx({4: 0.25, 5: 0.75})
        assert measures.token_entropies[4] == (0, 0, 0, 0)
        assert measures.token_entropies[5] == pytest.approx((0, two, two, 0, third))
        assert measures.total_correlation == pytest.approx(0.75 * 2 * two)
        assert measures.tokens == pytest.approx(4.75)

    def test_marginals_by_hand(self) -> None:
        marginals = only(tense=0.5, separable=0.5).marginals("i helped the man", 5)
        assert marginals[1] == pytest.approx({"habe": 2 / 3, "stand": 1 / 3})
        assert marginals[3] == pytest.approx({"Mann": 1})


@pytest.mark.parametrize("grammar", [UNIFORM, SKEWED, DETERMINISTIC, only(tense=0.5, separable=0.2)])
class TestMeasures:
    def test_probabilities_sum_to_one(self, grammar: Grammar) -> None:
        for source in sources_of(grammar, 500):
            p = grammar.targets(source)
            assert math.fsum(p.values()) == pytest.approx(1, abs=1e-12)
            assert min(p.values()) > 0
            for length in grammar.information(source).lengths:
                marginals = grammar.marginals(source, length)
                assert len(marginals) == length
                assert [math.fsum(m.values()) for m in marginals] == pytest.approx([1] * length, abs=1e-12)

    def test_against_brute_force_and_the_chain_rule(self, grammar: Grammar) -> None:
        for source in sources_of(grammar, 300):
            targets, measures = grammar.targets(source), grammar.information(source)
            expected = brute_force(targets)
            assert measures.length_entropy == pytest.approx(expected["length"], abs=1e-9)
            assert measures.joint_entropy == pytest.approx(expected["joint"], abs=1e-9)
            assert measures.marginal_entropy == pytest.approx(expected["marginal"], abs=1e-9)
            assert measures.tokens == pytest.approx(expected["tokens"])
            assert measures.total_correlation >= -1e-12
            chain = measures.length_entropy + measures.joint_entropy  # H(Y|X) = H(L|X) + H(Y|X,L)
            assert chain == pytest.approx(entropy(np.array(list(targets.values()))), abs=1e-9)

    def test_the_best_nat_has_divergence_c(self, grammar: Grammar) -> None:
        """Theorem 1: KL(P(Y|X) || P(L|X) Π_i P(y_i|X,L)) is C(X)."""
        for source in sources_of(grammar, 300):
            measures = grammar.information(source)
            marginals = {length: grammar.marginals(source, length) for length in measures.lengths}
            kl = 0.0
            for target, p in grammar.targets(source).items():
                words = target.split()
                independent = measures.lengths[len(words)]
                for position, word in enumerate(words):
                    independent *= marginals[len(words)][position][word]
                kl += p * math.log2(p / independent)
            assert kl == pytest.approx(measures.total_correlation, abs=1e-9)

    def test_the_corpus_is_the_sum_of_its_sources(self, grammar: Grammar) -> None:
        sources = sources_of(grammar, 200)
        each = [brute_force(grammar.targets(source)) for source in sources]
        total = {name: sum(one[name] for one in each) for name in each[0]}
        assert grammar.corpus_information(sources).metrics() == pytest.approx(
            {
                "tokens_per_sentence": total["tokens"] / 200,
                "length_entropy_bits_per_sentence": total["length"] / 200,
                "total_correlation_bits_per_sentence": (total["marginal"] - total["joint"]) / 200,
                "nat_loss_bits_per_sentence": total["marginal"] / 200,
                "joint_entropy_bits_per_sentence": total["joint"] / 200,
                "total_correlation_bits_per_token": (total["marginal"] - total["joint"]) / total["tokens"],
                "nat_loss_bits_per_token": total["marginal"] / total["tokens"],
                "joint_entropy_bits_per_token": total["joint"] / total["tokens"],
            }
        )


class TestModeProbabilities:
    """All modes from 0 to 0.5 together, or one while the others stay at 0. (Not in general: with the others
    open, a mode at 0.5 may separate the lengths better than at 0.3, and C falls a little.)"""

    @pytest.mark.parametrize("modes", [MODES, *((mode,) for mode in MODES)])
    def test_c_grows_from_zero(self, modes: tuple[str, ...]) -> None:
        sources = sources_of(UNIFORM, 300)
        c = [
            only(**dict.fromkeys(modes, p)).corpus_information(sources).total_correlation
            for p in (0.0, 0.01, 0.1, 0.2, 0.3, 0.4, 0.5)
        ]
        assert c[0] == 0
        assert all(low < high for low, high in itertools.pairwise(c))

    def test_deterministic_grammar_has_one_target(self) -> None:
        for source, target in DETERMINISTIC.sample(300, seed=3):
            assert DETERMINISTIC.targets(source) == {target: 1.0}
            assert UNIFORM.most_likely(source) == target

    def test_every_mode_changes_two_words_or_more(self) -> None:
        """Also where the length stays: otherwise the choice would add nothing to C."""
        for mode, source in itertools.product(MODES, sources_of(UNIFORM, 500)):
            targets = [target.split() for target in only(**{mode: 0.5}).targets(source)]
            assert len(targets) <= 2
            if len(targets) == 2 and len(targets[0]) == len(targets[1]):
                assert sum(a != b for a, b in zip(*targets, strict=True)) >= 2


class TestSampling:
    def test_frequencies(self) -> None:
        """Over all sources with equally many targets: how often the first, second, ... of them is drawn."""
        grammar = Grammar(order=0.2, formality=0.3, tense=0.3, separable=0.4)
        observed: dict[int, Counter[int]] = defaultdict(Counter)
        expected: dict[int, dict[int, float]] = defaultdict(lambda: defaultdict(float))
        for source, target in grammar.sample(20_000, seed=5):
            p = grammar.targets(source)
            observed[len(p)][list(p).index(target)] += 1
            for rank, probability in enumerate(p.values()):
                expected[len(p)][rank] += probability
        for cells in (2, 4, 8, 16):
            f_obs, f_exp = ([counts[cells][i] for i in range(cells)] for counts in (observed, expected))
            # a rank pools unlike probabilities, which makes the statistic vary less than chi-square, not more
            assert min(f_exp) > 5
            assert chisquare(f_obs, f_exp).pvalue > 1e-3

    @pytest.mark.parametrize(("mode", "p"), list(zip(MODES, (0.1, 0.2, 0.3, 0.45), strict=True)))
    def test_frequency_of_each_second_variant(self, mode: str, p: float) -> None:
        grammar = only(**{mode: p})
        pairs = [pair for pair in grammar.sample(6_000, seed=6) if len(grammar.targets(pair[0])) == 2]
        second = sum(target != grammar.most_likely(source) for source, target in pairs)
        assert binomtest(second, len(pairs), p).pvalue > 1e-3

    def test_every_kind_of_choice_occurs(self) -> None:
        sizes = Counter(len(UNIFORM.targets(source)) for source in sources_of(UNIFORM, 2_000))
        assert sizes.keys() == {1, 2, 4, 8, 16}
        assert min(sizes.values()) > 40

    @pytest.mark.parametrize("split", SPLITS)
    def test_a_pair_depends_on_its_index_alone(self, split: str) -> None:
        pairs = list(UNIFORM.sample(100, seed=7, split=split))
        assert list(UNIFORM.sample(30, seed=7, split=split)) == pairs[:30]
        assert list(UNIFORM.sample(10, seed=7, split=split, start=90)) == pairs[90:]
        assert list(UNIFORM.sample(100, seed=8, split=split)) != pairs

    def test_sources_do_not_depend_on_the_modes(self) -> None:
        assert sources_of(UNIFORM, 200) == sources_of(DETERMINISTIC, 200)

    def test_nor_on_the_interpreter(self) -> None:
        code = "from mple.data.grammar import Grammar; print(*Grammar().sample(50, seed=1), sep='\\n')"
        runs = [
            subprocess.run(
                [sys.executable, "-c", code],
                env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONUTF8": "1"},
                capture_output=True,
                check=True,
                encoding="utf-8",
            ).stdout
            for seed in ("1", "2")
        ]
        assert runs[0] == runs[1] == "".join(f"{pair}\n" for pair in Grammar().sample(50, seed=1))

    def test_splits_share_no_source(self) -> None:
        of = {split: {s for s, _ in UNIFORM.sample(1_000, seed=9, split=split)} for split in SPLITS}
        assert all(of[a].isdisjoint(of[b]) for a, b in itertools.combinations(SPLITS, 2))
        assert all(split_of(source) == split for split in SPLITS for source in of[split])

    def test_lengths_and_vocabularies(self) -> None:
        pairs = list(UNIFORM.sample(30_000, seed=10))
        for side, words in ((0, SRC_WORDS), (1, TGT_WORDS)):
            sentences = [pair[side].split(" ") for pair in pairs]
            lengths = {len(sentence) for sentence in sentences}
            assert (min(lengths), max(lengths)) == (4, 14)
            assert sorted(set(itertools.chain.from_iterable(sentences))) == list(words)
        assert len(SRC_WORDS) + len(TGT_WORDS) == 176
        assert NUM_SOURCES == 174 * 6 * 48 * 2 * 25


class TestSupport:
    def test_samples_are_in_the_support(self) -> None:
        sources, targets = zip(*UNIFORM.sample(1_000, seed=12), strict=True)
        assert UNIFORM.valid_rate(sources, targets) == 100

    def test_mixed_modes_are_not(self) -> None:
        source = "you see the book today"
        valid = ["Sie sehen heute das Buch", "heute siehst du das Buch"]
        mixed = [
            "Sie siehst heute das Buch",
            "du sehen heute das Buch",
            "heute sehen heute das Buch",
            "Sie sehen Sie das Buch",
            "du siehst heute das Buch ",
            "",
        ]
        assert [UNIFORM.in_support(source, output) for output in valid + mixed] == [True] * 2 + [False] * 6
        assert UNIFORM.valid_rate([source] * 8, valid + mixed) == 25
        assert only(order=0.5).valid_rate([source] * 2, valid) == 50

    def test_agrees_with_the_targets_on_corrupted_outputs(self) -> None:
        """Every mixture of two targets, word by word, is in the support exactly when `targets` lists it."""
        for source in sources_of(UNIFORM, 100):
            targets = UNIFORM.targets(source)
            for a, b in itertools.combinations(list(targets)[:4], 2):
                for cut in range(1, 6):
                    output = " ".join(a.split()[:cut] + b.split()[cut:])
                    assert UNIFORM.in_support(source, output) == (output in targets)

    def test_mixing_independent_words_is_seldom_valid(self) -> None:
        """The product of marginals has mass outside the support: the valid rate of an ideal NAT, exactly."""
        marginals = UNIFORM.marginals("you see the book today", 5)
        words = [list(m.items()) for m in marginals]
        mass = sum(
            math.prod(p for _, p in choice)
            for choice in itertools.product(*words)
            if UNIFORM.in_support("you see the book today", " ".join(w for w, _ in choice))
        )
        # Sie or du 1/4, its verb 1/2, heute 1/2; and the same three numbers when heute is in front
        assert mass == pytest.approx(4 * (1 / 4) * (1 / 2) * (1 / 2))


class TestErrors:
    @pytest.mark.parametrize("p", [-0.1, 0.6, float("nan"), float("inf")])
    @pytest.mark.parametrize("mode", MODES)
    def test_mode_probability(self, mode: str, p: float) -> None:
        with pytest.raises(UserError, match=rf"data\.modes\.{mode} must be a number from 0 to 0\.5; got"):
            Grammar(**{mode: p})

    @pytest.mark.parametrize(
        "source",
        [
            "",
            "you",
            "you saw",
            "you sees the book",  # agreement
            "he see the book",
            "you saw the man",  # a person as the object of a plain verb
            "you helped the book",
            "you saw the book today here",  # order of the adverbials
            "you saw  the book",
            "you saw the book ",
            "You saw the book",
            "the man and the man saw the book",
            "you saw the book today and left",
        ],
    )
    def test_foreign_source(self, source: str) -> None:
        for ask in (UNIFORM.targets, UNIFORM.information, UNIFORM.most_likely):
            with pytest.raises(UserError, match="a source of the grammar must read"):
                ask(source)
        with pytest.raises(UserError, match="a source of the grammar must read"):
            UNIFORM.in_support(source, "")

    def test_sampling(self) -> None:
        with pytest.raises(UserError, match="split must be one of test, train, valid; got 'dev'"):
            UNIFORM.sample(1, seed=1, split="dev")
        for name, count, seed, start in (("count", -1, 1, 0), ("seed", 1, -1, 0), ("start", 1, 1, -1)):
            with pytest.raises(UserError, match=f"{name} must be a whole number of at least 0; got -1"):
                UNIFORM.sample(count, seed, start=start)

    def test_measures(self) -> None:
        with pytest.raises(
            UserError, match=r"length \(words\) must be one of 4, 5 for 'i saw the book'; got 6"
        ):
            UNIFORM.marginals("i saw the book", 6)
        with pytest.raises(UserError, match="sources must hold at least one sentence"):
            UNIFORM.corpus_information([])
        with pytest.raises(UserError, match="got 1 outputs for 2 sources"):
            UNIFORM.valid_rate(["you see the book"] * 2, ["du siehst das Buch"])
        with pytest.raises(UserError, match="got 0 outputs for 0 sources"):
            UNIFORM.valid_rate([], [])
