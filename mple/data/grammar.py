"""The embedded data set: a probabilistic synchronous grammar whose information measures are exact.

    grammar = Grammar(order=0.5, formality=0.5, tense=0.5, separable=0.5)
    for source, target in grammar.sample(30_000, seed=1, split="train"):
        ...                                       # "you saw the book today", "heute hast du das Buch gesehen"
    grammar.targets("you saw the book today")     # every target and its probability
    grammar.information("you saw the book today").total_correlation      # C of this source, bits
    grammar.corpus_information(sources).metrics()                        # C and the optimal L_NAT of a corpus
    grammar.valid_rate(sources, outputs)          # per cent of outputs that are a target of their source

English-like to German-like, words separated by spaces, 4 to 14 words on both sides. A source is

    subject verb object [place] [time]            the little child helped a new teacher at home today

and its target agrees in person, gender and case. Four *modes* leave the target open. Each is drawn once,
independently of the others, in sentences that have the construction, and each changes several words at once,
which is what a model that predicts all words independently cannot do:

    mode        needs                first variant                    second variant
    order       an adverbial         ich sehe heute das Buch          heute sehe ich das Buch
    formality   the subject "you"    Sie sehen das Buch               du siehst das Buch
    tense       a past verb          ich habe das Buch gesehen        ich sah das Buch
    separable   help, watch, follow  ich stehe dem Mann bei           ich unterstütze den Mann

`tense` and `separable` also change the length (not in all combinations), the other two do not. A source has
0 to 4 of these choices, so 1 to 16 targets: few enough to enumerate, and every measure here is such a sum.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from hashlib import blake2b
from struct import unpack
from typing import NamedTuple

from mple.checks import UserError, number, one_of, whole

SPLITS = ("train", "valid", "test")

_NOMINATIVE, _ACCUSATIVE, _DATIVE = range(3)
_FIRST, _SECOND, _THIRD, _PLURAL = range(4)  # persons; the formal "Sie" takes the plural's endings


class _NounPhrase(NamedTuple):
    english: str
    german: tuple[str, ...]  # by case


class _Subject(NamedTuple):
    english: str
    takes_s: bool
    # (words, person), formal and informal; the same object twice where the two do not differ
    variants: tuple[tuple[str, int], tuple[str, int]]


class _Conjugation(NamedTuple):
    present: tuple[str, ...]  # by person
    preterite: tuple[str, ...]
    perfect: tuple[str, ...]  # the auxiliary
    participle: str
    particle: str
    object_case: int


class _Verb(NamedTuple):
    base: str
    third: str
    past: str
    objects: dict[str, _NounPhrase]
    # separable and synonym; the same object twice where there is one verb only
    variants: tuple[_Conjugation, _Conjugation]


class _Sentence(NamedTuple):
    """A derivation: all that the source says. The source has exactly one, so parsing is a bijection."""

    subject: _Subject
    verb: _Verb
    is_past: bool
    object: _NounPhrase
    adverbials: str  # English; its German phrases are in _ADVERBIALS

    def english(self) -> str:
        verb = self.verb
        form = verb.past if self.is_past else verb.third if self.subject.takes_s else verb.base
        words = f"{self.subject.english} {form} {self.object.english}"
        return f"{words} {self.adverbials}" if self.adverbials else words

    def open_modes(self) -> tuple[bool, bool, bool, bool]:
        """Which of order, formality, tense and separable this source leaves open."""
        formal, informal = self.subject.variants
        separable, synonym = self.verb.variants
        return bool(self.adverbials), formal is not informal, self.is_past, separable is not synonym

    def german(self, order: int, formality: int, tense: int, separable: int) -> str:
        """The target under one choice of variants, 0 or 1 each; modes that are not open change nothing."""
        subject, person = self.subject.variants[formality]
        verb = self.verb.variants[separable]
        if self.is_past and not tense:
            finite, last = verb.perfect[person], verb.participle
        else:
            finite, last = (verb.preterite if self.is_past else verb.present)[person], verb.particle
        first, second = _ADVERBIALS[self.adverbials]
        if order and first:  # the finite verb stays second, so the subject follows it
            words = (first, finite, subject, second, self.object.german[verb.object_case], last)
        else:
            words = (subject, finite, first, second, self.object.german[verb.object_case], last)
        return " ".join(filter(None, words))


# --- the lexicon ------------------------------------------------------------------------------------------

_ARTICLES = {  # by case, then by gender: masculine, feminine, neuter
    "the": ("der die das", "den die das", "dem der dem"),
    "a": ("ein eine ein", "einen eine ein", "einem einer einem"),
}
_ENDINGS = {
    "the": ("e e e", "en e e", "en en en"),
    "a": ("er e es", "en e es", "en en en"),
}
_ADJECTIVES = {"good": "gut", "little": "klein", "new": "neu"}
_PERSONS = (
    {"man": "Mann", "teacher": "Lehrer"},
    {"woman": "Frau", "neighbour": "Nachbarin"},
    {"child": "Kind", "girl": "Mädchen"},
)
_THINGS = (
    {"letter": "Brief", "novel": "Roman"},
    {"card": "Karte", "story": "Geschichte"},
    {"book": "Buch", "poem": "Gedicht"},
)


def _noun_phrases(nouns: tuple[dict[str, str], ...], adjectives: dict[str, str]) -> list[_NounPhrase]:
    """Every noun with every article, after every adjective."""
    phrases = []
    for article, adjective in itertools.product(_ARTICLES, adjectives):
        for gender, noun in ((gender, noun) for gender, group in enumerate(nouns) for noun in group):
            german = [_ARTICLES[article][case].split()[gender] for case in range(3)]
            if adjective:
                endings = [_ENDINGS[article][case].split()[gender] for case in range(3)]
                german = [f"{g} {adjectives[adjective]}{e}" for g, e in zip(german, endings, strict=True)]
            english = " ".join(filter(None, (article, adjective, noun)))
            phrases.append(_NounPhrase(english, tuple(f"{g} {nouns[gender][noun]}" for g in german)))
    return phrases


_BARE_PERSONS = _noun_phrases(_PERSONS, {"": ""})
_PERSON_PHRASES = _BARE_PERSONS + _noun_phrases(_PERSONS, _ADJECTIVES)
_THING_PHRASES = _noun_phrases(_THINGS, {"": ""}) + _noun_phrases(_THINGS, _ADJECTIVES)


def _subject(english: str, german: str, person: int) -> _Subject:
    words = (german, person)
    return _Subject(english, person == _THIRD, (words, words))


_YOU = [_Subject("you", False, (("Sie", _PLURAL), ("du", _SECOND)))]
_PRONOUNS = [
    _subject("i", "ich", _FIRST),
    _subject("he", "er", _THIRD),
    _subject("she", "sie", _THIRD),
    _subject("we", "wir", _PLURAL),
    _subject("they", "sie", _PLURAL),
]
_SINGLES = [_subject(p.english, p.german[_NOMINATIVE], _THIRD) for p in _PERSON_PHRASES]
_PAIRS = [
    _subject(f"{a.english} and {b.english}", f"{a.german[_NOMINATIVE]} und {b.german[_NOMINATIVE]}", _PLURAL)
    for a, b in itertools.permutations(_BARE_PERSONS, 2)
    if a.english.split()[-1] != b.english.split()[-1]
]
_SUBJECT_KINDS = [_YOU] * 6 + [_PRONOUNS] * 4 + [_SINGLES] * 7 + [_PAIRS] * 3  # out of 20 sentences
_SUBJECTS = {s.english: s for s in _YOU + _PRONOUNS + _SINGLES + _PAIRS}

_HABEN = "habe hast hat haben"
_SEIN = "bin bist ist sind"


def _conjugation(
    present: str,
    preterite: str,
    participle: str,
    particle: str = "",
    auxiliary: str = _HABEN,
    object_case: int = _ACCUSATIVE,
) -> _Conjugation:
    return _Conjugation(
        tuple(present.split()),
        tuple(preterite.split()),
        tuple(auxiliary.split()),
        participle,
        particle,
        object_case,
    )


def _verb(english: str, *german: _Conjugation) -> _Verb:
    objects = _THING_PHRASES if len(german) == 1 else _PERSON_PHRASES
    base, third, past = english.split()
    return _Verb(base, third, past, {o.english: o for o in objects}, (german[0], german[-1]))


# The separable verbs govern the dative and their synonyms the accusative. So this choice too changes several
# words in every tense: in the perfect, where the particle joins the participle, the article still shows it.
_VERBS = [
    _verb(
        "write writes wrote",
        _conjugation(
            "schreibe schreibst schreibt schreiben", "schrieb schriebst schrieb schrieben", "geschrieben"
        ),
    ),
    _verb(
        "buy buys bought",
        _conjugation("kaufe kaufst kauft kaufen", "kaufte kauftest kaufte kauften", "gekauft"),
    ),
    _verb("see sees saw", _conjugation("sehe siehst sieht sehen", "sah sahst sah sahen", "gesehen")),
    _verb(
        "watch watches watched",
        _conjugation(
            "sehe siehst sieht sehen", "sah sahst sah sahen", "zugesehen", "zu", object_case=_DATIVE
        ),
        _conjugation(
            "beobachte beobachtest beobachtet beobachten",
            "beobachtete beobachtetest beobachtete beobachteten",
            "beobachtet",
        ),
    ),
    _verb(
        "help helps helped",
        _conjugation(
            "stehe stehst steht stehen",
            "stand standst stand standen",
            "beigestanden",
            "bei",
            object_case=_DATIVE,
        ),
        _conjugation(
            "unterstütze unterstützt unterstützt unterstützen",
            "unterstützte unterstütztest unterstützte unterstützten",
            "unterstützt",
        ),
    ),
    _verb(
        "follow follows followed",
        _conjugation(
            "laufe läufst läuft laufen", "lief liefst lief liefen", "nachgelaufen", "nach", _SEIN, _DATIVE
        ),
        _conjugation(
            "verfolge verfolgst verfolgt verfolgen",
            "verfolgte verfolgtest verfolgte verfolgten",
            "verfolgt",
        ),
    ),
]
_PRESENT_FORMS = {form: verb for verb in _VERBS for form in (verb.base, verb.third)}
_PAST_FORMS = {verb.past: verb for verb in _VERBS}

_TIMES = {"today": "heute", "often": "oft", "at night": "nachts", "this evening": "am Abend"}
_PLACES = {"here": "hier", "outside": "draußen", "at home": "daheim", "in the garden": "im Garten"}


def _adverbials() -> dict[str, tuple[str, str]]:
    """English place and time -> German time and place, the one that can be fronted first."""
    table = {"": ("", "")}
    table |= {time: (german, "") for time, german in _TIMES.items()}
    table |= {place: (german, "") for place, german in _PLACES.items()}
    for (place, where), (time, when) in itertools.product(_PLACES.items(), _TIMES.items()):
        table[f"{place} {time}"] = (when, where)
    return table


_ADVERBIALS = _adverbials()
# Time and place are independent of each other, each there in half of the sentences.
_ADVERBIAL_DRAWS = [
    " ".join(filter(None, phrases))
    for phrases in itertools.product([""] * 4 + list(_PLACES), [""] * 4 + list(_TIMES))
]
_OBJECTS = [list(verb.objects.values()) for verb in _VERBS]

NUM_SOURCES = len(_SUBJECTS) * sum(map(len, _OBJECTS)) * 2 * len(_ADVERBIALS)
"""How many different source sentences there are."""


def _vocabularies() -> tuple[tuple[str, ...], tuple[str, ...]]:
    english = [*_SUBJECTS, *_PRESENT_FORMS, *_PAST_FORMS, *_ADVERBIALS]
    german = [words for subject in _SUBJECTS.values() for words, _ in subject.variants]
    german += [phrase for phrases in _ADVERBIALS.values() for phrase in phrases]
    for verb in _VERBS:
        english += verb.objects
        for form in verb.variants:
            german += [*form.present, *form.preterite, *form.perfect, form.participle, form.particle]
            german += [phrase.german[form.object_case] for phrase in verb.objects.values()]
    return tuple(sorted(set(" ".join(english).split()))), tuple(sorted(set(" ".join(german).split())))


SRC_WORDS, TGT_WORDS = _vocabularies()


# --- from a source to its derivation, and from a random number to one -------------------------------------


def _parse(source: str) -> _Sentence:
    words = source.split(" ")
    for at, word in enumerate(words):
        is_past = word in _PAST_FORMS
        verb = _PAST_FORMS.get(word) or _PRESENT_FORMS.get(word)
        subject = _SUBJECTS.get(" ".join(words[:at]))
        if verb is None or subject is None:
            continue
        for end in (at + 3, at + 4):  # an article and a noun, perhaps with an adjective between
            phrase = verb.objects.get(" ".join(words[at + 1 : end]))
            adverbials = " ".join(words[end:])
            if phrase is not None and adverbials in _ADVERBIALS:
                sentence = _Sentence(subject, verb, is_past, phrase, adverbials)
                if sentence.english() == source:  # else the verb does not agree with its subject
                    return sentence
    raise UserError(
        "a source of the grammar must read 'subject verb object [place] [time]' in the grammar's words "
        f"('you saw the book today'); got {source!r}"
    )


def _draw(digits: int) -> _Sentence:
    """A derivation from a uniform 64-bit integer, read as digits in a mixed base."""
    digits, kind = divmod(digits, len(_SUBJECT_KINDS))
    subjects = _SUBJECT_KINDS[kind]
    digits, subject = divmod(digits, len(subjects))
    digits, verb = divmod(digits, len(_VERBS))
    objects = _OBJECTS[verb]
    digits, noun = divmod(digits, len(objects))
    digits, adverbials = divmod(digits, len(_ADVERBIAL_DRAWS))
    return _Sentence(
        subjects[subject], _VERBS[verb], digits % 2 == 1, objects[noun], _ADVERBIAL_DRAWS[adverbials]
    )


def split_of(source: str) -> str:
    """The only split in which this source can occur: train (90 per cent of sources), valid or test (5 each).

    A hash of the text decides: no two splits share a source, and nothing has to be remembered for that.
    """
    bucket = int.from_bytes(blake2b(source.encode(), digest_size=4).digest(), "little") % 20
    return "valid" if bucket == 0 else "test" if bucket == 1 else "train"


# --- information ------------------------------------------------------------------------------------------


def _entropy(probabilities: Iterable[float]) -> float:
    """In bits, of probabilities that are all positive."""
    return math.fsum(p * math.log2(1 / p) for p in probabilities)


def _marginals(group: dict[str, float]) -> list[dict[str, float]]:
    """The distribution of the word at each position, given targets of one length and their probabilities."""
    total = math.fsum(group.values())
    marginals: list[dict[str, float]] = [defaultdict(float) for _ in range(next(iter(group)).count(" ") + 1)]
    for target, p in group.items():
        for marginal, word in zip(marginals, target.split(" "), strict=True):
            marginal[word] += p / total
    return [dict(marginal) for marginal in marginals]


@dataclass(frozen=True)
class Information:
    """Exact information measures of one source X, in bits. L is the target's length in words.

    A NAT predicts L first and then every y_i independently of the others, so the measures are given L and the
    averages are over P(L|X). The best such model has KL divergence `total_correlation` from the data.

    Source: Theorem 1. Difference: it takes the length M as given, where here
    C(X) = Σ_L P(L|X) [Σ_i H(y_i|X,L) − H(Y|X,L)]. So a choice that the length alone gives away, such as the
    tense of "i saw the book", adds nothing to C, and C need not grow with every single mode probability.
    """

    lengths: dict[int, float]
    """P(L|X)."""
    joint_entropies: dict[int, float]
    """H(Y|X, L=l) by l."""
    token_entropies: dict[int, tuple[float, ...]]
    """H(y_i|X, L=l) by l, then by position."""

    @property
    def tokens(self) -> float:
        """Expected length."""
        return math.fsum(p * length for length, p in self.lengths.items())

    @property
    def length_entropy(self) -> float:
        """H(L|X)."""
        return _entropy(self.lengths.values())

    @property
    def joint_entropy(self) -> float:
        """H(Y|X,L): the loss of a perfect autoregressive model that is told the length."""
        return math.fsum(p * self.joint_entropies[length] for length, p in self.lengths.items())

    @property
    def marginal_entropy(self) -> float:
        """Σ_i H(y_i|X,L): L_NAT of the best NAT, summed over the sentence."""
        return math.fsum(p * math.fsum(self.token_entropies[length]) for length, p in self.lengths.items())

    @property
    def total_correlation(self) -> float:
        """C(X), at least 0 (up to rounding)."""
        return self.marginal_entropy - self.joint_entropy


@dataclass(frozen=True)
class CorpusInformation:
    """`Information` summed over the sources of a corpus (bits, words); `metrics` divides, once."""

    sentences: int
    tokens: float
    length_entropy: float
    joint_entropy: float
    marginal_entropy: float

    @property
    def total_correlation(self) -> float:
        return self.marginal_entropy - self.joint_entropy

    def metrics(self) -> dict[str, float]:
        """Averages by name; a per-token one is Σ bits / Σ expected words, as a corpus' loss is averaged.

        `nat_loss` is what L_NAT of plain MLE converges to, `joint_entropy` what the loss of an autoregressive
        model converges to (given the length), and `total_correlation`, C, is their difference. The tokens are
        words: for a corpus cut into subwords these numbers do not hold.
        """
        bits = {
            "total_correlation": self.total_correlation,
            "nat_loss": self.marginal_entropy,
            "joint_entropy": self.joint_entropy,
        }
        return {
            "tokens_per_sentence": self.tokens / self.sentences,
            "length_entropy_bits_per_sentence": self.length_entropy / self.sentences,
            **{f"{name}_bits_per_sentence": total / self.sentences for name, total in bits.items()},
            **{f"{name}_bits_per_token": total / self.tokens for name, total in bits.items()},
        }


@dataclass(frozen=True)
class Grammar:
    """Samples pairs, and says everything that can be known about the targets of a source.

    Each field is the probability of that mode's second variant (see the table above): 0 makes the mode
    deterministic, 0.5 makes it uniform. The sources and both vocabularies do not depend on them.

    Raises:
        UserError: a probability is not a number from 0 to 0.5.
    """

    order: float | int = 0.5
    formality: float | int = 0.5
    tense: float | int = 0.5
    separable: float | int = 0.5

    def __post_init__(self) -> None:
        for mode in fields(self):
            number(f"data.modes.{mode.name}", getattr(self, mode.name), 0.0, 0.5)

    def sample(
        self, count: int, seed: int, split: str = "train", start: int = 0
    ) -> Iterator[tuple[str, str]]:
        """Sentence pairs `start` to `start + count - 1` of a split, one at a time.

        Pair i is a function of the seed, the split and i alone. Within a split a source may come again, with
        the same or another target; sources of different splits never coincide, whatever the seeds.

        Raises:
            UserError: `count`, `seed` or `start` is negative, or the split is unknown.
        """
        whole("count", count, 0)
        whole("seed", seed, 0)
        whole("start", start, 0)
        one_of("split", split, SPLITS)
        return self._sample(range(start, start + count), seed, split)

    def _sample(self, indices: range, seed: int, split: str) -> Iterator[tuple[str, str]]:
        below = [round(p * 2**32) for p in (self.order, self.formality, self.tense, self.separable)]
        for index in indices:
            for attempt in itertools.count():  # until the source falls into the split
                bits = blake2b(f"{seed} {index} {attempt}".encode(), digest_size=24).digest()
                draw, order, formality, tense, separable = unpack("<QIIII", bits)
                sentence = _draw(draw)
                source = sentence.english()
                if split_of(source) == split:
                    break
            modes = (order < below[0], formality < below[1], tense < below[2], separable < below[3])
            yield source, sentence.german(*modes)

    def targets(self, source: str) -> dict[str, float]:
        """Every target of `source` that has a positive probability, with that probability. They sum to 1.

        Raises:
            UserError: the grammar does not generate `source` (so does every method below that takes one).
        """
        sentence = _parse(source)
        probabilities = (self.order, self.formality, self.tense, self.separable)
        choices = [
            ((0, 1 - p), (1, p)) if is_open and p > 0 else ((0, 1.0),)
            for is_open, p in zip(sentence.open_modes(), probabilities, strict=True)
        ]
        return {
            sentence.german(o, f, t, s): p_o * p_f * p_t * p_s
            for (o, p_o), (f, p_f), (t, p_t), (s, p_s) in itertools.product(*choices)
        }

    def in_support(self, source: str, target: str) -> bool:
        """Whether `target` is one of the targets of `source`, word for word."""
        return target in self.targets(source)

    def most_likely(self, source: str) -> str:
        """The most probable target: the first variant of every mode, which also wins the ties at 0.5."""
        return _parse(source).german(0, 0, 0, 0)

    def marginals(self, source: str, length: int) -> list[dict[str, float]]:
        """P(y_i|X, L=length) at each position, word -> probability: what the best NAT predicts.

        Raises:
            UserError: no target of `source` has this length.
        """
        by_length = self._by_length(source)
        if length not in by_length:
            lengths = ", ".join(map(str, sorted(by_length)))
            raise UserError(f"length (words) must be one of {lengths} for {source!r}; got {length!r}")
        return _marginals(by_length[length])

    def information(self, source: str) -> Information:
        """The exact measures of one source, by enumeration."""
        lengths, joint, token = {}, {}, {}
        for length, group in self._by_length(source).items():
            lengths[length] = math.fsum(group.values())
            joint[length] = _entropy(p / lengths[length] for p in group.values())
            token[length] = tuple(_entropy(marginal.values()) for marginal in _marginals(group))
        return Information(lengths, joint, token)

    def corpus_information(self, sources: Iterable[str]) -> CorpusInformation:
        """The exact measures of a corpus, each source counted as often as it occurs.

        Raises:
            UserError: there are no sources.
        """
        sentences, tokens, length_entropy, joint_entropy, marginal_entropy = 0, 0.0, 0.0, 0.0, 0.0
        for source in sources:
            information = self.information(source)
            sentences += 1
            tokens += information.tokens
            length_entropy += information.length_entropy
            joint_entropy += information.joint_entropy
            marginal_entropy += information.marginal_entropy
        if not sentences:
            raise UserError("sources must hold at least one sentence; got none")
        return CorpusInformation(sentences, tokens, length_entropy, joint_entropy, marginal_entropy)

    def valid_rate(self, sources: Sequence[str], outputs: Sequence[str]) -> float:
        """Per cent of `outputs` that are in the support of their source.

        Raises:
            UserError: different numbers of sources and outputs, or none.
        """
        if len(sources) != len(outputs) or not sources:
            raise UserError(
                f"outputs must be as many as the sources, and at least one; got {len(outputs)} outputs "
                f"for {len(sources)} sources"
            )
        return 100 * sum(map(self.in_support, sources, outputs)) / len(sources)

    def _by_length(self, source: str) -> dict[int, dict[str, float]]:
        """The targets of `source`, in groups of equal length (words)."""
        groups: dict[int, dict[str, float]] = defaultdict(dict)
        for target, p in self.targets(source).items():
            groups[target.count(" ") + 1][target] = p
        return dict(groups)
