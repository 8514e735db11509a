"""γ of Dynamic KD, tuned on real references (App. F): no model is trained, only candidates are compared.

python evaluate.py run=DYNKD estimator=gamma                        # the grammar, Tatoeba
python evaluate.py run=DYNKD estimator=gamma estimator/search=grid estimator/references=files \
    'estimator.references.paths=[A,B]'
"""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch

from mple import checks
from mple.checks import UserError
from mple.estimator.gamma import GammaTuning, LineSearch, Search
from mple.evaluation.finished import Finished
from mple.evaluation.references import Known, References
from mple.launch import console
from mple.proxy_target import AlignedTarget
from mple.proxy_target.dynamic_kd import DynamicKD


@dataclass(frozen=True)
class Gamma:
    """The γ that minimises the real L̂_target of the candidates it picks, on the validation split, the only
    one but training that teachers have said. References of a test set (Ott et al.'s) are tuned on by a run
    whose data have that set for validation: data.source.splits.valid=test data.source.splits.test=validation.

    search: `line` is exact along lines, `grid` the paper's 1 to 3 in steps of 0.1.
    references: must be several a sentence, or known exactly.
    beta: β in bits per BLEU point, of L̂_target alone: the best γ does not depend on it. None: the data set's.
    folds, seed: of the held-out gain.
    """

    decodes: ClassVar[bool] = False

    search: Search = field(default_factory=LineSearch)
    references: References = field(default_factory=Known)
    beta: float | int | None = None
    folds: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.beta is not None:
            checks.number("estimator.beta", self.beta, 0, 1e6, unit="bits per BLEU point")
        GammaTuning(self.search, self.folds, self.seed)

    def __call__(self, run: Finished) -> dict[str, float]:
        """
        Raises:
            UserError: not a run of Dynamic KD, distilled texts that are gone, or one reference a sentence.
        """
        target = run.job.target
        key, chooser = "proxy_target", target
        if isinstance(target, AlignedTarget):
            key, chooser = "proxy_target.reference", target.reference
        if not isinstance(chooser, DynamicKD):
            raise UserError(f"estimator=gamma is for a run of Dynamic KD; got {run.name}")
        next(run.batches_with_candidates("valid"))  # complains where there are none
        candidates = run.data.candidates("valid")
        assert candidates is not None
        tokens = candidates.tokens(np.arange(len(candidates)))
        truth = np.empty((len(candidates), len(candidates.names)))
        for k in range(len(candidates.names)):
            texts = run.data.decode(torch.from_numpy(tokens[:, k]))
            found = self.references.similarity(run, "valid", texts)
            if found.is_own:
                raise UserError(
                    "γ is tuned on several references of a sentence; the data have one "
                    "(estimator/references=files takes further ones)"
                )
            truth[:, k] = found.values
        has_references = np.isfinite(truth).all(1)
        run.note(f"references: {found.note}")
        fit = GammaTuning(self.search, self.folds, self.seed)(
            candidates.names,
            np.asarray(candidates.scores)[has_references],
            truth[has_references],
        )
        overrides = " ".join(f"{key}.gamma.{name}={value:.3g}" for name, value in fit.gamma.items())
        console.print(f"to train with it: {overrides}", soft_wrap=True)  # one line, to be pasted
        return fit.metrics(run.beta if self.beta is None else self.beta)
