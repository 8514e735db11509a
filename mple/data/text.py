"""Raw text: where sentence pairs come from.

    source = LineFiles("data/multi30k", "de", "en", valid="val", test="test_2016_flickr")
    for line, src, tgt in source.pairs("train"):      # streams: memory does not grow with the corpus
        ...

`line` is the 0-based number of the pair in its raw file; it names the pair from here on, whatever is dropped
later. Text is UTF-8; white space at both ends of a sentence is dropped, nothing else is touched.
"""

import contextlib
import gzip
import hashlib
import itertools
import re
import zlib
from array import array
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from hashlib import blake2b
from itertools import zip_longest
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from mple.checks import UserError, one_of, seed, whole
from mple.data.grammar import Grammar

MOST_PAIRS = 100_000_000
SPLITS = ("train", "valid", "test")
MOST_LINE_BYTES = 1 << 24
Pair = tuple[int, str, str]


@runtime_checkable
class Source(Protocol):
    """Sentence pairs of two languages in three splits."""

    @property
    def src_lang(self) -> str: ...

    @property
    def tgt_lang(self) -> str: ...

    def pairs(self, split: str) -> Iterator[Pair]:
        """(line, source, target) of a split, in file order.

        A generator may return numbers by name, with their unit, at its end (`return {"dropped_percent": …}`):
        what was done to the split, known only once it has been read. The prepared corpus records them.
        """

    def size(self, split: str) -> int | None:
        """Number of pairs if it is cheap to know: for progress bars."""

    def inputs(self) -> dict[str, str]:
        """What identifies the raw data, by content and role: for stages and runs.

        A source that an older version recorded in another form has a method `changed(made)`, too.
        """


def changed(source: Source, made: Mapping[str, str]) -> list[str]:
    """Which of the raw data differ from `made`, the `inputs` that this or an older version recorded."""
    own = getattr(source, "changed", None)
    return differing(source.inputs(), made) if own is None else own(made)


def differing(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """The keys with different values, in order."""
    return sorted(key for key in {*one, *other} if one.get(key) != other.get(key))


@dataclass(frozen=True)
class LineFiles:
    """Two files a split, `{root}/{name}.{language}`, plain or `.gz`; line k is a translation of line k.

    `train`, `valid`, `test` are the names of the splits' files.
    """

    root: str | None
    src_lang: str
    tgt_lang: str
    train: str = "train"
    valid: str = "valid"
    test: str = "test"

    def pairs(self, split: str) -> Iterator[Pair]:
        """See `Source.pairs`.

        Raises:
            UserError: a file is missing, is not UTF-8 or not gzip, or the files differ in length.
        """
        src_path, tgt_path = self._paths(split)
        lines = zip_longest(lines_of(src_path), lines_of(tgt_path))
        for line, (src, tgt) in enumerate(lines):
            if src is None or tgt is None:
                longer = line + 1 + sum(1 for _ in lines)
                counts = (line, longer) if src is None else (longer, line)
                raise UserError(
                    f"two files of a split must have as many lines; got {src_path}: {counts[0]}, "
                    f"{tgt_path}: {counts[1]}"
                )
            yield line, src.strip(), tgt.strip()

    def size(self, split: str) -> int:
        return _count_lines(self._paths(split)[0])

    def inputs(self) -> dict[str, str]:
        """The content of every file, unpacked, by split and side: another name or folder is no other data."""
        return {role: content_sha256(path) for role, path in self._roles().items()}

    def changed(self, made: Mapping[str, str]) -> list[str]:
        """The files that differ, by name. Version 0.1 recorded them by name, too, and as they were packed: of
        several with one name the last, and of one that was unpacked since then nothing is known."""
        roles = self._roles()
        if any(role in made for role in roles):
            root = _existing_folder(self.root)
            names = {role: str(path.relative_to(root)) for role, path in roles.items()}
            return list(dict.fromkeys(names.get(role, role) for role in differing(self.inputs(), made)))
        recorded = {}
        for path in roles.values():
            name = path.name.removesuffix(".gz")
            if f"{name}.gz" not in made:
                recorded[name] = content_sha256(path)
            elif path.suffix == ".gz":
                recorded[path.name] = file_sha256(path)
            else:
                recorded[f"{name}.gz"] = made[f"{name}.gz"]
        return differing(recorded, made)

    def _roles(self) -> dict[str, Path]:
        sides = ("source", "target")
        return {
            f"{split} {side}": path
            for split in SPLITS
            for side, path in zip(sides, self._paths(split), strict=True)
        }

    def _paths(self, split: str) -> tuple[Path, Path]:
        one_of("split", split, SPLITS)
        name = {"train": self.train, "valid": self.valid, "test": self.test}[split]
        return self._path(name, self.src_lang), self._path(name, self.tgt_lang)

    def _path(self, name: str, language: str) -> Path:
        root = _existing_folder(self.root)
        for path in (root / f"{name}.{language}", root / f"{name}.{language}.gz"):
            if path.is_file():
                return path
        raise UserError(
            f"data.root={root} must hold {name}.{language} or {name}.{language}.gz; got {_listing(root)}"
        )


@dataclass(frozen=True)
class TsvFile:
    """One file with tab-separated columns, plain or `.gz`, such as Tatoeba's.

    path: the file, or a folder that holds it under the name of its languages: for English and German
    `en-de.tsv` or `de-en.tsv`, plain or `.gz`. `src_column` and `tgt_column` count from 0; None takes the
    order of the languages in the name, or the first two columns where the name has none.

    The file is divided by a hash of the source sentence, so that a source is in one split only, always the
    same one. `valid` and `test` are numbers of *distinct sources*; there each source appears once, with the
    first of its targets, and `references` gives them all. Training has every pair. With
    `multi_reference_test` the test sources are drawn from those that have several targets. A blank line is an
    empty pair.
    """

    path: str | None
    src_lang: str
    tgt_lang: str
    src_column: int | None = None
    tgt_column: int | None = None
    valid: int = 2000
    test: int = 2000
    multi_reference_test: bool = False

    def __post_init__(self) -> None:
        for name in ("src_column", "tgt_column", "valid", "test"):
            if getattr(self, name) is not None:
                most = 1000 if name.endswith("_column") else MOST_PAIRS
                whole(f"data.source.{name}", getattr(self, name), 0, high=most)

    @cached_property
    def _file(self) -> Path:
        pair = (self.src_lang, self.tgt_lang)
        if self.path is None or not Path(self.path).expanduser().is_dir():
            return _existing_file(self.path)
        root = Path(self.path).expanduser()
        names = [f"{a}-{b}.tsv{end}" for a, b in (pair, pair[::-1]) for end in ("", ".gz")]
        for name in names:
            if (root / name).is_file():
                return root / name
        raise UserError(f"data.root={root} must hold one of {', '.join(names)}; got {_listing(root)}")

    @cached_property
    def _columns(self) -> tuple[int, int]:
        """Of the source and of the target."""
        pair, name = (0, 1), re.sub(r"\.tsv(\.gz)?$", "", self._file.name)
        if name == f"{self.tgt_lang}-{self.src_lang}":  # codes may have hyphens of their own
            pair = (1, 0)
        elif (
            name != f"{self.src_lang}-{self.tgt_lang}"
            and None in (self.src_column, self.tgt_column)
            and re.fullmatch(r"[a-z]+-[a-z]+\.tsv(\.gz)?", self._file.name)
        ):
            raise UserError(
                f"data.root must name a file of {self.src_lang} and {self.tgt_lang}, or say its columns "
                f"with data.source.src_column and tgt_column; got {self._file.name}"
            )
        given = (self.src_column, self.tgt_column)
        src, tgt = (own if asked is None else asked for asked, own in zip(given, pair, strict=True))
        return src, tgt

    def pairs(self, split: str) -> Iterator[Pair]:
        """See `Source.pairs`.

        Raises:
            UserError: the file is missing, not UTF-8, lacks a column, or has too few sources for the splits.
        """
        one_of("split", split, SPLITS)
        wanted = self._line_splits == SPLITS.index(split)
        return (pair for pair in self._read() if wanted[pair[0]])

    def references(self, split: str) -> Iterator[tuple[int, str, list[str]]]:
        """(line, source, all its distinct targets), once for every source of a split, ordered by line."""
        targets: dict[str, dict[str, None]] = defaultdict(dict)
        first: dict[str, int] = {}
        sources = {src for _, src, _ in self.pairs(split)}
        for line, src, tgt in self._read():
            if src in sources:
                first.setdefault(src, line)
                targets[src][tgt] = None
        return ((line, src, list(targets[src])) for src, line in first.items())

    def size(self, split: str) -> int:
        return int(np.count_nonzero(self._line_splits == SPLITS.index(split)))

    def inputs(self) -> dict[str, str]:
        settings = {name: str(getattr(self, name)) for name in ("valid", "test", "multi_reference_test")}
        settings |= dict(zip(("src_column", "tgt_column"), map(str, self._columns), strict=True))
        return settings | {"sha256": file_sha256(self._file)}

    def _read(self) -> Iterator[Pair]:
        src, tgt = self._columns
        needed = max(src, tgt)
        for line, text in enumerate(lines_of(self._file)):
            columns = text.split("\t") if text else [""] * (needed + 1)
            if len(columns) <= needed:
                raise UserError(
                    f"{self._file}, line {line + 1} must have at least {needed + 1} tab-separated columns; "
                    f"got {len(columns)}"
                )
            yield line, columns[src].strip(), columns[tgt].strip()

    def _checked(self) -> Iterator[Pair]:
        """The pairs; at their end a column that was not asked for by number must hold sentences.

        Raises:
            UserError: most of its lines are numbers, as in exports with a column of ids before each sentence.
        """
        num_lines, numbers, first = 0, [0, 0], [0, 0]
        for line, *pair in self._read():
            yield line, pair[0], pair[1]
            num_lines += any(pair)
            for side, text in enumerate(pair):
                if text.isdecimal():
                    first[side] = first[side] or line + 1
                    numbers[side] += 1
        given = (self.src_column, self.tgt_column)
        for side, name in enumerate(("src_column", "tgt_column")):
            if given[side] is None and 2 * numbers[side] > num_lines:
                raise UserError(
                    f"{self._file}, line {first[side]} must have a sentence in column {self._columns[side]}; "
                    f"got a number, as in {numbers[side]} of {num_lines} lines: set data.source.{name} to "
                    "the column of the sentences, from 0 (1 and 3 in Tatoeba's export with ids)"
                )

    @cached_property
    def _line_splits(self) -> np.ndarray:
        """Index in SPLITS of every line, or -1 for the further targets of an evaluation source: int8."""
        sources, pairs = array("Q"), array("Q")  # 8 bytes a line each
        for _, src, tgt in self._checked():
            sources.append(_hash(src if tgt else ""))
            pairs.append(_hash(f"{src}\t{tgt}"))
        values, first, inverse = np.unique(
            np.frombuffer(sources, np.uint64), return_index=True, return_inverse=True
        )
        # By hash: as good as a draw, and the same on every machine. Pairs with an empty side stay in
        # training, where they are dropped and counted.
        order = np.flatnonzero(values != _hash(""))
        eligible = order
        if self.multi_reference_test:
            distinct = np.unique(np.frombuffer(pairs, np.uint64), return_index=True)[1]
            eligible = order[np.bincount(inverse[distinct], minlength=len(values))[order] > 1]
        test = eligible[: self.test]
        valid = np.setdiff1d(order, test)[: self.valid]
        if len(test) < self.test or len(valid) < self.valid or len(test) + len(valid) >= len(order):
            raise UserError(
                f"data.source.test and data.source.valid must leave sources for training: {self.path} has "
                f"{len(order)} distinct sources, {len(eligible)} fit for test; got test={self.test}, "
                f"valid={self.valid}"
            )
        of_source = np.zeros(len(values), np.int8)
        of_source[valid], of_source[test] = SPLITS.index("valid"), SPLITS.index("test")
        of_line = of_source[inverse]
        is_further = of_line > 0
        is_further[first] = False
        of_line[is_further] = -1
        return of_line


@dataclass(frozen=True)
class HubDataset:
    """A data set of the Hugging Face hub, or local files in its place.

    name, config, revision, data_dir: as in `datasets.load_dataset`.
    field: the column that holds {language: text}; None when the languages are columns themselves.
    splits: our split -> the data set's.
    root: a local folder instead of the hub. Either in the hub's layout (a README.md with `configs:` and its
        parquet or jsonl files), or plain files `{train,valid,test}.{language}`, each also as `.gz`.
    """

    name: str
    config: str | None
    src_lang: str
    tgt_lang: str
    splits: Mapping[str, str] = field(
        default_factory=lambda: {"train": "train", "valid": "validation", "test": "test"}
    )
    root: str | None = None
    field: str | None = "translation"
    revision: str | None = None
    data_dir: str | None = None

    def pairs(self, split: str) -> Iterator[Pair]:
        """See `Source.pairs`.

        Raises:
            UserError: no network, or the data set lacks the config, split, column or language.
        """
        one_of("split", split, SPLITS)
        if plain := self._plain_files():
            yield from plain.pairs(split)
            return
        for line, row in enumerate(self._rows(split)):
            texts = row if self.field is None else self._column(row, self.field, "data.source.field")
            src = self._column(texts, self.src_lang, "data.source.src_lang")
            tgt = self._column(texts, self.tgt_lang, "data.source.tgt_lang")
            yield line, (src or "").strip(), (tgt or "").strip()

    def _rows(self, split: str) -> Iterator[Any]:
        try:
            yield from self._load(split)
        except UserError:
            raise
        except (OSError, ValueError) as error:  # Arrow's errors are these; a file may break in its middle
            raise UserError(
                f"split {split} of {self.root or self.name} must be whole; got: {str(error).splitlines()[0]}"
            ) from error

    def size(self, split: str) -> int | None:
        if plain := self._plain_files():
            return plain.size(split)
        return None if self.root else len(self._load(split))

    def inputs(self) -> dict[str, str]:
        if plain := self._plain_files():
            return plain.inputs()
        names = ("config", "src_lang", "tgt_lang", "field", "data_dir")
        settings = {name: str(getattr(self, name)) for name in names} | {"splits": str(dict(self.splits))}
        if self.root is None:
            return settings | {"hub": self.name, "revision": str(self.revision)}
        root = _existing_folder(self.root)
        files = sorted(path for path in root.rglob("*") if path.is_file())
        return settings | {str(path.relative_to(root)): file_sha256(path) for path in files}

    def changed(self, made: Mapping[str, str]) -> list[str]:
        """See `changed`."""
        plain = self._plain_files()
        return differing(self.inputs(), made) if plain is None else plain.changed(made)

    def _plain_files(self) -> LineFiles | None:
        if self.root is None:
            return None
        root = _existing_folder(self.root)
        suffixes = (f".{self.src_lang}", f".{self.src_lang}.gz")
        if any(path.name.endswith(suffixes) for path in root.iterdir()):
            return LineFiles(self.root, self.src_lang, self.tgt_lang)
        return None

    def _load(self, split: str) -> Any:
        import datasets  # takes a second: only for those who use it

        try:
            return datasets.load_dataset(
                str(_existing_folder(self.root)) if self.root else self.name,
                self.config,
                split=self.splits[split],
                data_dir=self.data_dir,
                revision=None if self.root else self.revision,
                streaming=self.root is not None,  # local files need no copy in the hub's cache
            )
        except ValueError as error:  # its text lists the valid configs or splits
            raise UserError(
                f"data.source.config={self.config!r} and data.source.splits.{split}={self.splits[split]!r} "
                f"must exist in {self.root or self.name}; got: {_first_line(error)}"
            ) from error
        except (OSError, RuntimeError) as error:
            files = f"{{train,valid,test}}.{{{self.src_lang},{self.tgt_lang}}}"
            raise UserError(
                f"{self.root or self.name} could not be loaded ({_first_line(error)}); local files will do: "
                f"data.root=FOLDER with {files}, plain or .gz, or with a copy of the hub's files"
            ) from error

    @staticmethod
    def _column(row: Mapping[str, Any], name: str, key: str) -> Any:
        try:
            return row[name]
        except KeyError:
            raise UserError(f"{key} must be one of {', '.join(sorted(row))}; got {name!r}") from None


@dataclass(frozen=True)
class GrammarSource:
    """Pairs of the embedded grammar: `train`, `valid` and `test` say how many."""

    grammar: Grammar
    train: int = 30_000
    valid: int = 1000
    test: int = 1000
    seed: int = 0
    src_lang: str = "en"
    tgt_lang: str = "de"

    def __post_init__(self) -> None:
        for split in SPLITS:
            whole(f"data.source.{split}", getattr(self, split), 1, unit="pairs", high=MOST_PAIRS)
        seed("data.source.seed", self.seed)

    def pairs(self, split: str) -> Iterator[Pair]:
        """See `Source.pairs`."""
        for line, (src, tgt) in enumerate(self.grammar.sample(self.size(split), self.seed, split=split)):
            yield line, src, tgt

    def size(self, split: str) -> int:
        one_of("split", split, SPLITS)
        return getattr(self, split)

    def inputs(self) -> dict[str, str]:
        settings = {name: str(value) for name, value in vars(self).items()}
        # A digest of what it generates, so that another version of the grammar is other data.
        first = [pair for split in SPLITS for pair in self.grammar.sample(100, self.seed, split=split)]
        return settings | {"sha256": hashlib.sha256(str(first).encode()).hexdigest()}


def file_sha256(path: Path) -> str:
    """Hash of a file's content, read again only when its size or time changes."""
    status = path.stat()
    return _file_sha256(path.resolve(), status.st_size, status.st_mtime_ns)


def content_sha256(path: Path) -> str:
    """The same of what is in a `.gz`: packed or not, the same text has the same hash.

    Raises:
        UserError: a `.gz` that is not gzip.
    """
    status = path.stat()
    return _file_sha256(path.resolve(), status.st_size, status.st_mtime_ns, path.suffix == ".gz")


@lru_cache(maxsize=1024)
def _file_sha256(path: Path, size: int, mtime: int, is_packed: bool = False) -> str:
    digest = hashlib.sha256()
    with gzip.open(path) if is_packed else open(path, "rb") as file, _whole_gzip(path):
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def _whole_gzip(path: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path} must be a whole gzip file; got: {error}") from None


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


def lines_of(path: Path) -> Iterator[str]:
    """Lines of a file, ended by \\n only: bytes, because text mode also breaks at a lone \\r.

    Raises:
        UserError: a line is not UTF-8 or longer than any sentence (a small `.gz` can hold one that fills the
            memory), or the file is not gzip though its name ends so.
    """
    with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file, _whole_gzip(path):
        try:
            for number in itertools.count(1):
                line = file.readline(MOST_LINE_BYTES + 1)
                if not line:
                    break
                if len(line) > MOST_LINE_BYTES:
                    raise UserError(
                        f"{path}, line {number} must have at most {MOST_LINE_BYTES:,} bytes; it has more"
                    )
                yield line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path}, line {number} must be UTF-8; got byte 0x{error.object[error.start]:02x} "
                f"as byte {error.start + 1} of the line"
            ) from None


def _count_lines(path: Path) -> int:
    """Number of lines without decoding them; of a broken gzip file those before the break: who reads it says
    what is wrong with it."""
    count, last = 0, b"\n"
    with (
        gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file,
        contextlib.suppress(EOFError, gzip.BadGzipFile, zlib.error),
    ):
        while block := file.read(1 << 20):
            count, last = count + block.count(b"\n"), block[-1:]
    return count + (last != b"\n")


def _existing_folder(root: str | None) -> Path:
    if root is None or not Path(root).expanduser().is_dir():
        raise UserError(f"data.root must be an existing folder (data.root=FOLDER); got {_said(root)}")
    return Path(root).expanduser()


def _existing_file(path: str | None) -> Path:
    if path is None or not Path(path).expanduser().is_file():
        parent = None if path is None else Path(path).expanduser().parent
        there = (
            ""
            if parent is None
            else f" (there: {_listing(parent)})"
            if parent.is_dir()
            else f" (no {parent})"
        )
        raise UserError(f"data.root must be an existing folder or file; got {_said(path)}{there}")
    return Path(path).expanduser()


def _said(value: str | None) -> str:
    if value is None:
        return "none"
    is_relative = not Path(value).expanduser().is_absolute()
    return repr(value) + (f" (in {Path.cwd()})" if is_relative else "")


def _listing(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    return (
        ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
        or "an empty folder"
    )
