"""Label-smoothed cross-entropy of T at the positions that Z does not reveal (App. E.6)."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mple import checks
from mple.types import DecoderInput, DecoderOutput, Mean, Target

_CHUNK, _CHUNK_OF_GPU = 2**21, 2**25
"""Logits made at once: few enough to stay in a CPU's cache, many enough to keep a GPU busy."""
_SAFE = 60.0
"""Nats; float32 and bf16 reach from −87 to 88."""


class _LinearCrossEntropy(torch.autograd.Function):
    """The projection and the loss together, some rows at a time: the N x V logits never exist.

    The loss is a sum, so its gradient is known with it up to one factor, which the backward multiplies in.
    Of a row with state s, logits W s, powers q = exp(W s) and z = Σ_v q_v the gradient of the logits is
    q / z − (1 − ε) onehot − ε / V. On a CPU each row's logits are read once, to make q, unless that could
    leave the floats' range; z divides the narrow states and gradients instead of q, and the uniform part is a
    product of sums.
    """

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx,
        features: Tensor,
        weight: Tensor,
        labels: Tensor,
        smoothing: float | int,
        penalties: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        device, size = features.device.type, weight.shape[0]
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else features.dtype
        states, table = features.to(dtype), weight.to(dtype)
        is_trained = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        grad_features = torch.empty_like(states) if is_trained else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if is_trained else None
        counted = len(labels) if penalties is None else len(labels) - len(penalties)
        factors = torch.ones(len(labels), 1, device=features.device)
        if penalties is not None:
            factors[counted:, 0] = penalties
        rows = (_CHUNK if device == "cpu" else _CHUNK_OF_GPU) // size
        rows = max(1, min(rows - rows % 64 if rows > 64 else rows, len(labels)))  # products prefer that
        buffer = states.new_empty(rows, size)
        nll = torch.empty(len(labels), 1, device=features.device)
        log_sums = torch.empty_like(nll)
        with torch.autocast(device, enabled=False):
            for start in range(0, len(labels), rows):
                part = slice(start, start + rows)
                some, factor = states[part], factors[part]
                logits = torch.mm(some, table.T, out=buffer[: len(some)])
                label = labels[part].unsqueeze(1)
                powers, own, total, shift = _powers(logits, label, some, table)
                log_total = total.log()
                nll[part], log_sums[part] = log_total - own, log_total + shift
                if grad_features is None or grad_weight is None:
                    continue
                _put(powers, label, (own.exp_() - (1 - smoothing) * total).to(powers.dtype))
                powers, scale = powers.to(dtype), factor / total
                grad_features[part] = torch.mm(powers, table).mul(scale)
                grad_weight += torch.mm(powers.T, some.mul(scale).to(dtype))
            uniform = log_sums.mul_(factors).sum()
            if smoothing:
                of_states, of_table = states.float().mul(factors).sum(0), table.sum(0, dtype=torch.float32)
                uniform -= of_states.dot(of_table) / size
                if grad_features is not None and grad_weight is not None:
                    grad_features -= factors * (of_table * (smoothing / size))
                    grad_weight -= of_states * (smoothing / size)
        ctx.save_for_backward(grad_features, grad_weight)
        ctx.dtypes = features.dtype, weight.dtype
        plain = nll[:counted].sum()
        ctx.mark_non_differentiable(plain)
        return (1 - smoothing) * nll.mul_(factors).sum() + smoothing * uniform, plain

    @staticmethod
    def backward(  # type: ignore[no-untyped-def]
        ctx, grad: Tensor, _: Tensor
    ) -> tuple[Tensor, Tensor, None, None, None]:
        grad_features, grad_weight = ctx.saved_tensors
        of_features, of_weight = ctx.dtypes
        return (grad_features * grad).to(of_features), (grad_weight * grad).to(of_weight), None, None, None


def _powers(
    logits: Float[Tensor, "N V"], label: Int[Tensor, "N 1"], some: Tensor, table: Tensor
) -> tuple[Float[Tensor, "N V"], Float[Tensor, "N 1"], Float[Tensor, "N 1"], Tensor | float]:
    """exp(logit − c), in place of the logits where it can be; the labels' logit − c; Σ_v exp(logit − c); c.

    The last three are float32, but the powers of what is no label are summed in float32 and that sum has the
    logits' type: a copy of them all would be slower, and bf16 logits are rounded more. A label counts with
    its exact power: with a bf16 one a loss near 0 could be clearly negative. What `powers` has at the labels
    means nothing. On a CPU c is 0 unless a sum could leave the floats' range; elsewhere, since asking would
    wait for the answer, the sum is 1.
    """
    if logits.device.type == "cpu" and logits.dtype != torch.float16:
        own = logits.take(_flat(label, logits.shape[1])).float().unsqueeze(1)
        powers = _put(logits.exp_(), label, logits.new_zeros(len(logits), 1))
        total = powers.sum(1, keepdim=True).float() + own.exp()
        if bool((total.log().abs() < _SAFE).all()):
            return powers, own, total, 0.0
        logits = some @ table.T
    log_probs = logits.float().log_softmax(1)
    own = log_probs.gather(1, label)
    return log_probs.exp_(), own, torch.ones_like(own), logits.gather(1, label).float() - own


def _put(x: Float[Tensor, "N V"], label: Int[Tensor, "N 1"], values: Tensor) -> Tensor:
    """Writes `values` at the labels; on a CPU by their places in memory, since `scatter_` is far slower."""
    if x.device.type == "cpu":
        return x.put_(_flat(label, x.shape[1]), values.squeeze(1))
    return x.scatter_(1, label, values)


def _flat(label: Int[Tensor, "N 1"], size: int) -> Int[Tensor, "N"]:
    return label.squeeze(1) + torch.arange(len(label)) * size


def linear_cross_entropy(
    features: Float[Tensor, "N D"],
    weight: Float[Tensor, "V D"],
    labels: Int[Tensor, "N"],
    smoothing: float | int,
    penalties: Float[Tensor, "P"] | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Sums over N of (1−ε)·NLL + ε·mean_v(−log p_v), and of the plain NLL (no gradient), in nats.

    p = softmax(features · weightᵀ). Matrix products are in the autocast type and so are, on a CPU,
    exponentials and their sum, whose rounding is below that of the logits; everything else is float32.
    Gradients go to `features` and `weight`, once (no double backward).

    penalties: what the *last* P of the N rows count in the first sum; they are left out of the second.

    Raises:
        IndexError: a label is no row of `weight` (on a CPU; elsewhere PyTorch's device assertion).
    """
    if labels.device.type == "cpu" and labels.numel():
        low, high = (int(label) for label in labels.aminmax())
        if low < 0 or high >= len(weight):
            raise IndexError(f"labels must be rows of the {len(weight)}; got {low} to {high}")
    if not torch.is_grad_enabled():  # a function of autograd would prepare the gradient all the same
        features, weight = features.detach(), weight.detach()
    return _LinearCrossEntropy.apply(features, weight, labels, smoothing, penalties)


@dataclass(frozen=True)
class CrossEntropy:
    """−Σ log P(t_i | Z, X) over positions that count and are not revealed, label-smoothed.

    label_smoothing: ε, spread uniformly over the whole vocabulary as in fairseq's NATs.

    `nats` is divided by the positions summed; `nll` by *all* target tokens, a revealed one counting with 0,
    which is L_NAT of the paper (the copy mechanism of App. E.6).

    A target's penalty (AXE's skipped tokens) is added to the sum of `nats`, smoothed too, but neither to its
    count nor to `nll`; at a revealed position nothing is predicted, so nothing is penalised. What a target
    has truncated is left out of the sum of `nats`, smoothing included, but neither of its count nor of `nll`.
    """

    label_smoothing: float | int = 0.1

    def __post_init__(self) -> None:
        checks.number("objective.label_smoothing", self.label_smoothing, 0, 0.99)

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
        nats, nll = linear_cross_entropy(features, output.weight, labels, self.label_smoothing, penalties)
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
