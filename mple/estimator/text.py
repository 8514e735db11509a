"""What is measured on text: BLEU two ways, the share of valid outputs, length and repetition."""

from dataclasses import dataclass, field
from itertools import pairwise

from mple.bleu import BleuScorer
from mple.data.grammar import Grammar


@dataclass(frozen=True)
class TextScore:
    """Metrics of a split's outputs; references are tokenised once per split.

    tgt_lang: language code of the target. dash_splits: see `BleuScorer`. grammar: where the true distribution
    is known, `valid_rate_percent` is the share of outputs that have a probability above 0 under it.

    `repetition_rate_percent` is the share of words equal to the word before; `length_ratio` is words of the
    outputs over words of the references.
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
        found = dict(self.scorer(split, references).score(outputs))
        words = [output.split() for output in outputs]
        num_words = sum(map(len, words))
        repeated = sum(a == b for sentence in words for a, b in pairwise(sentence))
        found["repetition_rate_percent"] = 100 * repeated / max(num_words, 1)
        found["length_ratio"] = num_words / max(sum(len(reference.split()) for reference in references), 1)
        if self.grammar is not None:
            found["valid_rate_percent"] = self.grammar.valid_rate(sources, outputs)
        return found
