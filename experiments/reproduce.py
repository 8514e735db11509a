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
import atexit
import importlib
import multiprocessing
import os
import runpy
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from multiprocessing import connection

import torch

from experiments.paper_items import ITEMS, claims, item
from experiments.paper_items.item import Item
from experiments.paper_items.runs import EVALUATE, NO_ROOT, PREDICT, TRAIN, Library, Missing, Study
from mple.checks import UserError, whole
from mple.command import answered
from mple.plain import one_line

SECOND = {"multi30k_de-en": "multi30k_en-de", "tatoeba_en-de": "tatoeba_en-zh"}
"""The second language pair of Tables 7 and 8, from the same folder; the grammar has none."""

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


def run(command: Sequence[str]) -> int:
    """One command, as a process of its own; returns its status.

    Its imports take seconds, and a study has a hundred commands, many of them no longer than that. So one
    process imports and each command is a copy of it (Linux without a CUDA device, which no copy could use);
    elsewhere each is started by the interpreter that runs this one.
    """
    if sys.platform != "linux" or torch.cuda.is_available():
        given = [sys.executable if word == "python" else word for word in command]
        return subprocess.run(given, check=False).returncode
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mple.launch", "mple.input_predictor", "mple.evaluate"])
    process = context.Process(target=_execute, args=(list(command),))
    with _PROCESSES:
        process.start()
    connection.wait([process.sentinel])
    with _PROCESSES:  # to start one asks all for their status, which can be read only once
        process.join()
    assert process.exitcode is not None
    return process.exitcode


_PROCESSES = threading.Lock()


def _execute(command: list[str]) -> None:
    """What `python FILE ...` or `python -m MODULE ...` does, in this process."""
    _, what, *rest = command
    try:
        if what == "-m":
            sys.argv = rest  # whose first word runpy replaces by the module's file
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        else:
            sys.argv = [what, *rest]
            runpy.run_path(what, run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # which a copy of a process leaves out


def share_cores(jobs: int) -> None:
    """Each of `jobs` commands at a time takes its share of the cores, unless the user said how many."""
    if jobs > 1:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))


def next_of(wanted: Sequence[Missing], running: Sequence[Missing]) -> Missing | None:
    """The command that may start now; None where none may.

    What a finished run still needs goes before another training, so that an interrupted study has whole rows.
    A training that needs what one beside it makes waits for that by itself.
    """
    measurements = sorted((entry for entry in wanted if entry.stage != TRAIN), key=rank, reverse=True)
    trainings = sorted((entry for entry in wanted if entry.stage == TRAIN), key=rank)
    for entry in (*measurements, *trainings):
        if entry.is_ready and not _needs_another(entry, (*wanted, *running)):
            return entry
    return None


def _needs_another(entry: Missing, others: Sequence[Missing]) -> bool:
    """Is there still a command of an earlier stage that measures something of the same run?"""
    if entry.stage == TRAIN:
        return False
    return any(TRAIN < e.stage < entry.stage and subject(e) == subject(entry) for e in others)


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
    failed: dict[tuple[str, ...], str] = {}
    given: set[tuple[str, ...]] = set()
    busy: dict[Future[int], Missing] = {}
    wanted = missing(study, second, only)
    with ThreadPoolExecutor(jobs) as pool:
        while True:
            while len(busy) < jobs and (keep_going or not failed):
                entry = next_of(wanted, tuple(busy.values()))
                if entry is None:
                    break
                given.add(entry.command)
                wanted.remove(entry)
                place, total = len(given), len(given) + len(wanted)
                print(one_line(f"[{place}/{total}, {STAGES[entry.stage]}] {entry}"), flush=True)
                busy[pool.submit(call, entry.command)] = entry
            if not busy:
                break
            for future in wait(busy, return_when=FIRST_COMPLETED).done:
                entry = busy.pop(future)
                if status := future.result():
                    failed[entry.command] = f"status {status}: {shlex.join(entry.command)}"
                if entry.stage != EVALUATE:  # its run now has a name, which others of its commands need
                    wanted = [one for one in missing(study, second, only) if one.command not in given]
    for entry in missing(study, second, only):
        if entry.command in given - failed.keys():
            failed[entry.command] = f"status 0, and what it makes is not found: {entry}"
    if failed and not keep_going:
        raise UserError(f"a command ended with {next(iter(failed.values()))}")
    for line in failed.values():
        print(f"failed with {line}", file=sys.stderr)
    for entry in wanted:
        print(f"left out, since it needs one that failed: {entry}", file=sys.stderr)
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


@answered
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
    study = item.study(options)
    only = chosen(options.only)
    whole("--jobs", options.jobs, 1, high=1000)
    commands = missing(study, options.second, only)
    if any(NO_ROOT in one.command for one in commands):
        raise UserError(f"--root must be the folder of the raw files of {options.data}; got none")
    if options.dry_run:
        print("\n".join(map(str, commands)) if commands else "nothing is missing")
        return 0
    share_cores(options.jobs)
    failed = execute(study, options.second, options.keep_going, run, options.jobs, only)
    from experiments import report

    path = report.write(study, options.to / "report.html", options.second)
    print(f"written: {path}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
