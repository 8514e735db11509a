"""Synthetic A and B: restore a sentence whose words were replaced (A) and dropped (B).

    source = Synthetic(LineFiles("multi30k", "en", "en", valid="val"), replace=0.5, drop=0.0)      # A
    source.pairs("train")            # ("a dog frisbee across window grass", "a dog runs across the grass")
    source.rates("train")            # {"replaced_percent": 50.0…, "changed_percent": 49.9…, "dropped_…": 0.0}

"Synthetic A replaces 50% of tokens by randomly sampled tokens from the vocabulary. Synthetic B further drops
10% of tokens in the source sentences based on Synthetic A." What is not replaced can be copied, so the target
depends less on itself than in translation: C is low.
"""

import hashlib
import logging
import random
from bisect import bisect
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from mple.checks import UserError, one_of, seed, share
from mple.data.text import Pair, Source, changed, differing
from mple.language import Language, language

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Synthetic:
    """Pairs (corrupted sentence, sentence) from the target side of `text`.

    text: where the sentences come from; its source side is not used. For files of one language alone, name
        that language twice.
    replace: share of words replaced, 0 to 1.
    drop: share of the words that are then dropped, 0 to below 1; 0 for Synthetic A, 0.1 for Synthetic B.
        A sentence keeps at least one word.
    count: "fixed" replaces and drops as near to the share of each sentence as whole words allow (the fraction
        that is left decides by a draw, so the mean is the share), "bernoulli" decides for every word alone.
    draw: "uniform" over the vocabulary, the words of the training targets, or "unigram", by their frequency.
    may_repeat: whether a replacement may be the word that it replaces.
    seed: of all draws. A sentence is corrupted once: its source is a function of seed, split and line, so the
        same in every epoch.

    A split's realised rates are logged when it has been read to its end, and then recorded in the prepared
    corpus (`Corpus.realised`, corpus.json) and in the `metrics.json` of the runs on it.

    Raises:
        UserError: a setting outside its range; training targets with too few different words; and whatever
            `text` raises.

    Source: App. B. It leaves open the count, the draw, whether a replacement may repeat the word, and whether
    sentences are corrupted anew in every epoch. Differences: tokens are words here, the subword vocabulary is
    learned afterwards (of a language without spaces its characters); and the vocabulary is that of the
    training split.
    """

    text: Source
    replace: float | int = 0.5
    drop: float | int = 0.0
    count: str = "fixed"
    draw: str = "uniform"
    may_repeat: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        share("data.source.replace", self.replace)
        share("data.source.drop", self.drop)
        if self.drop == 1:
            raise UserError("data.source.drop must be below 1; got 1: no word would be left")
        one_of("data.source.count", self.count, ("fixed", "bernoulli"))
        one_of("data.source.draw", self.draw, ("uniform", "unigram"))
        seed("data.source.seed", self.seed)

    @property
    def src_lang(self) -> str:
        return self.text.tgt_lang

    @property
    def tgt_lang(self) -> str:
        return self.text.tgt_lang

    @property
    def _language(self) -> Language:
        return language(self.tgt_lang)

    def pairs(self, split: str) -> Generator[Pair, None, dict[str, float | int]]:
        """See `Source.pairs`. Returns `rates` of the split and its `words`, of all pairs that were read."""
        counts: Counter[str] = Counter()
        for line, target, source in self._corrupted(split, counts):
            yield line, source, target
        rates = _rates(counts)
        said = ", ".join(f"{name} {value:.2f}" for name, value in rates.items())
        log.info("synthetic %s: %s of %d words", split, said, counts["words"])
        return rates | {"words": counts["words"]}

    def rates(self, split: str) -> dict[str, float]:
        """What was done to a split: words replaced, words changed by that, and words dropped, in per cent.

        Raises:
            UserError: the split has no words.
        """
        counts: Counter[str] = Counter()
        for _ in self._corrupted(split, counts):
            pass
        if not counts["words"]:
            raise UserError(f"the {split} split must have words; got {counts['lines']} lines without any")
        return _rates(counts)

    def size(self, split: str) -> int | None:
        return self.text.size(split)

    def inputs(self) -> dict[str, str]:
        return self.text.inputs() | self._own_inputs()

    def changed(self, made: Mapping[str, str]) -> list[str]:
        """See `mple.data.text.changed`."""
        own = self._own_inputs()
        of_text = {key: value for key, value in made.items() if key not in own}
        return changed(self.text, of_text) + differing(own, {key: made[key] for key in own if key in made})

    def _own_inputs(self) -> dict[str, str]:
        settings = {name: str(getattr(self, name)) for name in ("count", "draw", "may_repeat", "seed")}
        settings |= {name: str(float(getattr(self, name))) for name in ("replace", "drop")}  # 0 is 0.0
        # A digest of what it makes of a fixed sentence, so that another version of the code is other data.
        made = [
            [word for _, word in self._corrupt(["a", "b", "c", "d"], random.Random(k), Counter(), _TABLE)]
            for k in range(100)
        ]
        digest = hashlib.sha256(str(made).encode()).hexdigest()
        return settings | {"synthetic": digest}

    def _corrupted(self, split: str, counts: Counter[str]) -> Iterator[tuple[int, str, str]]:
        one_of("split", split, ("train", "valid", "test"))
        for line, _, target in self.text.pairs(split):
            generator = random.Random(f"{self.seed} {split} {line}")
            pieces = self._language.spaced_words(target)
            kept = self._corrupt([word for _, word in pieces], generator, counts, self._table)
            counts["lines"] += 1
            yield line, target, "".join(pieces[place][0] + word for place, word in kept).strip()

    def _corrupt(
        self, words: list[str], generator: random.Random, counts: Counter[str], table: "_Table"
    ) -> list[tuple[int, str]]:
        """What is left of the words, each with its place among them."""
        source = list(words)
        replaced = self._positions(len(words), self.replace, generator)
        for position in replaced:
            source[position] = self._other(words[position], generator, table)
        counts["words"] += len(words)
        counts["replaced"] += len(replaced)
        counts["changed"] += sum(a != b for a, b in zip(source, words, strict=True))
        dropped = set(self._positions(len(words), self.drop, generator)[: max(len(words) - 1, 0)])
        counts["dropped"] += len(dropped)
        return [(position, word) for position, word in enumerate(source) if position not in dropped]

    def _positions(self, length: int, rate: float | int, generator: random.Random) -> list[int]:
        """Which words a rate strikes, in random order."""
        if self.count == "bernoulli":
            struck = [position for position in range(length) if generator.random() < rate]
            generator.shuffle(struck)
            return struck
        return generator.sample(range(length), int(rate * length + generator.random()))

    def _other(self, word: str, generator: random.Random, table: "_Table") -> str:
        while True:
            drawn = table.draw(generator, uniform=self.draw == "uniform")
            if self.may_repeat or drawn != word:
                return drawn

    @cached_property
    def _table(self) -> "_Table":
        """The vocabulary of the training targets; sorted, so that the order of the lines has no effect."""
        words_of = self._language.words
        frequency = Counter(word for _, _, target in self.text.pairs("train") for word in words_of(target))
        needed = 1 if self.may_repeat else 2
        if len(frequency) < needed:
            raise UserError(
                f"training targets must have at least {needed} different words to draw from "
                f"(data.may_repeat={self.may_repeat}); got {len(frequency)}"
            )
        return _Table.of(frequency)


@dataclass(frozen=True)
class _Table:
    words: tuple[str, ...]
    cumulative: tuple[int, ...]

    @staticmethod
    def of(frequency: Counter[str]) -> "_Table":
        words = tuple(sorted(frequency))
        return _Table(words, tuple(accumulate(frequency[word] for word in words)))

    def draw(self, generator: random.Random, uniform: bool) -> str:
        if uniform:
            return self.words[int(generator.random() * len(self.words))]
        return self.words[bisect(self.cumulative, generator.random() * self.cumulative[-1])]


_TABLE = _Table.of(Counter({"a": 1, "b": 2, "c": 3, "d": 4}))


def _rates(counts: Counter[str]) -> dict[str, float]:
    return {
        f"{n}_percent": 100 * counts[n] / max(counts["words"], 1) for n in ("replaced", "changed", "dropped")
    }
