"""C of a data set, from a vanilla NAT and an AT that were trained on its raw targets (Tables 1 and 5)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mple import checks
from mple.checks import UserError
from mple.estimator.total_correlation import SentenceLosses
from mple.estimator.total_correlation import TotalCorrelation as Estimate
from mple.evaluation.finished import Finished
from mple.modules.autoregressive import AutoregressiveModule
from mple.modules.non_autoregressive import NonAutoregressive
from mple.proxy_target import laid_out


@dataclass(frozen=True)
class TotalCorrelation:
    """Ĉ = L_NAT − L_AT in bits, with an interval over sentences, and the difference in BLEU.

    at: folder of the autoregressive run; `run` is the vanilla NAT on raw targets, of the same size.
    split: "valid" or "test".
    """

    at: str | None = None
    split: str = "test"

    def __post_init__(self) -> None:
        checks.one_of("estimator.split", self.split, ("valid", "test"))

    def __call__(self, run: Finished) -> dict[str, float]:
        if self.at is None:
            raise UserError(
                "estimator.at must name the folder of an autoregressive run on the same data; got none"
            )
        other = Finished.open(self.at, str(run.device))
        if not isinstance(run.module, NonAutoregressive) or not isinstance(
            other.module, AutoregressiveModule
        ):
            raise UserError(
                "total_correlation compares a NAT (run) with an autoregressive model (estimator.at); "
                f"got {run.name} and {other.name}"
            )
        if run.metrics["experiment"] != "vanilla_raw":
            raise UserError(
                "total_correlation needs plain maximum likelihood on raw targets as its NAT (vanilla_raw): "
                f"another proxy's loss is no estimate of the marginal entropies; got {run.name}"
            )
        found = Estimate()(sentence_losses(run, self.split), sentence_losses(other, self.split))
        difference = other.metrics["test"]["tokenised_bleu"] - run.metrics["test"]["tokenised_bleu"]
        sizes = {"nat_parameters": run.metrics["parameters"], "at_parameters": other.metrics["parameters"]}
        return found | sizes | {"test_bleu_difference": difference}


@torch.no_grad()
def sentence_losses(run: Finished, split: str) -> SentenceLosses:
    """−log P(Y | X) of every sentence in nats: of a NAT given the length, of an AT with eos."""
    module: Any = run.module
    corpus = run.data.corpus(split)
    position = {int(line): row for row, line in enumerate(corpus.lines)}
    nats = np.zeros(len(corpus), dtype=np.float64)
    tokens = np.zeros(len(corpus), dtype=np.int64)
    for batch in run.batches(split):
        encoder_out = module.model.encode(batch.src_tokens)
        if isinstance(module, NonAutoregressive):
            target = laid_out(batch.tgt_tokens)
            labels, counts = target.tokens, target.counts
            output = module.model.decode(module.model.blank(target.lengths), encoder_out)
        else:
            labels, counts = module.labelled(batch)
            output = module.model.decode(module.model.prefixes(batch.tgt_tokens), encoder_out)
        log_probs = output.logits_at(counts).float().log_softmax(-1)
        lost = torch.zeros(labels.shape, device=labels.device)
        lost[counts] = -log_probs.gather(1, labels[counts].unsqueeze(1)).squeeze(1)
        rows = [position[line] for line in batch.ids.tolist()]
        nats[rows] = lost.sum(1).double().cpu().numpy()
        tokens[rows] = batch.tgt_lengths.cpu().numpy()
    return SentenceLosses(run.name, corpus.fingerprint, run.data.tgt_vocabulary.fingerprint, nats, tokens)
