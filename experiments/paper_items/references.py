"""What Y is in S(Y, T) where L_target is measured: it differs between data sets, and the numbers with it.

    references.of(library, map(Training, table2.ROWS.values()))      # a sentence for an item's notes

A report of `estimator=mple` keeps the files that it was given; what the data know themselves
(`mple.evaluation.references.Known`) follows from their name.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from experiments.paper_items.runs import Library, Training

START = "The references of S and L_target are "
GRAMMAR = "all targets that the grammar gives the source, each by its probability"
DESCRIPTIONS = (
    "independent descriptions of the same image (Multi30k task 2), not translations of the source: S says "
    "how near a text is to what other people write of the image, and is low for every text. Where "
    "the corpus' own target is one of the descriptions (English), one copy of it is left out"
)
OTHERS = "the other targets that the corpus has for the same source; sentences with a single one are left out"
SINGLE = "the corpus' own single target, from which the raw target has no distance by definition"


def of(library: Library, trainings: Iterable[Training]) -> str:
    """A sentence on the references of these rows: those that they were measured with, else those that the
    commands of what is missing give.

    Raises:
        UserError: a file that is not one of evaluate.py.
    """
    data, wanted = library.study.data, library.mple()
    runs = [run for training in trainings for run in library.runs(training, note=False)]
    reports = [report for run in runs if (report := run.report(wanted)) is not None]
    found = dict.fromkeys(_named(data, _files(report["settings"])) for report in reports)
    return START + ("; of other rows, ".join(found) or _named(data, ())) + "."


def _named(data: str, files: tuple[str, ...]) -> str:
    if files and not all(name.startswith("descriptions.") for name in files):
        return f"those in files beside the corpus ({', '.join(files)})"
    if data.startswith("multi30k"):
        return DESCRIPTIONS
    if data.startswith("grammar"):
        return GRAMMAR
    return OTHERS if data.startswith("tatoeba") else SINGLE


def _files(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the files of references in a report's settings; none where the data's own were taken."""
    references = (settings.get("estimator") or {}).get("references") or {}
    paths = references.get("paths") or [references.get("path")]
    return tuple(Path(path).name for path in paths if path)
