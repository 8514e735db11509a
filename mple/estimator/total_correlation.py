"""C, the conditional total correlation: what a model that predicts all tokens independently cannot know.

    C = Σ_i H(y_i | X, L) − H(Y | X, L)                          Theorem 1; a NAT is given the length L
    Ĉ = L_NAT + L_length − L_AT                                  App. B: V-entropies in place of the entropies

    nat = SentenceLosses("nat", data, vocabulary, nats, tokens)  # of a vanilla NAT trained on raw data by MLE
    at = SentenceLosses("at", data, vocabulary, other, tokens)   # of an autoregressive model of the same size
    TotalCorrelation()(nat, at)                                  # bits, per token and per sentence
    parameter_ratio(nat_score, nat_parameters, at_scores, at_parameters)    # Table 5

An AT ends its sentences itself, so its loss holds H(L | X), which that of a NAT's tokens does not: the loss
of its length predictor stands for it. Left out, Ĉ of the grammar's true models is a quarter too small.

By its construction Ĉ is a difference of losses, so that a loss less Ĉ says nothing new; and a comparison of
a proxy's L_NAT with Ĉ (Fig. 5) sets a cross-entropy beside a difference of cross-entropies.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from mple.checks import UserError
from mple.estimator.statistics import Bootstrap, Interval


@dataclass(frozen=True, eq=False)
class SentenceLosses:
    """What one model loses on the n sentences of a split, in the split's order.

    model: its name, for messages.
    data, vocabulary: fingerprints of the split and of the vocabulary.
    nats: −log P(Y|X) of each sentence, without label smoothing: of an AT with eos, which says the length;
        of a NAT over its content tokens, given the length.
    tokens: number of content tokens of each sentence.
    length_nats: −log P(L|X) of a model that is given the length and predicts it apart; None where the tokens
        say it.

    Raises:
        UserError: other numbers of losses and of token counts.
    """

    model: str
    data: str
    vocabulary: str
    nats: Float[np.ndarray, "n"]
    tokens: Int[np.ndarray, "m"]
    length_nats: Float[np.ndarray, "n"] | None = None

    @property
    def joint_nats(self) -> Float[np.ndarray, "n"]:
        """−log P(Y, L|X) of each sentence."""
        nats = self.nats.astype(np.float64)
        return nats if self.length_nats is None else nats + self.length_nats

    def __post_init__(self) -> None:
        if len(self.nats) != len(self.tokens):
            raise UserError(
                f"{self.model} must have a loss and a token count for every sentence; "
                f"got {len(self.nats)} losses and {len(self.tokens)} counts"
            )


@dataclass(frozen=True)
class TotalCorrelation:
    """Ĉ = L_NAT − L_AT with an interval over sentences, which are drawn as pairs of the two losses.

    Both models see the same split through the same vocabulary and count the same tokens: else the difference
    is not one of models. They ought to be of one size: a V-entropy is of a function family, and is comparable
    within it. A weak AT makes Ĉ too small, even negative: that is reported, not clamped.

    Raises:
        UserError: from the call, another split, vocabulary, number of sentences or token count.

    Source: Sec. 2.3, App. B. Differences: the paper gives bits without saying per what; 2.50 on En-De is
    4.41 − 1.91 only per token. It does not say whether the length counts; here it does, on both sides.
    """

    bootstrap: Bootstrap = field(default_factory=Bootstrap)

    def per_token(self, nat: SentenceLosses, at: SentenceLosses) -> Interval:
        """Σ (joint nats of the NAT − those of the AT) / Σ tokens, in bits."""
        _check_same(nat, at)
        return self.bootstrap.bits_per_token_difference(nat.joint_nats, at.joint_nats, nat.tokens)

    def per_sentence(self, nat: SentenceLosses, at: SentenceLosses) -> Interval:
        """The same sum divided by the number of sentences: C itself, as Theorem 1 defines it."""
        _check_same(nat, at)
        return self.bootstrap.mean((nat.joint_nats - at.joint_nats) / math.log(2))

    def __call__(self, nat: SentenceLosses, at: SentenceLosses) -> dict[str, float]:
        """Ĉ per token and per sentence, and the losses that it is made of."""
        losses = {"nat_loss": nat, "at_loss": at}
        found = self.per_token(nat, at).metrics("total_correlation", "bits_per_token")
        found |= self.per_sentence(nat, at).metrics("total_correlation", "bits_per_sentence")
        for name, loss in losses.items():
            found |= self.bootstrap.bits_per_token(loss.nats, loss.tokens).metrics(name, "bits_per_token")
        if nat.length_nats is not None:
            length = self.bootstrap.bits_per_token(nat.length_nats, nat.tokens)
            found |= length.metrics("length_loss", "bits_per_token")
        return found


@dataclass(frozen=True)
class ParameterRatio:
    """An AT of between `low` and `high` times the NAT's parameters performs like the NAT.

    `low` is 0 where the smallest AT already does, `high` infinite where the largest does not.
    """

    low: float
    high: float

    def metrics(self) -> dict[str, float]:
        return {
            "parameter_ratio_low_percent": 100 * self.low,
            "parameter_ratio_high_percent": 100 * self.high,
        }

    def __str__(self) -> str:
        return f"{100 * self.low:.1f}% ~ {100 * self.high:.1f}%"


def parameter_ratio(
    nat_score: float | int,
    nat_parameters: float | int,
    at_scores: Float[np.ndarray, "sizes"],
    at_parameters: Float[np.ndarray, "sizes"] | Int[np.ndarray, "sizes"],
    larger_is_better: bool = False,
) -> ParameterRatio:
    """The two neighbouring AT sizes between which the NAT's score lies, as shares of the NAT's parameters.

    An AT as good as the NAT counts as reaching it. Where the scores do not improve with every size, the range
    is the one outside of which all ATs agree: up to `low` none reaches the NAT, from `high` on all do.

    Args:
        nat_score, at_scores: a loss, of the same unit, on the same data; or BLEU with `larger_is_better`.
        nat_parameters, at_parameters: numbers of parameters, above 0, the ATs' in any order.

    Raises:
        UserError: no AT, a number of parameters that is not above 0 or comes twice, a score not finite.

    Source: App. B, Tables 5 and 6, where the score is BLEU. The default here is the loss, which does not
    depend on the decoding.
    """
    if not len(at_scores):
        raise UserError("parameter_ratio needs the score of at least one AT; got none")
    if len(at_scores) != len(at_parameters):
        raise UserError(
            f"parameter_ratio needs as many AT scores as sizes; got {len(at_scores)} and {len(at_parameters)}"
        )
    parameters = np.append(at_parameters, nat_parameters)
    if not (parameters > 0).all() or len(np.unique(at_parameters)) < len(at_parameters):
        raise UserError(
            "numbers of parameters must be above 0 and differ between ATs; "
            f"got {', '.join(f'{p:g}' for p in parameters)}"
        )
    if not np.isfinite([nat_score, *at_scores]).all():
        raise UserError(f"scores must be finite numbers; got {nat_score}, {', '.join(map(str, at_scores))}")
    order = np.argsort(at_parameters)
    sizes = np.concatenate([[0.0], at_parameters[order] / nat_parameters, [np.inf]])
    sign = 1 if larger_is_better else -1
    reaches = np.concatenate([[False], sign * at_scores[order] >= sign * nat_score, [True]])
    first, last = int(reaches.argmax()), int(np.flatnonzero(~reaches)[-1])
    return ParameterRatio(float(sizes[first - 1]), float(sizes[last + 1]))


def _check_same(nat: SentenceLosses, at: SentenceLosses) -> None:
    for what in ("data", "vocabulary"):
        left, right = getattr(nat, what), getattr(at, what)
        if left != right:
            raise UserError(
                f"{nat.model} and {at.model} must be measured with the same {what} to give C; "
                f"got {left} and {right}"
            )
    if len(nat.nats) != len(at.nats):
        raise UserError(
            f"{nat.model} and {at.model} must be measured on as many sentences to give C; "
            f"got {len(nat.nats)} and {len(at.nats)}"
        )
    differs = np.flatnonzero(nat.tokens != at.tokens)
    if len(differs):
        line = int(differs[0])
        raise UserError(
            f"{nat.model} and {at.model} must count the same tokens to give C; they differ in {len(differs)} "
            f"sentences, first in number {line + 1}: {nat.tokens[line]} and {at.tokens[line]}"
        )
