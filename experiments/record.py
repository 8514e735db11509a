"""Keep what finished runs measured, without their weights and texts: small enough for a repository.

    python -m experiments.record                                # outputs/ -> experiments/results/runs/
    python -m experiments.report --records experiments/results/runs --data grammar
    python -m experiments.reproduce --records experiments/results/runs --seeds 3   # makes what is not there

Of a run the record keeps, under the same path, `metrics.json`, the reports of its evaluations, what its
input predictor measured, and what corpus BLEU sums up for each test sentence (numbers, no words), so that
two runs can still be compared over sentences. A run of the same configuration and seed that was made again
replaces the older record, and never a later one. Tables and figures are made of a record as of the runs
themselves; only what would need the weights is not to be had, and `reproduce` trains again for it.
"""

import argparse
import json
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.paper_items.runs import COUNTS, Finished, Library, Study, is_same, write_sentence_counts
from mple.checks import UserError
from mple.command import answered
from mple.files import read_json, write_text

RECORDS = Path("experiments/results/runs")
KEPT = ("metrics.json", "evaluations/*.json", "input_predictor/*/input_predictor.json")


def record(run: Finished, to: Path) -> Path | None:
    """Write the record of one run; returns its folder, or None where there is one of a later run. Reports of
    the same run that it lacks are kept.

    Raises:
        OSError: it cannot be written.
        UserError: a file of the run is a link.
    """
    folder = to.joinpath(*run.folder.parts[-4:])
    path = folder / "metrics.json"
    old = read_json(path) if path.exists() else None
    if old is not None and not is_same(old, run.record):
        if run.record.get("date", "") < old.get("date", ""):
            return None
        shutil.rmtree(folder)  # another run of the configuration: its reports speak of other weights
    for pattern in KEPT:
        for path in sorted(run.folder.glob(pattern)):
            if path.is_symlink() or not path.is_file():  # what a link points to may be anything
                raise UserError(f"{path} must be a file; it is none (a link, a pipe or a device)")
            copy = folder / path.relative_to(run.folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps(read_json(path), indent=2) + "\n"
            # Where data and outputs lie on this machine is nobody's business.
            for name, word in (("data.root", "FOLDER"), ("outputs", "outputs")):
                place = run.override(name)
                if place is not None and Path(place).is_absolute():
                    text = re.sub(rf"{re.escape(place.rstrip('/'))}(?![\w.-])", word, text)
            write_text(copy, text)
    if not (folder / COUNTS).exists():
        write_sentence_counts(folder / COUNTS, run)
    return folder


@answered
def main(arguments: Sequence[str] | None = None) -> int:
    """Status 2 with one line where there is nothing to record."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.record", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="folder of the runs (outputs)")
    parser.add_argument("--to", type=Path, default=RECORDS, help=f"folder of the records ({RECORDS})")
    parser.add_argument("--data", metavar="NAME", help="only runs of this data set (all)")
    options = parser.parse_args(arguments)
    runs = [run for run in Library(Study(options.outputs)).all() if options.data in (None, run.data)]
    if not runs:
        raise UserError(f"no finished run to record below {options.outputs}")
    kept = [run.folder for run in runs if record(run, options.to) is None]
    for folder in kept:
        print(f"left alone, since a later run is recorded: {folder}")
    print(f"recorded: {len(runs) - len(kept)} runs in {options.to}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
