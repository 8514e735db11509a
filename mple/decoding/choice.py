"""Choices: which of a sentence's drafts, one for each length, is the hypothesis.

A choice only ranks; a draft that it has not seen cannot win. `OwnScore` is length parallel decoding's,
`mple.decoding.npd.TeacherScore` is NPD's.
"""

import sys
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from mple.model.autoregressive import Autoregressive
from mple.model.nat import NAT
from mple.types import PAD


@dataclass(frozen=True)
class Drafts:
    """N texts of the sentences `sentence` of a batch.

    `tokens` is the finished text (no `<blank>`, repeats taken out), `canvas` the number of positions that it
    was decoded on, `log_probs` Σ_i log P(t_i | Z, X) over these, `length_log_probs` log P(L | X); nats.
    """

    tokens: Int[Tensor, "N L"]
    sentence: Int[Tensor, "N"]
    canvas: Int[Tensor, "N"]
    log_probs: Float[Tensor, "N"]
    length_log_probs: Float[Tensor, "N"]

    @property
    def lengths(self) -> Int[Tensor, "N"]:
        """Tokens of the finished texts."""
        return (self.tokens != PAD).sum(1)


@dataclass(frozen=True)
class Ranking:
    """The greatest rank wins. `scores` are summed log-probabilities (nats) of whoever ranked; `passes` counts
    further decoder calls."""

    scores: Float[Tensor, "N"]
    ranks: Float[Tensor, "N"]
    passes: int


@runtime_checkable
class Choice(Protocol):
    @property
    def teacher(self) -> str | None:
        """Name of the teacher that ranks; None for the model itself."""

    @property
    def max_length(self) -> int:
        """The longest text that it can rank, in tokens."""

    def prepared(self, teacher: Autoregressive) -> "Choice": ...

    def __call__(self, model: NAT, src_tokens: Int[Tensor, "B S"], drafts: Drafts) -> Ranking: ...


@dataclass(frozen=True)
class OwnScore:
    """The model's own mean log-probability, (1/L) Σ_i log P(t_i | Z, X), over all positions of the canvas.

    with_length: add log P(L | X) of the length predictor; it is not divided by L.

    Source: Wei et al. (2019). The model's bos and eos, whose log-probabilities fairseq's mean contains, do
    not exist here.
    """

    with_length: bool = False

    teacher: ClassVar[None] = None
    max_length: ClassVar[int] = sys.maxsize

    def prepared(self, teacher: Autoregressive) -> "OwnScore":
        return self

    def __call__(self, model: NAT, src_tokens: Int[Tensor, "B S"], drafts: Drafts) -> Ranking:
        ranks = drafts.log_probs / drafts.canvas
        if self.with_length:
            ranks = ranks + drafts.length_log_probs
        return Ranking(drafts.log_probs, ranks, passes=0)
