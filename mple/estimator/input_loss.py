"""L_input: how much of the target the proxy input Z gives away beyond what X tells.

    L_input = KL[Q(Z | T, X) || P(Z | X)] = E_Q[−log P(Z | X)] + E_Q[log Q(Z | T, X)]      Eq. 11, App. E.6

    estimate = InputLoss(law=UniformCount(), draws=4)        # CMLM
    estimate(nat, proxy, InputDistribution(mask_predictor, vanilla), batches).metrics()
    no_hint(tokens).metrics()                                # a vanilla input: 0 by definition

A `Law` is log Q of a proxy input, exactly; every Z that it draws is a set of revealed tokens, so it is a law
of sets. With l tokens of L revealed:

    UniformCount    −log L − log C(L, l)            CMLM: l uniform on 0 … L − 1, then any set of l
    GivenCount      −log C(L, l)                    fixed ratio, GLAT: l is a function of T and X
    OneByOne        P(the first l are this set)     GLAT by P_ref, 1 − P_ref: one after the other

Q is conditional on T, as App. E.6 defines it. Where T is a function of X (KD) that is Q(Z | X) itself;
otherwise what is estimated exceeds KL[Q(Z | X) || P(Z | X)] by the mutual information of Z and T given X.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mple import checks
from mple.checks import UserError
from mple.estimator.statistics import Bootstrap
from mple.model.input_predictor import InputDistribution
from mple.model.nat import NAT
from mple.proxy import Proxy
from mple.proxy_input.glancing import CHOICES
from mple.randomness import Draws
from mple.snapshot import Snapshot
from mple.types import PAD, Batch, EncoderOutput, Target

NEVER = -1e6
"""The log-weight that stands for weight 0, as in glancing: such tokens come last, in any order."""

_SUBSETS_UP_TO = 6
"""Revealed tokens up to which draw orders are summed (64 subsets); the integral costs the same for any."""

_NODES, _AT_ONCE = 1024, 128
_LONGEST = 12
"""Tokens of a sentence whose every Z is enumerated: 4096 of them."""


# --- log Q --------------------------------------------------------------------------------------------


@runtime_checkable
class Law(Protocol):
    """log Q(Z | T, X) of a proxy input, in nats."""

    @property
    def fixes_count(self) -> bool:
        """Whether l, the number of revealed tokens, is a function of T and X."""

    def log_weights(self, target: Target, snapshot: Snapshot) -> Float[Tensor, "B L"]:
        """What Q depends on beside the canvas; 0 where that is nothing."""

    def __call__(
        self, revealed: Bool[Tensor, "B L"], is_canvas: Bool[Tensor, "B L"], log_weights: Float[Tensor, "B L"]
    ) -> Float[Tensor, "B"]:
        """log Q of each sentence's set of revealed tokens (float64). A law that fixes l takes l to be the
        number of them."""


@dataclass(frozen=True)
class UniformCount:
    """CMLM: l uniform on 0 … L − 1, then every set of l equally likely. A set of all L has log Q = −∞."""

    fixes_count: ClassVar[bool] = False

    def log_weights(self, target: Target, snapshot: Snapshot) -> Float[Tensor, "B L"]:
        return torch.zeros(target.tokens.shape, device=target.tokens.device)

    def __call__(
        self, revealed: Bool[Tensor, "B L"], is_canvas: Bool[Tensor, "B L"], log_weights: Float[Tensor, "B L"]
    ) -> Float[Tensor, "B"]:
        lengths, counts = is_canvas.sum(1), revealed.sum(1)
        found = -lengths.double().log() - log_choose(lengths, counts)
        return found.masked_fill(counts == lengths, -torch.inf)


@dataclass(frozen=True)
class GivenCount:
    """CMLM with a fixed masking ratio, and GLAT: l is known, every set of l equally likely."""

    fixes_count: ClassVar[bool] = True

    def log_weights(self, target: Target, snapshot: Snapshot) -> Float[Tensor, "B L"]:
        return torch.zeros(target.tokens.shape, device=target.tokens.device)

    def __call__(
        self, revealed: Bool[Tensor, "B L"], is_canvas: Bool[Tensor, "B L"], log_weights: Float[Tensor, "B L"]
    ) -> Float[Tensor, "B"]:
        return -log_choose(is_canvas.sum(1), revealed.sum(1))


@dataclass(frozen=True)
class OneByOne:
    """GLAT by P_ref or 1 − P_ref: l is known, the tokens are drawn one after the other without replacement,
    with probabilities proportional to the weights of those left.

    choice: as in `proxy_input.choice`; the weights are made of P(t_i | Z*, X) by the NAT itself.

    Source: App. E.6 gives the weights and is silent on log Q; `mple.proxy_input.glancing` does the drawing.
    """

    choice: str

    fixes_count: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checks.one_of("law.choice", self.choice, [name for name, weight in CHOICES.items() if weight])

    def log_weights(self, target: Target, snapshot: Snapshot) -> Float[Tensor, "B L"]:
        if bool(snapshot.inputs.revealed.any()):
            raise UserError(
                "the law of glancing by P_ref looks ahead under a fully masked Z, so it needs "
                "proxy=target_first; got a look-ahead in which some of T is revealed"
            )
        of = CHOICES[self.choice]
        assert of is not None
        return of(snapshot.log_probs(target.tokens))

    def __call__(
        self, revealed: Bool[Tensor, "B L"], is_canvas: Bool[Tensor, "B L"], log_weights: Float[Tensor, "B L"]
    ) -> Float[Tensor, "B"]:
        return log_prob_one_by_one(revealed, is_canvas, log_weights)


LAWS: dict[str, Law] = {
    "uniform_count": UniformCount(),
    "given_count": GivenCount(),
    "p_ref": OneByOne("p_ref"),
    "one_minus_p_ref": OneByOne("one_minus_p_ref"),
}
"""The laws by the names that proxy inputs give theirs (`ProxyInput.law`)."""


def log_choose(n: Int[Tensor, "*B"], k: Int[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """log C(n, k) in nats, float64."""
    n, k = n.double(), k.double()
    return torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)


def log_prob_one_by_one(
    revealed: Bool[Tensor, "B L"], is_canvas: Bool[Tensor, "B L"], log_weights: Float[Tensor, "B L"]
) -> Float[Tensor, "B"]:
    """log P(the first l = |S| that are drawn are the set S = `revealed`), in nats, float64.

    By `over_orders` where l is small, else by `as_a_race`; they agree to rounding.
    """
    found = torch.zeros(len(revealed), dtype=torch.float64, device=revealed.device)
    few = revealed.sum(1) <= _SUBSETS_UP_TO
    for rows, log_prob in ((few, over_orders), (~few, as_a_race)):
        if bool(rows.any()):
            found[rows] = log_prob(revealed[rows], is_canvas[rows], log_weights[rows])
    return found


def over_orders(
    revealed: Bool[Tensor, "B L"], is_canvas: Bool[Tensor, "B L"], log_weights: Float[Tensor, "B L"]
) -> Float[Tensor, "B"]:
    """The sum over the l! orders in which S can be drawn, as a recursion over its 2^l subsets:

        F(∅) = 1,   F(A) = Σ_{i ∈ A} F(A \\ i) w_i / (w(R) + w(S \\ A) + w_i)

    F(A) is the probability that A comes first, and R what is not revealed. Denominators are sums of what is
    left, never differences. Memory is B · l · 2^l.
    """
    weights, outside, counts = _split(revealed, is_canvas, log_weights, room=-torch.inf)
    size = weights.shape[1]
    index = torch.arange(size, device=revealed.device)
    subsets = torch.arange(1 << size, device=revealed.device)
    has = (subsets.unsqueeze(1) >> index) & 1 == 1  # (2^l, l)
    left_inside = weights.unsqueeze(1).masked_fill(has, -torch.inf).logsumexp(2)  # w(S \ A), (B, 2^l)
    left = torch.logaddexp(left_inside, outside.unsqueeze(1))
    before = subsets.unsqueeze(1) & ~(1 << index)  # A \ i, (2^l, l)
    found = torch.full_like(left, -torch.inf)
    found[:, 0] = 0.0
    for _ in range(size):  # pass k makes all sets of k right
        step = found[:, before] - left[:, before] + weights.unsqueeze(1)  # (B, 2^l, l)
        step = step.masked_fill(~has, -torch.inf).nan_to_num(nan=-torch.inf, neginf=-torch.inf)
        found = step.logsumexp(2)
        found[:, 0] = 0.0
    return found.gather(1, (1 << counts).unsqueeze(1) - 1).squeeze(1)


def as_a_race(
    revealed: Bool[Tensor, "B L"], is_canvas: Bool[Tensor, "B L"], log_weights: Float[Tensor, "B L"]
) -> Float[Tensor, "B"]:
    """The same as an integral. Let token i arrive after Exponential(w_i): then the order of arrival is the
    order of drawing, and S comes first if all of it is there when the first of the others, whose time is
    Exponential(w(R)), arrives:

        P(S) = ∫_0^∞ w(R) e^{−w(R) t} Π_{i ∈ S} (1 − e^{−w_i t}) dt

    With w(R) t = e^x the integrand is log-concave in x, falls on the left at least as e^x does and on the
    right as exp(−e^x); it has its peak where 1 ≤ e^x ≤ 1 + l, whatever the weights. The trapezoidal rule over
    e^{−46} … far behind the peak is therefore exact to rounding (relative error below 1e-10 up to l = 400).

    Source: the race is Efraimidis and Spirakis' (2006); that the trapezoidal rule converges exponentially for
    such integrands, Trefethen and Weideman (2014). Gauss-Legendre nodes would need the peak's place.
    """
    inside, outside, counts = _split(revealed, is_canvas, log_weights, room=torch.inf)
    inside = inside - outside.unsqueeze(1)  # w_i / w(R)
    above = 61 + counts.double() + 12 * (1 + counts.double()).sqrt()
    low, high = -46.0, above.log()  # (B)
    width = (high - low) / (_NODES - 1)
    parts = []
    for nodes in torch.arange(_NODES, device=revealed.device).split(_AT_ONCE):
        x = low + width.unsqueeze(1) * nodes  # (B, n)
        arrived = _log_arrived(inside.unsqueeze(1) + x.unsqueeze(2)).sum(2)  # over S
        parts.append((x - x.exp() + arrived).logsumexp(1))
    found = torch.stack(parts).logsumexp(0) + width.log()
    return torch.where(outside == -torch.inf, 0.0, found).clamp(max=0.0)


def _log_arrived(log_rate_time: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """log(1 − e^{−a}) from log a."""
    exact = torch.log(-torch.expm1(-log_rate_time.exp()))
    return torch.where(log_rate_time < -37, log_rate_time, exact)  # there 1 − a/2 rounds to 1


def _split(
    revealed: Bool[Tensor, "B L"],
    is_canvas: Bool[Tensor, "B L"],
    log_weights: Float[Tensor, "B L"],
    room: float,
) -> tuple[Float[Tensor, "B M"], Float[Tensor, "B"], Int[Tensor, "B"]]:
    """Log-weights of S, packed to the left with `room` behind, log w(R), and l. Float64."""
    weights = log_weights.double().clamp(min=NEVER)
    counts = revealed.sum(1)
    order = revealed.int().argsort(dim=1, descending=True, stable=True)[:, : int(counts.max())]
    is_room = torch.arange(order.shape[1], device=order.device) >= counts.unsqueeze(1)
    inside = weights.gather(1, order).masked_fill(is_room, room)
    outside = weights.masked_fill(revealed | ~is_canvas, -torch.inf).logsumexp(1)
    return inside, outside, counts


# --- L_input ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class InputInformation:
    """L_input of n sentences, and the two terms that it is made of; nats summed over a sentence.

    cross_entropy: −log P(Z | X), and entropy: −log Q(Z | T, X), each a mean over Z.
    revealed: how many tokens Z shows, a mean over Z. tokens: target tokens.
    note: how the numbers came about, for a table's caption.
    """

    cross_entropy: Float[np.ndarray, "n"]
    entropy: Float[np.ndarray, "n"]
    revealed: Float[np.ndarray, "n"]
    tokens: Int[np.ndarray, "n"]
    note: str

    @property
    def nats(self) -> Float[np.ndarray, "n"]:
        """L_input of each sentence. One estimated from draws can come out below 0."""
        return self.cross_entropy - self.entropy

    def __add__(self, other: "InputInformation") -> "InputInformation":
        """Both one after the other."""
        return InputInformation(
            np.concatenate([self.cross_entropy, other.cross_entropy]),
            np.concatenate([self.entropy, other.entropy]),
            np.concatenate([self.revealed, other.revealed]),
            np.concatenate([self.tokens, other.tokens]),
            self.note,
        )

    def metrics(self, bootstrap: Bootstrap | None = None) -> dict[str, float]:
        """L_input per target token in bits, with an interval over sentences, and in nats; its terms; the
        share of the target that Z shows."""
        bootstrap = Bootstrap() if bootstrap is None else bootstrap
        total = int(self.tokens.sum())
        loss = bootstrap.bits_per_token(self.nats, self.tokens)
        return {
            **loss.metrics("input_loss", "bits_per_token"),
            "input_loss_nats_per_token": loss.value * math.log(2),
            "input_cross_entropy_bits_per_token": float(self.cross_entropy.sum()) / total / math.log(2),
            "input_entropy_bits_per_token": float(self.entropy.sum()) / total / math.log(2),
            "input_revealed_percent": 100 * float(self.revealed.sum()) / total,
        }


def no_hint(tokens: Int[np.ndarray, "n"]) -> InputInformation:
    """L_input of a vanilla input, whatever its kind: Q and P are the same one-point distribution (App. E.5).

    tokens: target tokens of each sentence.
    """
    nothing = np.zeros(len(tokens))
    return InputInformation(
        nothing, nothing, nothing, tokens, note="0 by definition: Z is a function of X and hints nothing"
    )


@dataclass(frozen=True)
class InputLoss:
    """L_input of a proxy, from `draws` Z for each sentence or from all of them.

    law: log Q of the proxy's Z; it must be that of the proxy that is measured.
    draws: Z per sentence; they share nothing but X and T, and average out what is random in each.
    seed: of Z, which is a function of seed, draw and line id.

    The NAT is put into eval mode, and schedules are at their end: it is the Q of the finished run.

    Raises:
        UserError: a setting out of range, or no batch; when measured exactly, a sentence of more than 12
            tokens or a T that depends on Z; of `OneByOne`, a proxy that draws Z first.

    Source: App. E.6. The paper does not say how many Z it draws, nor the unit of its table.
    """

    law: Law
    draws: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        checks.whole("estimator.draws", self.draws, 1, unit="Z per sentence", high=10_000)
        checks.seed("estimator.seed", self.seed)

    def __call__(
        self, nat: NAT, proxy: Proxy, distribution: InputDistribution, batches: Iterable[Batch]
    ) -> InputInformation:
        """Of the sentences of all batches, in their order."""
        found = [self.sampled(nat, proxy, distribution, batch) for batch in batches]
        if not found:
            raise UserError("L_input needs at least one batch of sentences; got none")
        return sum(found[1:], found[0])

    @torch.no_grad()
    def sampled(
        self, nat: NAT, proxy: Proxy, distribution: InputDistribution, batch: Batch
    ) -> InputInformation:
        """The mean over `draws` of log Q(Z | T, X) − log P(Z | X)."""
        encoder_out = nat.eval().encode(batch.src_tokens)
        parts = []
        for draw in range(self.draws):
            look = self._snapshot(nat, encoder_out, batch, draw)
            target, inputs, look = proxy(batch, look)
            log_q = self.law(inputs.revealed, target.counts, self.law.log_weights(target, look))
            log_p = distribution.log_prob(batch.src_tokens, inputs)
            parts.append(torch.stack([-log_p, -log_q, inputs.revealed.sum(1), target.lengths]))
        return _information(torch.stack(parts).mean(0), f"{self.draws} draws of Z per sentence")

    @torch.no_grad()
    def exact(
        self, nat: NAT, proxy: Proxy, distribution: InputDistribution, batch: Batch
    ) -> InputInformation:
        """The expectation itself, over the 2^L sets of tokens that Z may reveal of each T. For sentences of
        at most 12 tokens; memory grows as B · L · 2^L."""
        encoder_out = nat.eval().encode(batch.src_tokens)
        target, inputs, look = proxy(batch, self._snapshot(nat, encoder_out, batch, 0))
        if look.inputs is inputs:  # T was chosen given this very Z
            raise UserError(
                "L_input by enumeration needs a T that does not depend on Z, so proxy=target_first, and a Z "
                "that hints something (a vanilla input's L_input is 0 by definition: no_hint)"
            )
        size = target.tokens.shape[1]
        if size > _LONGEST:
            raise UserError(
                f"L_input by enumeration is for sentences of at most {_LONGEST} tokens; got one of {size}"
            )
        index = torch.arange(1 << size, device=target.tokens.device).unsqueeze(1)
        sets = (index >> torch.arange(size, device=index.device)) & 1 == 1  # (2^L, L)
        counts = sets.sum(1)
        possible = ~(sets & ~target.counts.unsqueeze(1)).any(2)  # (B, 2^L): nothing but canvas is revealed
        if self.law.fixes_count:
            possible &= counts == inputs.revealed.sum(1, keepdim=True)
        row, column = possible.nonzero(as_tuple=True)
        log_weights = self.law.log_weights(target, look)
        log_q = self.law(sets[column], target.counts[row], log_weights[row])
        # Parts of log P of a revealed token are those of T, wherever it is revealed.
        parts = distribution.log_probs(batch.src_tokens, target.tokens.masked_fill(~target.counts, PAD))
        log_p = torch.where(sets[column], parts.revealed[row], parts.masked[row]).sum(1)
        q = log_q.exp()
        values = torch.stack([-q * log_p, -torch.special.xlogy(q, q), q * counts[column]])
        found = values.new_zeros(3, len(batch)).index_add_(1, row, values)
        return _information(torch.cat([found, target.lengths.unsqueeze(0)]), "exact: all Z")

    def _snapshot(self, nat: NAT, encoder_out: EncoderOutput, batch: Batch, draw: int) -> Snapshot:
        """At the end of the schedules, wherever that is."""
        draws = Draws(self.seed, draw)
        return Snapshot(nat, encoder_out, batch.ids, batch.tgt_lengths, draws, step=1, total=1)


def _information(found: Float[Tensor, "4 B"], note: str) -> InputInformation:
    cross_entropy, entropy, revealed, tokens = found.double().cpu().numpy()
    return InputInformation(cross_entropy, entropy, revealed, tokens.astype(np.int64), note)
