"""C of a data set, from a vanilla NAT and an AT that were trained on the same text (Tables 1 and 5).

python evaluate.py run=VANILLA_RAW estimator=total_correlation estimator.at=AT    # raw data
python evaluate.py run=VANILLA_KD estimator=total_correlation estimator.at=AT_KD estimator.split=valid
"""

from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, ClassVar

import numpy as np
import torch

from mple import checks
from mple.checks import UserError
from mple.decoding.fill import log_probs_of
from mple.estimator.total_correlation import SentenceLosses
from mple.estimator.total_correlation import TotalCorrelation as Estimate
from mple.evaluation.finished import Finished
from mple.modules.autoregressive import AutoregressiveModule
from mple.modules.non_autoregressive import NonAutoregressive
from mple.proxy_target import TextTarget, laid_out
from mple.types import PAD


@dataclass(frozen=True)
class TotalCorrelation:
    """Ĉ = L_NAT + L_length − L_AT in bits, with an interval over sentences, and the difference in BLEU.

    at: folder of the autoregressive run. `run` is a NAT of the same size, trained by plain maximum likelihood
        (no Z) on the same text: the reference (`vanilla_raw`, `at`) or a teacher's (`vanilla_kd`, `at_kd`).
    split: "valid" or "test"; a teacher's text is there for "valid" only.
    """

    decodes: ClassVar[bool] = False

    at: str | None = None
    split: str = "test"

    def __post_init__(self) -> None:
        checks.one_of("estimator.split", self.split, ("valid", "test"))

    def __call__(self, run: Finished) -> dict[str, float]:
        if self.at is None:
            raise UserError(
                "estimator.at must name the folder of an autoregressive run on the same data; got none"
            )
        other = run.other(self.at, "estimator.at")
        if not isinstance(run.module, NonAutoregressive) or not isinstance(
            other.module, AutoregressiveModule
        ):
            raise UserError(
                "total_correlation compares a NAT (run) with an autoregressive model (estimator.at); "
                f"got {run.name} and {other.name}"
            )
        proxy = run.job.proxy
        assert proxy is not None
        if proxy.input.law != "none" or not isinstance(proxy.target, TextTarget):
            raise UserError(
                "total_correlation needs plain maximum likelihood of a text as its NAT (vanilla_raw or "
                "vanilla_kd): another proxy's loss is no estimate of the marginal entropies; "
                f"got {run.name}"
            )
        if proxy.target != other.job.target:
            raise UserError(
                "total_correlation needs two models of the same text (vanilla_raw with at, vanilla_kd with "
                f"at_kd of the same teacher); got {proxy.target} and {other.job.target}"
            )
        _check_trained_alike(run, other)
        found = Estimate()(sentence_losses(run, self.split), sentence_losses(other, self.split))
        difference = other.metrics["test"]["tokenised_bleu"] - run.metrics["test"]["tokenised_bleu"]
        share = other.metrics["parameters"] / run.metrics["parameters"]
        if not 0.8 <= share <= 1.25:
            run.note(
                f"C is of two models of one size; {other.name} has {100 * share:.0f} % of the parameters of "
                f"{run.name}"
            )
        sizes = {"nat_parameters": run.metrics["parameters"], "at_parameters": other.metrics["parameters"]}
        return found | sizes | {"test_bleu_difference": difference}


def _check_trained_alike(run: Finished, other: Finished) -> None:
    """
    Raises:
        UserError: other vocabularies or training data, with which a difference in loss is none of models.
    """
    one, two = (of.data.corpus("train") for of in (run, other))
    if (one.src_fingerprint, one.tgt_fingerprint) != (two.src_fingerprint, two.tgt_fingerprint):
        raise UserError(
            f"total_correlation needs two models with the same vocabularies; those of {run.name} and "
            f"{other.name} differ"
        )
    if one.fingerprint != two.fingerprint:
        raise UserError(
            f"total_correlation needs two models trained on the same data; {run.name} has learned from "
            f"{len(one)} pairs and {other.name} from {len(two)}, and these differ"
        )


@torch.no_grad()
def sentence_losses(run: Finished, split: str, target: TextTarget | None = None) -> SentenceLosses:
    """−log P(T | X) of every sentence in nats: of a NAT given L (that of L is beside it), of an AT with eos.

    target: T; None for the text that the run learned. Which it was is told apart by its fingerprint.

    Raises:
        UserError: the split lacks it.
    """
    module: Any = run.module
    text = (target or run.job.target).text
    corpus = run.data.corpus(split)
    position = {int(line): row for row, line in enumerate(corpus.lines)}
    nats = np.zeros(len(corpus), dtype=np.float64)
    tokens = np.zeros(len(corpus), dtype=np.int64)
    lengths = np.zeros(len(corpus), dtype=np.float64)
    digests: dict[int, bytes] = {}
    clamped = 0
    for batch in run.batches_with_candidates(split) if target is None else run.batches(split):
        rows = [position[line] for line in batch.ids.tolist()]
        encoder_out = module.model.encode(batch.src_tokens)
        if isinstance(module, NonAutoregressive):
            laid = laid_out(text(batch))
            labels, counts = laid.tokens, laid.counts
            output = module.model.decode(module.model.blank(laid.lengths), encoder_out)
            predictor = module.model.length
            lengths[rows] = predictor.nll(encoder_out, laid.lengths).double().cpu().numpy()
            offsets = laid.lengths - predictor.source_lengths(encoder_out)
            clamped += int((offsets.abs() > predictor.max_offset).sum())
        else:
            labels, counts = module.labelled(batch)
            output = module.model.decode(module.model.prefixes(text(batch)), encoder_out)
        lost = torch.zeros(labels.shape, device=labels.device)
        lost[counts] = -log_probs_of(output, labels, counts)
        nats[rows] = lost.sum(1).double().cpu().numpy()
        learned = text(batch).cpu()
        tokens[rows] = (learned != PAD).sum(1).numpy()
        digests |= {row: ids[ids != PAD].numpy().tobytes() for row, ids in zip(rows, learned, strict=True)}
    if clamped:
        run.note(
            f"the lengths of {clamped} of {len(corpus)} targets are more than {predictor.max_offset} from "
            f"their source's, where the length predictor of {run.name} ends: they count as its last, and C "
            "may be too small"
        )
    every = b"".join(blake2b(digests[row]).digest() for row in sorted(digests))
    data = f"{corpus.fingerprint} {blake2b(every, digest_size=16).hexdigest()}"
    apart = lengths if isinstance(module, NonAutoregressive) else None
    return SentenceLosses(run.name, data, run.data.tgt_vocabulary.fingerprint, nats, tokens, apart)
