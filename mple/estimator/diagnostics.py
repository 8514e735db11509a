"""What goes wrong in a NAT's outputs, and how candidates and choices of Dynamic KD differ: plain counts.

Words are lists that `mple.language.Language.words` makes of a text. Every function is pure; shares are in per
cent, ratios plain numbers.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int

from mple import checks
from mple.checks import UserError
from mple.estimator.target_distortion import check_lined_up


def repetition_rate_percent(outputs: Iterable[list[str]]) -> float:
    """Words equal to the word before, of all words: the sign of mixed modes (Gu et al., 2018)."""
    repeated = count = 0
    for words in outputs:
        repeated += sum(a == b for a, b in pairwise(words))
        count += len(words)
    return 100 * repeated / max(count, 1)


def length_ratio(outputs: Sequence[list[str]], references: Sequence[list[str]]) -> float:
    """Words of all outputs over words of all references.

    Raises:
        UserError: other numbers of lines, or references without a word.
    """
    check_lined_up("outputs", len(outputs), "references", len(references))
    expected = sum(map(len, references))
    if not expected:
        raise UserError("references must have at least one word for a length ratio; got none")
    return sum(map(len, outputs)) / expected


def distinct(outputs: Sequence[list[str]], n: int) -> float:
    """Different n-grams over all n-grams of all outputs together, 0 to 1 (Li et al., 2016); 0 without any.

    It falls as outputs grow in number: compare only outputs for the same sources.
    """
    checks.whole("n", n, 1)
    different: set[tuple[str, ...]] = set()
    total = 0
    for words in outputs:
        grams = list(zip(*(words[start:] for start in range(n)), strict=False))
        different.update(grams)
        total += len(grams)
    return len(different) / max(total, 1)


def agreement(scores: Float[np.ndarray, "n K K"]) -> Float[np.ndarray, "K K"]:
    """Mean over sentences of S(Γ_i, Γ_k), 0 to 100: row i the reference, column k the hypothesis.

    scores: of `mple.bleu.pairwise_bleu`.

    Raises:
        UserError: no sentences.
    """
    if not len(scores):
        raise UserError("agreement needs at least one sentence; got none")
    return scores.mean(0, dtype=np.float64)


def identical_percent(candidates: Sequence[Sequence[str]]) -> Float[np.ndarray, "K K"]:
    """Share of sentences for which candidates i and k are the same text; candidates are K lists of n lines.

    Raises:
        UserError: no candidate or no sentence, or lists of different lengths.
    """
    if not candidates or not candidates[0]:
        raise UserError("candidates must be at least one list of at least one sentence; got none")
    for k, lines in enumerate(candidates):
        check_lined_up(f"candidate {k}", len(lines), "lines of candidate 0", len(candidates[0]))
    number: dict[str, int] = {}
    texts = np.array([[number.setdefault(line, len(number)) for line in lines] for lines in candidates])
    return 100 * (texts[:, None] == texts[None]).mean(-1)


def selection(
    names: Sequence[str],
    nll: Float[np.ndarray, "n K"],
    distortion: Float[np.ndarray, "m L"],
    choice: Int[np.ndarray, "chosen"] | None = None,
) -> dict[str, float]:
    """What Dynamic KD chose, and what L_NAT or L̂'_target alone would have.

    Args:
        nll: L_NAT of each candidate, in the form that was minimised (mean or sum).
        distortion: L̂'_target of each candidate, in the same unit.
        choice: the candidate that was taken; by default the argmin of the sum. Ties go to the first.

    Returns:
        `selected_<name>_percent` of every candidate, `differs_from_nll_percent` (the regulariser changed the
        choice) and `differs_from_agreement_percent` (the model changed it).

    Raises:
        UserError: the arrays do not fit each other or the names, or there are no sentences.
    """
    if nll.shape != distortion.shape or nll.shape[1] != len(names) or not len(nll):
        raise UserError(
            f"nll and distortion must be (sentences, {len(names)} candidates), at least one sentence; "
            f"got {nll.shape} and {distortion.shape}"
        )
    if choice is None:
        choice = (nll + distortion).argmin(1)
    check_lined_up("choice", len(choice), "sentences", len(nll))
    shares = np.bincount(choice, minlength=len(names)) / len(choice)
    found = {f"selected_{name}_percent": 100 * float(s) for name, s in zip(names, shares, strict=True)}
    found["differs_from_nll_percent"] = 100 * float((choice != nll.argmin(1)).mean())
    found["differs_from_agreement_percent"] = 100 * float((choice != distortion.argmin(1)).mean())
    return found
