"""Make what the paper's tables and figures need, then all of them, then the report.

    python -m experiments.reproduce --data grammar --budget minutes --seeds 3
    python -m experiments.reproduce --data multi30k_de-en --root FOLDER --dry-run
    python -m experiments.reproduce --data multi30k_de-en --root FOLDER --only table1,table2,table3

Every training and evaluation is a command of its own, as an item prints it, and finished ones are skipped:
the same command again goes on where it was interrupted. The order: autoregressive models first, since
students need their text; then vanilla NATs, since OaXE and the input predictor start from one; then the rest,
seed by seed, so that one seed of everything is there before a second of anything. A run is measured as soon
as it is there. With `--jobs 2` two commands that do not need each other run at a time and share the cores. A
command that fails stops the whole with its line, or with `--keep-going` is left out, and named at the end.
"""

import argparse
import importlib
import itertools
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial
from pathlib import Path

from experiments.paper_items import ITEMS, claims, item
from experiments.paper_items.item import Item
from experiments.paper_items.runs import EVALUATE, PREDICT, TRAIN, Library, Missing, Study
from mple.checks import UserError, whole

SECOND = {"multi30k_de-en": "multi30k_en-de", "tatoeba_en-de": "tatoeba_de-en"}
"""The second language pair of Tables 7 and 8; the grammar has none."""

STAGES = {TRAIN: "train", PREDICT: "input predictor", EVALUATE: "evaluate"}

OF_SECOND = ("table7", "table8")


def makers(
    data: str, second: str | None, only: Sequence[str] = ITEMS
) -> list[tuple[Callable[[Library], Item], str]]:
    """Every item and the data set that it is made of."""
    second = second or SECOND.get(data)
    chosen = [(name, second if name in OF_SECOND else data) for name in ITEMS if name in only]
    return [
        (importlib.import_module(f"experiments.paper_items.{name}").make, where)
        for name, where in chosen
        if where is not None
    ]


def make_all(study: Study, second: str | None = None, only: Sequence[str] = ITEMS) -> list[Item]:
    """All items as far as their runs are there."""
    return [make(Library(replace(study, data=data))) for make, data in makers(study.data, second, only)]


def missing(study: Study, second: str | None = None, only: Sequence[str] = ITEMS) -> list[Missing]:
    """All commands that are missing, each once, in an order in which they can be given.

    The claims need a few runs more than the items: where only some items are wanted they are left out.
    """
    found: list[Missing] = []
    for one in make_all(study, second, only):
        found += [entry for entry in one.missing if entry not in found]
    if set(only) == set(ITEMS):
        library = Library(study)
        for claim in claims.CLAIMS:
            claim(library)
        found += [entry for entry in library.missing if entry not in found]
    return sorted(found, key=rank)


def rank(entry: Missing) -> tuple[int, int, int]:
    """Sort key: by stage; trainings seed by seed, what others need first."""
    words = dict(word.lstrip("+").partition("=")[::2] for word in entry.command if "=" in word)
    if entry.stage != TRAIN:
        return entry.stage, 0, 0
    order = ("at", "vanilla_raw", "vanilla_kd", "at_kd", "glat_kd")
    name = "" if "start" in words else words.get("experiment", "")  # what starts from a run comes last
    return TRAIN, int(words.get("seed", 1)), order.index(name) if name in order else len(order)


def run(command: Sequence[str], jobs: int = 1) -> int:
    """One command, as a process of its own, by the interpreter that runs this one; `jobs` share the cores."""
    given = [sys.executable if word == "python" else word for word in command]
    threads = {} if jobs == 1 else {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs))}
    return subprocess.run(given, check=False, env=threads | os.environ).returncode


def expanded(command: Sequence[str]) -> list[str] | None:
    """The command with the folders of runs that exist by now; None if one is still missing."""
    words = []
    for word in command:
        if "$(echo " in word:
            before, _, pattern = word.partition("$(echo ")
            root, _, rest = pattern.removesuffix(")").partition("/*/")
            found = sorted(Path(root).glob(f"*/{rest}"))
            found = [path for path in found if _run_of(path).joinpath("metrics.json").exists()]
            if not found:
                return None
            word = f"{before}{found[-1]}"
        words.append(word)
    return words


def _run_of(path: Path) -> Path:
    return path if path.name.startswith("seed") else path.parent  # a checkpoint lies in its run


class Schedule:
    """Which command is next: what a finished run still needs before another training, so that an
    interrupted study has whole rows. What needs the work of a job beside it waits for that by itself."""

    def __init__(self, entries: Sequence[Missing]) -> None:
        self.waiting = sorted(entries, key=rank)
        self.running: list[Missing] = []

    def next(self) -> tuple[Missing, list[str]] | None:
        """The command that may start now, with the folders of its runs; None where none may."""
        measurements = [entry for entry in reversed(self.waiting) if entry.stage != TRAIN]
        trainings = [entry for entry in self.waiting if entry.stage == TRAIN]
        for entry in (*measurements, *trainings):
            command = expanded(entry.command)
            if command is not None and not self._needs_another(entry):
                return self._start(entry), command
        return None

    def _start(self, entry: Missing) -> Missing:
        self.waiting.remove(entry)
        self.running.append(entry)
        return entry

    def _needs_another(self, entry: Missing) -> bool:
        """Is there still a command of an earlier stage that measures something of the same run?"""
        if entry.stage == TRAIN:
            return False
        earlier = (e for e in (*self.waiting, *self.running) if TRAIN < e.stage < entry.stage)
        return any(subject(e) == subject(entry) for e in earlier)


def subject(entry: Missing) -> str:
    """The run that a measurement or an input predictor is of, in the words of the command."""
    named = (word.partition("=")[2] for word in entry.command if word.startswith(("run=", "of=")))
    return next(named, entry.command[3])


def execute(
    study: Study,
    second: str | None,
    keep_going: bool,
    call: Callable[[Sequence[str]], int],
    jobs: int = 1,
    only: Sequence[str] = ITEMS,
) -> int:
    """All that is missing, `jobs` commands at a time; returns the number of commands that failed.

    Raises:
        UserError: a command failed, without `keep_going`; those that run beside it come to their end first.
    """
    failed: list[str] = []
    given: set[tuple[str, ...]] = set()
    while wanted := [entry for entry in missing(study, second, only) if entry.command not in given]:
        schedule, place, before = Schedule(wanted), itertools.count(1), len(given)
        busy: dict[Future[int], tuple[Missing, list[str]]] = {}
        with ThreadPoolExecutor(jobs) as pool:
            while True:
                while len(busy) < jobs and (keep_going or not failed):
                    found = schedule.next()
                    if found is None:
                        break
                    entry, command = found
                    print(f"[{STAGES[entry.stage]} {next(place)}/{len(wanted)}] {entry}", flush=True)
                    given.add(entry.command)
                    busy[pool.submit(call, command)] = found
                if not busy:
                    break
                for future in wait(busy, return_when=FIRST_COMPLETED).done:
                    entry, command = busy.pop(future)
                    schedule.running.remove(entry)
                    if status := future.result():
                        failed.append(f"status {status}: {shlex.join(command)}")
        if failed and not keep_going:
            raise UserError(f"a command ended with {failed[0]}")
        if len(given) == before:
            break  # what is left needs a run that failed
    for line in failed:
        print(f"failed with {line}", file=sys.stderr)
    return len(failed)


def chosen(only: str | None) -> Sequence[str]:
    """The items that `--only` names, all without it.

    Raises:
        UserError: there is no such item.
    """
    if only is None:
        return ITEMS
    names = only.split(",")
    for name in names:
        if name not in ITEMS:
            raise UserError(f"--only takes {', '.join(ITEMS)}, with commas between; got {name!r}")
    return names


def main(arguments: Sequence[str] | None = None) -> int:
    """Status 0 where everything was made, 1 with a line where something failed."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.reproduce", description=(__doc__ or "").splitlines()[0]
    )
    item.arguments(parser)
    parser.add_argument("--only", metavar="ITEMS", help=f"these, with commas between: {', '.join(ITEMS)}")
    parser.add_argument("--second", metavar="NAME", help="data set of Tables 7 and 8 (the other direction)")
    parser.add_argument("--jobs", type=int, default=1, help="commands at a time; they share the cores (1)")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and do nothing")
    parser.add_argument("--keep-going", action="store_true", help="go on after a command that failed")
    options = parser.parse_args(arguments)
    try:
        study = item.study(options)
        only = chosen(options.only)
        if options.dry_run:
            commands = missing(study, options.second, only)
            print("\n".join(map(str, commands)) if commands else "nothing is missing")
            return 0
        whole("--jobs", options.jobs, 1)
        call = partial(run, jobs=options.jobs)
        failed = execute(study, options.second, options.keep_going, call, options.jobs, only)
        from experiments import report

        for one in make_all(study, options.second, only):
            if one.is_measured:
                item.write(one, options.to)
        path = report.write(study, options.to / "report.html", options.second)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"written: {path}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
