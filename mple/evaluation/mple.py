"""L̂_MPLE of a finished run and its three parts (Tables 2 and 3, Fig. 5 and 6).

    L̂_MPLE = L_NAT − β S̄ + L_input                                             Eq. 8 and 14, Sec. 4 Metrics

python evaluate.py run=RUN estimator=mple
python evaluate.py run=RUN estimator=mple estimator/references=files 'estimator.references.paths=[A,B]'

T is drawn from the run's own proxy on held-out sentences: raw or distilled, aligned or chosen by the run's
own model; Z is drawn as in the run's validation.
"""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int

from mple import checks
from mple.checks import UserError
from mple.decoding.fill import log_probs_of
from mple.estimator.statistics import Bootstrap
from mple.evaluation.finished import Finished
from mple.evaluation.input_loss import input_information
from mple.evaluation.references import Known, References
from mple.modules.non_autoregressive import NonAutoregressive


@dataclass(frozen=True)
class MPLE:
    """L_NAT and L_input per token of T in bits, S̄ (0 to 100) and their sum, with intervals over sentences.

    beta: β in bits per BLEU point; None: the data set's own (`Finished.beta`). The paper takes 0.2 (En-De)
        and 0.25 (Zh-En) and does not state the unit. It is not Dynamic KD's β, which is in nats.
    split: "valid" or "test"; a distilled T is there for "valid" only.
    references: what Y is in S(Y, T).
    input_predictor: see `InputLoss`.

    Source: Sec. 4. BLEU is that of the run's own test.
    """

    decodes: ClassVar[bool] = False

    beta: float | int | None = None
    split: str = "valid"
    references: References = field(default_factory=Known)
    input_predictor: str | None = None
    bootstrap: Bootstrap = field(default_factory=Bootstrap)

    def __post_init__(self) -> None:
        if self.beta is not None:
            checks.number("estimator.beta", self.beta, 0, 1e6, unit="bits per BLEU point")
        checks.one_of("estimator.split", self.split, ("valid", "test"))

    def __call__(self, run: Finished) -> dict[str, float]:
        """
        Raises:
            UserError: not a NAT; no input predictor where Z hints something; a split without the run's T.
        """
        if run.job.proxy is None:
            raise UserError(f"L_MPLE is of a NAT's proxy targets and inputs; {run.name} is autoregressive")
        hint = input_information(run, self.split, self.input_predictor)  # complains before the long part
        drawn = draw_targets(run, self.split)
        similarity = self.references.similarity(run, self.split, drawn.texts)
        run.note(f"L_target: {similarity.note}")
        run.note(f"L_input: {hint.note}")
        is_scored = np.isfinite(similarity.values)
        scored, scores = is_scored.astype(np.float64), np.where(is_scored, similarity.values, 0.0)
        tokens, bits = drawn.tokens.astype(np.float64), 1 / math.log(2)
        nat = (drawn.nats, tokens, bits)
        beta = run.beta if self.beta is None else float(self.beta)
        target = (scores, scored, -beta)
        given = (hint.nats, hint.tokens.astype(np.float64), bits)
        terms = {"nat_loss": [nat], "target_loss": [target], "input_loss": [given]}
        terms["mple_loss"] = [nat, target, given]
        found: dict[str, float] = {}
        for name, parts in terms.items():
            found |= self.bootstrap.ratios(parts).metrics(name, "bits_per_token")
        found |= self.bootstrap.mean(similarity.values[is_scored]).metrics("similarity")
        return found | {"beta": beta, "bleu": run.metrics["test"]["tokenised_bleu"]}


@dataclass(frozen=True, eq=False)
class Drawn:
    """T of every sentence of a split, in its order.

    nats: −log P(T | Z, X), summed over the positions that Z does not reveal. tokens: positions of T, revealed
    ones included. texts: T as text, blanks and subwords removed.
    """

    nats: Float[np.ndarray, "n"]
    tokens: Int[np.ndarray, "n"]
    texts: list[str]


@torch.no_grad()
def draw_targets(run: Finished, split: str) -> Drawn:
    """T and Z of the run's own proxy, drawn as in its validation.

    Raises:
        UserError: the split lacks candidates that the proxy target asks for.
    """
    module = run.module
    assert isinstance(module, NonAutoregressive)
    corpus = run.data.corpus(split)
    position = {int(line): row for row, line in enumerate(corpus.lines)}
    nats, tokens = np.zeros(len(corpus)), np.zeros(len(corpus), dtype=np.int64)
    texts = [""] * len(corpus)
    for batch in run.batches_with_candidates(split):
        encoder_out = module.model.encode(batch.src_tokens)
        target, inputs, snapshot = module.proxy(batch, module.snapshot(batch, encoder_out))
        is_said = target.counts & ~inputs.revealed
        lost = torch.zeros(target.tokens.shape, device=target.tokens.device)
        lost[is_said] = -log_probs_of(snapshot.decode(inputs), target.tokens, is_said)
        rows = [position[line] for line in batch.ids.tolist()]
        nats[rows] = lost.sum(1).double().cpu().numpy()
        tokens[rows] = target.counts.sum(1).cpu().numpy()
        said = run.data.decode(target.tokens.masked_fill(~target.counts, 0))
        for row, text in zip(rows, said, strict=True):
            texts[row] = text
    return Drawn(nats, tokens, texts)
