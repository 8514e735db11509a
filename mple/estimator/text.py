"""What is measured on text: BLEU two ways, the share of valid outputs, length and repetition."""

from dataclasses import dataclass, field

from mple.bleu import BleuScorer
from mple.data.grammar import Grammar
from mple.estimator.diagnostics import repetition_rate_percent
from mple.language import language


@dataclass(frozen=True)
class TextScore:
    """Metrics of a split's outputs; references are tokenised once per split.

    tgt_lang: language code of the target. dash_splits: see `BleuScorer`. grammar: where the true distribution
    is known, `valid_rate_percent` is the share of outputs that have a probability above 0 under it.

    `repetition_rate_percent` is the share of words equal to the word before; `length_ratio` is words of the
    outputs over words of the references. Words are those of the target language (`mple.language`).
    """

    tgt_lang: str
    grammar: Grammar | None = None
    dash_splits: bool = False
    _scorers: dict[str, BleuScorer] = field(default_factory=dict, init=False, repr=False)

    def scorer(self, split: str, references: list[str]) -> BleuScorer:
        if split not in self._scorers:
            self._scorers[split] = BleuScorer(references, self.tgt_lang, self.dash_splits)
        return self._scorers[split]

    def __call__(
        self, split: str, sources: list[str], references: list[str], outputs: list[str]
    ) -> dict[str, float]:
        metrics = dict(self.scorer(split, references).score(outputs))
        words_of = language(self.tgt_lang).words
        count = sum(len(words_of(output)) for output in outputs)
        expected = sum(len(words_of(reference)) for reference in references)
        metrics["repetition_rate_percent"] = repetition_rate_percent(map(words_of, outputs))
        metrics["length_ratio"] = count / max(expected, 1)
        if self.grammar is not None:
            metrics["valid_rate_percent"] = self.grammar.valid_rate(sources, outputs)
        return metrics
