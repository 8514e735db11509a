"""Label-smoothed cross-entropy of T at the positions that Z does not reveal (App. E.6)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from mple import checks
from mple.types import DecoderInput, DecoderOutput, Mean, Target


def smoothed_nll(
    logits: Float[Tensor, "N V"], labels: Int[Tensor, "N"], smoothing: float
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Sums over N of (1−ε)·NLL + ε·mean_v(−log p_v), and of the plain NLL (no gradient), in nats.

    bf16 logits are not copied to float32: the log-softmax computes in float32 inside, and so do the sums.
    """
    log_probs = functional.log_softmax(logits, -1)
    nll = -log_probs.gather(1, labels.unsqueeze(1)).float().sum()
    if smoothing == 0:
        return nll, nll.detach()
    uniform = -log_probs.sum(dtype=torch.float32) / logits.shape[-1]
    return (1 - smoothing) * nll + smoothing * uniform, nll.detach()


@dataclass(frozen=True)
class CrossEntropy:
    """−Σ log P(t_i | Z, X) over positions that count and are not revealed, label-smoothed.

    label_smoothing: ε, spread uniformly over the whole vocabulary as in fairseq's NATs.

    `nats` is divided by the positions summed; `nll` by *all* target tokens, a revealed one counting with 0,
    which is L_NAT of the paper (the copy mechanism of App. E.6).
    """

    label_smoothing: float | int = 0.1

    def __post_init__(self) -> None:
        checks.number("objective.label_smoothing", self.label_smoothing, 0, 0.99)

    def count(self, target: Target, inputs: DecoderInput) -> Float[Tensor, ""]:
        return (target.counts & ~inputs.revealed).sum().float()

    def __call__(self, output: DecoderOutput, target: Target, inputs: DecoderInput) -> dict[str, Mean]:
        positions = target.counts & ~inputs.revealed
        logits = output.logits_at(positions)
        nats, nll = smoothed_nll(logits, target.tokens[positions], self.label_smoothing)
        return {
            "nats": Mean(nats, positions.sum().float()),
            "nll": Mean(nll, target.counts.sum().float()),
        }
