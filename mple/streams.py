"""What the world around a command may refuse: its standard streams, and files that cannot be read or written.

    @told                      # of the function that does the work
    def main(arguments): ...   # UserError: "/data/x cannot be read or written (Permission denied)"

Output that has no reader because the stream is closed is dropped; output that cannot be written is an error.
"""

import contextlib
import errno
import functools
import io
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from mple.checks import UserError

T = TypeVar("T")

_NAMES = ("stdin", "stdout", "stderr")
_NOT_OF_FILES = (errno.ENOMEM, errno.EPIPE)

closed: set[str] = set()
"""The standard streams that were closed when the command began."""


def prepare() -> None:
    """Put /dev/null where a standard stream is closed, or the next file that is opened takes its place; and
    let no letter that a terminal's encoding lacks end a command."""
    for number, name in enumerate(_NAMES):
        if getattr(sys, name) is None:
            closed.add(name)
            with contextlib.suppress(OSError):
                os.fstat(number)
                continue
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            os.set_inheritable(number, True)
    for name in closed:
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    out = sys.stdout
    if out is sys.__stdout__ and isinstance(out, io.TextIOWrapper):
        out.flush()
        raw = _StandardOutput(out.fileno(), "w", closefd=False)
        is_unbuffered = isinstance(out.buffer, io.RawIOBase)  # PYTHONUNBUFFERED
        sys.stdout = io.TextIOWrapper(
            raw if is_unbuffered else io.BufferedWriter(raw),
            encoding=out.encoding,
            errors="backslashreplace",
            line_buffering=out.isatty(),
            write_through=is_unbuffered,
        )
    logging.raiseExceptions = False  # what a log cannot write is told once, by `told`


class _StandardOutput(io.FileIO):
    """Standard output, whose errors have its name. After one what is left to write is dropped, or Python
    would complain about it when it ends."""

    failed: ClassVar[list[OSError]] = []

    def write(self, block: Any, /) -> int:
        try:
            return super().write(block)
        except OSError as error:
            if error.errno != errno.EPIPE:
                number = self.fileno()
                error.filename = "standard output"
                with contextlib.suppress(OSError):
                    error.filename += f" ({os.readlink(f'/proc/self/fd/{number}')})"
                os.dup2(os.open(os.devnull, os.O_WRONLY), number)
                self.failed.append(error)
            raise


def is_terminal() -> bool:
    """Whether standard output is a terminal, so that its width is that of tables."""
    return sys.stdout is not None and sys.stdout.isatty()


def needed(name: str, what: str) -> None:
    """
    Raises:
        UserError: the standard stream `name` was closed; `what` goes through it.
    """
    if name in closed:
        raise UserError(f"{name} must be open, for {what}; it is closed")


def told(main: Callable[..., T]) -> Callable[..., T]:
    """`main` with its standard streams in order, and with errors of the system as a sentence.

    Raises:
        UserError: a file or standard output cannot be read or written; where no file is known, and for a lack
            of memory or a reader that has seen enough, the system's error is raised as it is.
    """

    @functools.wraps(main)
    def run(*arguments: Any) -> T:
        prepare()
        try:
            result = main(*arguments)
            sys.stdout.flush()  # or a full disk would show only when Python ends
            if _StandardOutput.failed:
                raise _StandardOutput.failed[0]
            return result
        except Exception as error:
            causes = (error, error.__cause__ if type(error).__module__.startswith("hydra") else None)
            refused = next((cause for cause in causes if isinstance(cause, OSError)), None)
            sentence = None if refused is None else sentence_of(refused)
            if sentence is None:
                raise
            raise UserError(sentence) from error

    return run


def sentence_of(error: OSError) -> str | None:
    """What cannot be read or written, and why; None where that is not known."""
    reason = error.strerror or type(error).__name__
    if error.errno in _NOT_OF_FILES or error.filename is None:
        return None
    path = Path(os.fsdecode(error.filename)) if not isinstance(error.filename, int) else error.filename
    if isinstance(path, Path) and path.name.startswith(".") and path.name.endswith(".partial"):
        path = path.parent  # a name that only this process knows
    return f"{path} cannot be read or written ({reason})"
