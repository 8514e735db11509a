"""Beam search for an autoregressive model whose decoder keeps a state (`beam=1`: greedy search).

    decoding = Beam(beam=5, length_penalty=1.0)
    hypotheses = decoding(model, src_tokens)                # the best of each sentence
    n_best = decoding.search(model, src_tokens, n_best=5)   # several, ranked

It knows the model through two Protocols, `Incremental` and `State`, and nothing of Transformers.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mple import checks
from mple.types import BOS, EOS, PAD, SPECIAL_TOKENS, UNK, Hypotheses

StateT = TypeVar("StateT", bound="State")
MOST_BEAMS = 1000
_CONTENT = len(SPECIAL_TOKENS)  # the first id that is no special symbol


@runtime_checkable
class State(Protocol):
    """What a decoder remembers of N growing sequences: keys and values, of the source's and of its own."""

    def select(self: StateT, rows: Int[Tensor, "A W"]) -> StateT:
        """The state of A·W sequences, W of each of A sentences: sequence (a, w) continues row `rows[a, w]`.

        Sentences may be dropped and stay in their order, so that what belongs to a sentence needs to be
        copied only then; sequences of one sentence are repeated, dropped and reordered at will.
        """


@runtime_checkable
class Incremental(Protocol[StateT]):
    """A model that extends sequences by one token a call.

    `max_length` is the most content tokens that it has positions for.
    """

    max_length: int

    def start(self, src_tokens: Int[Tensor, "B S"]) -> StateT:
        """Encodes X once; the state of B empty sequences."""

    def step(self, last_tokens: Int[Tensor, "N"], state: StateT) -> Float[Tensor, "N V"]:
        """log P(next token | X, tokens so far) in nats, none above 0, after `last_tokens` (bos at first)
        has joined the tokens so far: `state` advances in place by one position. The result is only read."""


@dataclass(frozen=True)
class NBest:
    """The `n` best hypotheses of each sentence, best first by the length-normalised score.

    `tokens` holds content tokens, `pad` at the right; `scores` are summed log-probabilities (nats) with eos,
    −∞ (and no token) where the search finished fewer hypotheses; `passes` counts decoder calls.
    """

    tokens: Int[Tensor, "B n L"]
    scores: Float[Tensor, "B n"]
    passes: int


@dataclass(frozen=True)
class Beam:
    """Keeps the `beam` most probable prefixes of each sentence and returns its best finished hypothesis.

    Hypotheses rank by log P(Y, eos | X) / (|Y| + 1)^length_penalty; 0 ranks by probability, 1 by the mean per
    token. The search itself goes by the sum. One step ranks all continuations of a sentence's live prefixes:
    those among the first `beam` that end in eos are finished, and the first `beam` of the others live on. A
    sentence stops at the earliest of

    - `beam` hypotheses are finished (so that `beam=1` is greedy search);
    - none of its live prefixes can beat the hypotheses that are asked for. Log-probabilities only fall, so a
      prefix of score c ≤ 0 ends at best with c, and counts most at the maximum length M: its bound is
      c / (M + 1)^length_penalty. This never changes the result;
    - it is at its maximum length, M = ⌊max_length_factor · |X| + max_length_offset⌋ content tokens (or the
      model's own maximum), where eos is forced. |X| is the sentence's own number of content tokens: no result
      depends on the batch.

    Sentences that stopped leave the batch. Equal scores go to the earlier finished, then to the better
    prefix, then to the lower token id (with `beam` over 1, which of several equal tokens are one prefix's
    first `beam` is up to `torch.topk`). pad, bos, mask and blank are never said, unk only with `allow_unk`;
    the other probabilities are not renormalised. Whether dropout is on is the model's affair.

    Args:
        beam: live prefixes, and finished hypotheses that end a sentence.
        length_penalty: exponent of the length, at least 0.
        max_length_factor, max_length_offset: the maximum length, in content tokens.
        min_length: content tokens before eos is allowed; 0 allows an empty hypothesis.
        allow_unk: whether <unk> may be said.

    Raises:
        UserError: a value out of range.

    Source: Sutskever et al. (2014); the ranking, the stop at `beam` finished hypotheses and the defaults of
    `beam` and `length_penalty` are fairseq's, which the paper's teachers were decoded with. Unlike fairseq's,
    the maximum length counts the sentence's own source rather than the batch's padding.
    """

    beam: int = 5
    length_penalty: float | int = 1.0
    max_length_factor: float | int = 1.5
    max_length_offset: int = 10
    min_length: int = 1
    allow_unk: bool = False

    teacher: ClassVar[None] = None

    def __post_init__(self) -> None:
        checks.whole("decoding.beam", self.beam, 1, high=MOST_BEAMS)
        checks.number("decoding.length_penalty", self.length_penalty, 0.0, 100)
        checks.number("decoding.max_length_factor", self.max_length_factor, 0.0, 1000)
        checks.whole("decoding.min_length", self.min_length, 0, "tokens", high=100_000)
        checks.whole(
            "decoding.max_length_offset",
            self.max_length_offset,
            max(1, self.min_length),
            "tokens",
            high=100_000,
        )

    def __call__(self, model: Incremental[StateT], src_tokens: Int[Tensor, "B S"]) -> Hypotheses:
        """The best hypothesis of each sentence, with its log P(Y, eos | X) in nats."""
        best = self.search(model, src_tokens, n_best=1)
        return Hypotheses(best.tokens[:, 0], best.scores[:, 0], best.passes)

    @torch.no_grad()
    def search(self, model: Incremental[StateT], src_tokens: Int[Tensor, "B S"], n_best: int) -> NBest:
        """The `n_best` (at most `beam`) best hypotheses of each sentence.

        Raises:
            UserError: `n_best` out of range.
            FloatingPointError: the model gave NaN.
        """
        checks.number("n_best", n_best, 1.0, float(self.beam))
        device = src_tokens.device
        src_lengths = ((src_tokens != PAD) & (src_tokens != EOS)).sum(1)
        limits = (src_lengths * self.max_length_factor + self.max_length_offset).long()
        limits = limits.clamp(max=model.max_length)
        longest = int(limits.max())
        special = torch.tensor([EOS, UNK] if self.allow_unk else [EOS], device=device)

        # Axes here: A sentences still searched, W live prefixes of each (1, later `beam`), P the `beam` best
        # finished ones. The state's rows are the A·W prefixes, sentence by sentence.
        state = model.start(src_tokens)
        sentences = torch.arange(len(src_tokens), device=device)
        prefixes = torch.full((len(sentences), 1, longest), PAD, device=device)
        live_scores = torch.zeros(len(sentences), 1, device=device)
        last_tokens = torch.full((len(sentences),), BOS, device=device)
        pool = _Pool.empty(len(sentences), self.beam, longest, device)
        result = _Pool.empty(len(sentences), self.beam, longest, device)

        for length in range(longest + 1):  # content tokens of the live prefixes
            log_probs = model.step(last_tokens, state).float().unflatten(0, prefixes.shape[:2])
            scores, tokens = self._continuations(log_probs, special, limits <= length, length)
            parents = torch.arange(scores.shape[1], device=device)[:, None].expand(scores.shape[1:])
            scores = (live_scores[:, :, None] + scores).flatten(1)
            width = min(self.beam, scores.shape[1] - prefixes.shape[1])  # all but the W that end in eos
            scores, order = scores.sort(descending=True, stable=True)
            order = order[:, : 2 * self.beam]  # at most `beam` end: enough of the others remain
            scores = scores[:, : 2 * self.beam]
            tokens = tokens.flatten(1).gather(1, order)
            parents = parents.flatten()[order]

            ends = tokens == EOS
            pool = pool.add(
                scores[:, : self.beam].masked_fill(~ends[:, : self.beam], -torch.inf),
                _gather(prefixes, parents[:, : self.beam]),
                (length + 1) ** self.length_penalty,
            )
            lives = ends.long().argsort(dim=1, stable=True)[:, :width]
            live_scores = scores.gather(1, lives)
            parents, tokens = parents.gather(1, lives), tokens.gather(1, lives)

            bound = live_scores[:, 0] / (limits + 1) ** self.length_penalty
            stops = (pool.count >= self.beam) | (limits <= length) | (pool.ranks[:, n_best - 1] >= bound)
            keep = (~stops).nonzero().squeeze(1)  # the step's only wait for the device
            first_row = torch.arange(len(sentences), device=device) * prefixes.shape[1]
            rows = first_row[:, None] + parents
            prefixes = _gather(prefixes, parents)
            moved = self.beam > 1
            if len(keep) < len(sentences):
                if live_scores[:, 0].isnan().any():  # NaN sorts first
                    raise FloatingPointError("the model's log-probabilities are NaN")
                result.put(sentences, pool)
                if len(keep) == 0:
                    break
                pool = pool.select(keep)
                sentences, limits, live_scores = sentences[keep], limits[keep], live_scores[keep]
                prefixes, tokens, rows = prefixes[keep], tokens[keep], rows[keep]
                moved = True
            if moved:
                state = state.select(rows)
            prefixes[:, :, length] = tokens
            last_tokens = tokens.flatten()

        tokens = result.tokens[:, :n_best]
        return NBest(
            tokens=tokens[:, :, : int((tokens != PAD).sum(2).max())],
            scores=result.scores[:, :n_best],
            passes=length + 1,
        )

    def _continuations(
        self,
        log_probs: Float[Tensor, "A W V"],
        special: Int[Tensor, "E"],
        at_limit: Tensor,
        length: int,
    ) -> tuple[Float[Tensor, "A W C"], Int[Tensor, "A W C"]]:
        """Each prefix's log-probabilities and ids of eos (always) and of its best tokens, ids ascending."""
        content = log_probs[:, :, _CONTENT:]
        if self.beam == 1:  # of equal maxima, the first: topk promises no order
            best, ids = content.max(2, keepdim=True)
        else:
            best, ids = content.topk(min(self.beam, content.shape[2]))
        ids, order = ids.sort()
        scores = torch.cat([log_probs.index_select(2, special), best.gather(2, order)], 2)
        scores[:, :, 1:].masked_fill_(at_limit[:, None, None], -torch.inf)
        if length < self.min_length:
            scores[:, :, 0] = -torch.inf
        return scores, torch.cat([special.expand(*ids.shape[:2], -1), ids + _CONTENT], 2)


@dataclass(frozen=True)
class _Pool:
    """The best finished hypotheses so far, best first. `ranks` are length-normalised scores, −∞ where none
    is; `count` says how many have been finished in all."""

    tokens: Int[Tensor, "A P L"]
    scores: Float[Tensor, "A P"]
    ranks: Float[Tensor, "A P"]
    count: Int[Tensor, "A"]

    @staticmethod
    def empty(sentences: int, size: int, longest: int, device: torch.device) -> "_Pool":
        none = torch.full((sentences, size), -torch.inf, device=device)
        tokens = torch.full((sentences, size, longest), PAD, device=device)
        return _Pool(tokens, none, none.clone(), torch.zeros(sentences, dtype=torch.long, device=device))

    def add(self, scores: Float[Tensor, "A M"], tokens: Int[Tensor, "A M L"], normaliser: float) -> "_Pool":
        """With the hypotheses `tokens` of finite `scores` among those kept."""
        ranks = torch.cat([self.ranks, scores / normaliser], 1)
        ranks, order = ranks.sort(descending=True, stable=True)
        order = order[:, : self.ranks.shape[1]]
        return _Pool(
            tokens=_gather(torch.cat([self.tokens, tokens], 1), order),
            scores=torch.cat([self.scores, scores], 1).gather(1, order),
            ranks=ranks[:, : self.ranks.shape[1]],
            count=self.count + (scores > -torch.inf).sum(1),
        )

    def select(self, rows: Int[Tensor, "N"]) -> "_Pool":
        return _Pool(self.tokens[rows], self.scores[rows], self.ranks[rows], self.count[rows])

    def put(self, rows: Int[Tensor, "N"], other: "_Pool") -> None:
        """Writes the hypotheses of `other` as those of the sentences `rows`."""
        self.tokens[rows] = other.tokens
        self.scores[rows] = other.scores


def _gather(prefixes: Int[Tensor, "A W L"], index: Int[Tensor, "A M"]) -> Int[Tensor, "A M L"]:
    return prefixes.gather(1, index[:, :, None].expand(-1, -1, prefixes.shape[2]))
