"""Is a checkout as fast as another? An update of each method, old code against new, in turn.

    git worktree add ../before v0.1.0
    python -m experiments.bench_against ../before . --experiments vanilla_raw glat_kd glat_dynkd at

A process of each checkout stays alive and takes turns: a few updates of a method with the old code, then the
same with the new. The ratio of a round is old seconds over new seconds, so above 1 the new code is faster;
shown are the medians over rounds with their quartiles, of seconds on the clock and of seconds of processor
time (which other programs on the machine disturb less).
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import IO

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

WORKER = """
import argparse, json, sys, time
from pathlib import Path
import hydra
from experiments import bench

bench.quiet()
bench.keep_memory()
given = json.loads(sys.stdin.readline())
arguments = argparse.Namespace(**given, out=Path(given.pop("folder")), multi30k=None, fairseq=None)
arguments.out.mkdir(parents=True, exist_ok=True)
with hydra.initialize_config_dir(str(Path("conf").resolve()), version_base="1.3"):
    methods = {name: bench.Ours(name, arguments) for name in arguments.experiments}
    updates = bench.some_updates(next(iter(methods.values())).job, arguments.updates + 1)
    for line in iter(sys.stdin.readline, ""):
        began = time.process_time()
        spent = methods[line.strip()].run(updates)[0][1:]  # the first update warms up
        answer = {"wall": sum(spent), "cpu": time.process_time() - began}
        print("ANSWER " + json.dumps(answer), flush=True)
"""


class Worker:
    """A process with the code of one checkout."""

    def __init__(self, checkout: Path, arguments: argparse.Namespace, folder: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(checkout.resolve())}
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER],
            cwd=checkout,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        settings = {
            "experiments": arguments.experiments,
            "updates": arguments.updates,
            "precision": arguments.precision,
            "vocabulary": 4000,
            "budget": arguments.budget,
            "folder": str(folder),
        }
        self._send(json.dumps(settings))

    def _pipe(self, pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe

    def _send(self, line: str) -> None:
        self._pipe(self.process.stdin).write(line + "\n")
        self._pipe(self.process.stdin).flush()

    def seconds(self, experiment: str) -> dict[str, float]:
        self._send(experiment)
        for line in self._pipe(self.process.stdout):
            if line.startswith("ANSWER "):
                return json.loads(line.removeprefix("ANSWER "))
        raise SystemExit(f"a process ended early with status {self.process.wait()}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("old", type=Path, help="a checkout of the code before the change")
    parser.add_argument(
        "new", type=Path, nargs="?", default=Path(), help="one after it (default: this folder)"
    )
    parser.add_argument(
        "--experiments", nargs="+", default=["at", "vanilla_raw", "cmlm", "glat_kd", "glat_dynkd"]
    )
    parser.add_argument("--rounds", type=int, default=7, help="times that each method is taken (default 7)")
    parser.add_argument("--updates", type=int, default=3, help="updates of a method in a round (default 3)")
    parser.add_argument("--precision", choices=("auto", "32-true", "bf16-mixed"), default="auto")
    parser.add_argument(
        "--budget", help="sizes of this budget; default: d_model 256, batches of 4,096 tokens"
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/bench/against"), help="where data are kept")
    arguments = parser.parse_args()
    workers = [
        Worker(checkout, arguments, (arguments.out / side).resolve())
        for checkout, side in ((arguments.old, "old"), (arguments.new, "new"))
    ]
    ratios: dict[str, list[tuple[float, float]]] = {name: [] for name in arguments.experiments}
    for round_ in track(range(arguments.rounds + 1), "rounds", console=Console(stderr=True)):
        for name, values in ratios.items():
            old, new = (worker.seconds(name) for worker in workers)
            if round_:  # the first warms up
                values.append((old["wall"] / new["wall"], old["cpu"] / new["cpu"]))
    table = Table(
        "method", "old / new, clock", "processor", title="speed against the old code", title_justify="left"
    )
    for name, values in ratios.items():
        columns = np.percentile(np.array(values), (25, 50, 75), axis=0)
        table.add_row(name, *(f"{mid:.3f} ({low:.3f}–{high:.3f})" for low, mid, high in columns.T))
    Console().print(table)


if __name__ == "__main__":
    main()
