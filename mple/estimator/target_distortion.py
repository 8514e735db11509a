"""L̂_target: how far the proxy targets are from what people would write, by sentence BLEU.

    L̂_target = E_{P(Y|X)} E_{Q(T|X)} [−β S(Y, T)]                                Eq. 14

    distortion = TargetDistortion(beta=0.2, tokenize="13a")
    distortion(targets, references)                  # references[b]: several real targets of sentence b
    distortion.exact(grammar, sources, targets)      # the expectation over P(Y|X) itself
    check_leak(sources, train_sources)               # before either: were these sentences trained on?

S is sentence BLEU, 0 to 100, Y the reference and T the hypothesis. Texts come in as text: blanks, subword
marks and special symbols are the caller's to remove. L̂_target leaves out log ζ of Eq. 13, so its zero means
nothing; only differences between proxies do.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from mple import checks
from mple.bleu import check_tokenizer, sentence_bleu
from mple.checks import UserError
from mple.data.grammar import Grammar
from mple.estimator.statistics import Bootstrap

BETA = 0.2
"""β of L̂_target, in bits per BLEU point, of a data set that has none of its own (`data.paper.mple_beta`): the
paper's for En-De."""

_NAMED = 3  # leaked lines that an error quotes


@dataclass(frozen=True)
class TargetDistortion:
    """−β times the mean over sentences of the mean over a sentence's references of S(Y, T).

    beta: β, in bits per BLEU point where L_NAT is in bits. The paper takes 0.2 (En-De) and 0.25 (Zh-En).
    tokenize: how S splits words, one of `mple.bleu.TOKENIZERS`: the `data.tokenize` of the run.
    min_references: refuse sentences with fewer. One reference cannot show several modes, and where it is the
        raw target itself, raw data has distortion 0 by definition.

    A sentence weighs the same however many references it has. The interval is over sentences.

    Raises:
        UserError: a setting outside its range; from the call, other numbers of targets and reference lists,
            a sentence with too few references, fewer than two sentences.

    Source: Eq. 14, Sec. 4 Metrics. The paper leaves open the smoothing of S and which side is the reference;
    here sacreBLEU's exponential smoothing, and Y.
    """

    beta: float | int = BETA
    tokenize: str = field(kw_only=True)
    min_references: int = 2
    bootstrap: Bootstrap = field(default_factory=Bootstrap)

    def __post_init__(self) -> None:
        checks.number("estimator.beta", self.beta, 0, unit="bits per BLEU point")
        check_tokenizer("estimator.tokenize", self.tokenize)
        checks.whole("estimator.min_references", self.min_references, 1)

    def similarity(
        self, targets: Sequence[str], references: Sequence[Sequence[str]]
    ) -> Float[np.ndarray, "n"]:
        """The mean of S(Y, T) over the references Y of every sentence, 0 to 100."""
        check_lined_up("references", len(references), "targets", len(targets))
        for line, several in enumerate(references, 1):
            if len(several) < self.min_references:
                raise UserError(
                    f"references of sentence {line} must be at least {self.min_references} to estimate "
                    f"L_target (estimator.min_references); got {len(several)}"
                )
        counts = np.array([len(several) for several in references], np.int64)
        return self._weighted(
            targets, [list(several) for several in references], 1 / np.repeat(counts, counts)
        )

    def exact_similarity(
        self, grammar: Grammar, sources: Sequence[str], targets: Sequence[str]
    ) -> Float[np.ndarray, "n"]:
        """Σ_Y P(Y|X) S(Y, T) of every sentence, over all targets that the grammar gives its source."""
        check_lined_up("targets", len(targets), "sources", len(sources))
        tables = [grammar.targets(source) for source in sources]
        weights = np.array([p for table in tables for p in table.values()])
        return self._weighted(targets, [list(table) for table in tables], weights)

    def __call__(self, targets: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
        """L̂_target and S̄ with their intervals.

        `target_is_reference_percent` is the share of sentences whose T is also among its references: far
        above what chance gives where the references include the raw target, and then L̂_target favours it.
        """
        found = self._metrics(self.similarity(targets, references))
        same = [target in several for target, several in zip(targets, references, strict=True)]
        return found | {"target_is_reference_percent": 100 * float(np.mean(same))}

    def exact(self, grammar: Grammar, sources: Sequence[str], targets: Sequence[str]) -> dict[str, float]:
        """`__call__` with the grammar's whole distribution for references."""
        return self._metrics(self.exact_similarity(grammar, sources, targets))

    def _weighted(
        self, targets: Sequence[str], references: Sequence[Sequence[str]], weights: Float[np.ndarray, "pairs"]
    ) -> Float[np.ndarray, "n"]:
        """Σ over a sentence's references of weight times S, one reference at a time."""
        counts = [len(several) for several in references]
        hypotheses = [t for t, count in zip(targets, counts, strict=True) for _ in range(count)]
        scores = sentence_bleu(hypotheses, [y for several in references for y in several], self.tokenize)
        sentence = np.repeat(np.arange(len(targets)), counts)
        return np.bincount(sentence, scores * weights, len(targets))

    def _metrics(self, similarity: Float[np.ndarray, "n"]) -> dict[str, float]:
        mean = self.bootstrap.mean(similarity)
        return {
            "target_loss_bits_per_token": -self.beta * mean.value,
            "target_loss_low_bits_per_token": -self.beta * mean.high,
            "target_loss_high_bits_per_token": -self.beta * mean.low,
            **mean.metrics("target_similarity", "bleu"),
        }


def check_lined_up(name: str, got: int, other: str, expected: int) -> None:
    """Refuse two lists that should go line by line and do not.

    Raises:
        UserError: their lengths differ.
    """
    if got != expected:
        raise UserError(f"{name} must go line by line with the {expected} {other}; got {got}")


def check_leak(sources: Sequence[str], train_sources: Iterable[str], allow: bool = False) -> int:
    """How many of `sources` are also sources of training. Refused unless allowed.

    A distortion that is measured (or a γ that is tuned) on sentences that the teachers were trained on says
    little about others. Equality is of whole lines without white space at their ends. `train_sources` is
    streamed; memory grows with `sources` alone.

    Raises:
        UserError: some are, and `allow` is False; the first few are named.
    """
    stripped = [source.strip() for source in sources]
    wanted = set(stripped)
    leaked = {line for line in (text.strip() for text in train_sources) if line in wanted}
    lines = [number for number, source in enumerate(stripped, 1) if source in leaked]
    if lines and not allow:
        first = ", ".join(f"line {number} ({stripped[number - 1][:60]!r})" for number in lines[:_NAMED])
        more = f" and {len(lines) - _NAMED} more" if len(lines) > _NAMED else ""
        raise UserError(
            f"sources must not be sources of training unless estimator.references.allow_leak=true; "
            f"{len(lines)} of {len(stripped)} are: {first}{more}"
        )
    return len(lines)
