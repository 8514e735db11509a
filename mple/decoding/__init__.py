"""Decodings: from X to sentences. Called as `decoding(model, src_tokens)`, they return `Hypotheses`."""

from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Int
from torch import Tensor

from mple.model.autoregressive import Autoregressive
from mple.model.nat import NAT
from mple.types import Hypotheses


@runtime_checkable
class Decoding(Protocol):
    """A decoding of a NAT. What it cannot know from a configuration, `prepared` hands over."""

    @property
    def needs_masks(self) -> bool:
        """Whether it shows the decoder some of its own tokens, which only a model that was trained with a
        partly revealed Z (CMLM, GLAT) has learned to read."""

    @property
    def teacher(self) -> str | None:
        """Name of the autoregressive teacher that it asks; None when it needs none."""

    def prepared(
        self, teacher: Autoregressive | None = None, starts_word: Bool[Tensor, "V"] | None = None
    ) -> "Decoding":
        """The same decoding with what it needs: the model that `teacher` names, and which entries of the
        target vocabulary begin a word (`Vocabulary.starts_word`). What it does not need is ignored."""

    def __call__(self, model: NAT, src_tokens: Int[Tensor, "B S"]) -> Hypotheses: ...
