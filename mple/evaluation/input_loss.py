"""L_input of a finished run, with an input predictor that was trained for it (Eq. 11, Table 3).

python train.py +experiment=input_predictor of=RUN vanilla=NATRUN
python evaluate.py run=RUN estimator=input_loss
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from mple import checks
from mple.checks import UserError
from mple.estimator.input_loss import LAWS, InputInformation, no_hint
from mple.estimator.input_loss import InputLoss as Estimate
from mple.evaluation.finished import Finished
from mple.modules.non_autoregressive import NonAutoregressive
from mple.types import Batch


@dataclass(frozen=True)
class InputLoss:
    """L_input per token in bits, with an interval over sentences, and its terms; 0 by definition where the
    proxy input hints nothing, which needs no input predictor.

    split: "valid" or "test"; a distilled T is there for "valid" only.
    input_predictor: which of the run's, by the name of its folder; None for the only one.
    draws: Z per sentence. seed: of Z.
    """

    decodes: ClassVar[bool] = False

    split: str = "valid"
    input_predictor: str | None = None
    draws: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        checks.one_of("estimator.split", self.split, ("valid", "test"))
        checks.whole("estimator.draws", self.draws, 1, unit="Z per sentence", high=10_000)
        checks.seed("estimator.seed", self.seed)

    def __call__(self, run: Finished) -> dict[str, float]:
        found = self.information(run)
        run.note(f"L_input: {found.note}")
        return found.metrics()

    def information(self, run: Finished) -> InputInformation:
        """L_input of every sentence, in the order of the corpus.

        `tokens` are T's; where L_input is 0 by definition, those of the reference.

        Raises:
            UserError: not a NAT, no input predictor or several, or a split without the candidates of T.
        """
        proxy = run.job.proxy
        if proxy is None:
            raise UserError(f"L_input is of a NAT's proxy input; {run.name} is autoregressive")
        corpus = run.data.corpus(self.split)
        if proxy.input.law == "none":
            return no_hint(np.asarray(corpus.lengths()[1], dtype=np.int64))
        if proxy.input.law not in LAWS:
            raise UserError(
                f"L_input needs log Q(Z | T, X) of {type(proxy.input).__name__}, which is not written yet: "
                f"mple.estimator.input_loss.LAWS has {', '.join(LAWS)}; got {proxy.input.law!r}"
            )
        module = run.module
        assert isinstance(module, NonAutoregressive)
        distribution = run.input_distribution(self.input_predictor)
        estimate = Estimate(LAWS[proxy.input.law], self.draws, self.seed)
        lines: list[int] = []
        batches = _noted(run.batches_with_candidates(self.split), lines)
        found = estimate(module.model, module.proxy, distribution, batches)
        position = {line: row for row, line in enumerate(lines)}
        rows = [position[line] for line in corpus.lines.tolist() if line in position]
        return _taken(found, np.array(rows))


def input_information(run: Finished, split: str, input_predictor: str | None = None) -> InputInformation:
    """L_input of every sentence of "valid" or "test", in the order of the corpus; see `InputLoss`."""
    return InputLoss(split, input_predictor).information(run)


def _noted(batches: Iterable[Batch], lines: list[int]) -> Iterator[Batch]:
    """The batches; their line ids go to `lines` as they pass."""
    for batch in batches:
        lines += batch.ids.tolist()
        yield batch


def _taken(found: InputInformation, rows: np.ndarray) -> InputInformation:
    """The sentences `rows`, in that order."""
    names = ("cross_entropy", "entropy", "revealed", "tokens")
    return replace(found, **{name: getattr(found, name)[rows] for name in names})
