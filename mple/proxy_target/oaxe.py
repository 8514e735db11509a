"""Order-agnostic cross-entropy: T is the reference in the order that the model says best (App. E.4).

    T* = argmin over T in S(R) of L_NAT(T),     S(R) the permutations of R

With α_i the position of token i, that is an assignment problem of least cost, one token to one position:

    min over α in Perm(L) of  Σ_i −log P_{α_i}(r_i)
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import lap
import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mple import checks
from mple.checks import UserError
from mple.proxy_target import ProxyTarget, check_reference
from mple.proxy_target.axe import canvas_logits, canvas_nll
from mple.snapshot import Snapshot
from mple.types import Batch, Mean, Target

UNITS = ("nats", "bits", "probability")


@dataclass(frozen=True)
class OaXE:
    """R permuted so that its likelihood under Z* is the greatest: the exact optimum, not a greedy one.

    reference: the proxy target that chooses R (raw, kd, dynamic_kd). The canvas has R's length, so that is
        what the length predictor learns.
    truncation: tokens of T that the model finds less likely than this are left out of what is minimised;
        null for none. Needs its unit.
    truncation_unit: "nats" or "bits", the greatest −log P that is still trained on, or "probability", the
        least P.

    Tokens that Z reveals keep their positions, and only the others are permuted (an order that chooses Z
    first). Where R repeats a token its permutation is not unique, but T is. From a model that is not trained
    yet, T is R in an order that means nothing, and the model then learns that order: start from weights.

    A truncated token counts in the length and in the denominators of the loss and of L_NAT, and L_NAT keeps
    its term; of what is minimised it leaves nothing, label smoothing included. Which ones are truncated is
    decided by the predictions that aligned T.

    Logs `moved`, the share of positions whose token is not R's, and `truncated`, the share of tokens left
    out, where something can be.

    Raises:
        UserError: a truncation without its unit, or the reverse; one that would leave out all or nothing (not
            from 1e-6 to 1e6 nats or bits, or not a probability from 1e-6 to 0.99); a reference that is
            itself aligned.

    Source: Du et al. (2021); App. E.4 and G of the paper, which truncates nothing, since L_NAT then is no
    likelihood of T. Differences from their code: content tokens only, never padding; its π = 0.15 is turned
    into a margin by log2 and compared with nats, so it acts as 2.737 nats (0.0648), which is
    `truncation: 2.737, truncation_unit: nats` here; it goes on smoothing the labels of truncated tokens.
    """

    says_blank: ClassVar[bool] = False

    reference: ProxyTarget
    truncation: float | int | None = None
    truncation_unit: str | None = None

    def __post_init__(self) -> None:
        check_reference(self.reference)
        if self.truncation is None and self.truncation_unit is None:
            return
        if self.truncation is None or self.truncation_unit is None:
            raise UserError(
                "proxy_target.truncation and proxy_target.truncation_unit (nats, bits or probability) must "
                f"be given together or both be null; got {self.truncation!r} and {self.truncation_unit!r}"
            )
        checks.one_of("proxy_target.truncation_unit", self.truncation_unit, UNITS)
        high = 0.99 if self.truncation_unit == "probability" else 1e6
        checks.number("proxy_target.truncation", self.truncation, 1e-6, high, unit=self.truncation_unit)

    @property
    def limit(self) -> float | None:
        """The greatest −log P, in nats, of a token that is trained on; None for no limit."""
        if self.truncation is None:
            return None
        if self.truncation_unit == "probability":
            return -math.log(self.truncation)
        return self.truncation * (math.log(2) if self.truncation_unit == "bits" else 1.0)

    @property
    def candidates(self) -> tuple[str, ...]:
        return self.reference.candidates

    def __call__(self, batch: Batch, snapshot: Snapshot) -> Target:
        reference = self.reference(batch, snapshot)
        return self.align(reference, snapshot.on(reference.lengths))

    def align(self, reference: Target, snapshot: Snapshot) -> Target:
        """T for the text of `reference`, by the predictions of `snapshot`, which must be on its canvas."""
        tokens, is_canvas = reference.tokens, reference.counts
        is_free = is_canvas & ~snapshot.inputs.revealed
        if self.limit is None:  # the normaliser of a position is the same for all tokens, and the widest sum
            nll = -canvas_logits(snapshot.output, tokens)
        else:
            nll, _ = canvas_nll(snapshot.output, is_canvas, tokens)
        order = assignment(nll, is_free)
        said = tokens.gather(1, order)
        log = reference.log | {"moved": Mean.of((said != tokens).float(), is_canvas)}
        target = Target(said, is_canvas, reference.reference, log)
        if self.limit is None:
            return target
        truncated = is_free & (nll.gather(1, order.unsqueeze(1)).squeeze(1) > self.limit)
        log = log | {"truncated": Mean.of(truncated.float(), is_canvas)}
        return replace(target, log=log, truncated=truncated)


def assignment(nll: Float[Tensor, "B L L"], is_free: Bool[Tensor, "B L"]) -> Int[Tensor, "B L"]:
    """Which token each position says when the free ones are permuted at least cost; the others say their own.

    nll[b, i, j] is what token i costs at position j. Only tokens and positions where `is_free` is True are
    looked at. A cost that is no number (a model that has diverged) is taken as 0, so that it is the loss that
    shows it.

    One copy to the CPU and one call for the batch. A token that is not free has its own position alone, and a
    free one no position that is not: whatever else is dearer than any order.

    Source: lapx's batch of Jonker and Volgenant's (1987) shortest augmenting paths. SciPy's
    `linear_sum_assignment`, which takes one sentence a call, is what the tests compare with.
    """
    packed = torch.cat([nll.nan_to_num(nan=0.0), is_free.unsqueeze(1).float()], 1).cpu().numpy()
    costs, free = packed[:, :-1].astype(np.float64), packed[:, -1] > 0
    order = np.tile(np.arange(free.shape[1]), (len(free), 1))
    if order.size:
        token, position = free[:, :, None], free[:, None, :]
        is_allowed = np.where(token, position, np.eye(free.shape[1], dtype=bool))
        costs = np.where(token & position, costs, 0.0)
        barrier = 1 + 2 * free.shape[1] * np.abs(costs).max()
        costs[~is_allowed] = barrier
        _, tokens, positions = lap.lapjvh_batch(costs, n_threads=torch.get_num_threads())
        np.put_along_axis(order, np.stack(positions), np.stack(tokens), axis=1)
    return torch.from_numpy(order).to(nll.device)
