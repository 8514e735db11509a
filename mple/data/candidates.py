"""Distilled targets and, for Dynamic KD, the candidates Γ that are made of them.

    writer = DistilledWriter(folder, corpus, teacher="base")       # resumes where an interrupted one stopped
    for part in writer.missing():
        writer.write(part, [translate(src) for src in corpus.src(writer.rows(part))])
    writer.finish()

    candidates = join(corpus, ("base", "big", "raw"), {"base": folder, "big": other}, vocabulary, root, ...)
    tokens = candidates.tokens(index)                               # (B, K, T2)

A distilled target stands at the row of its sentence and carries its line id; it is refused beside any other
corpus or vocabulary. Candidate "raw" is the reference itself.
"""

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from mple import files
from mple.checks import UserError, whole
from mple.data.corpus import (
    CHUNK,
    ArrowTokens,
    ContentDigest,
    Corpus,
    arrow_writer,
    token_lists,
    tracked,
)
from mple.data.stage import Stage, remedy_of
from mple.data.vocabulary import Ids, Vocabulary
from mple.types import PAD

log = logging.getLogger(__name__)

RAW = "raw"
PairwiseBleu = Callable[[Sequence[Sequence[str]]], np.ndarray]
"""K lists of n sentences -> S (n, K, K): [s, i, k] scores candidate k, the hypothesis, by candidate i."""


class DistilledWriter:
    """Writes a teacher's targets for a corpus in parts of `part_size` consecutive rows, each whole or absent.

    Several processes may write different parts of one folder; one of them calls `finish`. Another may come by
    only then, or while it happens: until it writes a part of its own it only reads.

    Raises:
        UserError: the folder holds parts for another corpus, teacher or part size.
    """

    def __init__(self, folder: Path, corpus: Corpus, teacher: str, part_size: int = 8192):
        whole("part_size", part_size, 1, unit="sentences")
        self.folder, self.corpus, self.teacher, self.part_size = Path(folder), corpus, teacher, part_size
        self._parts = self.folder / "parts"
        self._dtype = corpus.tokens.schema.field("tgt").type
        if not self.is_finished():
            self._check()

    def is_finished(self) -> bool:
        """True when `finish` has been here."""
        return (self.folder / "distilled.json").exists()

    @property
    def parts(self) -> range:
        """Numbers of all parts."""
        return range(-(-len(self.corpus) // self.part_size))

    def missing(self) -> list[int]:
        """Numbers of the parts still to be written."""
        found = [part for part in self.parts if not self._path(part).exists()]
        return [] if self.is_finished() else found  # asked last: `finish` deletes the parts after saying so

    def rows(self, part: int) -> np.ndarray:
        """The corpus rows of a part."""
        start = part * self.part_size
        return np.arange(start, min(start + self.part_size, len(self.corpus)))

    def write(self, part: int, targets: Sequence[Ids]) -> None:
        """Write the content ids of all targets of a part, in row order; they may be empty.

        Raises:
            UserError: the disk is full.
        """
        rows = self.rows(part)
        if len(targets) != len(rows):
            raise ValueError(f"part {part} has {len(rows)} rows; got {len(targets)} targets")
        dtype = np.dtype(self._dtype.value_type.to_pandas_dtype())
        tokens = token_lists([np.asarray(ids).astype(dtype) for ids in targets], dtype)
        batch = pa.record_batch([pa.array(self.corpus.lines[rows]), tokens], names=["line", "tgt"])
        self._parts.mkdir(parents=True, exist_ok=True)
        self._claim()
        digest = ContentDigest()
        digest.update(batch["tgt"])
        schema = batch.schema.with_metadata({"fingerprint": digest.hexdigest()})
        with files.whole(self._path(part)) as path, arrow_writer(path, schema) as writer:
            writer.write_batch(batch.replace_schema_metadata(schema.metadata))

    def finish(self) -> Path:
        """Join the parts into one file and delete them; returns the folder. Does nothing a second time.

        Raises:
            ValueError: parts are missing.
            UserError: the disk is full.
        """
        if self.is_finished():
            return self.folder
        if missing := self.missing():
            raise ValueError(
                f"{len(missing)} parts of {self.folder} are not written, the first is {missing[0]}"
            )
        digest = ContentDigest()
        counts = {"sentences": 0, "tokens": 0, "empty": 0}
        paths = sorted(self._parts.glob("part-*.arrow"))
        schema = pa.schema([("line", pa.int64()), ("tgt", self._dtype)])
        with files.whole(self.folder / "distilled.arrow") as path, arrow_writer(path, schema) as writer:
            for part in paths:
                batch = _read_part(part)
                lengths = np.diff(batch["tgt"].offsets.to_numpy())
                digest.update(batch["tgt"])
                counts["sentences"] += len(lengths)
                counts["tokens"] += int(lengths.sum())
                counts["empty"] += int((lengths == 0).sum())
                writer.write_batch(batch.replace_schema_metadata(None))
        head = self._identity() | {"fingerprint": digest.hexdigest(), "counts": counts}
        head["files"] = files.checksums(self.folder, of=["distilled.arrow"])
        files.write_json(self.folder / "distilled.json", head)
        shutil.rmtree(self._parts)
        return self.folder

    def _path(self, part: int) -> Path:
        return self._parts / f"part-{part:05d}.arrow"

    def _identity(self) -> dict[str, str]:
        return {
            "teacher": self.teacher,
            "corpus": self.corpus.fingerprint,
            "tgt_vocabulary": self.corpus.tgt_fingerprint,
        }

    @property
    def _claimed(self) -> tuple[Path, dict[str, str]]:
        """Where it is said whose parts these are, and what is said there."""
        return self._parts / "parts.json", self._identity() | {"part_size": str(self.part_size)}

    def _claim(self) -> None:
        path, identity = self._claimed
        if not path.exists():
            files.write_json(path, identity)

    def _check(self) -> None:
        path, identity = self._claimed
        try:
            found = files.read_json(
                path, remedy=f"delete {self._parts} to have its sentences translated again"
            )
        except UserError:
            if not path.exists():  # no part yet, or finished in between
                return
            raise
        for key, expected in identity.items():
            if found.get(key) != expected:
                raise UserError(
                    f"{path} must speak of {key} {expected}; got {found.get(key)}: "
                    "choose another folder or delete this one"
                )


@dataclass(frozen=True)
class Distilled:
    """A teacher's targets for every row of a corpus."""

    teacher: str
    tokens: ArrowTokens
    fingerprint: str
    counts: Mapping[str, int]

    @staticmethod
    def open(folder: Path, corpus: Corpus) -> "Distilled":
        """Map what a `DistilledWriter` wrote for this corpus.

        Raises:
            UserError: there is nothing, or it belongs to another corpus or vocabulary, or lines are missing,
                or a file is damaged.
        """
        folder = Path(folder)
        if not (folder / "distilled.json").exists():
            raise UserError(f"{folder} must hold distilled targets (distilled.json); got none")
        keys = ("teacher", "tgt_vocabulary", "corpus", "fingerprint", "counts")
        remedy = f"delete {folder}, and its teacher translates again"
        head = files.read_json(folder / "distilled.json", *keys, remedy=remedy)
        for key, expected, what in (
            ("tgt_vocabulary", corpus.tgt_fingerprint, "target vocabulary"),
            ("corpus", corpus.fingerprint, "corpus"),
        ):
            if head[key] != expected:
                raise UserError(
                    f"{folder} must be distilled with the {what} of {corpus.folder} ({expected[:12]}…); "
                    f"got another ({head[key][:12]}…)"
                )
        if "files" in head:  # before Arrow reads it: a damaged file may end the process
            files.verify(folder, head["files"], remedy)
        tokens = ArrowTokens(folder / "distilled.arrow")
        if "files" not in head:
            tokens.check_content(["tgt"], head["fingerprint"])
        lines = tokens.numbers("line")
        if not np.array_equal(lines, corpus.lines):
            absent = np.setdiff1d(corpus.lines, lines)
            problem = (
                f"line {absent[0]} and {len(absent) - 1} others are missing" if len(absent) else "other lines"
            )
            raise UserError(
                f"{folder} must have one target for every line of {corpus.folder}; got: {problem}"
            )
        return Distilled(head["teacher"], tokens, head["fingerprint"], head["counts"])


@dataclass(frozen=True)
class Candidates:
    """K targets for each of n sentences of a corpus; `index` below counts these sentences from 0.

    names: "raw" or teachers, in the order of axis K.
    rows: corpus row of every sentence, int32 (n,).
    scores: S(Γ_i, Γ_k), float32 (n, K, K), memory-mapped: `scores[s, i, k]` is sentence BLEU (0 to 100) of
        candidate k as the hypothesis against candidate i as the reference.
    counts: what `join` dropped or replaced.
    fingerprints: of every teacher's targets, by its name.
    """

    names: tuple[str, ...]
    corpus: Corpus
    columns: tuple[ArrowTokens, ...]
    rows: np.ndarray
    scores: np.ndarray
    counts: Mapping[str, int]
    fingerprints: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.rows)

    def lengths(self) -> tuple[np.ndarray, np.ndarray]:
        """Content tokens of every source, and of its longest target, reference included: int32 (n,) each."""
        src, tgt = self.corpus.lengths()
        for column in self.columns:
            np.maximum(tgt, column.lengths("tgt"), out=tgt)
        return src[self.rows], tgt[self.rows]

    def tokens(self, index: np.ndarray) -> np.ndarray:
        """All candidates of some sentences: int64 (B, K, longest), `PAD` at the right."""
        rows = self.rows[index]
        padded = [_or_raw(column, self.corpus, rows) for column in self.columns]
        tokens = np.full((len(rows), len(padded), max(ids.shape[1] for ids in padded)), PAD, np.int64)
        for k, ids in enumerate(padded):
            tokens[:, k, : ids.shape[1]] = ids
        return tokens


def join(
    corpus: Corpus,
    names: Sequence[str],
    distilled: Mapping[str, Path],
    tgt_vocabulary: Vocabulary,
    root: Path,
    bleu: PairwiseBleu,
    bleu_name: str,
    max_length: int | None,
    label: str,
) -> Candidates:
    """Candidates of a corpus from the `distilled` folders of `names`; their scores are computed once.

    bleu, bleu_name: S, and the settings that a stored matrix is recognised by.
    max_length: for training, where a sentence is dropped, candidates and all, if one of its candidates is
        empty or has more content tokens. None for validation, which drops nothing, so that scores stay
        comparable: there the reference stands in for an empty candidate. Both are counted.
    label: the split, for stage and log.

    Raises:
        UserError: names repeat or have no folder, a folder does not fit the corpus (see `Distilled.open`), or
            no sentence is left.
    """
    if not names or len(set(names)) != len(names):
        raise UserError(f"data.candidates must be different names; got {', '.join(names) or 'none'}")
    if unknown := [name for name in names if name != RAW and name not in distilled]:
        known = ", ".join([RAW, *distilled])
        raise UserError(f"data.candidates must be among {known}; got {', '.join(unknown)}")
    opened = {name: Distilled.open(distilled[name], corpus) for name in names if name != RAW}
    columns = tuple(opened[name].tokens if name in opened else corpus.tokens for name in names)
    stage = Stage(
        root,
        f"candidates-{label}",
        settings={"names": list(names), "max_length": max_length, "bleu": bleu_name},
        inputs={"corpus": corpus.fingerprint} | {name: found.fingerprint for name, found in opened.items()},
    )

    def build(folder: Path) -> None:
        lengths = [column.lengths("tgt") for column in columns]
        empty = np.minimum.reduce(lengths) == 0
        over_long = ~empty & (np.maximum.reduce(lengths) > (max_length or np.inf))
        dropped = (empty | over_long) if max_length else np.zeros(len(corpus), bool)
        rows = np.flatnonzero(~dropped).astype(np.int32)
        counts = {"kept": len(rows), "empty": int(empty.sum()), "over_long": int(over_long.sum())}
        action = "dropped" if max_length else "replaced by the reference"
        what = "{kept} sentences kept, {empty} with an empty candidate, {over_long} over-long".format(
            **counts
        )
        if not len(rows):
            raise UserError(f"the candidates of the {label} split must leave a sentence; got {what}")
        log.info("%s candidates: %s (%s)", label, what, action)
        np.save(folder / "rows.npy", rows)
        files.write_json(folder / "counts.json", counts)
        _write_scores(folder / "scores.npy", corpus, columns, rows, tgt_vocabulary, bleu, label)

    folder = stage.run(build)
    counts = files.read_json(folder / "counts.json", "kept", remedy=remedy_of(folder))
    rows = _numbers(folder / "rows.npy", (counts["kept"],))
    scores = _numbers(folder / "scores.npy", (counts["kept"], len(names), len(names)))
    return Candidates(
        names=tuple(names),
        corpus=corpus,
        columns=columns,
        rows=np.array(rows),
        scores=scores,
        counts=counts,
        fingerprints={name: targets.fingerprint for name, targets in opened.items()},
    )


def _numbers(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """The numbers in a file, memory-mapped.

    Raises:
        UserError: it cannot be read, or has another shape: a damaged file of an older version.
    """
    try:
        numbers = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise UserError(
            f"{path} must hold numbers; it cannot be read ({error}): {remedy_of(path.parent)}"
        ) from error
    if numbers.shape != shape:
        raise UserError(
            f"{path} must hold numbers of shape {shape}; got {numbers.shape}: {remedy_of(path.parent)}"
        )
    return numbers


def _read_part(path: Path) -> pa.RecordBatch:
    """What `DistilledWriter.write` wrote.

    Raises:
        UserError: it is damaged.
    """
    try:
        reader = pa.ipc.open_file(path.read_bytes())
        batch = reader.get_batch(0)
        batch.validate(full=True)
        digest = ContentDigest()
        digest.update(batch["tgt"])
        metadata = reader.schema.metadata or {}  # none in parts of an older version
        is_whole = metadata.get(b"fingerprint") in (None, digest.hexdigest().encode())
    except (pa.ArrowException, OSError, ValueError, LookupError):
        is_whole = False
    if not is_whole:
        raise UserError(f"{path} is damaged: delete it, and its sentences are translated again")
    return batch


def _write_scores(
    path: Path,
    corpus: Corpus,
    columns: Sequence[ArrowTokens],
    rows: np.ndarray,
    vocabulary: Vocabulary,
    bleu: PairwiseBleu,
    label: str,
) -> None:
    shape = (len(rows), len(columns), len(columns))
    starts = range(0, len(rows), CHUNK)
    # Written as a stream: on a full disk a memory-mapped file would kill the process instead of complaining.
    with open(path, "wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for start in tracked(starts, f"pairwise BLEU, {label}, {CHUNK} sentences each", len(starts)):
            chosen = rows[start : start + CHUNK]
            texts = [vocabulary.decode_all(_lists_or_raw(column, corpus, chosen)) for column in columns]
            file.write(bleu(texts).astype("<f4").tobytes())


def _or_raw(column: ArrowTokens, corpus: Corpus, rows: np.ndarray) -> np.ndarray:
    """Padded ids of a candidate, the reference where the candidate is empty."""
    tokens, lengths = column.padded("tgt", rows)
    if lengths.all():
        return tokens
    raw, _ = corpus.tokens.padded("tgt", rows)
    wide = np.full((len(rows), max(tokens.shape[1], raw.shape[1])), PAD, np.int64)
    wide[:, : tokens.shape[1]] = tokens
    wide[lengths == 0, : raw.shape[1]] = raw[lengths == 0]
    return wide


def _lists_or_raw(column: ArrowTokens, corpus: Corpus, rows: np.ndarray) -> list[np.ndarray]:
    pairs = zip(column.lists("tgt", rows), corpus.tgt(rows), strict=True)
    return [ids if len(ids) else raw for ids, raw in pairs]
