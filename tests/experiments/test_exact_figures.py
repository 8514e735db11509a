"""Figures 2 and 9, which need no runs: closed forms, and brute force over all alignments."""

import itertools
import math

import numpy as np
import pytest

from experiments.paper_items import figure2, figure9
from experiments.paper_items.figure2 import DATA, MARGINAL, ONE_MODE, Pair


def test_the_marginals_are_the_most_likely_pair() -> None:
    """Theorem 1: no product of two tokens is more likely, and the least divergence is C, 1 bit."""
    assert MARGINAL.log_likelihood == pytest.approx(-2)
    assert MARGINAL.divergence == pytest.approx(figure2.total_correlation()) == pytest.approx(1)
    for first, second in itertools.product(np.linspace(0.02, 0.98, 49), repeat=2):
        assert Pair(first, second).log_likelihood <= MARGINAL.log_likelihood + 1e-12


def test_one_mode_by_its_closed_form() -> None:
    epsilon = figure2.EPSILON
    assert ONE_MODE.log_likelihood == pytest.approx(math.log2(epsilon * (1 - epsilon)))
    assert ONE_MODE.invalid == pytest.approx(2 * epsilon * (1 - epsilon))
    assert MARGINAL.invalid == pytest.approx(0.5)
    assert ONE_MODE.joint.sum() == pytest.approx(1)


def test_divergence_is_the_sum_over_sentences() -> None:
    pair = Pair(0.3, 0.8)
    expected = sum(p * math.log2(p / q) for p, q in zip(DATA.flat, pair.joint.flat, strict=True) if p > 0)
    assert pair.divergence == pytest.approx(expected)


def test_continuous_modes_have_no_c_when_one_and_a_bit_when_far() -> None:
    assert figure2.continuous_correlation(0) == pytest.approx(0, abs=1e-6)
    assert figure2.continuous_correlation(12) == pytest.approx(1, abs=1e-6)
    values = [figure2.continuous_correlation(d) for d in (0, 1, 2, 3, 4, 6)]
    assert values == sorted(values)
    assert figure2.continuous_correlation(3, 401) == pytest.approx(figure2.continuous_correlation(3, 801))


def test_continuous_c_agrees_with_draws() -> None:
    generator = np.random.default_rng(0)
    d, n = 3.0, 200_000
    y = generator.choice([-d / 2, d / 2], (n, 1)) + generator.normal(size=(n, 2))
    modes = np.exp(-((y[:, :, None] - np.array([-d / 2, d / 2])) ** 2) / 2)  # constants cancel
    terms = np.log2(modes.prod(1).mean(-1) / modes.mean(-1).prod(1))
    assert figure2.continuous_correlation(d) == pytest.approx(
        terms.mean(), abs=4 * terms.std() / math.sqrt(n)
    )


def test_alignments_are_the_papers() -> None:
    assert figure9.axe() == ((2, 3, 4, 4), ("ε", "I", "eat", "pizza"), (4,))
    assert figure9.oaxe() == ((2, 3, 4, 1), ("today", "I", "eat", "pizza"))


def test_predictions_are_distributions() -> None:
    columns = np.array(list(figure9.PREDICTIONS.values()))
    assert (columns.sum(0) <= 1 + 1e-9).all()  # the rest belongs to other words
    assert (columns > 0).all()


def test_axe_is_the_best_of_all_monotone_alignments() -> None:
    """Each word at a position, not decreasing; the first at a position is said, the others are skipped."""
    words, size = figure9.REFERENCE, len(figure9.REFERENCE)
    p = figure9.PREDICTIONS

    def cost(alpha: tuple[int, ...]) -> float:
        total = sum(-math.log(p[figure9.EMPTY][j]) for j in range(size) if j not in alpha)
        for i, j in enumerate(alpha):
            is_first = j not in alpha[:i]
            total -= math.log(p[words[i]][j]) * (1 if is_first else figure9.DELTA)
        return total

    monotone = list(itertools.combinations_with_replacement(range(size), size))
    costs = sorted((cost(alpha), alpha) for alpha in monotone)
    assert tuple(j + 1 for j in costs[0][1]) == figure9.axe()[0]
    assert costs[1][0] - costs[0][0] > 0.1  # not by a hair
    positions, said, skipped = figure9.axe()
    assert figure9.cost(said) + figure9.DELTA * -math.log(p["today"][3]) == pytest.approx(costs[0][0])
    assert len(positions) == len(said) == size
    assert skipped == (4,)


def test_oaxe_is_the_best_of_all_permutations() -> None:
    costs = {order: figure9.cost(order) for order in itertools.permutations(figure9.REFERENCE)}
    assert min(costs, key=lambda order: costs[order]) == figure9.oaxe()[1]
    assert figure9.cost(figure9.oaxe()[1]) == pytest.approx(min(costs.values()))
