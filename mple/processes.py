"""The processes of one run (DDP), and jobs beside each other that want the same run.

    with alone({folder: "at_tiny"}):     # another job waits here, and then finds it finished
        ...
    if is_first(): ...                   # the one that writes
    for part in share(parts): ...        # each process its own
    wait_until(lambda: not missing())

With several devices Lightning starts the whole program once more for each further one, so all of it runs in
every process. What is to be done once the first does, and the others wait for its file.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch.distributed as dist
from pytorch_lightning.utilities import rank_zero_only

from mple.checks import UserError
from mple.locks import locked

T = TypeVar("T")


def is_first() -> bool:
    """Is this the process that writes? A single one is."""
    return not getattr(rank_zero_only, "rank", 0)


def share(items: Sequence[T]) -> list[T]:
    """This process's part of work that every process of the run comes by, `items` the same for all of them;
    the first takes all of it where they have not found each other yet."""
    if dist.is_available() and dist.is_initialized():
        return list(items[dist.get_rank() :: dist.get_world_size()])
    return list(items) if is_first() else []


def wait_until(is_done: Callable[[], bool], every_seconds: float = 0.2) -> None:
    """Until other processes of this run have done it, however long it takes (a collective would time out).

    Raises:
        UserError: the process that started this one is gone.
    """
    parent = os.getppid()
    while not is_done():
        if os.getppid() != parent:
            raise UserError("the process that started this one ended early; its own message says why")
        time.sleep(every_seconds)


@contextlib.contextmanager
def alone(folders: Mapping[Path, str]) -> Iterator[None]:
    """One job at a time makes what goes into each of `folders` (with what it is, for messages). The first
    process of a run holds the locks, `.NAME.lock` beside each folder, for all of them. What it holds already
    it may ask for again.

    Raises:
        UserError: another job is at it, and this run's processes were started from outside (SLURM, torchrun),
            so that the others would not wait with the first.
    """
    with contextlib.ExitStack() as stack:
        if is_first():
            # In one order everywhere, so that no two jobs wait for each other.
            for folder in sorted(folders.keys() - _held):
                folder.parent.mkdir(parents=True, exist_ok=True)
                path = folder.with_name(f".{folder.name}.lock")
                stack.enter_context(locked(path, folders[folder], waits=started_from_outside() == 1))
                stack.callback(_held.discard, folder)
                _held.add(folder)
        yield


_held: set[Path] = set()


def several(devices: object) -> bool:
    """Has the run more than one process? devices: as Lightning takes them."""
    return devices != 1 or started_from_outside() > 1


def started_from_outside() -> int:
    """The processes of this run that torchrun or SLURM has started; 1 where it is alone."""
    return max(int(os.environ.get(name) or 1) for name in ("WORLD_SIZE", "SLURM_NTASKS"))
