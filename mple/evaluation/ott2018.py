"""The ten further references of Ott et al. (2018), or any file in the form of theirs.

    Ott2018("wmt14-en-de.extra_refs.gz").similarity(run, "test", targets)
    Ott2018("wmt14-en-de.extra_refs.gz", near_copy=60)     # without the one that is nearly T itself

Every line is a key, a tab and a text; sentence k has a source `S-k`, the corpus' own target `T-k` and further
references `R1-k`, `R2-k`, …, in any order:

    S-7     a dog runs across the grass
    T-7     ein Hund läuft über das Gras
    R1-7    ein Hund rennt durchs Gras
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from mple import checks
from mple.bleu import sentence_bleu
from mple.checks import UserError
from mple.data.text import file_sha256, lines_of
from mple.estimator.target_distortion import check_leak
from mple.evaluation.finished import Finished
from mple.evaluation.references import Similarity, of_several

_KEY = re.compile(r"([ST]|R[0-9]+)-([0-9]+)")
_FORM = "S-, T- or R<number>- and the sentence's number (S-7, T-7, R1-7), a tab and the text"


@dataclass(frozen=True)
class Ott2018:
    """The references `R<i>-k` of a keyed file, for every sentence of the split whose source is in the file.

    path: the file, plain or `.gz`.
    near_copy: BLEU, 0 to 100: leave out every R<i> that is a near-copy of T, as a whole: whose mean over the
        file's sentences of S(T, R<i>), T the reference, is this or more; sentences without T do not count.
        None keeps all, as the paper does.
    min_references: of sentences with fewer nothing is measured.
    allow_leak: measure though sources of the split are sources of training.

    Sources are compared with every run of white space as one space, so neither order nor line numbers
    matter; sentences that the file lacks are left out (NaN). A source that the file has several times has
    the references of all its sentences. An empty text is no reference. T is never one, but an R<i> that
    happens to say the same is, and so is one that repeats another R<i>: people wrote them independently.
    For the same reason near-copies are not left out sentence by sentence: it would choose references by
    what is measured, and S̄ of raw targets would come out too low.

    Raises:
        UserError: no path or no file; a line without a tab or with another key; a key twice; a T or R
            without its S. From the call: no sentence of the split in the file, none with enough
            references, no T or no reference left where `near_copy` is given, or a source trained on.

    Source: Sec. 4 Metrics, "10 … extra human-annotated references for En-De" of Ott et al., 2018, "Analyzing
    Uncertainty in Neural Machine Translation". Public are 500 sentences of newstest2014, the test split of
    WMT14; a distilled T is there for "valid" only, which is that split for a run that was trained with
    data.source.splits.valid=test data.source.splits.test=validation. R9 is T verbatim in 47% of them (S̄ 75;
    the others' is 23 to 39), which the paper does not mention; S̄ of raw targets depends on it, see
    experiments/LOG.md.
    """

    path: str | None = None
    near_copy: float | int | None = None
    min_references: int = 2
    allow_leak: bool = False

    def __post_init__(self) -> None:
        checks.whole("estimator.references.min_references", self.min_references, 1, high=1000)
        if self.near_copy is not None:
            checks.number("estimator.references.near_copy", self.near_copy, 0, 100, unit="BLEU")
        if self.path is None:
            raise UserError(f"estimator.references.path must name a file of lines {_FORM}; got none")
        if not Path(self.path).is_file():
            raise UserError(f"estimator.references.path must name a file; there is no {self.path}")
        _ = self._sentences  # complains before anything is decoded

    @property
    def _file(self) -> Path:
        assert self.path is not None
        return Path(self.path)

    @cached_property
    def _sentences(self) -> list["Sentence"]:
        return read(self._file)

    def inputs(self) -> dict[str, str]:
        """The file by its content: the key of a report leaves out its name and where it lies."""
        return {"sha256": file_sha256(self._file)}

    def similarity(self, run: Finished, split: str, targets: Sequence[str]) -> Similarity:
        """See `References.similarity`."""
        _, sources, _ = run.data.text(split)
        near = self._near_copies(run.data.tokenize)
        references: dict[str, list[str]] = defaultdict(list)
        for sentence in self._sentences:
            references[sentence.source] += [
                text for name, text in sentence.references.items() if name not in near and text
            ]
        wanted = [_spaced(source) for source in sources]
        found = sum(source in references for source in wanted)
        if not found:
            raise UserError(
                f"{self._file} must have sources of the split {split} of {run.metrics['data']}; it has none "
                f"of its {len(wanted)} (that begin with {wanted[0][:60]!r}; those of the file with "
                f"{self._sentences[0].source[:60]!r})"
            )
        leaked = check_leak(sources, (src for _, src, _ in run.source.pairs("train")), self.allow_leak)
        note = f"{self._file.name} has {found} of {len(wanted)} sources"
        note += f", {leaked} leaked sources" if leaked else ""
        if self.near_copy is None:
            note += ", with near-copies of T if there are any"
        else:
            names = ", ".join(f"{name} (S {score:.1f})" for name, score in near.items())
            note += f", without near-copies: {names or 'there is none'}"
        every = [references.get(source, []) for source in wanted]
        return of_several(every, targets, run.data.tokenize, self.min_references, note)

    def _near_copies(self, tokenize: str) -> dict[str, float]:
        """Which R<i> are left out, and their mean S(T, R<i>)."""
        if self.near_copy is None:
            return {}
        texts: dict[str, list[str]] = defaultdict(list)
        targets: dict[str, list[str]] = defaultdict(list)
        for sentence in self._sentences:
            for name, text in sentence.references.items():
                if text and sentence.target:
                    texts[name].append(text)
                    targets[name].append(sentence.target)
        if not texts:
            raise UserError(
                f"estimator.references.near_copy={self.near_copy} compares references with T-; "
                f"{self._file} has no sentence with both"
            )
        scores = {
            name: float(np.mean(sentence_bleu(texts[name], targets[name], tokenize)))
            for name in sorted(texts, key=lambda name: int(name[1:]))
        }
        near = {name: score for name, score in scores.items() if score >= self.near_copy}
        every = {name for sentence in self._sentences for name, text in sentence.references.items() if text}
        if near.keys() == every:
            raise UserError(
                f"estimator.references.near_copy (BLEU) must be above {min(near.values()):.1f}, the lowest "
                f"S of an R<i> of {self._file} with T, for one to be left; got {self.near_copy}"
            )
        return near


@dataclass(frozen=True)
class Sentence:
    """One sentence of a keyed file. references: by "R1", "R2", …; a text may be empty."""

    source: str
    target: str | None = None
    references: dict[str, str] = field(default_factory=dict)


def read(path: Path) -> list[Sentence]:
    """The sentences of a keyed file, in the order of their first lines. Every run of white space in a source
    becomes one space; the other texts lose what is at their ends.

    Raises:
        UserError: a line is not UTF-8, has no tab or another key; a key is there twice; a T or R has no S;
            the file is empty.
    """
    entries: dict[int, dict[str, tuple[int, str]]] = defaultdict(dict)
    for number, line in enumerate(lines_of(path), 1):
        key, tab, text = line.partition("\t")
        match = _KEY.fullmatch(key)
        if not tab or match is None:
            got = f"the key {key[:40]!r}" if tab else f"no tab in {line[:40]!r}"
            raise UserError(f"{path}, line {number} must be {_FORM}; got {got}")
        name = match[1] if match[1] in "ST" else f"R{int(match[1][1:])}"
        entry = entries[int(match[2])]
        if name in entry:
            first, _ = entry[name]
            raise UserError(
                f"{path}, line {number} must have a key of its own; {key} is that of line {first}"
            )
        entry[name] = (number, text)
    if not entries:
        raise UserError(f"{path} must have lines {_FORM}; it has none")
    return [_sentence(path, k, entry) for k, entry in entries.items()]


def _sentence(path: Path, k: int, entry: Mapping[str, tuple[int, str]]) -> Sentence:
    if "S" not in entry:
        name, (number, _) = next(iter(entry.items()))
        raise UserError(f"{path}, line {number}: {name}-{k} must have its source, a line S-{k}; got none")
    texts = {name: text.strip() for name, (_, text) in entry.items()}
    references = {name: text for name, text in texts.items() if name[0] == "R"}
    return Sentence(_spaced(texts["S"]), texts.get("T"), references)


def _spaced(text: str) -> str:
    return " ".join(text.split())
