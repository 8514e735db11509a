"""Lines of raw text in, their translations out, in the same order and number, however many there are.

    translator = Translator(load("outputs/glat_dynkd/multi30k_de-en"))
    for translations in translator.stream(sys.stdin.buffer, bucket=4096):
        print(*(t.text for t in translations), sep="\n")

Memory holds one bucket of lines, which is sorted by length, translated in batches and put back in order.
"""

import dataclasses
import json
import os
import re
import select
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol, TextIO, TypeVar, cast, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from rich.progress import Progress, TextColumn
from torch import Tensor, nn

from mple import checks
from mple.checks import UserError
from mple.data.batching import evaluation_batches
from mple.decoding.beam import NBest
from mple.decoding.decode import Candidates
from mple.plain import PlainConsole, one_line
from mple.trained import Trained
from mple.types import UNK

T = TypeVar("T")

TOO_LONG = ("split", "refuse")
PRECISIONS = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
_BOM = b"\xef\xbb\xbf"
_SHOWN = 10  # different unknown characters that a report names
_PAUSE = 0.05  # seconds without input after which the lines read so far are translated
_BLOCK = 1 << 16  # bytes read from a pipe at once


@runtime_checkable
class Ranks(Protocol):
    """A decoding that can show all its candidates: those of several lengths."""

    def candidates(self, model: nn.Module, src_tokens: Int[Tensor, "B S"]) -> Candidates: ...


@runtime_checkable
class Searches(Protocol):
    """A decoding that can be asked for several hypotheses: beam search."""

    def search(self, model: nn.Module, src_tokens: Int[Tensor, "B S"], n_best: int) -> NBest: ...


@dataclass(frozen=True)
class Candidate:
    """`score_nats` is the summed log-probability under whoever ranked; the order is that of the decoding."""

    text: str
    score_nats: float


@dataclass(frozen=True)
class Translation:
    """A line (counted from 1) and its candidates, best first, no two with one text; none for an empty line.
    `parts` is how many pieces it was split into."""

    line: int
    source: str
    candidates: tuple[Candidate, ...]
    parts: int = 1

    @property
    def text(self) -> str:
        return self.candidates[0].text if self.candidates else ""

    def as_json(self) -> str:
        candidates = [dataclasses.asdict(candidate) for candidate in self.candidates]
        return json.dumps(
            {"line": self.line, "source": self.source, "candidates": candidates}, ensure_ascii=False
        )


@dataclass
class Report:
    """What was met so far: lines done, lines split, and what the vocabulary lacks."""

    lines: int = 0
    split: int = 0
    unknown: int = 0
    most_common: Counter[str] = field(default_factory=Counter)

    def add_unknown(self, found: list[str]) -> None:
        self.unknown += len(found)
        self.most_common.update(found)
        if len(self.most_common) > 100 * _SHOWN:  # a stream must not fill the memory
            self.most_common = Counter(dict(self.most_common.most_common(10 * _SHOWN)))

    def __str__(self) -> str:
        said = [f"{self.lines:,} lines"]
        if self.split:
            said.append(f"{self.split:,} too long and split")
        if self.unknown:
            shown = ", ".join(f"{c!r} ({n:,})" for c, n in self.most_common.most_common(_SHOWN))
            said.append(f"{self.unknown:,} unknown to the vocabulary: {shown}")
        return "; ".join(said)


@dataclass(frozen=True)
class _Line:
    number: int
    text: str
    parts: list[np.ndarray]


@dataclass(frozen=True)
class Translator:
    """Translates a stream of lines.

    max_tokens: source tokens of a batch, padding included.
    max_length: content tokens of the longest source that is translated as one; None takes the model's.
    too_long: what becomes of a longer line. "split": it is cut at the end of a sentence, else at other
        punctuation, else at a space, the cut nearest to the middle, until each part is short enough; the
        parts' translations are joined by a space. "refuse": it is a mistake. It is never cut short.
    n_best: candidates of each line, of equal texts the best alone, so that a line may have fewer; None for
        the best alone. A line that was split has one: its parts' best, the sum of their scores.
    precision: "32-true", "bf16-mixed" or "16-mixed". In 32-true no translation depends on its neighbours, up
        to rounding; in the others a tie may fall either way.

    Raises:
        UserError: a value out of range; `n_best` of a decoding that has but one; a decoding that lacks its
            teacher.
    """

    trained: Trained
    max_tokens: int = 4096
    max_length: int | None = None
    too_long: str = "split"
    n_best: int | None = None
    precision: str = "32-true"

    def __post_init__(self) -> None:
        checks.whole("max_tokens", self.max_tokens, 1, "tokens of a batch", high=100_000_000)
        checks.one_of("too_long", self.too_long, TOO_LONG)
        checks.one_of("precision", self.precision, PRECISIONS)
        hard = self.trained.size.max_positions - 1
        if self.max_length is not None:
            checks.whole("max_length", self.max_length, 1, "tokens")
            if self.max_length > hard:
                raise UserError(
                    f"max_length must be at most {hard}, for which the model has positions; "
                    f"got {self.max_length}"
                )
        self.trained.check_teacher()
        decoding = self.trained.decoding
        if self.n_best is not None:
            checks.whole("n_best", self.n_best, 1, "candidates")
            beam = getattr(decoding, "beam", self.n_best)
            if not isinstance(decoding, Ranks | Searches):
                raise UserError(
                    "n_best needs a decoding with candidates, such as decoding=length_parallel "
                    f"decoding.lengths.beam={self.n_best}; got {type(decoding).__name__}"
                )
            if self.n_best > beam:
                raise UserError(f"n_best must be at most decoding.beam={beam}; got {self.n_best}")

    @property
    def limit(self) -> int:
        """Content tokens of the longest source that is translated as one."""
        return self.max_length or self.trained.max_length

    def stream(
        self, lines: Iterable[bytes | None], bucket: int = 4096, report: Report | None = None
    ) -> Iterator[list[Translation]]:
        """Translations of `lines` in order, up to `bucket` at a time.

        Lines end in \\n or \\r\\n; white space at both ends is dropped, as it was for training. None says
        that no line comes for now (see `arriving`): those read so far are translated. So they are when
        reading ends with an exception, before it is raised.

        Raises:
            UserError: a line is not UTF-8, or too long with too_long=refuse.
        """
        checks.whole("bucket", bucket, 1, "lines", high=100_000_000)
        report = report if report is not None else Report()
        read = (found and self._read(*found, report) for found in _decoded(lines))
        for found in _buckets(read, bucket):
            translations = self._translate(found)
            report.lines += len(translations)
            yield translations

    def _read(self, number: int, text: str, report: Report) -> _Line:
        (ids,) = self.trained.encode([text])
        if np.any(ids == UNK):
            report.add_unknown(self.trained.src_vocabulary.unknown(text))
        if len(ids) <= self.limit:
            return _Line(number, text, [ids] if len(ids) else [])
        if self.too_long == "refuse":
            raise UserError(
                f"line {number} must have at most {self.limit} tokens; got {len(ids)} "
                "(too_long=split would divide it)"
            )
        report.split += 1
        parts = self.trained.encode(
            split(text, lambda part: len(self.trained.encode([part])[0]) <= self.limit)
        )
        return _Line(number, text, [part for part in parts if len(part)])

    def _translate(self, lines: list[_Line]) -> list[Translation]:
        """All parts of all lines in batches of similar length, put together line by line."""
        parts = [ids for line in lines for ids in line.parts]
        lengths = np.array([len(ids) for ids in parts], np.int64)
        found: list[tuple[Candidate, ...]] = [()] * len(parts)
        for rows in evaluation_batches(lengths, lengths, self.max_tokens) if parts else ():
            candidates = self._decode(self.trained.src_tokens([parts[row] for row in rows]))
            for row, several in zip(rows, candidates, strict=True):
                found[row] = several
        rest = iter(found)
        translations = []
        for line in lines:
            own = [next(rest) for _ in line.parts]
            joined = own[0] if len(own) == 1 else _joined(own)
            translations.append(Translation(line.number, line.text, joined, len(own)))
        return translations

    @torch.inference_mode()
    def _decode(self, src_tokens: Int[Tensor, "B S"]) -> list[tuple[Candidate, ...]]:
        dtype = PRECISIONS[self.precision]
        with torch.autocast(src_tokens.device.type, dtype, dtype != torch.float32):
            tokens, scores = self._hypotheses(src_tokens)
        num_candidates = tokens.shape[1]
        texts = self.trained.texts(tokens.flatten(0, 1))
        found = []
        for b, row in enumerate(scores.tolist()):
            different: dict[str, Candidate] = {}
            for text, score in zip(texts[b * num_candidates : (b + 1) * num_candidates], row, strict=True):
                if score != -torch.inf:
                    different.setdefault(_one_line(text), Candidate(_one_line(text), score))
            found.append(tuple(different.values())[: self.n_best])
        return found

    def _hypotheses(
        self, src_tokens: Int[Tensor, "B S"]
    ) -> tuple[Int[Tensor, "B K L"], Float[Tensor, "B K"]]:
        model, decoding = self.trained.model, self.trained.decoding
        if self.n_best is None:
            best = decoding(model, src_tokens)  # type: ignore[arg-type]
            return best.tokens.unsqueeze(1), best.scores.unsqueeze(1)
        found: NBest | Candidates
        if isinstance(decoding, Searches):
            found = decoding.search(model, src_tokens, self.n_best)
        else:
            assert isinstance(decoding, Ranks)
            found = decoding.candidates(model, src_tokens)
        if self.n_best > found.scores.shape[1]:
            raise UserError(
                f"n_best must be at most the number of lengths that the decoding tries, "
                f"{found.scores.shape[1]} (decoding.lengths.beam); got {self.n_best}"
            )
        return found.tokens, found.scores


def _joined(parts: list[tuple[Candidate, ...]]) -> tuple[Candidate, ...]:
    """The best candidates of a line's parts as one candidate; none of no parts."""
    if not parts:
        return ()
    best = [candidates[0] for candidates in parts]
    return (Candidate(" ".join(c.text for c in best if c.text), sum(c.score_nats for c in best)),)


def _one_line(text: str) -> str:
    """A vocabulary with bytes can say a line's end, which would put all later lines out of step."""
    return one_line(text)


# --- lines ---------------------------------------------------------------------------------------------


@runtime_checkable
class Input(Protocol):
    """Where lines of bytes come from; `fileno` as of a file, or it raises OSError."""

    def fileno(self) -> int: ...

    def __iter__(self) -> Iterator[bytes]: ...


def arriving(source: Input, pause: float = _PAUSE) -> Iterable[bytes | None]:
    """The lines of a pipe or socket, with None where it has had nothing for `pause` seconds; anything else
    (a file, or what is no file of the operating system) never makes one wait and stays as it is."""
    try:
        mode = os.fstat(source.fileno()).st_mode
    except OSError:
        return source
    return _piped(source.fileno(), pause) if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) else source


def _piped(file: int, pause: float) -> Iterator[bytes | None]:
    """A buffered file cannot say whether a line is ready, so this reads without one."""
    begun = bytearray()  # of a line whose end has not come
    while True:
        if not select.select([file], [], [], pause)[0]:
            yield None
            select.select([file], [], [])
        block = os.read(file, _BLOCK)
        if not block:
            break
        first, *others = block.split(b"\n")
        begun += first
        for part in others:
            yield bytes(begun) + b"\n"
            begun = bytearray(part)
    if begun:
        yield bytes(begun)


def _decoded(lines: Iterable[bytes | None]) -> Iterator[tuple[int, str] | None]:
    """(number from 1, text without white space at its ends) of each line."""
    number, before = 0, 0  # lines, and the bytes of those that are done
    for line in lines:
        if line is None:
            yield None
            continue
        number += 1
        skipped = len(_BOM) if number == 1 and line.startswith(_BOM) else 0
        try:
            yield number, line[skipped:].decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise UserError(
                f"line {number} must be UTF-8; got byte 0x{error.object[error.start]:02x} as byte "
                f"{skipped + error.start + 1} of the line, at offset {before + skipped + error.start} of the "
                "input (in bytes, counted from 0)"
            ) from None
        before += len(line)


def _buckets(items: Iterable[T | None], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, shorter ones where None stands between them and at the end; those before an
    exception, Ctrl-C included, are handed out before it is raised."""
    rest, bucket = iter(items), list[T]()
    ended: BaseException | None = None
    is_more = True
    while is_more:
        item: T | None = None
        try:
            item = next(rest)
        except StopIteration:
            is_more = False
        except BaseException as error:
            ended, is_more = error, False
        if item is not None:
            bucket.append(item)
        if bucket and (item is None or len(bucket) == size):
            yield bucket
            bucket = []
    if ended is not None:
        raise ended


# Where a text may be cut, the best places first; a match ends before the cut.
_CUTS = (
    re.compile(r"[.!?…]+[\"'”’»)\]]*(?=\s)|[。！？]+[”’」』）]*"),
    re.compile(r"[,;:–—]+(?=\s)|[，、；：]+"),
    re.compile(r"(?<=\S)(?=\s)"),
)


def split(text: str, fits: Callable[[str], bool]) -> list[str]:
    """Parts of `text` that fit, in order: cut at the end of a sentence, else at other punctuation, else at a
    space, and where there is none between two characters; the cut nearest to the middle, again and again.

    Nothing but white space at a cut is lost. A single character is never cut, whether it fits or not.
    """
    done: list[str] = []
    todo = [text.strip()]
    while todo:
        part = todo.pop()
        if len(part) < 2 or fits(part):
            done.append(part)
            continue
        cut = _cut(part)
        todo += [part[cut:].strip(), part[:cut].strip()]
    return done


def _cut(text: str) -> int:
    middle = len(text) / 2
    for places in _CUTS:
        ends = [match.end() for match in places.finditer(text) if 0 < match.end() < len(text)]
        if ends:
            return min(ends, key=lambda end: abs(end - middle))
    return len(text) // 2


# --- the command ---------------------------------------------------------------------------------------


@runtime_checkable
class Output(Protocol):
    """A file for text."""

    def write(self, text: str, /) -> object: ...

    def flush(self) -> object: ...


def answer(
    translator: Translator,
    lines: Iterable[bytes | None],
    output: Output,
    errors: Output,
    bucket: int,
    shows: bool,
) -> Report:
    """Translate `lines` into `output`, which has a bucket's translations before the next bucket is read; says
    at the end on `errors` what was met, even if a mistake ended it. `shows`: with progress on `errors`."""
    report, began = Report(), time.monotonic()
    console = PlainConsole(file=cast(TextIO, errors), highlight=False, soft_wrap=True)
    bar = Progress(TextColumn("{task.description}"), console=console, disable=not shows, transient=True)
    try:
        with bar:
            task = bar.add_task("reading", total=None)
            for translations in translator.stream(lines, bucket, report):
                said = (t.text if translator.n_best is None else t.as_json() for t in translations)
                output.write("".join(text + "\n" for text in said))
                output.flush()
                rate = report.lines / (time.monotonic() - began)
                bar.update(task, description=f"{report.lines:,} lines, {rate:,.0f} a second")
    except BrokenPipeError:
        raise
    except BaseException:
        _say(report, began, shows, errors)
        raise
    _say(report, began, shows, errors)
    return report


def _say(report: Report, began: float, always: bool, errors: Output) -> None:
    if always or report.split or report.unknown:
        rate = report.lines / (time.monotonic() - began)
        print(f"{report}; {rate:,.0f} lines a second", file=errors)
