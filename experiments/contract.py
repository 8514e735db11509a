"""The numerics contract: a change of structure must leave every experiment equal, bit for bit.

    git worktree add ../before HEAD~1
    python -m experiments.contract ../before .                          # every file of conf/experiment
    python -m experiments.contract ../before . --experiments glat_kd,at

Each experiment is trained for a few updates in both checkouts, on one thread, with the teachers and first
stages that it needs; then weights, validation and test metrics, the log and the translations are compared.
The exit status is 1 where anything differs.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

SETTINGS = [
    *("data=grammar", "budget=minutes", "trainer.accelerator=cpu", "trainer.devices=1"),
    *("data.source.train=2000", "data.source.valid=100", "data.source.test=100", "max_tokens=1024"),
    *("teacher_updates=100", "valid_every=10", "log_every=10"),
]
NOT_COMPARED = {
    *("minutes", "seconds", "tokens_per_second", "speed/tokens_per_second", "key"),
    *("command", "commit", "date", "machine", "python", "torch", "threads", "devices", "node", "job"),
}
"""Fields of metrics.json and metrics.jsonl that depend on the clock, the checkout or the machine."""


def train(checkout: Path, outputs: Path, experiments: list[str], updates: int) -> None:
    """Train what is missing below `outputs` with the code of `checkout`, on one thread."""
    command = [sys.executable, "train.py", "-m", f"+experiment={','.join(experiments)}", *SETTINGS]
    command += [f"student_updates={updates}", f"outputs={outputs}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(checkout.resolve())}
    subprocess.run(command, cwd=checkout, env=environment, check=True, stdout=subprocess.DEVNULL)


def runs(outputs: Path) -> dict[str, Path]:
    """The finished runs below `outputs`, by the command that made them without its `outputs=`."""
    result = {}
    for file in sorted(outputs.glob("*/*/*/seed*/run.json")):
        words = json.loads(file.read_text(encoding="utf-8"))["command"].split()
        words = [word for word in words if not word.lstrip("'").startswith("outputs=")]
        if (file.parent / "metrics.json").exists():
            result[" ".join(words)] = file.parent
    return result


def differences(old: Path, new: Path) -> Iterator[str]:
    """What differs between two runs' folders, a short sentence each."""
    before, after = (
        torch.load(folder / "averaged.pt", map_location="cpu", weights_only=True) for folder in (old, new)
    )
    if before.keys() != after.keys():
        yield f"parameters {sorted(before.keys() ^ after.keys())[:3]}"
    unequal = [name for name in before if name in after and not torch.equal(before[name], after[name])]
    if unequal:
        yield f"{len(unequal)} of {len(before)} weights, first {unequal[0]}"
    for name in ("metrics.json", "metrics.jsonl"):
        lines = [list(_records(folder / name)) for folder in (old, new)]
        if lines[0] != lines[1]:
            yield name
    for name in ("hypotheses.test.txt", "samples.jsonl"):
        if (old / name).read_bytes() != (new / name).read_bytes():
            yield name


def _records(path: Path) -> Iterator[object]:
    text = path.read_text(encoding="utf-8")
    for part in text.splitlines() if path.suffix == ".jsonl" else [text]:
        yield _compared(json.loads(part))


def _compared(value: object) -> object:
    if isinstance(value, dict):
        return {key: _compared(v) for key, v in value.items() if key not in NOT_COMPARED}
    return value


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("old", type=Path, help="a checkout of the code before the change")
    parser.add_argument(
        "new", type=Path, nargs="?", default=Path(), help="one after it (default: this folder)"
    )
    parser.add_argument("--experiments", help="a comma list; default: every file of OLD/conf/experiment")
    parser.add_argument(
        "--updates", type=int, default=100, help="of each student (default 100; a multiple of 100)"
    )
    parser.add_argument("--outputs", type=Path, default=Path("outputs/contract"), help="where runs are kept")
    arguments = parser.parse_args()
    names = (arguments.experiments or "").split(",") if arguments.experiments else None
    names = names or sorted(path.stem for path in (arguments.old / "conf/experiment").glob("*.yaml"))
    folders = [(arguments.outputs / side).resolve() for side in ("old", "new")]
    for checkout, folder in zip((arguments.old, arguments.new), folders, strict=True):
        train(checkout, folder, names, arguments.updates)
    before, after = (runs(folder) for folder in folders)
    table = Table("run", "result", title="numerics contract", title_justify="left")
    broken = 0
    for command in sorted(before.keys() | after.keys()):
        if command in before and command in after:
            unequal = list(differences(before[command], after[command]))
        else:
            unequal = ["only in " + ("old" if command in before else "new")]
        broken += bool(unequal)
        folder = before.get(command) or after[command]
        table.add_row("/".join(folder.parts[-4:]), "; ".join(unequal) or "equal")
    Console().print(table)
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
