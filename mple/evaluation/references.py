"""What people would write for a source, beside the one target in the corpus: for L̂_target and for γ.

    Known().similarity(run, "valid", targets)                      # what the data know themselves
    Files(("refs.1.de", "refs.2.de")).similarity(run, "valid", targets)

A file whose lines have keys, and that need not go line by line with the split: `mple.evaluation.ott2018`.

`similarity` is S̄ of each sentence, the mean sentence BLEU of a text with its references, 0 to 100.

Where the own target of the corpus is one of a source's references (Tatoeba's other targets, the English
descriptions of Multi30k), one copy of it is removed, since raw data would be compared with itself. Nothing
else is ever removed: where people wrote the references independently of each other, one that equals the own
target is a measurement like the others, and S̄ of raw data without it would be too low.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from mple import checks
from mple.checks import UserError
from mple.data.text import file_sha256, lines_of
from mple.estimator.target_distortion import TargetDistortion, check_leak
from mple.evaluation.finished import Finished


@dataclass(frozen=True, eq=False)
class Similarity:
    """values: S̄ of each sentence of a split, in its order; NaN for one that has too few references.
    note: which references they were. is_own: they were the corpus' own single target.
    """

    values: Float[np.ndarray, "n"]
    note: str
    is_own: bool = False


@runtime_checkable
class References(Protocol):
    def similarity(self, run: Finished, split: str, targets: Sequence[str]) -> Similarity:
        """Of one text for every sentence of the split, in its order."""


@dataclass(frozen=True)
class Known:
    """The best that the data know: the grammar's whole distribution, with the exact expectation over it; all
    other targets that a file such as Tatoeba's has for a source (sentences with a single target are left
    out); else the corpus' own single target, of which raw targets have distance 0 by definition.
    """

    def similarity(self, run: Finished, split: str, targets: Sequence[str]) -> Similarity:
        source: Any = run.source
        _, sources, references = run.data.text(split)
        tokenize = run.data.tokenize
        if (grammar := getattr(source, "grammar", None)) is not None:
            values = TargetDistortion(tokenize=tokenize).exact_similarity(grammar, sources, targets)
            return Similarity(values, "exact: all targets of the grammar, by their probability")
        if hasattr(source, "references"):
            of_source = {src: several for _, src, several in source.references(split)}
            every = [of_source.get(src, []) for src in sources]
            every = [without_own(several, own) for several, own in zip(every, references, strict=True)]
            return of_several(every, targets, tokenize, 1, "other targets in the corpus")
        values = TargetDistortion(tokenize=tokenize, min_references=1).similarity(
            targets, [[reference] for reference in references]
        )
        note = "the corpus' own single reference, so raw targets have distance 0 by definition"
        return Similarity(values, f"{note} (estimator/references=files has others)", is_own=True)


@dataclass(frozen=True)
class Files:
    """Further references in files, plain or `.gz`, that go line by line with the split's raw files.

    paths: the files; a line may hold several references with tabs between them, an empty one none.
    label: what they are, in the note: "references", or "descriptions" of an image, which translate nothing.
    own_is_among_them: the own target of the corpus was chosen from these references, so one copy of it is
        removed from each sentence that has it. False for references that were written independently of it;
        the note counts the sentences whose own target is one of them.
    min_references: of sentences with fewer nothing is measured.
    allow_leak: measure though sources of the split are sources of training.

    Raises:
        UserError: no file, other numbers of lines, a file that is not there, no sentence with enough
            references, or a source that was trained on.
    """

    paths: tuple[str, ...] | list[str] = ()
    label: str = "references"
    own_is_among_them: bool = False
    min_references: int = 2
    allow_leak: bool = False

    def __post_init__(self) -> None:
        checks.whole("estimator.references.min_references", self.min_references, 1, high=1000)
        if not self.paths:
            raise UserError("estimator.references.paths must name at least one file of references; got none")

    def inputs(self) -> dict[str, str]:
        """The files by their content, which is in the key of a report: another content is another report."""
        return {f"sha256 of file {k}": file_sha256(Path(path)) for k, path in enumerate(self.paths, 1)}

    def similarity(self, run: Finished, split: str, targets: Sequence[str]) -> Similarity:
        source: Any = run.source
        if hasattr(source, "references") or hasattr(source, "grammar"):
            raise UserError(
                f"estimator/references=files is for data in files that go line by line; "
                f"{run.metrics['data']} has several references itself: estimator/references=known"
            )
        corpus = run.data.corpus(split)
        every: list[list[str]] = [[] for _ in range(len(corpus))]
        size = source.size(split)
        if size is None:  # a source that does not know without reading
            size = sum(1 for _ in source.pairs(split))
        for path in map(Path, self.paths):
            if not path.is_file():
                raise UserError(f"estimator.references.paths must name files; there is no {path}")
            lines = list(lines_of(path))
            if len(lines) != size:
                raise UserError(
                    f"estimator.references.paths must go line by line with the {size} lines of the split "
                    f"{split}; {path} has {len(lines)}"
                )
            for row, line in enumerate(corpus.lines.tolist()):
                every[row] += [text for part in lines[line].split("\t") if (text := part.strip())]
        _, sources, own = run.data.text(split)
        trained = (src for _, src, _ in source.pairs("train"))
        leaked = check_leak(sources, trained, self.allow_leak)
        note = f"{self.label} in {len(self.paths)} files" + (f", {leaked} leaked sources" if leaked else "")
        equal = sum(target in several for several, target in zip(every, own, strict=True))
        note += (
            f", own target {'removed from' if self.own_is_among_them else 'among'} those of {equal} sentences"
        )
        if self.own_is_among_them:
            every = [without_own(several, target) for several, target in zip(every, own, strict=True)]
        return of_several(every, targets, run.data.tokenize, self.min_references, note)


def without_own(references: Sequence[str], own: str) -> list[str]:
    """The references of a sentence less one copy of the own target of the corpus, where it is one of them."""
    if own not in references:
        return list(references)
    place = references.index(own)
    return [*references[:place], *references[place + 1 :]]


def of_several(
    references: Sequence[Sequence[str]], targets: Sequence[str], tokenize: str, least: int, note: str
) -> Similarity:
    """S̄ of the sentences with at least `least` references; the note says how many of both there are.

    Raises:
        UserError: there is no such sentence.
    """
    rows = [row for row, several in enumerate(references) if len(several) >= least]
    if not rows:
        raise UserError(
            f"L_target needs sentences with at least {least} references "
            f"(estimator.references.min_references); none of {len(references)} has them"
        )
    distortion = TargetDistortion(tokenize=tokenize, min_references=least)
    values = np.full(len(targets), np.nan)
    values[rows] = distortion.similarity([targets[row] for row in rows], [references[row] for row in rows])
    count = sum(len(references[row]) for row in rows) / len(rows)
    return Similarity(values, f"{note}: {len(rows)} sentences, {count:.1f} references each")
