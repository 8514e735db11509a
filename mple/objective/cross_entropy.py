"""Label-smoothed cross-entropy of T at the positions that Z does not reveal (App. E.6)."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mple import checks
from mple.backend import linear_cross_entropy
from mple.types import DecoderInput, DecoderOutput, Mean, Target


@dataclass(frozen=True)
class CrossEntropy:
    """−Σ log P(t_i | Z, X) over positions that count and are not revealed, label-smoothed.

    label_smoothing: ε, spread uniformly over the tokens that `spread` names.
    spread: "vocabulary": over all V tokens, so the label's own weight is 1 − ε + ε/V, as in fairseq's NATs;
        "others": over the V − 1 that are not the label, whose weight is 1 − ε, as in fairseq's
        `label_smoothed_cross_entropy` of autoregressive models. None: "vocabulary".

    `nats` is divided by the positions summed; `nll` by *all* target tokens, a revealed one counting with 0,
    which is L_NAT of the paper (the copy mechanism of App. E.6).

    A target's penalty (AXE's skipped tokens) is added to the sum of `nats`, smoothed too, but neither to its
    count nor to `nll`; at a revealed position nothing is predicted, so nothing is penalised. What a target
    has truncated is left out of the sum of `nats`, smoothing included, but neither of its count nor of `nll`.
    """

    label_smoothing: float | int = 0.1
    spread: str | None = None

    def __post_init__(self) -> None:
        checks.number("objective.label_smoothing", self.label_smoothing, 0, 0.99)
        if self.spread is not None:
            checks.one_of("objective.spread", self.spread, ("vocabulary", "others"))

    def smoothing(self, vocabulary_size: int) -> float | int:
        """The share that is spread over all V tokens: ε, or for "others" ε·V/(V − 1), of which the label gets
        the share that leaves 1 − ε to it."""
        if self.spread != "others":
            return self.label_smoothing
        return self.label_smoothing * vocabulary_size / (vocabulary_size - 1)

    def reads(self, target: Target, inputs: DecoderInput) -> Bool[Tensor, "B L"]:
        return target.counts & ~inputs.revealed

    def count(self, target: Target, inputs: DecoderInput) -> Float[Tensor, ""]:
        return self.reads(target, inputs).sum().float()

    def __call__(self, output: DecoderOutput, target: Target, inputs: DecoderInput) -> dict[str, Mean]:
        positions = self.reads(target, inputs)
        trained = positions if target.truncated is None else positions & ~target.truncated
        # By number and not by mask: the mask would be counted out for each, and its gradient is far slower
        # and added up by all threads at once, in no fixed order.
        place = trained.flatten().nonzero()[:, 0]
        labels, penalties = target.tokens.flatten().index_select(0, place), None
        if (penalty := target.penalty) is not None:
            is_due = (penalty.weights > 0) & ~inputs.revealed.gather(1, penalty.positions)
            start = is_due.nonzero()[:, 0] * positions.shape[1]
            place = torch.cat([place, start + penalty.positions[is_due]])
            labels = torch.cat([labels, penalty.tokens[is_due]])
            penalties = penalty.weights[is_due]
        features = output.features.flatten(0, 1).index_select(0, place)
        smoothing = self.smoothing(len(output.weight))
        nats, nll = linear_cross_entropy(features, output.weight, labels, smoothing, penalties)
        if target.truncated is not None:
            left_out = positions & target.truncated
            features, labels = output.features[left_out], target.tokens[left_out]
            with torch.no_grad():
                _, more = linear_cross_entropy(features, output.weight, labels, 0.0)
            nll = nll + more
        return {
            "nats": Mean(nats, positions.sum().float()),
            "nll": Mean(nll, target.counts.sum().float()),
        }
