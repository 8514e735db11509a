"""The length predictor: |T| − |X| as one of 2·max_offset + 1 classes, from the mean encoder state."""

from jaxtyping import Float, Int
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
        checks.whole("model.length.max_offset", max_offset, 1, "tokens")
        checks.number("model.length.weight", weight, 0)
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

    def loss(self, encoder_out: EncoderOutput, lengths: Int[Tensor, "B"]) -> dict[str, Mean]:
        """`length` enters the objective; the other two are for the log."""
        log_probs = self.log_probs(encoder_out)
        offset = lengths - self.source_lengths(encoder_out)
        label = offset.clamp(-self.max_offset, self.max_offset) + self.max_offset
        nll = functional.nll_loss(log_probs, label, reduction="none")
        return {
            "length": Mean.of(self.weight * nll),
            "length_accuracy": Mean.of((log_probs.argmax(-1) == label).float()),
            "length_clamped": Mean.of((offset.abs() > self.max_offset).float()),
        }

    def predict(
        self, encoder_out: EncoderOutput, beam: int = 1
    ) -> tuple[Int[Tensor, "B K"], Float[Tensor, "B K"]]:
        """The `beam` most probable lengths (1 to `max_length`), best first, and their log-probabilities."""
        log_probs, index = self.log_probs(encoder_out).topk(beam, -1)
        lengths = self.source_lengths(encoder_out).unsqueeze(1) + index - self.max_offset
        return lengths.clamp(1, self.max_length), log_probs
