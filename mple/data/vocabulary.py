"""Vocabularies: text to ids and back.

    src_vocabulary, tgt_vocabulary = BPE(size=8000, joint=True).learn(pairs, "de", "en")
    ids = tgt_vocabulary.encode(["a man in a hat"])[0]          # content tokens: no bos, no eos
    tgt_vocabulary.decode(ids)                                  # "a man in a hat"

`BPE` and `Words` say how to learn; `SentencePieceVocabulary` and `WordVocabulary` are what comes out. The
special symbols have the ids of `mple.types` in both, and text can never produce them: a literal "<mask>" is
read as the characters that it is made of.
"""

import hashlib
import io
import logging
import os
import random
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np
import sentencepiece
from torch import Tensor

from mple import files
from mple.checks import UserError, number, one_of, whole
from mple.data.stage import verify
from mple.types import SPECIAL_TOKENS, UNK

Ids = Sequence[int] | np.ndarray | Tensor
"""One sequence of ids; a tensor must be on the CPU."""

UNKNOWN = "⁇"
"""What `<unk>` looks like in decoded text."""

_NUM_SPECIAL = len(SPECIAL_TOKENS)
_MOST = 100_000_000  # entries, or pairs that they are learned from
_SPACE = "␠"  # stands for a space of the original while the text is segmented

_RESERVED = {"\x1f": "\ue002", "▅": "\ue003"}
"""Characters that SentencePiece keeps for itself (it does not learn from a line with one) -> what stands for
them in its text."""
_TO_SENTENCEPIECE = str.maketrans(_RESERVED)
_FROM_SENTENCEPIECE = str.maketrans({stand_in: c for c, stand_in in _RESERVED.items()})
_MAX_BYTES = 4192  # SentencePiece does not learn from longer lines


class Vocabulary(ABC):
    """Maps text to content ids and back. `fingerprint` (sha256) is equal when two vocabularies are."""

    kind: str

    @abstractmethod
    def __len__(self) -> int:
        """Number of ids, the special symbols included."""

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Content ids of every text, of type `dtype`; without bos and eos."""

    @abstractmethod
    def decode_all(self, ids: Sequence[Ids]) -> list[str]:
        """Texts of many id sequences: special symbols are left out, `<unk>` becomes ⁇."""

    @abstractmethod
    def pieces(self, ids: Ids) -> list[str]:
        """The symbol behind every id, special ones included."""

    @abstractmethod
    def starts_word(self) -> np.ndarray:
        """Whether each id begins a word; a special symbol does not, but for `<unk>` among whole words."""

    @abstractmethod
    def unknown(self, text: str) -> list[str]:
        """What of a text becomes `<unk>`: characters, or whole words of a vocabulary of words."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write into an existing folder what `load_vocabulary` reads."""

    @property
    @abstractmethod
    def fingerprint(self) -> str: ...

    @property
    def dtype(self) -> np.dtype:
        """The smallest of uint16 and int32 that holds every id."""
        return np.dtype(np.uint16 if len(self) <= 1 << 16 else np.int32)

    def decode(self, ids: Ids) -> str:
        """Text of one id sequence, see `decode_all`."""
        return self.decode_all([ids])[0]


def _named(token: str) -> str:
    """A name that no text contains: SentencePiece cuts the sample wherever a special symbol's name occurs."""
    return f"\ue000{token}\ue001"


class SentencePieceVocabulary(Vocabulary):
    """Byte pair encoding by SentencePiece without normalisation: decode(encode(text)) is the text itself.

    Exceptions: characters that the training sample lacks become ⁇ (never with byte fallback), "▁" (U+2581),
    SentencePiece's own sign, comes back as a space, and U+E002 and U+E003 stand for U+001F and "▅" (U+2585).
    `segment="jieba"` splits Chinese into words first; decoding joins them again without spaces, and keeps the
    spaces of the original.

    Raises:
        UserError: a model that was learned elsewhere and lacks a special symbol.
    """

    kind = "bpe"

    def __init__(self, model: bytes, segment: str | None = None):
        self.model, self.segment = model, segment
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        pieces = [self._processor.id_to_piece(i) for i in range(_NUM_SPECIAL)]
        if missing := [t for t, piece in zip(SPECIAL_TOKENS, pieces, strict=True) if piece != _named(t)]:
            raise UserError(
                f"a SentencePiece vocabulary must begin with the special symbols "
                f"{', '.join(SPECIAL_TOKENS)}, as data.vocabulary makes it; it lacks {', '.join(missing)}"
            )

    def __len__(self) -> int:
        return len(self._processor)

    def __reduce__(self) -> tuple[type, tuple[bytes, str | None]]:
        return SentencePieceVocabulary, (self.model, self.segment)

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        texts = [segmented(text, self.segment).translate(_TO_SENTENCEPIECE) for text in texts]
        # Threads pay off from about a thousand sentences on.
        threads, dtype = min(len(os.sched_getaffinity(0)), len(texts) // 1000 + 1), self.dtype
        return [np.array(ids, dtype) for ids in self._processor.encode(texts, num_threads=threads)]

    def decode_all(self, ids: Sequence[Ids]) -> list[str]:
        texts = self._processor.decode([_content(sequence).tolist() for sequence in ids])
        return [joined(text, self.segment).translate(_FROM_SENTENCEPIECE) for text in texts]

    def pieces(self, ids: Ids) -> list[str]:
        pieces = (_piece(i, self._processor.id_to_piece) for i in np.asarray(ids).tolist())
        return [piece.translate(_FROM_SENTENCEPIECE) for piece in pieces]

    def starts_word(self) -> np.ndarray:
        return np.array([piece.startswith("▁") for piece in self.pieces(range(len(self)))])

    def unknown(self, text: str) -> list[str]:
        is_unknown = {c: UNK in self.encode([c])[0] for c in set(text)}
        return [c for c in text if is_unknown[c]]

    @cached_property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.model + str(self.segment).encode()).hexdigest()

    def save(self, folder: Path) -> None:
        (folder / "sentencepiece.model").write_bytes(self.model)
        _write_head(folder, kind=self.kind, size=len(self), segment=self.segment)


class WordVocabulary(Vocabulary):
    """Words separated by white space, most frequent first. Decoding puts one space between two words."""

    kind = "word"

    def __init__(self, words: Sequence[str]):
        self.words = tuple(words)
        self._ids = {word: i for i, word in enumerate(self.words, _NUM_SPECIAL)}

    def __len__(self) -> int:
        return _NUM_SPECIAL + len(self.words)

    def __reduce__(self) -> tuple[type, tuple[tuple[str, ...]]]:
        return WordVocabulary, (self.words,)

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        ids, dtype = self._ids, self.dtype
        return [np.array([ids.get(word, UNK) for word in text.split()], dtype) for text in texts]

    def decode_all(self, ids: Sequence[Ids]) -> list[str]:
        return [" ".join(map(self._surface, _content(sequence).tolist())) for sequence in ids]

    def _surface(self, i: int) -> str:
        return UNKNOWN if i == UNK else self.words[i - _NUM_SPECIAL]

    def pieces(self, ids: Ids) -> list[str]:
        return [_piece(i, self._surface) for i in np.asarray(ids).tolist()]

    def starts_word(self) -> np.ndarray:
        ids = np.arange(len(self))
        return (ids >= _NUM_SPECIAL) | (ids == UNK)

    def unknown(self, text: str) -> list[str]:
        return [word for word in text.split() if word not in self._ids]

    @cached_property
    def fingerprint(self) -> str:
        return hashlib.sha256("\n".join(self.words).encode()).hexdigest()

    def save(self, folder: Path) -> None:
        _write_head(folder, kind=self.kind, size=len(self), words=self.words)


def load_vocabulary(folder: Path) -> Vocabulary:
    """What `save` wrote.

    Raises:
        UserError: there is no vocabulary in the folder, or a damaged one.
    """
    path = folder / "vocabulary.json"
    if not path.exists():
        raise UserError(f"{folder} must hold a vocabulary (vocabulary.json); got none")
    head = files.read_json(path, "kind")
    try:
        if head["kind"] == SentencePieceVocabulary.kind:
            path = folder / "sentencepiece.model"
            return SentencePieceVocabulary(path.read_bytes(), head["segment"])
        return WordVocabulary(head["words"])
    except UserError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, OSError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"{folder} must hold a vocabulary; {path} cannot be read as one ({reason}): {files.COPY_AGAIN}"
        ) from error


def load_vocabularies(folder: Path) -> tuple[Vocabulary, Vocabulary]:
    """Source and target vocabulary of a folder with `src` and `tgt`; the same object when they are equal.

    Raises:
        UserError: one of them is not there, or a file is damaged.
    """
    verify(folder, files.COPY_AGAIN)
    src, tgt = load_vocabulary(folder / "src"), load_vocabulary(folder / "tgt")
    return (src, src) if src.fingerprint == tgt.fingerprint else (src, tgt)


@dataclass(frozen=True)
class BPE:
    """Byte pair encoding (Sennrich et al., 2016), learned by SentencePiece.

    size: number of ids of a vocabulary, special symbols and characters included (not of merges); with
        `joint=False` also a mapping from language to number.
    joint: one vocabulary of both languages (App. G: En-De, En-Ro) or one each (Zh-En).
    byte_fallback: spell unseen characters in bytes instead of `<unk>`; takes 256 ids.
    character_coverage: share of the sample's characters that get an id of their own.
    segment: language -> "jieba", for text without spaces between words; None for none.
    sample: pairs to learn from, drawn uniformly when the corpus has more, so that memory is bounded.

    Source: App. G. The paper learns 32k merges on tokenised text, which gives vocabularies of 40k (En-De),
    48k (Chinese) and 33k (English); this is SentencePiece on raw text, so that decoding gives back the text,
    and `size` sets these numbers themselves.
    """

    size: int | Mapping[str, int] = 8000
    joint: bool = True
    byte_fallback: bool = False
    character_coverage: float = 1.0
    segment: Mapping[str, str] | None = None
    sample: int = 1_000_000

    def __post_init__(self) -> None:
        if isinstance(self.size, Mapping):
            if self.joint:
                raise UserError(
                    "data.vocabulary.size must be one number with data.vocabulary.joint=true; "
                    f"got {dict(self.size)}"
                )
            for language, size in self.size.items():
                whole(f"data.vocabulary.size.{language}", size, _NUM_SPECIAL + 1, high=_MOST)
        else:
            whole("data.vocabulary.size", self.size, _NUM_SPECIAL + 1, high=_MOST)
        whole("data.vocabulary.sample", self.sample, 1, unit="pairs", high=_MOST)
        number("data.vocabulary.character_coverage", self.character_coverage, 0.9, 1.0)
        for language, how in (self.segment or {}).items():
            one_of(f"data.vocabulary.segment.{language}", how, ("jieba",))

    def settings(self) -> dict[str, object]:
        """What the result depends on, for a stage's manifest."""
        size = dict(self.size) if isinstance(self.size, Mapping) else self.size
        return {"kind": "bpe", **vars(self), "size": size, "segment": dict(self.segment or {})}

    def learn(
        self, pairs: Iterable[tuple[str, str]], src_lang: str, tgt_lang: str
    ) -> tuple[SentencePieceVocabulary, SentencePieceVocabulary]:
        """Source and target vocabulary from training pairs. Deterministic.

        Raises:
            UserError: `size` does not fit the corpus, or `size` or `segment` names a language that is not of
                the pair, or `size` lacks one that is.
        """
        if isinstance(self.size, Mapping) and set(self.size) != {src_lang, tgt_lang}:
            raise UserError(
                f"data.vocabulary.size must have a number for {src_lang} and one for {tgt_lang}; "
                f"got {dict(self.size)}"
            )
        segment = self.segment or {}
        for language in segment:
            one_of("a language in vocabulary.segment", language, (src_lang, tgt_lang))
        src_how, tgt_how = segment.get(src_lang), segment.get(tgt_lang)
        sample = _reservoir(pairs, self.sample)
        src = [segmented(src, src_how) for src, _ in sample]
        tgt = [segmented(tgt, tgt_how) for _, tgt in sample]
        if self.joint:
            model = self._train(src + tgt, src_lang)
            return SentencePieceVocabulary(model, src_how), SentencePieceVocabulary(model, tgt_how)
        return (
            SentencePieceVocabulary(self._train(src, src_lang), src_how),
            SentencePieceVocabulary(self._train(tgt, tgt_lang), tgt_how),
        )

    def _train(self, sentences: list[str], language: str) -> bytes:
        key, size = "data.vocabulary.size", self.size
        if isinstance(size, Mapping):
            key, size = f"{key}.{language}", size[language]
        pad, bos, eos, unk, mask, blank = map(_named, SPECIAL_TOKENS)
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=(part for sentence in sentences for part in _parts(sentence)),
                model_writer=model,
                model_type="bpe",
                vocab_size=size,
                character_coverage=self.character_coverage,
                byte_fallback=self.byte_fallback,
                normalization_rule_name="identity",
                remove_extra_whitespaces=False,
                pad_id=0,
                bos_id=1,
                eos_id=2,
                unk_id=3,
                pad_piece=pad,
                bos_piece=bos,
                eos_piece=eos,
                unk_piece=unk,
                control_symbols=[mask, blank],
                unk_surface=UNKNOWN,
                minloglevel=2,
            )
        except RuntimeError as error:
            reason = str(error)
            if most := re.search(r"value <= (\d+)", reason):
                accepted = f"at most {most[1]} on this corpus"
            elif least := re.search(r"required_chars. \d+ vs (\d+)", reason):
                accepted = f"at least {least[1]} on this corpus, one for every character"
            else:
                raise
            raise UserError(f"{key} must be {accepted}; got {size}") from None
        return model.getvalue()


@dataclass(frozen=True)
class Words:
    """Whole words, for small closed languages. `size` caps the number of ids, special symbols included;
    rarer words become `<unk>`. `joint` and `sample` as in `BPE`; `segment` is refused, since
    white space separates words."""

    size: int = 8000
    joint: bool = False
    sample: int = 1_000_000
    segment: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        whole("data.vocabulary.size", self.size, _NUM_SPECIAL + 1, high=_MOST)
        whole("data.vocabulary.sample", self.sample, 1, unit="pairs", high=_MOST)
        if self.segment:
            raise UserError(
                "data.vocabulary.segment must be null for whole words, which white space separates (BPE "
                f"segments); got {dict(self.segment)}"
            )

    def settings(self) -> dict[str, object]:
        """What the result depends on, for a stage's manifest."""
        own = {name: value for name, value in vars(self).items() if name != "segment"}
        return {"kind": "word", **own}

    def learn(
        self, pairs: Iterable[tuple[str, str]], src_lang: str, tgt_lang: str
    ) -> tuple[WordVocabulary, WordVocabulary]:
        """Source and target vocabulary from training pairs. Deterministic."""
        sample = _reservoir(pairs, self.sample)
        src = Counter(chain.from_iterable(src.split() for src, _ in sample))
        tgt = Counter(chain.from_iterable(tgt.split() for _, tgt in sample))
        if self.joint:
            src = tgt = src + tgt
        return self._vocabulary(src), self._vocabulary(tgt)

    def _vocabulary(self, counts: Counter[str]) -> WordVocabulary:
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        return WordVocabulary(ranked[: self.size - _NUM_SPECIAL])


def _parts(sentence: str) -> Iterator[str]:
    """A sentence as SentencePiece learns from it: in parts that it does not leave out, cut at spaces where
    possible; a space at a cut belongs to neither part, since SentencePiece begins every line with one."""
    rest = sentence.translate(_TO_SENTENCEPIECE)
    while len(rest.encode()) > _MAX_BYTES:
        first = rest.encode()[:_MAX_BYTES].decode(errors="ignore")
        at = first.rfind(" ")
        cut, after = (at, at + 1) if at > 0 else (len(first), len(first))
        yield rest[:cut]
        rest = rest[after:]
    yield rest


def segmented(text: str, how: str | None) -> str:
    """The text with spaces between its words; `joined` undoes it."""
    if how is None:
        return text
    import jieba  # loads a dictionary of several seconds: only for those who segment

    jieba.setLogLevel(logging.WARNING)
    words = " ".join(word.replace(" ", _SPACE) for word in jieba.cut(text))
    return words.replace(f"{_SPACE} ", _SPACE)


def joined(text: str, how: str | None) -> str:
    """The text without the spaces that `segmented` put in."""
    if how is None:
        return text
    return text.replace(" ", "").replace(_SPACE, " ")


def _reservoir(pairs: Iterable[tuple[str, str]], size: int) -> list[tuple[str, str]]:
    """A uniform sample of at most `size` non-empty pairs from a stream of any length, the same every time."""
    draw, sample = random.Random(0), []
    for i, pair in enumerate(pair for pair in pairs if pair[0] and pair[1]):
        if i < size:
            sample.append(pair)
        elif (j := draw.randrange(i + 1)) < size:
            sample[j] = pair
    if not sample:
        raise UserError("the training text must have a pair with two non-empty sides; got none")
    return sample


def _content(ids: Ids) -> np.ndarray:
    ids = np.asarray(ids, dtype=np.int64)
    return ids[(ids >= _NUM_SPECIAL) | (ids == UNK)]


def _piece(i: int, piece_of: Callable[[int], str]) -> str:
    return SPECIAL_TOKENS[i] if i < _NUM_SPECIAL else piece_of(i)


def _write_head(folder: Path, **head: object) -> None:
    files.write_text(folder / "vocabulary.json", files.json_text(head, is_ascii=False))
