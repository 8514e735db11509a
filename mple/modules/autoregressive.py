"""The AT's LightningModule: teacher forcing with label-smoothed cross-entropy, beam search to decode."""

from jaxtyping import Bool, Int
from torch import Tensor

from mple.backend import linear_cross_entropy
from mple.decoding.beam import Beam
from mple.model.autoregressive import Autoregressive
from mple.modules.update import BITS, Chosen, Score, UpdateModule
from mple.objective.cross_entropy import CrossEntropy
from mple.optimizer import Adam
from mple.proxy_target import TextTarget
from mple.types import PAD, Batch, Hypotheses, Mean


class AutoregressiveModule(UpdateModule):
    """Maximum likelihood of an autoregressive Transformer: the baseline and the teachers of KD.

    `target` is what it learns: the reference, or the text of a teacher (for C of distilled data, Table 1).
    Greedy search decodes while training (cheap, and enough to rank checkpoints); `decoding` the test.
    """

    model: Autoregressive

    def __init__(
        self,
        model: Autoregressive,
        objective: CrossEntropy,
        decoding: Beam,
        target: TextTarget,
        optimizer: Adam,
        score: Score,
        seed: int,
        log_every: int = 50,
    ) -> None:
        super().__init__(model, optimizer, score, seed, log_every)
        self.objective = objective
        self.decoding = decoding
        self.target = target
        self.greedy = Beam(beam=1)

    def labelled(self, batch: Batch) -> tuple[Int[Tensor, "B L"], Bool[Tensor, "B L"]]:
        """What is predicted at each position, eos included, and where there is something to predict."""
        labels = self.model.labels(self.target.text(batch))
        return labels, labels != PAD

    def counts(self, batch: Batch) -> tuple[dict[str, Tensor], None]:
        return {"nats": self.labelled(batch)[1].sum().float()}, None

    def losses(self, batch: Batch, chosen: Chosen | None = None) -> tuple[dict[str, Mean], dict[str, Mean]]:
        text = self.target.text(batch)
        nats, nll = self._nats(batch, text, is_smoothed=True)
        tokens = (text != PAD).sum().float()
        logged = {
            "at_loss_bits_per_token": Mean(nll.total * BITS, nll.count),
            "tokens": Mean(tokens, tokens),
        }
        return {"nats": nats}, logged

    def _nats(self, batch: Batch, text: Int[Tensor, "B T"], is_smoothed: bool) -> tuple[Mean, Mean]:
        """Smoothed and plain loss of a text, over content and eos."""
        labels = self.model.labels(text)
        counts = labels != PAD
        encoder_out = self.model.encode(batch.src_tokens)
        output = self.model.decode(self.model.prefixes(text), encoder_out)
        place = counts.flatten().nonzero()[:, 0]  # by number, as in CrossEntropy
        features = output.features.flatten(0, 1).index_select(0, place)
        smoothing = self.objective.smoothing(len(output.weight)) if is_smoothed else 0.0
        nats, nll = linear_cross_entropy(features, output.weight, labels.flatten()[place], smoothing)
        count = counts.sum().float()
        return Mean(nats, count), Mean(nll, count)

    def measure(self, batch: Batch) -> dict[str, Mean]:
        """Plain NLL in bits per content token, eos included in the sum: what C subtracts from the NAT's loss,
        which has a length predictor in eos' place. Of the reference, and where the batch has it of T."""
        texts = {"raw": batch.tgt_tokens}
        if set(self.target.candidates) - {"raw"} and batch.tgt_candidates is not None:
            texts["proxy"] = self.target.text(batch)
        losses = {}
        for name, text in texts.items():
            _, nll = self._nats(batch, text, is_smoothed=False)
            losses[f"at_loss_{name}_bits_per_token"] = Mean(nll.total * BITS, (text != PAD).sum().float())
        return losses

    def hypotheses(self, batch: Batch) -> Hypotheses:
        decoding = self.greedy if self.trainer.validating or self.trainer.training else self.decoding
        return decoding(self.model, batch.src_tokens)
