"""Stages: from named inputs to a named folder, built once, whole or not at all.

    stage = Stage(root, "vocabulary", settings={"size": 8000}, inputs=source.inputs())
    stage.is_done()                      # for the plan that a job prints before it starts
    folder = stage.run(build)            # calls build(temporary folder) unless the stage is done

The folder's name holds a hash of the inputs and settings, so a changed setting is another folder and nothing
is ever rebuilt in place. `build` works in a hidden sibling that is renamed when it is complete: a folder
under the final name is a finished one. Its `manifest.json` says what it was made from, and by which versions.
"""

import contextlib
import errno
import hashlib
import json
import logging
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mple.checks import UserError
from mple.locks import locked

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
_RECORDED = ("mple", "numpy", "pyarrow", "sentencepiece", "jieba", "datasets", "torch")


@dataclass(frozen=True)
class Stage:
    """One step of the preparation. `settings` and `inputs` hold JSON values; `inputs` identify by content
    (sha256, or another stage's `key`), never by path, so that a moved corpus is still the same corpus."""

    root: Path
    name: str
    settings: Mapping[str, object]
    inputs: Mapping[str, str]

    @property
    def key(self) -> str:
        """Hash of name, settings and inputs. Versions are only recorded: an upgrade rebuilds nothing."""
        text = json.dumps([self.name, dict(self.settings), dict(self.inputs)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def folder(self) -> Path:
        return Path(self.root) / f"{self.name}-{self.key[:12]}"

    @property
    def partial(self) -> Path:
        """Where `run` builds; gone, or left over from a killed process, when nothing runs."""
        return self.folder.with_name(f".{self.folder.name}.partial")

    def is_done(self) -> bool:
        """True when the finished folder is there.

        Raises:
            UserError: the folder is there, but its manifest is missing or speaks of something else.
        """
        if not self.folder.exists():
            return False
        try:
            found = json.loads((self.folder / MANIFEST).read_text())["key"]
        except (OSError, ValueError, KeyError, TypeError):
            found = "unreadable"
        if found != self.key:
            raise UserError(
                f"{self.folder / MANIFEST} must hold the key {self.key[:12]}…; got {found[:12]!r}: "
                "the folder was edited or copied, delete it to have it rebuilt"
            )
        return True

    def run(self, build: Callable[[Path], object], resumable: bool = False) -> Path:
        """Build unless done; returns the finished folder.

        Processes that want the same stage at the same time wait for the one that builds it. With `resumable`
        what an interrupted `build` left in its folder is handed to the next call instead of being deleted.

        Raises:
            UserError: the disk is full, or `is_done` refuses the folder.
        """
        if self.is_done():
            return self.folder
        with disk_may_fill(self.folder):
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            with locked(self.folder.with_name(f".{self.folder.name}.lock"), self.name):
                if not self.is_done():  # another process may have built it while this one waited
                    self._build(build, resumable)
        return self.folder

    def _build(self, build: Callable[[Path], object], resumable: bool) -> None:
        if not resumable:
            shutil.rmtree(self.partial, ignore_errors=True)
        self.partial.mkdir(exist_ok=True)
        log.info("building %s", self.folder)
        manifest = {
            "key": self.key,
            "name": self.name,
            "settings": dict(self.settings),
            "inputs": dict(self.inputs),
            "versions": _versions(),
        }
        try:
            build(self.partial)
            (self.partial / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
            self.partial.rename(self.folder)
        finally:
            if not resumable:
                shutil.rmtree(self.partial, ignore_errors=True)


@contextlib.contextmanager
def disk_may_fill(path: Path) -> Iterator[None]:
    """Turns the system's complaint about a full disk or quota into a `UserError` that names `path`.

    `torch.save` hides that complaint behind a RuntimeError about its archive, so what an error was raised in
    the handling of counts, too.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
                raise UserError(
                    f"the disk is full: {path} could not be written; nothing half-written is kept"
                ) from error
            cause = cause.__context__
        raise


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _RECORDED:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
