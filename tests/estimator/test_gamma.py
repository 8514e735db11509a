"""γ against exhaustive search: over pieces of a line, and over dense nets of directions on tiny cases."""

import itertools
from collections.abc import Iterable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mple.bleu import pairwise_bleu
from mple.checks import UserError
from mple.data.grammar import Grammar
from mple.estimator import gamma as gamma_module
from mple.estimator.gamma import (
    GammaTuning,
    GridSearch,
    LineSearch,
    Search,
    best_on_line,
    chosen,
    reference_scores,
    similarity,
)
from mple.estimator.statistics import Bootstrap
from mple.estimator.target_distortion import TargetDistortion

FAST = Bootstrap(200)


def case(n: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    scores = generator.uniform(10, 60, (n, count, count))
    scores[:, range(count), range(count)] = 100
    return scores, generator.uniform(10, 60, (n, count))


def quality(scores: np.ndarray, truth: np.ndarray, gamma: np.ndarray) -> float:
    """By a loop, as App. F reads."""
    total = 0.0
    for of_sentence, of_references in zip(scores, truth, strict=True):
        agreement = [sum(g * s for g, s in zip(gamma, column, strict=True)) for column in of_sentence.T]
        total += of_references[int(np.argmax(agreement))]
    return total / len(scores)


def test_by_hand() -> None:
    """methods.md: γ = (1, 1, 2) makes L̂' = (−20, −24, −28) at β = .1; rows are references."""
    scores = np.array([[[100.0, 40, 30], [40, 100, 50], [30, 50, 100]]])
    gamma = np.array([1.0, 1, 2])
    assert -0.1 * np.einsum("i,nik->nk", gamma, scores)[0] == pytest.approx([-20, -24, -28])
    assert chosen(scores, gamma).tolist() == [2]
    assert chosen(scores, np.array([3.0, 1, 1])).tolist() == [0]
    assert similarity(scores, np.array([[1.0, 2, 3]]), gamma).tolist() == [3]
    assert chosen(np.ones((1, 3, 3)), gamma).tolist() == [0]  # ties go to the first


def test_the_columns_are_the_hypotheses() -> None:
    scores = np.array([[[100.0, 90], [10, 100]]])  # candidate 1 pleases candidate 0, not the reverse
    assert chosen(scores, np.ones(2)).tolist() == [1]
    assert chosen(scores.transpose(0, 2, 1), np.ones(2)).tolist() == [0]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(2, 4), st.booleans())
def test_the_best_of_a_line_is_exact(seed: int, n: int, count: int, axis: bool) -> None:
    """No point of a dense net on the line is better than what is found."""
    scores, truth = case(n, count, seed)
    generator = np.random.default_rng(seed + 1)
    gamma = generator.dirichlet(np.ones(count))
    direction = np.eye(count)[seed % count] if axis else generator.normal(size=count)
    found = best_on_line(scores, truth, gamma, direction)
    assert (found >= 0).all()
    net = [gamma + t * direction for t in np.concatenate([np.linspace(-3, 3, 301), [-30, 10, 30, 1e4]])]
    best = max(quality(scores, truth, point) for point in net if (point >= 0).all())
    assert quality(scores, truth, found) >= best - 1e-9


def test_two_candidates_are_solved_exactly() -> None:
    """With two, every γ is a share in [0, 1]: all pieces between crossings by brute force."""
    for seed in range(8):
        scores, truth = case(15, 2, seed)
        first, second = scores[:, 0, 0] - scores[:, 0, 1], scores[:, 1, 1] - scores[:, 1, 0]
        borders = np.sort(np.concatenate([[0], second / (first + second), [1]]))
        middles = (borders[1:] + borders[:-1]) / 2
        best = max(quality(scores, truth, np.array([m, 1 - m])) for m in middles)
        assert quality(scores, truth, LineSearch(restarts=1)(scores, truth)) == pytest.approx(best)


@pytest.mark.parametrize("seed", range(4))
def test_three_candidates_against_a_dense_net(seed: int) -> None:
    scores, truth = case(8, 3, seed)
    steps = range(61)
    net = [(a, b, 60 - a - b) for a, b in itertools.product(steps, steps) if a + b <= 60]
    best = max(float(similarity(scores, truth, np.array(point, float)).mean()) for point in net)
    assert float(similarity(scores, truth, LineSearch()(scores, truth)).mean()) >= best - 1e-9


@pytest.mark.parametrize("search", [GridSearch(), GridSearch(0, 3, 0.25), LineSearch(restarts=2)])
def test_a_search_is_never_worse_than_uniform(search: Search) -> None:
    assert isinstance(search, Search)
    for seed in range(5):
        scores, truth = case(20, 4, seed)
        gamma = search(scores, truth)
        assert (gamma >= 0).all()
        assert quality(scores, truth, gamma) >= quality(scores, truth, np.ones(4)) - 1e-12
        np.testing.assert_array_equal(search(scores, truth), gamma)  # the same again


def test_the_grid_search_is_at_its_own_optimum() -> None:
    scores, truth = case(25, 3, seed=6)
    gamma = GridSearch(1, 2, 0.25)(scores, truth)
    best = quality(scores, truth, gamma)
    assert best > quality(scores, truth, np.ones(3))
    grid = [1, 1.25, 1.5, 1.75, 2]
    assert all(value in grid for value in gamma)
    for i, value in itertools.product(range(3), grid):
        other = gamma.copy()
        other[i] = value
        assert quality(scores, truth, other) <= best + 1e-9


def test_the_order_of_the_sentences_and_the_scale_of_gamma_do_not_matter() -> None:
    scores, truth = case(30, 3, seed=7)
    gamma = np.array([0.4, 1.1, 0.9])
    order = np.random.default_rng(0).permutation(30)
    np.testing.assert_array_equal(chosen(scores[order], gamma), chosen(scores, gamma)[order])
    np.testing.assert_array_equal(chosen(scores, 7.3 * gamma), chosen(scores, gamma))
    best = [
        quality(scores, truth, LineSearch(3)(s, t))
        for s, t in ((scores, truth), (scores[order], truth[order]))
    ]
    assert best[0] == pytest.approx(best[1])


class TestTuning:
    def test_a_candidate_that_is_always_right_gets_the_weight(self) -> None:
        scores, truth = case(40, 3, seed=8)
        truth[:, 2] = 90
        fit = GammaTuning(LineSearch(2), bootstrap=FAST)(("a", "b", "c"), scores, truth)
        assert fit.similarity.value == pytest.approx(90)
        assert fit.selected == {"a": 0, "b": 0, "c": 1}
        assert fit.gamma["c"] == max(fit.gamma.values())
        assert sum(fit.gamma.values()) == pytest.approx(3)
        uniform = quality(scores, truth, np.ones(3))
        assert fit.uniform_similarity.value == pytest.approx(uniform)
        assert fit.gain.value == pytest.approx(90 - uniform)
        assert fit.held_out_gain.value > 0.9 * fit.gain.value
        found = fit.metrics(beta=0.2)
        assert found["target_loss_bits_per_token"] == pytest.approx(-18)
        assert found["gamma_gain_bleu"] == pytest.approx(fit.gain.value)
        assert found["selected_c_percent"] == 100

    def test_one_bar_shows_the_progress(self, monkeypatch: pytest.MonkeyPatch) -> None:
        shown: list[tuple[str, int | None]] = []

        def bar(items: Iterable[int], label: str, total: int | None = None) -> Iterator[int]:
            shown.append((label, total))
            yield from items

        scores, truth = case(20, 3, seed=11)
        quiet = GammaTuning(LineSearch(2), folds=3, bootstrap=FAST)(("a", "b", "c"), scores, truth)
        monkeypatch.setattr(gamma_module, "tracked", bar)
        assert GammaTuning(LineSearch(2), folds=3, bootstrap=FAST)(("a", "b", "c"), scores, truth) == quiet
        assert shown == [("γ", 4)]  # three folds and the search on all sentences
        whole = LineSearch(2)(scores, truth)
        assert list(quiet.gamma.values()) == pytest.approx(whole.tolist())

    def test_noise_gains_on_itself_and_not_held_out(self) -> None:
        """References that know nothing of the candidates: on average, what is gained is fitted."""
        tuning = GammaTuning(LineSearch(1), folds=2, bootstrap=FAST)
        fits = [tuning(("a", "b", "c"), *case(60, 3, seed)) for seed in range(24)]
        gain = np.array([fit.gain.value for fit in fits])
        held_out = np.array([fit.held_out_gain.value for fit in fits])
        assert (gain >= 0).all()
        assert gain.mean() > 4 * gain.std() / np.sqrt(24)
        assert abs(held_out.mean()) < 4 * held_out.std() / np.sqrt(24)
        assert (gain - held_out).mean() > 1

    def test_on_the_grammar(self) -> None:
        """Candidate "good" is the likeliest target, two others agree on one without its last word."""
        grammar = Grammar(0.2, 0.2, 0.2, 0.2)
        sources = [source for source, _ in grammar.sample(60, seed=10)]
        good = [grammar.most_likely(source) for source in sources]
        short = [line.rsplit(" ", 2)[0] for line in good]
        shorter = [line.rsplit(" ", 1)[0] for line in short]
        generator = np.random.default_rng(0)
        tables = [grammar.targets(source) for source in sources]
        references = [[str(y) for y in generator.choice(list(t), 4, p=list(t.values()))] for t in tables]
        candidates = [short, shorter, good]
        scores = pairwise_bleu(candidates, "none")
        truth = reference_scores(candidates, references, TargetDistortion(tokenize="none"))
        assert truth.shape == (60, 3)
        np.testing.assert_allclose(
            truth[:, 2], TargetDistortion(tokenize="none").similarity(good, references)
        )
        assert (chosen(scores, np.ones(3)) != 2).mean() > 0.5
        fit = GammaTuning(LineSearch(2), bootstrap=FAST)(("short", "shorter", "good"), scores, truth)
        assert fit.gain.low > 0
        assert fit.similarity.value == pytest.approx(truth.max(1).mean(), abs=1)

    def test_refusals(self) -> None:
        scores, truth = case(6, 3, seed=0)
        tuning = GammaTuning(GridSearch())
        for names, s, t in (
            (("a", "b"), scores, truth),
            (("a", "b", "c"), scores, truth[:5]),
            (("a",), scores[:, :1, :1], truth[:, :1]),
        ):
            with pytest.raises(UserError, match="at least two candidates with a name"):
                tuning(names, s, t)
        with pytest.raises(
            UserError, match=r"estimator\.folds must be at most the number of sentences, 4; got 5"
        ):
            tuning(("a", "b", "c"), scores[:4], truth[:4])
        with pytest.raises(UserError, match="sentence 1 must be at least 2"):
            reference_scores([["a"], ["b"]], [["a"]], TargetDistortion(tokenize="none"))
        with pytest.raises(UserError, match="candidates must be at least one list"):
            reference_scores([], [["a", "b"]], TargetDistortion(tokenize="none"))

    def test_settings(self) -> None:
        for make, message in (
            (lambda: GridSearch(low=-1), r"search\.low"),
            (lambda: GridSearch(high=0.5), r"search\.high must be a number from 1 to 1e\+06; got 0\.5"),
            (lambda: GridSearch(step=0), r"search\.step must be a number above 0, at most 1e\+06; got 0"),
            (lambda: GridSearch(step=1e-9), r"search\.step must make at most 10000 steps"),
            (lambda: LineSearch(restarts=0), r"search\.restarts"),
            (lambda: GammaTuning(GridSearch(), folds=1), r"estimator\.folds"),
        ):
            with pytest.raises(UserError, match=message):
                make()
