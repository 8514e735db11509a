"""Adam with decoupled weight decay, and the inverse square-root schedule as a pure function of the update.

Source: App. G of the paper (transformer-base settings: Adam (0.9, 0.98), weight decay 0.01, peak rate 5e-4
after 10,000 updates, then falling with the inverse square root). fairseq's Adam decouples its weight decay,
so this is AdamW. Difference: update k, counted from 0, has the rate that fairseq gives to its update k + 1;
its first has rate 0 and changes nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from mple import checks
from mple.checks import UserError

MOST_LR = 1e8
MOST_UPDATES = 100_000_000


@dataclass(frozen=True)
class Adam:
    """Builds the optimizer and says the learning rate at every update.

    lr: the peak rate. warmup_steps: updates of linear warm-up. schedule: "inverse_sqrt", or "fixed" (no
    warm-up, no decay: fine-tuning). clip_norm: largest norm of the gradient; 0 does not clip.
    """

    lr: float | int = 5e-4
    warmup_steps: int = 4000
    schedule: str = "inverse_sqrt"
    betas: Sequence[float] = (0.9, 0.98)
    eps: float | int = 1e-8
    weight_decay: float | int = 0.01
    clip_norm: float | int = 1.0

    def __post_init__(self) -> None:
        checks.positive("optimizer.lr", self.lr, MOST_LR)
        checks.whole("optimizer.warmup_steps", self.warmup_steps, 1, "updates", high=MOST_UPDATES)
        checks.one_of("optimizer.schedule", self.schedule, ("inverse_sqrt", "fixed"))
        if not isinstance(self.betas, Sequence) or isinstance(self.betas, str) or len(self.betas) != 2:
            raise UserError(f"optimizer.betas must be two numbers; got {self.betas!r}")
        for beta in self.betas:
            checks.number("optimizer.betas", beta, 0, 0.9999)
        checks.number("optimizer.eps", self.eps, 0, 1)
        checks.number("optimizer.weight_decay", self.weight_decay, 0, 1e6)
        checks.number("optimizer.clip_norm", self.clip_norm, 0, 1e6)

    def rate(self, step: int) -> float:
        """Learning rate of the update number `step`, counted from 0."""
        if self.schedule == "fixed":
            return self.lr
        return self.lr * min((step + 1) / self.warmup_steps, (self.warmup_steps / (step + 1)) ** 0.5)

    def build(self, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            parameters,
            lr=self.rate(0),
            betas=tuple(self.betas),  # type: ignore[arg-type]
            eps=self.eps,
            weight_decay=self.weight_decay,
            fused=True,
        )
