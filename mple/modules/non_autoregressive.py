"""The NAT's LightningModule: the paper's training step.

E-step   T, Z ~ Q(T, Z | X)                `proxy`
M-step   minimise −log P(T | Z, X)         `objective`
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from mple.decoding import Decoding
from mple.decoding.argmax import Argmax
from mple.model.nat import NAT
from mple.modules.update import BITS, Chosen, Score, UpdateModule
from mple.objective import Objective
from mple.objective.cross_entropy import CrossEntropy
from mple.optimizer import Adam
from mple.proxy import Proxy
from mple.proxy_target import laid_out
from mple.randomness import Draws
from mple.snapshot import Snapshot
from mple.types import Batch, DecoderInput, EncoderOutput, Hypotheses, Mean, Target


class NonAutoregressive(UpdateModule):
    """Maximum Proxy-Likelihood Estimation of a NAT (Sec. 3 of the paper)."""

    model: NAT

    def __init__(
        self,
        model: NAT,
        proxy: Proxy,
        objective: Objective,
        decoding: Decoding,
        optimizer: Adam,
        score: Score,
        seed: int,
        updates: int,
        log_every: int = 50,
    ) -> None:
        super().__init__(model, optimizer, score, seed, log_every)
        self.proxy = proxy
        self.objective = objective
        self.decoding = decoding
        self.updates = updates
        self._nll = CrossEntropy(label_smoothing=0.0)

    def losses(self, batch: Batch, chosen: Chosen | None = None) -> tuple[dict[str, Mean], dict[str, Mean]]:
        encoder_out = self.model.encode(batch.src_tokens)
        snapshot = self.snapshot(batch, encoder_out)
        if chosen is None:
            target, inputs, snapshot = self.proxy(batch, snapshot)  # T, Z ~ Q(T, Z | X)
        else:
            target, inputs = chosen
        output = snapshot.decode(inputs, self.objective.reads(target, inputs))  # log P(. | Z, X)
        loss = self.objective(output, target, inputs)  # −log P(T | Z, X)
        length = self.model.length.loss(encoder_out, target.lengths)
        minimised = {"nats": loss["nats"], "length": length["length"]} | inputs.losses
        return minimised, self._logged(loss, length, target, inputs)

    def snapshot(self, batch: Batch, encoder_out: EncoderOutput | Callable[[], EncoderOutput]) -> Snapshot:
        """The model as the E-step sees it. Outside training the draws are those of no update, always the
        same, and schedules are at their end."""
        step = self.global_step if self.training else self.updates
        draws = Draws(self.seed, self.global_step if self.training else -1)
        return Snapshot(self.model, encoder_out, batch.ids, batch.tgt_lengths, draws, step, self.updates)

    def counts(self, batch: Batch) -> tuple[dict[str, Tensor], Chosen | None]:
        # Nothing is encoded here where neither T nor Z needs the model.
        encode = functools.partial(self.model.encode, batch.src_tokens)
        target, inputs, _ = self.proxy(batch, self.snapshot(batch, encode))
        sentences = torch.full((), float(len(batch)), device=batch.ids.device)
        own = {key: loss.count for key, loss in inputs.losses.items()}
        found = {"nats": self.objective.count(target, inputs), "length": sentences} | own
        has_weights = inputs.latent is not None or bool(inputs.losses)  # which are to learn from it
        return found, None if has_weights else (target, inputs)

    def _logged(
        self, loss: dict[str, Mean], length: dict[str, Mean], target: Target, inputs: DecoderInput
    ) -> dict[str, Mean]:
        nll = loss["nll"]
        return (
            {
                "nat_loss_bits_per_token": Mean(nll.total * BITS, nll.count),
                "tokens": Mean(nll.count, nll.count),
                "length_accuracy": length["length_accuracy"],
                "length_clamped": length["length_clamped"],
            }
            | target.log
            | inputs.log
        )

    def measure(self, batch: Batch) -> dict[str, Mean]:
        """L_NAT in bits per token: under the proxy itself (`nat_loss_proxy`), and of every target that the
        batch carries with a fully masked Z (`nat_loss_raw`, `nat_loss_base`, …)."""
        encoder_out = self.model.encode(batch.src_tokens)
        targets = {"raw": batch.tgt_tokens}
        if batch.tgt_candidates is not None:
            targets |= {name: batch.tgt_candidates[:, k] for k, name in enumerate(batch.candidate_names)}
        found: dict[str, Mean] = {}
        for name, tokens in targets.items():
            target = laid_out(tokens)
            inputs = self.model.blank(target.lengths)
            found[f"nat_loss_{name}"] = self._bits(target, inputs, encoder_out)
        if set(self.proxy.candidates) <= set(batch.candidate_names):  # the test split has no candidates
            target, inputs, _ = self.proxy(batch, self.snapshot(batch, encoder_out))
            found["nat_loss_proxy"] = self._bits(target, inputs, encoder_out)
            length = self.model.length.loss(encoder_out, target.lengths)
        else:
            length = self.model.length.loss(encoder_out, batch.tgt_lengths)
        accuracy = length["length_accuracy"]
        found = {f"{key}_bits_per_token": value for key, value in found.items()}
        return found | {"length_accuracy_percent": Mean(100 * accuracy.total, accuracy.count)}

    def _bits(self, target: Target, inputs: DecoderInput, encoder_out: EncoderOutput) -> Mean:
        nll = self._nll(self.model.decode(inputs, encoder_out), target, inputs)["nll"]
        return Mean(nll.total * BITS, nll.count)

    def hypotheses(self, batch: Batch) -> Hypotheses:
        return self.decoding(self.model, batch.src_tokens)

    def first_pass(self, batch: Batch) -> Hypotheses | None:
        if isinstance(self.decoding, Argmax):
            return None  # the first pass is the last
        return Argmax()(self.model, batch.src_tokens)
