"""Dynamic KD: for every sentence, now, the candidate that best balances ease and faithfulness.

    T* = argmin over T in Γ of  L_NAT(T) + L̂'_target(T),     Sec. 3.4 and App. F (Eq. 21) of the paper
    L_NAT(T)      = −log P(T | Z*, X), Z* the fully masked canvas
    L̂'_target(T) = −β Σ_i γ_i S(Γ_i, T), S sentence BLEU (0 to 100), Γ_i the reference

The paper leaves open whether L_NAT is a mean over tokens or a sum over the sentence, and whether γ is
normalised; both change the choice. The default, mean and normalised, keeps the two parts of one size.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mple import checks
from mple.checks import UserError
from mple.proxy_target import laid_out
from mple.snapshot import Snapshot
from mple.types import PAD, Batch, Mean, Target


@dataclass(frozen=True)
class DynamicKD:
    """The candidate of smallest L_NAT + L̂'_target.

    gamma: candidate name -> γ_i, the weight of agreeing with it. Its keys are the candidates Γ, teachers and
        "raw"; one whose weight is None is left out. A candidate agrees with itself by 100, as in Eq. 21, so
        γ_i also is a bias towards i.
    beta: β, in nats per BLEU point; 0 switches the regulariser off (the paper's "w/o Regularizer").
    nll: "mean" over the tokens of a candidate, or "sum".
    normalize_gamma: divide γ by its sum.

    Ties go to the candidate named first. Logs `selected_<name>` (how often each is chosen), `nll_alone` (how
    often L_NAT alone would have chosen the same), `agreement_alone` (likewise L̂'_target) and `margin_nats`
    (between the best and the second).

    Source: Sec. 3.4, App. F. Difference: in the paper γ is unnormalised as written; `normalize_gamma: false`
    gives that.
    """

    says_blank: ClassVar[bool] = False

    gamma: Mapping[str, float | int | None]
    beta: float | int = 0.2
    nll: str = "mean"
    normalize_gamma: bool = True
    _weights: Mapping[str, float | int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        checks.number("proxy_target.beta", self.beta, 0, 1e6, unit="nats per BLEU point")
        checks.one_of("proxy_target.nll", self.nll, ("mean", "sum"))
        if not isinstance(self.gamma, Mapping):
            raise UserError(f"proxy_target.gamma must be candidates and their weights; got {self.gamma!r}")
        weights = {name: weight for name, weight in self.gamma.items() if weight is not None}
        if not weights:
            raise UserError("proxy_target.gamma must weigh at least one candidate; got none")
        for name, weight in weights.items():
            checks.number(f"proxy_target.gamma.{name}", weight, 0, 1e6)
        if self.normalize_gamma and sum(weights.values()) == 0:
            raise UserError("proxy_target.gamma must not be all 0 when it is normalised")
        object.__setattr__(self, "_weights", weights)

    @property
    def candidates(self) -> tuple[str, ...]:
        return tuple(self._weights)

    def distortion(self, scores: Float[Tensor, "B K K"]) -> Float[Tensor, "B K"]:
        """L̂'_target of every candidate, in nats."""
        scale = self.beta / (sum(self._weights.values()) if self.normalize_gamma else 1)
        # One by one, since autocast would make a product of matrices in bf16, of scores up to 100.
        agreements = [weight * scores[:, i] for i, weight in enumerate(self._weights.values())]
        return -scale * torch.stack(agreements).sum(0)

    def cost(self, nll: Float[Tensor, "B K"], lengths: Int[Tensor, "B K"]) -> Float[Tensor, "B K"]:
        """L_NAT of every candidate from its summed negative log-likelihood."""
        return nll / lengths if self.nll == "mean" else nll

    def __call__(self, batch: Batch, snapshot: Snapshot) -> Target:
        assert batch.tgt_candidates is not None
        assert batch.candidate_scores is not None
        assert batch.candidate_names == self.candidates, (batch.candidate_names, self.candidates)
        candidates = batch.tgt_candidates
        ease = self.cost(snapshot.candidate_nll(candidates), (candidates != PAD).sum(-1))
        distortion = self.distortion(batch.candidate_scores)
        total = ease + distortion
        choice = total.argmin(1)
        target = laid_out(candidates[torch.arange(len(batch), device=choice.device), choice])
        return Target(target.tokens, target.counts, target.reference, self._log(choice, ease, distortion))

    def _log(self, choice: Tensor, ease: Tensor, distortion: Tensor) -> dict[str, Mean]:
        log = {f"selected_{name}": Mean.of((choice == k).float()) for k, name in enumerate(self.candidates)}
        log["nll_alone"] = Mean.of((choice == ease.argmin(1)).float())
        log["agreement_alone"] = Mean.of((choice == distortion.argmin(1)).float())
        if len(self._weights) > 1:
            best = (ease + distortion).topk(2, 1, largest=False).values
            log["margin_nats"] = Mean.of(best[:, 1] - best[:, 0])
        return log
