"""The length predictor: |T| − |X| as one of 2·max_offset + 1 classes, from the mean encoder state."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from mple import checks
from mple.types import EncoderOutput, Mean


class LengthPredictor(nn.Module):
    """P(|T| | X), over offsets from the source's length (both in content tokens).

    The loss is the cross-entropy of the class, mean over sentences, times `weight`; it is never smoothed.
    A target outside the window is clamped to its border and counted (`length_clamped`).
    `detach` keeps its gradient out of the encoder.

    Source: Ghazvininejad et al. (2019) and the reference NATs predict absolute lengths; offsets follow
    Gu et al. (2018) and need fewer examples on small data.
    """

    def __init__(
        self,
        d_model: int,
        max_length: int,
        max_offset: int = 32,
        weight: float | int = 0.1,
        detach: bool = False,
    ) -> None:
        super().__init__()
        checks.whole("module.model.length.max_offset", max_offset, 1, "tokens", high=10_000)
        checks.number("module.model.length.weight", weight, 0, 1e6)
        self.max_length = max_length
        self.max_offset = max_offset
        self.weight = weight
        self.detach = detach
        self.classes = nn.Linear(d_model, 2 * max_offset + 1)
        nn.init.normal_(self.classes.weight, std=d_model**-0.5)
        nn.init.zeros_(self.classes.bias)

    def log_probs(self, encoder_out: EncoderOutput) -> Float[Tensor, "B O"]:
        """Log-probabilities of the offsets −max_offset … max_offset."""
        seen = (~encoder_out.is_pad).unsqueeze(-1)
        states = encoder_out.states.detach() if self.detach else encoder_out.states
        mean = (states * seen).sum(1) / seen.sum(1)
        return functional.log_softmax(self.classes(mean).float(), -1)

    def source_lengths(self, encoder_out: EncoderOutput) -> Int[Tensor, "B"]:
        """Content tokens of X (eos is not counted)."""
        return (~encoder_out.is_pad).sum(1) - 1

    def nll(self, encoder_out: EncoderOutput, lengths: Int[Tensor, "B"]) -> Float[Tensor, "B"]:
        """−log P(L | X) in nats. A length beyond the classes counts as the class at their border."""
        label, _ = self._label(encoder_out, lengths)
        return functional.nll_loss(self.log_probs(encoder_out), label, reduction="none")

    def _label(self, encoder_out: EncoderOutput, lengths: Int[Tensor, "B"]) -> tuple[Tensor, Tensor]:
        """The class of each length, and its offset from the source's."""
        offset = lengths - self.source_lengths(encoder_out)
        return offset.clamp(-self.max_offset, self.max_offset) + self.max_offset, offset

    def loss(self, encoder_out: EncoderOutput, lengths: Int[Tensor, "B"]) -> dict[str, Mean]:
        """`length` enters the objective; the other two are for the log."""
        log_probs = self.log_probs(encoder_out)
        label, offset = self._label(encoder_out, lengths)
        nll = functional.nll_loss(log_probs, label, reduction="none")
        return {
            "length": Mean.of(self.weight * nll),
            "length_accuracy": Mean.of((log_probs.argmax(-1) == label).float()),
            "length_clamped": Mean.of((offset.abs() > self.max_offset).float()),
        }

    def predict(
        self, encoder_out: EncoderOutput, beam: int = 1
    ) -> tuple[Int[Tensor, "B K"], Float[Tensor, "B K"]]:
        """The `beam` most probable lengths (1 to `max_length`), best first, and their log-probabilities.

        Classes that would be below 1 or above `max_length` stand for that border; of those that stand for the
        same length only the most probable is a candidate. A slot for which no length is left has −∞.
        """
        log_probs = self.log_probs(encoder_out)
        offsets = torch.arange(-self.max_offset, self.max_offset + 1, device=log_probs.device)
        lengths = (self.source_lengths(encoder_out).unsqueeze(1) + offsets).clamp(1, self.max_length)
        if beam > 1:  # the first has no other before it
            log_probs = log_probs.masked_fill(self._is_repeated(lengths, log_probs), -torch.inf)
        log_probs, index = log_probs.topk(beam, -1)
        return lengths.gather(1, index), log_probs

    def _is_repeated(
        self, lengths: Int[Tensor, "B O"], log_probs: Float[Tensor, "B O"]
    ) -> Bool[Tensor, "B O"]:
        """True at classes of the same length as a more probable one: only a border has several."""
        classes = torch.arange(lengths.shape[1], device=lengths.device)
        repeated = torch.zeros_like(lengths, dtype=torch.bool)
        for border in (1, self.max_length):
            is_border = lengths == border
            best = log_probs.masked_fill(~is_border, -torch.inf).argmax(1, keepdim=True)
            repeated |= is_border & (classes != best)
        return repeated
