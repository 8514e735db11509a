"""Noisy parallel decoding: an autoregressive teacher chooses among the drafts of several lengths.

k* = argmax_k (1 / (|Y_k| + 1)) log P_AT(Y_k, eos | X)
"""

import sys
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Int
from torch import Tensor

from mple.checks import UserError
from mple.decoding.choice import Drafts, Ranking
from mple.decoding.fill import log_probs_of
from mple.model.autoregressive import Autoregressive
from mple.model.nat import NAT
from mple.types import PAD


@dataclass(frozen=True)
class TeacherScore:
    """The teacher's mean log-probability of each finished text with its eos, in one teacher-forced pass.

    The teacher reads what would be put out: `<blank>` and de-duplicated tokens are gone, and eos stands where
    the text ends. Canvases are at most as long as the teacher can read.

    teacher: the teacher's name, as in `proxy_target.teacher`.
    model: that teacher, which `prepared` puts here; it must have the student's target vocabulary.

    Raises:
        UserError: called without the model, or with one of another vocabulary.

    Source: Gu et al. (2018) draw the candidates from fertilities; with lengths in their place as in Wang et
    al. (2019) and GLAT (NPD=7 in the paper's Table 4). Slower than length parallel decoding by the teacher's
    encoder and one decoder pass.
    """

    teacher: str = "base"
    model: Autoregressive | None = field(default=None, repr=False, compare=False)

    @property
    def max_length(self) -> int:
        return sys.maxsize if self.model is None else self.model.max_length

    def prepared(self, teacher: Autoregressive) -> "TeacherScore":
        """With the teacher itself, its dropout switched off."""
        return replace(self, model=teacher.eval())

    def _model(self) -> Autoregressive:
        if self.model is None:
            raise UserError(
                f"decoding.choice.teacher must be a trained teacher that was handed over by "
                f"decoding.prepared(teacher=…); got only its name, {self.teacher!r}"
            )
        return self.model

    def __call__(self, model: NAT, src_tokens: Int[Tensor, "B S"], drafts: Drafts) -> Ranking:
        teacher = self._model().to(src_tokens.device)
        wanted, entries = (m.decoder.embedding.tokens.num_embeddings for m in (model, teacher))
        if entries != wanted:
            raise UserError(
                f"decoding.choice.teacher must have the model's target vocabulary ({wanted} entries); "
                f"got {self.teacher!r} with {entries}"
            )
        encoder_out = teacher.encode(src_tokens).rows(drafts.sentence)
        labels = teacher.labels(drafts.tokens)
        is_label = labels != PAD
        log_probs = torch.zeros(labels.shape, device=labels.device)
        output = teacher.decode(teacher.prefixes(drafts.tokens), encoder_out)
        log_probs[is_label] = log_probs_of(output, labels, is_label)
        scores = log_probs.sum(1)
        return Ranking(scores, scores / (drafts.lengths + 1), passes=1)
