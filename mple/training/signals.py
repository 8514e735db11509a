"""Signals that interrupt a command which the same command continues: Ctrl-C, SIGTERM, SIGUSR1, SIGUSR2.

    @resumable
    def main(cfg): ...           # ends with 128 + the signal's number, after one line on stderr

    hold()                       # from here on a signal waits, so that an update can be completed
    if received(): ...           # its number: write a checkpoint, and then
    release()                    # raises `Interrupted` if a signal waits

Where nothing is held a signal raises `Interrupted` at once, so that locks are released and unfinished files
deleted. The handler that a launcher had set before (submitit's requeues the job on SIGUSR2) runs last, when
everything is written.
"""

import contextlib
import functools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class Interrupted(SystemExit):
    """A signal ended the work; `number` is the signal's.

    is_agreed: all processes of the run stop together; those that are not the first end with 0, since
    Lightning
        kills the first, which may still be writing, when another ends with a failure.
    """

    def __init__(self, number: int, is_agreed: bool = False) -> None:
        super().__init__(0 if is_agreed and not is_first() else 128 + number)
        self.number, self.is_agreed = number, is_agreed


@dataclass
class _State:
    is_held: bool = False
    received: int = 0
    child: subprocess.Popen[bytes] | None = None
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)


_state = _State()


def hold() -> None:
    """From here on a signal waits."""
    _state.is_held = True


def release(and_raise: bool = True) -> None:
    """The end of `hold`.

    Raises:
        Interrupted: a signal has been waiting, unless `and_raise` is false.
    """
    _state.is_held = False
    if and_raise and _state.received:
        raise Interrupted(_state.received)


def received() -> int:
    """The number of the signal that waits; 0 without one."""
    return _state.received


def started(workers: Sequence[subprocess.Popen[bytes]]) -> None:
    """Further processes of this run, which a signal to this one alone has to reach."""
    _state.workers = [*workers]


def run(command: Sequence[str]) -> int:
    """The exit status of a command that signals are passed on to.

    Raises:
        Interrupted: there was one; the command has ended and printed why.
    """
    hold()
    try:
        with subprocess.Popen(command) as process:
            _state.child = process
            if _state.received:
                process.send_signal(_state.received)
            status = process.wait()
    finally:
        _state.child = None
    release()
    return status


def resumable(main: Callable[..., Any]) -> Callable[..., Any]:
    """The decorator of a command that continues where it was interrupted when it is given again."""

    @functools.wraps(main)
    def run(*arguments: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            return main(*arguments)  # only the main thread may set handlers
        before = {number: signal.getsignal(number) for number in SIGNALS}
        _state.is_held, _state.received, _state.child, _state.workers = False, 0, None, []
        try:
            for number, handler in before.items():
                if handler != signal.SIG_IGN:  # nohup, a job in the background
                    signal.signal(number, _handle)
            return main(*arguments)
        except Interrupted as stop:
            _end(stop, before[signal.Signals(stop.number)])
            raise
        finally:
            for number, handler in before.items():
                if handler is not None:
                    signal.signal(number, handler)

    return run


def _end(stop: Interrupted, before: Any) -> None:
    """Stop the other processes, print the one line, and let the launcher's handler requeue the job."""
    hold()  # requeuing sends SIGTERM
    for worker in () if stop.is_agreed else _state.workers:
        with contextlib.suppress(OSError):
            worker.send_signal(signal.SIGTERM)
    if is_first():
        name = signal.Signals(stop.number).name
        print(f"stopped by {name}: the same command continues from here", file=sys.stderr, flush=True)
    if callable(before) and before is not signal.default_int_handler:
        before(stop.number, None)


def _handle(number: int, frame: FrameType | None) -> None:
    """The first signal counts; a second Ctrl-C does not wait."""
    is_second = bool(_state.received)
    _state.received = _state.received or number
    if _state.child is not None:
        with contextlib.suppress(OSError):
            _state.child.send_signal(number)
    elif (not is_second and not _state.is_held) or (
        is_second and number == signal.SIGINT and _state.received == signal.SIGINT
    ):
        raise Interrupted(number)


def is_first() -> bool:
    """Of the processes of a run, as Lightning, torchrun and SLURM number them."""
    ranks = (os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    return next((rank for rank in ranks if rank), "0") == "0"
