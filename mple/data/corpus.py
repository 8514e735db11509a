"""The prepared corpus: token ids in memory-mapped Arrow files, and how they are made.

    prepared = prepare(source, root, BPE(size=8000), max_length=100)     # does only what is missing
    train = prepared.corpora["train"]
    src_lengths, tgt_lengths = train.lengths()
    train.tgt([0, 17, 4])                       # three numpy arrays of content ids

A *row* is a place in a prepared file, a *line* the sentence's number in the raw text: rows change when
another `max_length` drops other pairs, lines never do. Training pairs with an empty or over-long side are
dropped and counted. Validation and test pairs are never dropped for their length, which would make scores
incomparable; pairs with an empty side are dropped there too, and counted.
"""

import contextlib
import logging
import sys
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
import pyarrow as pa
import rich.progress

from mple import files
from mple.checks import UserError, number, whole
from mple.data.stage import Stage, remedy_of, verify
from mple.data.text import SPLITS, Source
from mple.data.vocabulary import BPE, Vocabulary, Words, load_vocabularies
from mple.plain import PlainConsole, plain
from mple.types import PAD, UNK

log = logging.getLogger(__name__)

T = TypeVar("T")

CHUNK = 10_000
"""Pairs that are encoded and written together: what memory holds of a corpus while it is prepared."""


class ArrowTokens:
    """Random access to the lists of ids in one Arrow file, without reading more than is asked for.

    The file is mapped into memory once. Every list is found by arithmetic on its record batch's offsets, so
    that thousands of rows are gathered by a few numpy calls whichever batches they lie in.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            with pa.memory_map(str(path)) as file:
                self._bytes = file.read_buffer()
            reader = pa.ipc.open_file(self._bytes)
            self.schema: pa.Schema = reader.schema
            self._batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        except (pa.ArrowException, OSError, ValueError) as error:
            raise UserError(
                f"{path} must be an Arrow file; it cannot be read as one ({str(error).splitlines()[0]}): "
                f"{remedy_of(path.parent)}"
            ) from error
        sizes = [batch.num_rows for batch in self._batches]
        self._first_row = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._int32 = np.frombuffer(self._bytes, np.int32, len(self._bytes) // 4)
        self._places: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def __reduce__(self) -> tuple[type, tuple[Path]]:
        return ArrowTokens, (self.path,)

    def check_content(self, columns: Sequence[str], fingerprint: str) -> None:
        """Compare what is in `columns` with a `ContentDigest`: for files whose folder has no checksums.

        Raises:
            UserError: it is something else, or no valid Arrow data.
        """
        digest = ContentDigest()
        try:
            for batch in self._batches:
                batch.validate(full=True)
                for column in columns:
                    digest.update(batch[column])
            is_whole = digest.hexdigest() == fingerprint
        except (pa.ArrowException, LookupError, ValueError):
            is_whole = False
        if not is_whole:
            raise UserError(
                f"{self.path} is damaged (its content is not that of the fingerprint in its folder): "
                f"{remedy_of(self.path.parent)}"
            )

    def __len__(self) -> int:
        return int(self._first_row[-1])

    def numbers_at(self, column: str, rows: np.ndarray) -> np.ndarray:
        """Some rows of a column of numbers, shape (rows,)."""
        values, value_start, _ = self._place(column)
        batch, local = self._batch_of(rows)
        return values[value_start[batch] + local]

    def numbers(self, column: str) -> np.ndarray:
        """A column of numbers, shape (rows,), all of it in memory."""
        return pa.chunked_array(
            [batch[column] for batch in self._batches], self.schema.field(column).type
        ).to_numpy()

    def strings(self, column: str) -> list[str]:
        """A column of text."""
        return [text for batch in self._batches for text in batch[column].to_pylist()]

    def lengths(self, column: str) -> np.ndarray:
        """Length of every list, shape (rows,), int32: from the offsets alone."""
        lengths = [np.diff(self._offsets(batch[column])) for batch in self._batches]
        return np.concatenate([np.zeros(0, np.int32), *lengths])

    def padded(self, column: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The lists of some rows as int64 (rows, longest), `PAD` at the right, and their lengths (rows,)."""
        values, starts, lengths = self._find(column, rows)
        places = np.arange(lengths.max(initial=0))
        index = starts[:, None] + places
        is_pad = places >= lengths[:, None]
        index[is_pad] = 0
        tokens = values[index].astype(np.int64)
        tokens[is_pad] = PAD
        return tokens, lengths

    def lists(self, column: str, rows: np.ndarray) -> list[np.ndarray]:
        """The lists of some rows, without a copy."""
        values, starts, lengths = self._find(column, rows)
        return [values[s : s + n] for s, n in zip(starts.tolist(), lengths.tolist(), strict=True)]

    def _find(self, column: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The whole file as numbers of the column's type, and where in it the rows' lists start; lengths."""
        values, value_start, offset_start = self._place(column)
        batch, local = self._batch_of(rows)
        at = offset_start[batch] + local
        begin, end = self._int32[at], self._int32[at + 1]
        return values, value_start[batch] + begin, end - begin

    def _batch_of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Record batch of every row, and its place there."""
        rows = np.asarray(rows, np.int64)
        if rows.size and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"rows must be from 0 to {len(self) - 1}; got {rows.min()} to {rows.max()}")
        batch = np.searchsorted(self._first_row, rows, side="right") - 1
        return batch, rows - self._first_row[batch]

    def _place(self, column: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The whole file as numbers of the column's type, and where in it each record batch's numbers start;
        for lists also where its offsets do, in units of 4 bytes."""
        if column not in self._places:
            kind = self.schema.field(column).type
            is_list = pa.types.is_list(kind)
            dtype = np.dtype((kind.value_type if is_list else kind).to_pandas_dtype())
            values = np.frombuffer(self._bytes, dtype, len(self._bytes) // dtype.itemsize)
            value_start, offset_start = [], []
            for batch in self._batches:
                buffers = batch[column].buffers()
                data, offsets = buffers[-1], buffers[1]
                value_start.append((data.address - self._bytes.address) // dtype.itemsize if data else 0)
                offset_start.append((offsets.address - self._bytes.address) // 4 if is_list else 0)
            self._places[column] = (values, np.array(value_start, np.int64), np.array(offset_start, np.int64))
        return self._places[column]

    @staticmethod
    def _offsets(array: pa.ListArray) -> np.ndarray:
        return np.frombuffer(array.buffers()[1], np.int32, len(array) + 1)


class ContentDigest:
    """A hash of columns of numbers and of lists of ids, record batch by record batch."""

    def __init__(self) -> None:
        self._digest = blake2b(digest_size=16)

    def update(self, column: pa.Array) -> None:
        if isinstance(column, pa.ListArray):
            self._digest.update(np.diff(column.offsets.to_numpy()))
            column = column.values
        self._digest.update(column.to_numpy())

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


@contextlib.contextmanager
def arrow_writer(path: Path, schema: pa.Schema) -> Iterator[pa.RecordBatchFileWriter]:
    """Writes record batches to a new Arrow file."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        yield writer


def token_lists(lists: Sequence[np.ndarray], dtype: np.dtype) -> pa.ListArray:
    """Arrays of ids as one Arrow column."""
    offsets = np.zeros(len(lists) + 1, np.int32)
    np.cumsum([len(ids) for ids in lists], out=offsets[1:])
    values = np.concatenate([np.zeros(0, dtype), *lists], dtype=dtype, casting="same_kind")
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))


@dataclass(frozen=True)
class Corpus:
    """One prepared split. `fingerprint` is a hash of its lines and ids; `counts` says what was dropped;
    `realised` is what the source said of its pairs (see `Source.pairs`), of all that were read, before any
    were dropped; empty for sources that say nothing and for folders of an older version.
    """

    folder: Path
    tokens: ArrowTokens
    fingerprint: str
    src_fingerprint: str
    tgt_fingerprint: str
    counts: Mapping[str, int]
    realised: Mapping[str, float | int] = field(default_factory=dict)

    @staticmethod
    def open(folder: Path) -> "Corpus":
        """Map what `write_corpus` wrote.

        Raises:
            UserError: there is no corpus in the folder, or a damaged one.
        """
        if not (folder / "corpus.json").exists():
            raise UserError(f"{folder} must hold a prepared corpus (corpus.json); got none")
        has_checksums = verify(folder)  # before Arrow reads it: a damaged file may end the process
        keys = ("fingerprint", "src_fingerprint", "tgt_fingerprint", "counts")
        head = files.read_json(folder / "corpus.json", *keys, remedy=remedy_of(folder))
        tokens = ArrowTokens(folder / "corpus.arrow")
        if not has_checksums:
            tokens.check_content(("line", "src", "tgt"), head["fingerprint"])
        return Corpus(folder, tokens, **head)

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def lines(self) -> np.ndarray:
        """Line id of every row, shape (rows,), int64, increasing."""
        return self.tokens.numbers("line")

    def rows(self, lines: Iterable[int] | np.ndarray) -> np.ndarray:
        """Rows of some lines.

        Raises:
            KeyError: a line is not in the corpus.
        """
        wanted = np.asarray(lines, np.int64)
        rows = np.searchsorted(self.lines, wanted)
        found = rows < len(self)
        found[found] = self.lines[rows[found]] == wanted[found]
        if not found.all():
            raise KeyError(f"line {wanted[~found][0]} is not in {self.folder}")
        return rows

    def src(self, rows: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        """Source ids of some rows: content, no eos."""
        return self.tokens.lists("src", np.asarray(rows))

    def tgt(self, rows: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        """Target ids of some rows: content."""
        return self.tokens.lists("tgt", np.asarray(rows))

    def lengths(self) -> tuple[np.ndarray, np.ndarray]:
        """Content tokens of every source and target, int32 (rows,) each."""
        return self.tokens.lengths("src"), self.tokens.lengths("tgt")

    def text(self) -> tuple[list[str], list[str]]:
        """Raw source and target of every row; kept for the splits that are evaluated, not for training."""
        if "src_text" not in self.tokens.schema.names:
            raise ValueError(f"{self.folder} keeps no raw text: decode its ids")
        return self.tokens.strings("src_text"), self.tokens.strings("tgt_text")


def write_corpus(
    folder: Path,
    pairs: Iterable[tuple[int, str, str]],
    src_vocabulary: Vocabulary,
    tgt_vocabulary: Vocabulary,
    max_length: int | None = None,
    max_ratio: float | None = None,
    keep_text: bool = True,
    label: str = "",
    total: int | None = None,
) -> None:
    """Encode pairs into an existing folder, which `Corpus.open` reads.

    pairs: where it is a generator that returns numbers by name at its end, these are recorded as `realised`.
    max_length: drop pairs with more content tokens than this on a side; None keeps them.
    max_ratio: drop pairs with more than this many times as many content tokens on one side as on the other;
        None keeps them.
    keep_text: write the raw text beside the ids.
    label, total: what the progress bar says.

    Raises:
        UserError: no pair is left.
    """
    fields = [("line", pa.int64())]
    for side, vocabulary in (("src", src_vocabulary), ("tgt", tgt_vocabulary)):
        fields.append((side, pa.list_(pa.from_numpy_dtype(vocabulary.dtype))))
    if keep_text:
        fields += [("src_text", pa.string()), ("tgt_text", pa.string())]
    schema = pa.schema(fields)
    counts = {"read": 0, "kept": 0, "empty": 0, "over_long": 0}
    unknown = _Unknown(src_vocabulary), _Unknown(tgt_vocabulary)
    num_equal = 0
    if max_ratio is not None:
        counts["unequal"] = 0
    digest = ContentDigest()
    realised: dict[str, float | int] = {}
    with arrow_writer(folder / "corpus.arrow", schema) as writer:
        for chunk in chunks(tracked(_noting(pairs, realised), label, total), CHUNK):
            lines, src_texts, tgt_texts = zip(*chunk, strict=True)
            src, tgt = src_vocabulary.encode(src_texts), tgt_vocabulary.encode(tgt_texts)
            src_lengths, tgt_lengths = (np.array([len(ids) for ids in side]) for side in (src, tgt))
            is_empty = np.minimum(src_lengths, tgt_lengths) == 0
            is_long = ~is_empty & (np.maximum(src_lengths, tgt_lengths) > (max_length or np.inf))
            is_unequal = np.zeros_like(is_long)
            if max_ratio is not None:
                longer, shorter = np.maximum(src_lengths, tgt_lengths), np.minimum(src_lengths, tgt_lengths)
                is_unequal = ~is_empty & ~is_long & (longer > max_ratio * shorter)
                counts["unequal"] += int(is_unequal.sum())
            kept = np.flatnonzero(~is_empty & ~is_long & ~is_unequal).tolist()
            counts["read"] += len(chunk)
            counts["kept"] += len(kept)
            counts["empty"] += int(is_empty.sum())
            counts["over_long"] += int(is_long.sum())
            num_equal += sum(src_texts[i] == tgt_texts[i] for i in kept)
            for pieces, texts, ids in zip(unknown, (src_texts, tgt_texts), (src, tgt), strict=True):
                pieces.add([(lines[i], texts[i], ids[i]) for i in kept])
            if not kept:
                continue
            columns = [pa.array([lines[i] for i in kept], pa.int64())]
            columns.append(token_lists([src[i] for i in kept], src_vocabulary.dtype))
            columns.append(token_lists([tgt[i] for i in kept], tgt_vocabulary.dtype))
            for column in columns:
                digest.update(column)
            if keep_text:
                columns.append(pa.array([src_texts[i] for i in kept], pa.string()))
                columns.append(pa.array([tgt_texts[i] for i in kept], pa.string()))
            writer.write_batch(pa.record_batch(columns, schema=schema))
    what = "{read} pairs read, {empty} empty, {over_long} over-long".format(**counts)
    if max_ratio is not None:
        what += f", {counts['unequal']} with a side more than {max_ratio:g} times as long as the other"
    if not counts["kept"]:
        raise UserError(f"{label or folder.name} must have a pair with two non-empty sides; got {what}")
    log.info("%s: %d pairs kept (%s)", label or folder.name, counts["kept"], what)
    for name, pieces in zip(("source", "target"), unknown, strict=True):
        if pieces.count:
            log.warning("%s, %s: %s", label or folder.name, name, pieces)
    if 2 * num_equal > counts["kept"]:
        log.warning(
            "%s: %d of %d pairs have the same text as source and as target: a model of them learns to copy",
            *(label or folder.name, num_equal, counts["kept"]),
        )
    head = {
        "fingerprint": digest.hexdigest(),
        "src_fingerprint": src_vocabulary.fingerprint,
        "tgt_fingerprint": tgt_vocabulary.fingerprint,
        "counts": counts,
    }
    if realised:
        head["realised"] = realised
    files.write_json(folder / "corpus.json", head)


class _Unknown:
    """How often the vocabulary has no piece, and the first text of which that is true."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary, self.count, self.first = vocabulary, 0, ""

    def add(self, sentences: Iterable[tuple[int, str, np.ndarray]]) -> None:
        """(line from 0, text, ids) of some sentences."""
        for line, text, ids in sentences:
            if number := int(np.count_nonzero(ids == UNK)):
                self.count += number
                example = next(iter(self.vocabulary.unknown(text)), text[:20])
                self.first = self.first or f"{example!r} in line {line + 1}"

    def __str__(self) -> str:
        return f"{self.count:,} unknown to the vocabulary, which become ⁇, the first {self.first}"


def _noting(pairs: Iterable[T], found: dict[str, float | int]) -> Generator[T, None, None]:
    """The pairs; once they have been read to their end, `found` holds what the generator returned."""
    found |= (yield from cast("Generator[T, None, Mapping[str, float | int] | None]", pairs)) or {}


@dataclass(frozen=True)
class Preparation:
    """The stages from raw text to corpora. Nothing is read or written before `run`, except that the raw files
    are hashed; so `stages()` serves for the plan that a job prints.

    own: the vocabularies of source and target that a run has learned with (the same object when joint). They
        take the place of those that the text gives, which another version may learn differently.
    """

    source: Source
    root: Path
    vocabulary: BPE | Words
    max_length: int
    own: tuple[Vocabulary, Vocabulary] | None = None
    max_ratio: float | None = None

    def __post_init__(self) -> None:
        whole("data.max_length", self.max_length, 1, unit="content tokens")
        if self.max_ratio is not None:
            number("data.max_ratio", self.max_ratio, 1)

    @cached_property
    def _inputs(self) -> dict[str, str]:
        return self.source.inputs()

    @property
    def inputs(self) -> Mapping[str, str]:
        """What identifies the raw data, by content."""
        return self._inputs

    def stages(self) -> dict[str, Stage]:
        """By name: "vocabulary", "train", "valid", "test"."""
        languages = {"src_lang": self.source.src_lang, "tgt_lang": self.source.tgt_lang}
        vocabulary = Stage(self.root, "vocabulary", self.vocabulary.settings() | languages, self._inputs)
        stages = {"vocabulary": vocabulary}
        key = vocabulary.key if self.own is None or self._gives_own(vocabulary) else self._own_key
        for split in SPLITS:
            settings: dict[str, object] = dict(languages)
            if split == "train":
                settings["max_length"] = self.max_length
                if self.max_ratio is not None:
                    settings["max_ratio"] = self.max_ratio
            stages[split] = Stage(self.root, split, settings, self._inputs | {"vocabulary": key})
        return stages

    @property
    def _own_key(self) -> str:
        return " ".join(vocabulary.fingerprint for vocabulary in self.own or ())

    def _gives_own(self, stage: Stage) -> bool:
        """Whether the text has given the run's vocabularies here already, so that its corpora serve."""
        try:
            if not stage.is_done():
                return False
            return self._own_key == " ".join(one.fingerprint for one in load_vocabularies(stage.folder))
        except (ValueError, LookupError, TypeError, OSError, RuntimeError):  # damaged, and not needed
            return False

    def run(self) -> "Prepared":
        """Build the stages that are not done, and open them all."""
        stages = self.stages()
        if self.own is None:
            stages["vocabulary"].run(self._build_vocabulary)
        src_vocabulary, tgt_vocabulary = self.own or load_vocabularies(stages["vocabulary"].folder)
        for split in SPLITS:
            stages[split].run(
                lambda folder, split=split: write_corpus(  # type: ignore[misc]
                    folder,
                    self.source.pairs(split),
                    src_vocabulary,
                    tgt_vocabulary,
                    max_length=self.max_length if split == "train" else None,
                    max_ratio=self.max_ratio if split == "train" else None,
                    keep_text=split != "train",
                    label=f"{split} split",
                    total=None if not sys.stderr.isatty() else self.source.size(split),
                )
            )
        corpora = {split: Corpus.open(stages[split].folder) for split in SPLITS}
        for corpus in corpora.values():
            theirs = corpus.src_fingerprint, corpus.tgt_fingerprint
            if theirs != (src_vocabulary.fingerprint, tgt_vocabulary.fingerprint):
                raise UserError(
                    f"{corpus.folder} must be encoded with the vocabulary in "
                    f"{stages['vocabulary'].folder}; one is damaged: delete both to have them made again"
                )
        return Prepared(src_vocabulary, tgt_vocabulary, corpora)

    def _build_vocabulary(self, folder: Path) -> None:
        pairs = ((src, tgt) for _, src, tgt in self.source.pairs("train"))
        learned = self.vocabulary.learn(pairs, self.source.src_lang, self.source.tgt_lang)
        for side, vocabulary in zip(("src", "tgt"), learned, strict=True):
            (folder / side).mkdir()
            vocabulary.save(folder / side)
            log.info("%s vocabulary: %d entries", side, len(vocabulary))


@dataclass(frozen=True)
class Prepared:
    """What a job needs from the raw text: vocabularies (the same object when joint) and corpora by split."""

    src_vocabulary: Vocabulary
    tgt_vocabulary: Vocabulary
    corpora: Mapping[str, Corpus]


def prepare(source: Source, root: str | Path, vocabulary: BPE | Words, max_length: int) -> Prepared:
    """From raw text to corpora, doing only what is missing; see `Preparation`."""
    return Preparation(source, Path(root), vocabulary, max_length).run()


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Consecutive lists of `size` items; the last may be shorter."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def tracked(
    items: Iterable[T], label: str, total: int | None = None, every_seconds: float = 30.0
) -> Iterator[T]:
    """The items; meanwhile the standard error has a bar with the time left, or lines now and then if it is no
    terminal. `total` is their number where they do not know it themselves.
    """
    label = plain(label)
    if not sys.stderr.isatty():
        yield from _said_now_and_then(items, label, total, every_seconds)
        return
    columns = (
        rich.progress.TextColumn("{task.description}", markup=False),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TimeRemainingColumn(),
    )
    with rich.progress.Progress(*columns, console=PlainConsole(stderr=True)) as progress:
        yield from progress.track(items, total=total, description=label)


def _said_now_and_then(
    items: Iterable[T], label: str, total: int | None, every_seconds: float
) -> Iterator[T]:
    if total is None and isinstance(items, Sized):
        total = len(items)
    began = said = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if done and now - said >= every_seconds:
            said = now
            left = "" if total is None else f", {(now - began) / done * (total - done) / 60:.1f} min left"
            print(f"{label}: {done:,}{'' if total is None else f'/{total:,}'}{left}", file=sys.stderr)
        yield item
