"""Aligned cross-entropy: T is the reference laid, in its order, where the model says it already (App. E.3).

    T* = argmin over T in S(R) of L_NAT(T),     T in S(R) a subsequence of R with empty tokens ε inserted

The tokens of R that T lacks ("skip target") cost δ times their negative log-likelihood at the position where
they were left out, which keeps T close to R; with δ = 0 nothing does. The alignment that is least in all,
A[n, m] for n tokens of R and m positions, is found by a dynamic programme:

    A[0, 0] = 0,     A[0, j] = A[0, j−1] − log P_j(ε),     A[i, 0] = A[i−1, 0] − δ log P_1(y_i)
    A[i, j] = min of  align         A[i−1, j−1] − log P_j(y_i)
                      skip pred     A[i, j−1]   − log P_j(ε)
                      skip target   A[i−1, j]   − δ log P_j(y_i)
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from mple import checks
from mple.backend import autocast, normalisers
from mple.proxy_target import ProxyTarget, check_reference
from mple.snapshot import Snapshot
from mple.types import BLANK, PAD, Batch, DecoderOutput, Mean, Penalty, Target

_NEVER = 1e5
"""Nats of what is not allowed: far above any alignment that is, which always exists, and finite."""

VARIANTS = ("original", "strict")


@dataclass(frozen=True)
class AXE:
    """R aligned monotonically to the predictions under Z*: each position's first token, else `<blank>`.

    reference: the proxy target that chooses R (raw, kd, dynamic_kd). The canvas has R's length, so that is
        what the length predictor learns.
    delta: δ, what a skipped token of R counts against an aligned one (no unit; τ in the paper's tables, which
        have 1, 5 and 10). A large one gives plain cross-entropy on R; with 0 nothing
        keeps a model from learning to say `<blank>` alone.
    variant: "original" is the published programme above. It is not quite the paper's Eq. 20: it also lets a
        skipped token come *before* the aligned one of position 1, or fall on a position that says `<blank>`.
        "strict" is Eq. 20 exactly: only a token after the aligned one of its position can be skipped, so
        every position that is given any token says one. At δ = 1 both cost the same, and T is that of
        "strict": the tie between a skip before and after the aligned token of position 1 is exact there, and
        goes to the first token.

    Skipped tokens are the target's `penalty`, which is minimised too but is no part of L_NAT. Other ties go
    to align, then skip pred, then skip target.

    Logs `blank` (share of positions) and `skipped` (share of R's tokens).

    Raises:
        UserError: `delta` is not a number from 0 to 1e6, `variant` is none of the two, or the
            reference is itself aligned.

    Source: Ghazvininejad et al. (2020); App. E.3 of the paper. Differences: content tokens only; the first
    row of A is as published (public code multiplies it by δ); "strict" is ours.
    """

    says_blank: ClassVar[bool] = True

    reference: ProxyTarget
    delta: float | int = 5
    variant: str = "original"

    def __post_init__(self) -> None:
        checks.number("proxy_target.delta", self.delta, 0, 1e6)
        checks.one_of("proxy_target.variant", self.variant, VARIANTS)
        check_reference(self.reference)

    @property
    def candidates(self) -> tuple[str, ...]:
        return self.reference.candidates

    def __call__(self, batch: Batch, snapshot: Snapshot) -> Target:
        reference = self.reference(batch, snapshot)
        return self.align(reference, snapshot.on(reference.lengths))

    def align(self, reference: Target, snapshot: Snapshot) -> Target:
        """T for the text of `reference`, by the predictions of `snapshot`, which must be on its canvas.

        A position that Z reveals says its own token, at no cost, and no other (App. E.6's copy mechanism).
        A cost that is no number (of a model that has diverged) is taken as 0: the loss will show it.
        """
        tokens, is_canvas, revealed = reference.tokens, reference.counts, snapshot.inputs.revealed
        costs = canvas_nll(snapshot.output, is_canvas, tokens)
        nll, blank_nll = (cost.nan_to_num(0.0, posinf=_NEVER).clamp_max(_NEVER) for cost in costs)
        own = torch.eye(tokens.shape[1], dtype=torch.bool, device=tokens.device)  # (T, L)
        nll = nll.masked_fill(revealed.unsqueeze(1), _NEVER).masked_fill(revealed.unsqueeze(1) & own, 0.0)
        blank_nll = blank_nll.masked_fill(revealed, _NEVER)
        found = alignment(nll, blank_nll, reference.lengths, reference.lengths, self.delta, self.variant)
        said = torch.where(is_canvas, BLANK, PAD)
        is_skipped = found.is_skipped
        # What says nothing is written beyond the canvas, and cut off.
        place = torch.where(is_canvas & ~is_skipped, found.positions, tokens.shape[1])
        said = functional.pad(said, (0, 1)).scatter(1, place, tokens)[:, :-1]
        log = reference.log | {
            "blank": Mean.of((said == BLANK).float(), is_canvas),
            "skipped": Mean.of(is_skipped.float(), is_canvas),
        }
        penalty = Penalty(found.positions, tokens, self.delta * is_skipped.float())
        return Target(said, is_canvas, reference.reference, log, penalty)


def canvas_logits(output: DecoderOutput, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T L"]:
    """The logit of every token of a sentence at every position of its canvas: log P_j(y_i) up to a constant
    of the position. No gradient, float32."""
    with torch.no_grad():
        states, table = autocast(output.features).float(), autocast(output.weight)[tokens].float()
        with torch.autocast(states.device.type, enabled=False):
            return torch.bmm(table, states.mT)


def canvas_nll(
    output: DecoderOutput, is_canvas: Bool[Tensor, "B L"], tokens: Int[Tensor, "B T"]
) -> tuple[Float[Tensor, "B T L"], Float[Tensor, "B L"]]:
    """−log P_j(y_i), of every token of a sentence at every position of its canvas, and −log P_j(ε); nats.

    No gradient. The B x L x V logits never exist: they are made some at a time for their normaliser, in the
    autocast type, and again in float32 where they are wanted. What is outside the canvas has no meaning.
    """
    with torch.no_grad():
        normaliser = normalisers(output.features, output.weight, is_canvas)
        logits = canvas_logits(output, functional.pad(tokens, (0, 1), value=BLANK))  # (B, T + 1, L)
        nll = (normaliser.unsqueeze(1) - logits).clamp_min(0)  # rounding alone would make it negative
    return nll[:, :-1], nll[:, -1]


@dataclass(frozen=True)
class Alignment:
    """The best alignment of each sentence.

    `positions` is where each token was aligned or skipped, counted from 0, and 0 for padding; `costs` is
    A[n, m], in nats.
    """

    positions: Int[Tensor, "B T"]
    is_skipped: Bool[Tensor, "B T"]
    costs: Float[Tensor, "B"]


def alignment(
    nll: Float[Tensor, "B T L"],
    blank_nll: Float[Tensor, "B L"],
    tgt_lengths: Int[Tensor, "B"],
    canvas_lengths: Int[Tensor, "B"],
    delta: float | int,
    variant: str,
) -> Alignment:
    """The alignment of least cost of `tgt_lengths` tokens (n) to `canvas_lengths` positions (m), all at once.

    nll[b, i, j] is −log P_j(y_i) and blank_nll[b, j] is −log P_j(ε), finite and at least 0, in nats; their
    values beyond a sentence's lengths have no effect. Every canvas must have a position.

    "strict" has two tables, for a skip must follow a token on its own position:

        Q[i, j] = min(A[i−1, j−1] − log P_j(y_i), Q[i−1, j] − δ log P_j(y_i))
        A[i, j] = min(Q[i, j], A[i, j−1] − log P_j(ε)),     A[i, 0] = ∞ for i > 0

    "original" also is these two lines, with Q[i−1, j] replaced by A[i−1, j] and with its own A[i, 0].

    The tables are filled by anti-diagonals: cell (i, j) is at [i, d], d = i + j, sentences last, so a step
    is a few operations on contiguous memory for all sentences. Memory is O(B (T + L) T).
    """
    num_sentences, num_tokens, num_positions = nll.shape
    diagonals = num_tokens + num_positions + 1
    costs = nll.permute(1, 2, 0)  # (T, L, B)
    costs = torch.cat([costs[:, :1], costs], 1)  # what is skipped before position 1 is charged there
    align = _skewed(functional.pad(costs, (0, 0, 0, 0, 1, 0)))  # (T + 1, T + L + 1, B)
    skip_target = delta * align
    blanks = functional.pad(blank_nll.t(), (0, 0, 1, 0))
    skip_pred = _skewed(blanks.expand(num_tokens + 1, num_positions + 1, num_sentences))

    # One more row and two more columns, of ∞, in front: no cell of the tables then needs a rule of its own.
    best = nll.new_full((num_tokens + 2, diagonals + 2, num_sentences), torch.inf)  # A
    taken = best.clone()  # Q: the last step put y_i on position j
    best[1, 2] = 0
    before = best if variant == "original" else taken
    for d in range(1, diagonals):
        low, high = max(0, d - num_positions), min(num_tokens, d) + 1
        last, own = slice(low, high), slice(low + 1, high + 1)
        aligned = best[last, d] + align[last, d]
        skipped = before[last, d + 1] + skip_target[last, d]
        q = torch.minimum(aligned, skipped, out=taken[own, d + 2])
        torch.minimum(q, best[own, d + 1] + skip_pred[last, d], out=best[own, d + 2])

    # The same sums again, all cells at once, say which of the three each minimum was, and so how far back
    # in the flat table its predecessor lies. Cells of Q lie behind those of A.
    by_align, by_pred, by_target = -(diagonals + 2), -1, -(diagonals + 1)
    aligned = best[:-1, :-2] + align
    is_pred = best[1:, 2:] == best[1:, 1:-1] + skip_pred
    size = aligned[..., 0].numel()
    to_target = by_target if variant == "original" else by_target + size
    step = torch.where(is_pred, by_pred, to_target).int().masked_fill_(best[1:, 2:] == aligned, by_align)
    if variant == "original" and delta == 1:
        # A skip before the aligned token of position 1 then costs what a skip after it costs, float for
        # float. T* has the first token there (Eq. 20): skip target before an align that follows such a skip.
        row = torch.arange(2, num_tokens + 1, device=nll.device)
        is_target = best[row + 1, row + 3] == best[row, row + 2] + skip_target[row, row + 1]
        step[row, row + 1] = step[row, row + 1].masked_fill(is_target, by_target)
    step[0, 0] = 0  # the start, where a finished path waits for the others
    steps = step.flatten(0, 1)
    if variant == "strict":
        of_taken = torch.where(taken[1:, 2:] == aligned, by_align - size, by_target).int()
        steps = torch.cat([steps, of_taken.flatten(0, 1)])

    cell = tgt_lengths * diagonals + tgt_lengths + canvas_lengths
    found = best[1:, 2:].flatten(0, 1).gather(0, cell.unsqueeze(0)).squeeze(0)
    path = [cell]
    for _ in range(diagonals - 1):
        path.append(path[-1] + steps.gather(0, path[-1].unsqueeze(0)).squeeze(0))
    cells = torch.stack(path) % size  # (T + L + 1, B)
    row, diagonal = cells // diagonals, cells % diagonals
    token, position = row[:-1] - 1, (diagonal - row)[:-1] - 1  # where each step arrived, counted from 0
    is_step = row[:-1] > row[1:]  # it took a token
    is_skip = is_step & (diagonal[:-1] - diagonal[1:] == 1)
    token = torch.where(is_step, token, num_tokens)  # the others are written beyond the tokens, and cut off
    shape = num_tokens + 1, num_sentences
    positions = position.new_zeros(shape).scatter_(0, token, position.clamp_min(0))[:-1]
    is_skipped = is_skip.new_zeros(shape).scatter_(0, token, is_skip)[:-1]
    return Alignment(positions.t().contiguous(), is_skipped.t().contiguous(), found)


def _skewed(table: Float[Tensor, "I J B"]) -> Float[Tensor, "I E B"]:
    """Row i moved right by i, so that a column holds an anti-diagonal (E = I + J − 1); 0 where nothing is."""
    rows, columns, _ = table.shape
    padded = functional.pad(table, (0, 0, 0, rows)).flatten(0, 1)
    return padded[: rows * (rows + columns - 1)].unflatten(0, (rows, rows + columns - 1))
