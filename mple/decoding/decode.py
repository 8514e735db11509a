"""A decoding made of parts: lengths -> canvases -> texts -> the best of each sentence.

    decoding = Decode(TopLengths(beam=3, factor=1.05), OnePass(), OwnScore(), deduplicate="token")
    hypotheses = decoding(model, src_tokens)
    n_best = decoding.candidates(model, src_tokens)          # one for each length, ranked

Length parallel decoding, NPD and mask-predict are choices of these parts:

    length parallel      several lengths   one pass       own score
    NPD                  several lengths   one pass       teacher's score
    mask-predict         one length        mask-predict   own score
    any other combination of them
"""

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mple import checks
from mple.decoding.choice import Choice, Drafts, OwnScore
from mple.decoding.fill import Fill, OnePass
from mple.decoding.finish import (
    DEDUPLICATE,
    without_blank,
    without_repeated_tokens,
    without_repeated_words,
)
from mple.decoding.lengths import Lengths, TopLengths
from mple.model.autoregressive import Autoregressive
from mple.model.nat import NAT
from mple.types import PAD, Hypotheses


@dataclass(frozen=True)
class Candidates:
    """All drafts of each sentence, one for each length, best first.

    `tokens` holds content tokens, `pad` at the right; `canvas` the positions that they were decoded on;
    `scores` summed log-probabilities (nats) of whoever ranked: the model's over the canvas, or the teacher's
    over the text and eos; `ranks` what they are ordered by (a mean per token). A sentence with fewer
    candidates has −∞, canvas 0 and no token at the end. `passes` counts decoder calls, the teacher's too.
    """

    tokens: Int[Tensor, "B K L"]
    canvas: Int[Tensor, "B K"]
    scores: Float[Tensor, "B K"]
    ranks: Float[Tensor, "B K"]
    passes: int


@dataclass(frozen=True)
class Decode:
    """Decodes each sentence on several canvases at once and returns the best text.

    The encoder runs once, and all canvases of all sentences share each decoder pass. Of equal ranks the
    more probable length wins (the nearer one of a window). No result depends on the batch or its padding.

    lengths: the canvases' lengths. fill: how a canvas is filled. choice: what ranks the texts.
    deduplicate: "none", "token" or "word": consecutive repeats to take out of a text, once it is without
        `<blank>`. Positions taken out still count in the model's own score, which is the canvas'.
    starts_word: which entries of the target vocabulary begin a word; `prepared` puts it here.

    Raises:
        UserError: a value out of range; when called, something that `prepared` should have handed over.

    Source: App. D, "Decoding Tricks", and Table 4.
    """

    lengths: Lengths = field(default_factory=TopLengths)
    fill: Fill = field(default_factory=OnePass)
    choice: Choice = field(default_factory=OwnScore)
    deduplicate: str = "none"
    starts_word: Bool[Tensor, "V"] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        checks.one_of("decoding.deduplicate", self.deduplicate, DEDUPLICATE)

    @property
    def needs_masks(self) -> bool:
        return self.fill.needs_masks

    @property
    def teacher(self) -> str | None:
        return self.choice.teacher

    def prepared(
        self, teacher: Autoregressive | None = None, starts_word: Bool[Tensor, "V"] | None = None
    ) -> "Decode":
        return replace(
            self,
            choice=self.choice if teacher is None else self.choice.prepared(teacher),
            starts_word=self.starts_word if starts_word is None else starts_word,
        )

    def __call__(self, model: NAT, src_tokens: Int[Tensor, "B S"]) -> Hypotheses:
        found = self.candidates(model, src_tokens)
        return Hypotheses(_trimmed(found.tokens[:, 0]), found.scores[:, 0], found.passes)

    @torch.no_grad()
    def candidates(self, model: NAT, src_tokens: Int[Tensor, "B S"]) -> Candidates:
        """Every length's text, ranked: the n-best list of a NAT."""
        limit = min(model.length.max_length, self.choice.max_length)
        encoder_out = model.encode(src_tokens)
        lengths, length_log_probs = self.lengths(model.length, encoder_out, limit)
        is_candidate = length_log_probs != -torch.inf  # (B, K)
        sentence, canvas = is_candidate.nonzero()[:, 0], lengths[is_candidate]  # (N)
        filled = self.fill(model, model.blank(canvas), encoder_out.rows(sentence))
        tokens = self._finished(filled.tokens)
        drafts = Drafts(tokens, sentence, canvas, filled.log_probs.sum(1), length_log_probs[is_candidate])
        ranking = self.choice(model, src_tokens, drafts)

        def by_sentence(values: Tensor, nothing: float | int) -> Tensor:
            grid = values.new_full((*is_candidate.shape, *values.shape[1:]), nothing)
            grid[is_candidate] = values
            return grid

        ranks, order = by_sentence(ranking.ranks, -torch.inf).sort(stable=True, dim=1, descending=True)
        texts = by_sentence(tokens, PAD)
        return Candidates(
            tokens=texts.gather(1, order.unsqueeze(2).expand_as(texts)),
            canvas=by_sentence(canvas, 0).gather(1, order),
            scores=by_sentence(ranking.scores, -torch.inf).gather(1, order),
            ranks=ranks,
            passes=filled.passes + ranking.passes,
        )

    def _finished(self, tokens: Int[Tensor, "N L"]) -> Int[Tensor, "N M"]:
        tokens = without_blank(tokens)
        if self.deduplicate == "token":
            tokens = without_repeated_tokens(tokens)
        elif self.deduplicate == "word":
            if self.starts_word is None:
                raise checks.UserError(
                    "decoding.deduplicate=word needs to know where words begin, handed over by "
                    "decoding.prepared(starts_word=…); got nothing"
                )
            tokens = without_repeated_words(tokens, self.starts_word.to(tokens.device))
        return _trimmed(tokens)


def _trimmed(tokens: Int[Tensor, "N L"]) -> Int[Tensor, "N M"]:
    """Without the columns that hold only padding."""
    return tokens[:, : int((tokens != PAD).sum(1).max())]
