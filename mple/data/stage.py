"""Stages: from named inputs to a named folder, built once, whole or not at all.

    stage = Stage(root, "vocabulary", settings={"size": 8000}, inputs=source.inputs())
    stage.is_done()                      # for the plan that a job prints before it starts
    folder = stage.run(build)            # calls build(temporary folder) unless the stage is done

The folder's name holds a hash of the inputs and settings, so a changed setting is another folder and nothing
is ever rebuilt in place. `build` works in a hidden sibling that is renamed when it is complete: a folder
under the final name is a finished one. Its `manifest.json` says what it was made from, by which versions, and
has the checksums of its files.
"""

import contextlib
import errno
import hashlib
import json
import logging
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mple import files
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

    def is_done(self) -> bool:
        """True when the finished folder is there.

        Raises:
            UserError: the folder is there, but its manifest is missing, damaged or that of something else.
        """
        if not self.folder.exists():
            return False
        came = str(files.read_json(self.folder / MANIFEST, "key", remedy=remedy_of(self.folder))["key"])
        if came != self.key:
            raise UserError(
                f"{self.folder / MANIFEST} must hold the key {self.key[:12]}…; got {came[:12]!r}: "
                "the folder was edited or copied, delete it to have it rebuilt"
            )
        return True

    def run(self, build: Callable[[Path], object]) -> Path:
        """Build unless done; returns the finished folder, compared with its checksums.

        Processes that want the same stage at the same time wait for the one that builds it. Where there are
        no locks each builds in a folder of its own, and the first result is kept: they are equal.

        Raises:
            UserError: the disk is full, or the folder was edited or damaged.
        """
        if not self.is_done():
            with files.disk_may_fill(self.folder):
                self.folder.parent.mkdir(parents=True, exist_ok=True)
                lock = self.folder.with_name(f".{self.folder.name}.lock")
                with locked(lock, self.name, is_needed=False):
                    if not self.is_done():  # another process may have built it while this one waited
                        self._build(build)
        verify(self.folder)
        return self.folder

    def _build(self, build: Callable[[Path], object]) -> None:
        log.info("building %s", self.folder)
        try:
            with files.whole(self.folder) as folder:
                folder.mkdir()
                build(folder)
                manifest = {
                    "key": self.key,
                    "name": self.name,
                    "settings": dict(self.settings),
                    "inputs": dict(self.inputs),
                    "versions": _versions(),
                    "files": files.checksums(folder),
                }
                files.write_json(folder / MANIFEST, manifest)
        except OSError as error:  # another process, which no lock held back, was faster
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY) or not self.is_done():
                raise


def verify(folder: Path, remedy: str | None = None) -> bool:
    """Compare the files of a finished stage, or of a copy of one, with the checksums in its manifest. False
    where there is nothing to compare: without a manifest, or with one of an older version.

    Raises:
        UserError: a file is missing, cut or damaged.
    """
    path = folder / MANIFEST
    remedy = remedy or remedy_of(folder)
    sums = files.read_json(path, remedy=remedy).get("files") if path.exists() else None
    if sums is None:
        return False
    files.verify(folder, sums, remedy)
    return True


def remedy_of(folder: Path) -> str:
    """What to do about a damaged file in a folder of prepared data."""
    return f"delete {folder} to have it made again"


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _RECORDED:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
