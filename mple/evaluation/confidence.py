"""Decoding confidence I and BLEU of Default Decoding and of Input Sampling, side by side (Fig. 7).

python train.py +experiment=input_predictor of=RUN vanilla=NATRUN
python evaluate.py run=RUN estimator=confidence
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import ClassVar

import numpy as np
from torch import Tensor

from mple import checks
from mple.checks import UserError
from mple.decoding.argmax import Argmax
from mple.decoding.input_sampling import InputSampling
from mple.estimator.confidence import Confidence as Found
from mple.estimator.confidence import decode_default, decode_sampled
from mple.estimator.paired_bleu import bleu_difference, counts
from mple.evaluation.finished import Finished
from mple.language import language
from mple.model.nat import NAT


@dataclass(frozen=True)
class Confidence:
    """I of what the run itself decodes, and its BLEU: keys begin with `default_` and `sampled_`.

    `sampling_gain_bleu` is sacreBLEU of input sampling less that of default decoding, with an interval over
    sentences (paired bootstrap).

    A run whose proxy input hints nothing has `default_` alone: its log P(Z* | X) is 0, and there is nothing
    to sample.

    decoding: Input Sampling; its `input_predictor` and `seed` are those that are measured.
    split: "valid" or "test".
    """

    decodes: ClassVar[bool] = False

    decoding: InputSampling = field(default_factory=InputSampling)
    split: str = "test"

    def __post_init__(self) -> None:
        checks.one_of("estimator.split", self.split, ("valid", "test"))
        if not isinstance(self.decoding, InputSampling):
            raise UserError(f"estimator.decoding must be input_sampling; got {type(self.decoding).__name__}")

    def __call__(self, run: Finished) -> dict[str, float]:
        proxy = run.job.proxy
        if proxy is None:
            raise UserError(f"decoding confidence is of a NAT; {run.name} is autoregressive")
        if proxy.input.law == "none":
            run.note("Z is never anything but Z*: log P(Z* | X) is 0 by definition, and nothing is sampled")
            return self._of("default", run, Argmax(), decode_default)[0]
        distribution = run.input_distribution(self.decoding.input_predictor)
        sampling = self.decoding.prepared(distribution=distribution)
        default, of_default = self._of(
            "default", run, Argmax(), lambda nat, src: decode_default(nat, src, distribution)
        )
        sampled, of_sampled = self._of(
            "sampled", run, sampling, lambda nat, src: decode_sampled(nat, src, sampling)
        )
        gain = bleu_difference(of_sampled, of_default).metrics("sampling_gain", "bleu")
        return default | sampled | gain

    def _of(
        self, way: str, run: Finished, decoding: object, measure: Callable[[NAT, Tensor], Found]
    ) -> tuple[dict[str, float], np.ndarray]:
        """Metrics, and the counts of each sentence that BLEU sums up."""
        model: NAT = run.module.model  # type: ignore[assignment]
        found = reduce(add, (measure(model, batch.src_tokens) for batch in run.batches(self.split)))
        _, sources, references = run.data.text(self.split)
        outputs = run.translate(self.split, decoding)
        bleu = run.module.score(self.split, sources, references, outputs)["tokenised_bleu"]
        metrics = found.metrics() | {"tokenised_bleu": bleu}
        named = {f"{way}_{name}": value for name, value in metrics.items()}
        tokenize = language(run.job.source.tgt_lang).bleu_tokenizer
        return named, counts(outputs, references, tokenize)
