"""What a researcher looks at beside BLEU: repetitions, lengths, variety, candidates and choices.

python evaluate.py run=RUN estimator=diagnostics [decoding=length_parallel]
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from rich.table import Table

from mple import checks
from mple.estimator import diagnostics
from mple.evaluation.finished import Finished
from mple.language import language
from mple.launch import console
from mple.modules.non_autoregressive import NonAutoregressive
from mple.proxy_target.dynamic_kd import DynamicKD
from mple.types import PAD

WITHIN = (0, 1, 2)
"""Tokens by which a predicted length may be off."""


@dataclass(frozen=True)
class Diagnostics:
    """Of the run's outputs on `split`: `repetition_rate_percent`, `length_ratio`, `distinct_1`, `distinct_2`;
    of a NAT how often its length predictor is right or off by few tokens (`length_within_<k>_percent`).

    Where the run learned from several candidates, on the validation split: how far these agree
    (`agreement_<reference>_<hypothesis>_bleu`) and how often two are one text. Of Dynamic KD with its final
    weights: what it chooses, and how often L_NAT or the agreement alone would choose otherwise.
    """

    decodes: ClassVar[bool] = True

    split: str = "test"

    def __post_init__(self) -> None:
        checks.one_of("estimator.split", self.split, ("valid", "test"))

    def __call__(self, run: Finished) -> dict[str, float]:
        # First, for it complains at once where decoding takes minutes.
        of_choice = of_candidates(run) if len(run.job.candidates) > 1 else {}
        words_of = language(run.job.source.tgt_lang).words
        references = [words_of(reference) for reference in run.data.text(self.split)[2]]
        outputs = [words_of(output) for output in run.translate(self.split, run.module.decoding)]
        found = {
            "repetition_rate_percent": diagnostics.repetition_rate_percent(outputs),
            "length_ratio": diagnostics.length_ratio(outputs, references),
            "distinct_1": diagnostics.distinct(outputs, 1),
            "distinct_2": diagnostics.distinct(outputs, 2),
        }
        if isinstance(run.module, NonAutoregressive):
            found |= length_accuracy(run, self.split)
        return found | of_choice


@torch.no_grad()
def length_accuracy(run: Finished, split: str) -> dict[str, float]:
    """Share of sentences whose most probable length is at most k tokens from the reference's."""
    model: Any = run.module.model
    off = []
    for batch in run.batches(split):
        lengths, _ = model.length.predict(model.encode(batch.src_tokens))
        off.append((lengths[:, 0] - batch.tgt_lengths).abs().cpu().numpy())
    distance = np.concatenate(off)
    return {f"length_within_{k}_percent": 100 * float((distance <= k).mean()) for k in WITHIN}


def of_candidates(run: Finished) -> dict[str, float]:
    """Agreement of the candidates of the validation split, and Dynamic KD's choices among them.

    Raises:
        UserError: the distilled texts are gone.
    """
    batches = list(run.batches_with_candidates("valid"))  # complains where there are none
    candidates = run.data.candidates("valid")
    assert candidates is not None
    names = candidates.names
    tokens = candidates.tokens(np.arange(len(candidates)))
    texts = [run.data.decode(torch.from_numpy(tokens[:, k])) for k in range(len(names))]
    agreement = diagnostics.agreement(np.asarray(candidates.scores))
    identical = diagnostics.identical_percent(texts)
    show(names, agreement, identical)
    found: dict[str, float] = {}
    for i, reference in enumerate(names):
        for k, hypothesis in enumerate(names):
            if i != k:
                found[f"agreement_{reference}_{hypothesis}_bleu"] = float(agreement[i, k])
            if i < k:
                found[f"identical_{reference}_{hypothesis}_percent"] = float(identical[i, k])
    target = run.job.target
    chooser = target if isinstance(target, DynamicKD) else getattr(target, "reference", None)
    return found | (choices(run, chooser, batches) if isinstance(chooser, DynamicKD) else {})


@torch.no_grad()
def choices(run: Finished, chooser: DynamicKD, batches: list[Any]) -> dict[str, float]:
    module = run.module
    assert isinstance(module, NonAutoregressive)
    ease: list[Float[np.ndarray, "B K"]] = []
    distortion: list[Float[np.ndarray, "B K"]] = []
    for batch in batches:
        snapshot = module.snapshot(batch, module.model.encode(batch.src_tokens))
        lengths: Int[torch.Tensor, "B K"] = (batch.tgt_candidates != PAD).sum(-1)
        cost = chooser.cost(snapshot.candidate_nll(batch.tgt_candidates), lengths)
        ease.append(cost.cpu().numpy())
        distortion.append(chooser.distortion(batch.candidate_scores).cpu().numpy())
    return diagnostics.selection(chooser.candidates, np.concatenate(ease), np.concatenate(distortion))


def show(
    names: tuple[str, ...], agreement: Float[np.ndarray, "K K"], identical: Float[np.ndarray, "K K"]
) -> None:
    """A table of BLEU between the candidates, with the share of equal texts in brackets."""
    table = Table(title="sentence BLEU between candidates (equal texts, %)", title_justify="left")
    for heading in ("reference", *names):
        table.add_column(heading, justify="left" if heading == "reference" else "right")
    for i, name in enumerate(names):
        cells = [
            "–" if i == k else f"{agreement[i, k]:.1f} ({identical[i, k]:.0f})" for k in range(len(names))
        ]
        table.add_row(name, *cells)
    console.print(table)
