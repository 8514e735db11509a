"""The input predictor's LightningModule: which tokens will the proxy mask, given X alone?

    T, Z ~ Q(T, Z | X) of a finished run
    minimise −Σ_i [z_i is masked] log m_i + [z_i is revealed] log(1 − m_i)

P(t_i | X), the other factor of P(Z | X), is a finished vanilla NAT's and is not trained.
"""

import functools

import torch
from torch import Tensor
from torch.nn import functional

from mple.decoding.argmax import Argmax
from mple.decoding.input_sampling import InputSampling
from mple.model.input_predictor import InputDistribution, MaskPredictor
from mple.model.nat import NAT
from mple.modules.update import BITS, Chosen, Score, UpdateModule
from mple.optimizer import Adam
from mple.proxy import Proxy
from mple.randomness import Draws
from mple.snapshot import Snapshot
from mple.types import Batch, DecoderInput, Hypotheses, Mean, Target


class InputPredictor(UpdateModule):
    """Maximum likelihood of m_i under the Q of a finished run (App. E.6).

    model: what learns; usually `MaskPredictor(nat)`, a copy of the run's NAT with a binary layer.
    proxy, nat: the finished run's; they make T and Z. Schedules are at their end and the look-ahead runs
        without dropout, as when L_input is measured.
    vanilla: P(t_i | X).
    decoding: Input Sampling, which decodes with `nat`, with what is learnt here; its BLEU is reported.

    `nat` and `vanilla` are not parts of this module: their weights are neither trained nor saved with its
    checkpoints, which hold the `MaskPredictor` alone. Whoever resumes or loads one hands them over again.

    Source: App. E.6, where the classifier shares its decoder with the NAT and learns beside it. Here it comes
    after, so that a run's BLEU and L_NAT do not depend on whether its L_input is measured.
    """

    model: MaskPredictor

    def __init__(
        self,
        model: MaskPredictor,
        proxy: Proxy,
        nat: NAT,
        vanilla: NAT,
        decoding: InputSampling,
        optimizer: Adam,
        score: Score,
        seed: int,
        log_every: int = 50,
    ) -> None:
        super().__init__(model, optimizer, score, seed, log_every)
        self.proxy = proxy
        self.decoding = decoding
        self._finished = nat.eval(), vanilla.eval()  # in a tuple, where nn.Module does not see them

    def _models(self, device: torch.device) -> tuple[NAT, NAT]:
        nat, vanilla = self._finished
        return nat.to(device), vanilla.to(device)

    @torch.no_grad()
    def _drawn(self, batch: Batch) -> tuple[Target, DecoderInput]:
        """T, Z ~ Q(T, Z | X) of the finished run. Outside training Z is always the same."""
        nat, _ = self._models(batch.ids.device)
        draws = Draws(self.seed, self.global_step if self.training else -1)
        encode = functools.partial(nat.encode, batch.src_tokens)
        look = Snapshot(nat, encode, batch.ids, batch.tgt_lengths, draws, step=1, total=1)
        target, inputs, _ = self.proxy(batch, look)
        return target, inputs

    def losses(self, batch: Batch, chosen: Chosen | None = None) -> tuple[dict[str, Mean], dict[str, Mean]]:
        logged = self._compared(batch, *(chosen or self._drawn(batch)))
        nll = logged["mask_nll_bits_per_token"]
        return {"nats": Mean(nll.total / BITS, nll.count)}, logged

    def _compared(self, batch: Batch, target: Target, inputs: DecoderInput) -> dict[str, Mean]:
        """Which tokens Z masks and how probable the model finds that."""
        logits = self.model(batch.src_tokens, target.lengths)
        is_masked = target.counts & ~inputs.revealed
        nll = functional.binary_cross_entropy_with_logits(logits, is_masked.float(), reduction="none")
        tokens = target.counts.sum().float()
        return {
            "mask_nll_bits_per_token": Mean.of(BITS * nll, target.counts),
            "mask_accuracy": Mean.of(((logits > 0) == is_masked).float(), target.counts),
            "masked": Mean.of(is_masked.float(), target.counts),
            "tokens": Mean(tokens, tokens),
        }

    def counts(self, batch: Batch) -> tuple[dict[str, Tensor], Chosen]:
        target, inputs = self._drawn(batch)
        return {"nats": target.counts.sum().float()}, (target, inputs)

    def measure(self, batch: Batch) -> dict[str, Mean]:
        """−log of the masks' probability and of the whole P(Z | X), bits per target token; nothing on a split
        that lacks the candidates that T is made of."""
        if not set(self.proxy.candidates) <= set(batch.candidate_names):
            return {}
        target, inputs = self._drawn(batch)
        logged = self._compared(batch, target, inputs)
        log_prob = self._distribution(batch.ids.device).log_prob(batch.src_tokens, inputs)
        accuracy, masked = logged["mask_accuracy"], logged["masked"]
        nll = logged["mask_nll_bits_per_token"]
        return {
            "mask_nll_bits_per_token": nll,
            "mask_log_prob_bits_per_token": Mean(
                -nll.total, nll.count
            ),  # the greatest is the best checkpoint
            "input_cross_entropy_bits_per_token": Mean(-log_prob.sum().float() * BITS, masked.count),
            "mask_accuracy_percent": Mean(100 * accuracy.total, accuracy.count),
            "masked_percent": Mean(100 * masked.total, masked.count),
        }

    def hypotheses(self, batch: Batch) -> Hypotheses:
        nat, _ = self._models(batch.ids.device)
        decoding = self.decoding.prepared(distribution=self._distribution(batch.ids.device))
        return decoding(nat, batch.src_tokens)

    def first_pass(self, batch: Batch) -> Hypotheses:
        """Default Decoding, to set beside Input Sampling."""
        nat, _ = self._models(batch.ids.device)
        return Argmax()(nat, batch.src_tokens)

    def _distribution(self, device: torch.device) -> InputDistribution:
        _, vanilla = self._models(device)
        return InputDistribution(self.model, vanilla)
