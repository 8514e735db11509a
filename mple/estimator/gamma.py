"""γ of Dynamic KD, tuned so that agreement among candidates picks what real references would.

    T_γ = argmin over T in Γ of L̂'_target(T) = argmax of Σ_i γ_i S(Γ_i, T)         Eq. 21
    γ*  = argmin over γ of L̂_target(T_γ) = argmax of the mean S(Y, T_γ)            App. F

    scores = pairwise_bleu(candidates, "13a")                    # (n, K, K) among the candidates
    truth = reference_scores(candidates, references, distortion) # (n, K) against several real references
    fit = GammaTuning(LineSearch())(("tiny", "small", "base", "big", "raw"), scores, truth)
    fit.gamma, fit.gain, fit.held_out_gain

Only γ's direction matters to the choice, and the objective is constant but for jumps: it has no gradient.
Along a line in γ, though, all the jumps can be listed, so the best point of the line is found exactly (as in
minimum error rate training, Och 2003). No model is trained for any of this.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from mple import checks
from mple.checks import UserError
from mple.data.corpus import tracked
from mple.estimator.statistics import Bootstrap, Interval
from mple.estimator.target_distortion import TargetDistortion

_BETTER = 1e-9  # BLEU points: below this an improvement is rounding


def reference_scores(
    candidates: Sequence[Sequence[str]],
    references: Sequence[Sequence[str]],
    distortion: TargetDistortion,
) -> Float[np.ndarray, "n K"]:
    """Mean S(Y, Γ_k) over the real references Y of every sentence, for K lists of n candidates.

    Raises:
        UserError: as `TargetDistortion`: lists that are not lined up, a sentence with a single reference.
    """
    if not candidates:
        raise UserError("candidates must be at least one list of sentences; got none")
    return np.stack([distortion.similarity(lines, references) for lines in candidates], 1)


def chosen(scores: Float[np.ndarray, "n K K"], gamma: Float[np.ndarray, "K"]) -> Int[np.ndarray, "n"]:
    """The candidate of smallest L̂'_target in every sentence; the first of equals."""
    return np.einsum("i,nik->nk", gamma, scores, dtype=np.float64).argmax(1)


def similarity(
    scores: Float[np.ndarray, "n K K"], truth: Float[np.ndarray, "n K"], gamma: Float[np.ndarray, "K"]
) -> Float[np.ndarray, "n"]:
    """S against the real references of the candidate that γ picks, in every sentence."""
    return truth[np.arange(len(truth)), chosen(scores, gamma)]


@runtime_checkable
class Search(Protocol):
    """Looks for the γ of largest mean similarity, from γ = 1 on: never worse than that."""

    def __call__(
        self, scores: Float[np.ndarray, "n K K"], truth: Float[np.ndarray, "n K"]
    ) -> Float[np.ndarray, "K"]: ...


MOST_POINTS = 10_000


@dataclass(frozen=True)
class GridSearch:
    """One γ_i after the other over `low`, `low` + `step`, … `high`, round and round until nothing improves.

    Raises:
        UserError: a setting outside its range.

    Source: App. F, "a manual search from 1 to 3 with the step of 0.1"; the order is ours. The γ it reports
    (0.6 to 2.3) leave that range, even rescaled to a least γ of 1.
    """

    low: float | int = 1.0
    high: float | int = 3.0
    step: float | int = 0.1

    def __post_init__(self) -> None:
        checks.number("estimator.search.low", self.low, 0, 1e6)
        checks.number("estimator.search.high", self.high, self.low, 1e6)
        checks.positive("estimator.search.step", self.step, 1e6)
        if self.high - self.low > MOST_POINTS * self.step:
            raise UserError(
                f"estimator.search.step must make at most {MOST_POINTS} steps from low to high; "
                f"got {self.step!r}"
            )

    def __call__(
        self, scores: Float[np.ndarray, "n K K"], truth: Float[np.ndarray, "n K"]
    ) -> Float[np.ndarray, "K"]:
        grid = self.low + self.step * np.arange(int((self.high - self.low) / self.step + 1e-9) + 1)
        gamma = np.ones(scores.shape[1])
        best = similarity(scores, truth, gamma).mean()
        improved = True
        while improved:
            improved = False
            for i in range(len(gamma)):
                trial = gamma.copy()
                for value in grid:
                    trial[i] = value
                    found = similarity(scores, truth, trial).mean()
                    if found > best + _BETTER:
                        best, gamma, improved = found, trial.copy(), True
        return gamma


@dataclass(frozen=True)
class LineSearch:
    """Exact searches along lines through γ: each axis and as many random directions, until none improves.

    restarts: starting points, the first of them γ = 1 and the others random. γ keeps the sum K, which changes
    no choice, so that it can be read beside γ = 1. The best of a line is the middle of its best piece, so
    rounding γ changes nothing where the pieces are wide.

    Raises:
        UserError: a setting outside its range.
    """

    restarts: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        checks.whole("estimator.search.restarts", self.restarts, 1, high=10_000)
        checks.seed("estimator.search.seed", self.seed)

    def __call__(
        self, scores: Float[np.ndarray, "n K K"], truth: Float[np.ndarray, "n K"]
    ) -> Float[np.ndarray, "K"]:
        generator = np.random.default_rng(self.seed)
        num_candidates = scores.shape[1]
        starts = generator.dirichlet(np.ones(num_candidates), self.restarts) * num_candidates
        starts[0] = 1
        found = [self._climb(scores, truth, start, generator) for start in starts]
        return max(found, key=lambda gamma: float(similarity(scores, truth, gamma).mean()))

    def _climb(
        self,
        scores: Float[np.ndarray, "n K K"],
        truth: Float[np.ndarray, "n K"],
        gamma: Float[np.ndarray, "K"],
        generator: np.random.Generator,
    ) -> Float[np.ndarray, "K"]:
        num_candidates = len(gamma)
        best = similarity(scores, truth, gamma).mean()
        improved = True
        while improved:
            improved = False
            drawn = generator.normal(size=(num_candidates, num_candidates))
            for direction in np.concatenate([np.eye(num_candidates), drawn]):
                trial = best_on_line(scores, truth, gamma, direction)
                value = similarity(scores, truth, trial).mean()
                if value > best + _BETTER:
                    best, gamma, improved = value, trial * num_candidates / trial.sum(), True
        return gamma


def best_on_line(
    scores: Float[np.ndarray, "n K K"],
    truth: Float[np.ndarray, "n K"],
    gamma: Float[np.ndarray, "K"],
    direction: Float[np.ndarray, "K"],
) -> Float[np.ndarray, "K"]:
    """γ + t · direction of largest mean similarity, over all t that leave no γ_i below 0.

    Along the line the agreement of candidate k is a_k + t d_k. The choice can change only where two of these
    cross, so the mean similarity is constant between neighbouring crossings of all sentences: their running
    sum, ordered by t, is the objective on every piece. Of equally good pieces the widest is taken.
    """
    at = np.einsum("i,nik->nk", gamma, scores, dtype=np.float64)
    slope = np.einsum("i,nik->nk", direction, scores, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        bounds = -gamma / direction
        low = bounds[direction > 0].max(initial=-np.inf)
        high = bounds[direction < 0].min(initial=np.inf)
        pairs = np.array(list(combinations(range(len(gamma)), 2)), np.int64).reshape(-1, 2)
        left, right = pairs.T
        crossings = (at[:, right] - at[:, left]) / (slope[:, left] - slope[:, right])  # (n, pairs)
    inside = crossings[(crossings > low) & (crossings < high)]  # False for parallels, which never cross
    # Past the last crossing nothing changes, so an open end is as good one unit further.
    low = low if np.isfinite(low) else min(inside.min(initial=0.0), 0.0) - 1
    high = high if np.isfinite(high) else max(inside.max(initial=0.0), low, 0.0) + 1
    crossings = np.sort(np.clip(np.nan_to_num(crossings, nan=low), low, high), axis=1)
    ends = np.full((len(at), 1), low), np.full((len(at), 1), high)
    edges = np.concatenate([ends[0], crossings, ends[1]], 1)
    middles = (edges[:, :-1] + edges[:, 1:]) / 2
    choice = (at[:, None] + middles[..., None] * slope[:, None]).argmax(-1)  # (n, pairs + 1)
    value = np.take_along_axis(truth.astype(np.float64), choice, 1)
    order = np.argsort(crossings, axis=None)
    totals = value[:, 0].sum() + np.append(0.0, np.cumsum(np.diff(value, axis=1).ravel()[order]))
    borders = np.concatenate([[low], crossings.ravel()[order], [high]])
    width = np.diff(borders)
    totals[width <= 1e-9 * (1 + np.abs(borders[1:]))] = -np.inf  # no room between two crossings
    if not np.isfinite(totals).any():
        return gamma
    best = np.flatnonzero(totals >= totals.max() - _BETTER * len(at))
    piece = best[width[best].argmax()]
    return np.maximum(gamma + (borders[piece] + borders[piece + 1]) / 2 * direction, 0)


@dataclass(frozen=True)
class GammaFit:
    """γ and what it brings, in BLEU points of similarity to the real references.

    similarity: of the targets that γ picks; `uniform_similarity` of those that γ = 1 picks.
    gain: their difference, sentence by sentence, on the sentences that γ was tuned on: optimistic.
    held_out_gain: the same where every sentence is chosen for by a γ that was tuned without it.
    selected: candidate -> share of the sentences that γ picks it for.
    """

    gamma: dict[str, float]
    similarity: Interval
    uniform_similarity: Interval
    gain: Interval
    held_out_gain: Interval
    selected: dict[str, float]

    def metrics(self, beta: float | int) -> dict[str, float]:
        """L̂_target = −β · similarity, and the gains, for a record."""
        return {
            **{f"gamma_{name}": value for name, value in self.gamma.items()},
            "target_loss_bits_per_token": -beta * self.similarity.value,
            "target_loss_uniform_bits_per_token": -beta * self.uniform_similarity.value,
            **self.gain.metrics("gamma_gain", "bleu"),
            **self.held_out_gain.metrics("gamma_held_out_gain", "bleu"),
            **{f"selected_{name}_percent": 100 * share for name, share in self.selected.items()},
        }


@dataclass(frozen=True)
class GammaTuning:
    """Tunes γ with `search` and reports its gain over γ = 1, also on sentences held out in `folds` turns.

    Raises:
        UserError: a setting outside its range; from the call, arrays that do not fit each other or the names,
            a single candidate, fewer sentences than folds.

    Source: App. F, Hyper-parameter Selection, which tunes and evaluates on the same sentences.
    """

    search: Search
    folds: int = 5
    seed: int = 0
    bootstrap: Bootstrap = field(default_factory=Bootstrap)

    def __post_init__(self) -> None:
        checks.whole("estimator.folds", self.folds, 2, high=1000)
        checks.seed("estimator.seed", self.seed)

    def __call__(
        self, names: Sequence[str], scores: Float[np.ndarray, "n K K"], truth: Float[np.ndarray, "m L"]
    ) -> GammaFit:
        n, num_candidates = scores.shape[:2]
        if truth.shape != (n, num_candidates) or len(names) != num_candidates or num_candidates < 2:
            raise UserError(
                "tuning γ needs at least two candidates with a name, (sentences, K, K) scores among them and "
                f"(sentences, K) against references; got {len(names)} names, {scores.shape} and {truth.shape}"
            )
        if n < self.folds:
            raise UserError(f"estimator.folds must be at most the number of sentences, {n}; got {self.folds}")
        uniform = similarity(scores, truth, np.ones(num_candidates)).astype(np.float64)
        held_out = np.empty(n)
        fold = np.random.default_rng(self.seed).permutation(n) % self.folds
        # One bar over all searches, the last of them on all sentences: not every version of rich nests bars.
        for number in tracked(range(self.folds + 1), "γ", self.folds + 1):
            out = fold == number
            gamma = self.search(scores[~out], truth[~out])
            held_out[out] = similarity(scores[out], truth[out], gamma)
        found = similarity(scores, truth, gamma).astype(np.float64)
        shares = np.bincount(chosen(scores, gamma), minlength=num_candidates) / n
        return GammaFit(
            gamma=dict(zip(names, gamma.tolist(), strict=True)),
            similarity=self.bootstrap.mean(found),
            uniform_similarity=self.bootstrap.mean(uniform),
            gain=self.bootstrap.mean(found - uniform),
            held_out_gain=self.bootstrap.mean(held_out - uniform),
            selected=dict(zip(names, shares.tolist(), strict=True)),
        )
