"""Files that are whole: every file of a run or of prepared data is written and read through here.

    write_json(path, {"updates": 300})       # the old file or the new one, whatever happens meanwhile
    read_json(path, "updates")["updates"]    # UserError: damaged, cut, no JSON, or without that key

A file carries a checksum in its own container, so that a copy keeps it and no kill can part the two: the last
key of a JSON file, the first line of a YAML file, the comment of the zip archive that `torch.save` writes. In
a folder that is written at once (a stage, an export, a vocabulary) a JSON file lists the checksums of the
others (`checksums`, `verify`). All are SHA-256, so that one flipped bit is noticed when the file is opened.
Files of older versions have none: of them what cannot be parsed is refused, and weights by the CRC of their
archive.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import socket
import time
import uuid
import zipfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from mple.checks import UserError

COPY_AGAIN = "copy it again from where it is whole"
"""What to do about a damaged file that nothing here can make again."""

EXPORT_MARK = "export.json"
"""What makes a folder an export."""

_NOT_READ = (
    "{path} must hold {what} and nothing else; it is damaged or cannot be read as such, and it was not "
    "executed: {remedy}"
)
_SUFFIX = ".partial"
_OLD_SECONDS = 24 * 3600
_TICK_NANOSECONDS = 2_000_000_000
_ZIP_TAIL = 22  # bytes of the end record of a zip archive without a comment
_ZIP_MARK = b"sha256:"
_ZIP_COMMENT = len(_ZIP_MARK) + 64
_JSON_TAIL = re.compile(rb',\n  "checksum": "sha256:([0-9a-f]{64})"\n}\n\Z')
_YAML_HEAD = re.compile(rb"\A# checksum of the lines below: sha256:([0-9a-f]{64})\n")

_intact: dict[Path, tuple[int, int, int]] = {}
"""What this process has compared with its checksum, as it was then: (inode, size, time of change)."""


# --- writing -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A name to write a file or a folder to, which takes the place of `path` when the block ends well.

    The name is private to this process, so that no two processes write into one file even where there are no
    locks. What the block wrote is on the disk before it is renamed, so that a power failure leaves the old
    file or the new one too. What killed processes left of the same path is deleted.

    Raises:
        UserError: the disk is full.
    """
    _delete_leftovers(path)
    temporary = path.with_name(_private_name(path.name))
    with disk_may_fill(path):
        try:
            yield temporary
            for inside in temporary.rglob("*"):
                _sync(inside)
            _sync(temporary)
            os.replace(temporary, path)
            _sync(path.parent)
        finally:
            if temporary.is_dir():
                shutil.rmtree(temporary, ignore_errors=True)
            else:
                temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Text in UTF-8: the old file or the new one, never half of one."""
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """A JSON object with its checksum as the last key."""
    write_text(path, json_text(value))


def json_text(value: Mapping[str, Any], is_ascii: bool = True) -> str:
    """The text of a JSON object with its checksum as the last key. `is_ascii`: with other letters escaped.

    Raises:
        ValueError: the object is empty or has such a key.
    """
    if not value or "checksum" in value:
        raise ValueError(f"a JSON file with a checksum needs another key than that; got {value}")
    text = json.dumps(value, indent=2, ensure_ascii=is_ascii).removesuffix("\n}")
    return f'{text},\n  "checksum": "sha256:{hashlib.sha256(text.encode()).hexdigest()}"\n}}\n'


def write_yaml(path: Path, text: str) -> None:
    """YAML text with its checksum in a first line, a comment."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    write_text(path, f"# checksum of the lines below: sha256:{digest}\n{text}")


def write_whole(value: object, path: Path) -> None:
    """`torch.save` that leaves the old file or the new one, never half of one, with a checksum in it."""
    import torch  # what reads JSON files alone starts without it

    with whole(path) as temporary:
        with open(temporary, "wb") as file:  # a path is written by C++, which does not say why it fails
            torch.save(value, file)
        seal(temporary)


def seal(path: Path) -> None:
    """Write the checksum of an archive of `torch.save` into it, as its comment, which readers of zip skip."""
    with open(path, "r+b") as file:
        file.seek(-_ZIP_TAIL, os.SEEK_END)
        tail = file.read()
        if not tail.startswith(b"PK\x05\x06") or tail[-2:] != b"\0\0":
            raise ValueError(f"{path} is no zip archive without a comment")
        file.seek(-2, os.SEEK_END)
        file.write(_ZIP_COMMENT.to_bytes(2, "little"))
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0, os.SEEK_END)
        file.write(_ZIP_MARK + digest.encode())


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


def _private_name(name: str) -> str:
    """A hidden name that no other process on any machine chooses."""
    return f".{name}.{socket.gethostname()}.{os.getpid()}.{uuid.uuid4().hex[:8]}{_SUFFIX}"


def _delete_leftovers(path: Path) -> None:
    """Delete what dead processes left of `path`; of another machine's process its age tells."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.(.+)\.(\d+)\.[0-9a-f]{{8}}{re.escape(_SUFFIX)}")
    with contextlib.suppress(OSError):
        for left in list(path.parent.iterdir()):
            writer = pattern.fullmatch(left.name)
            if writer is None:
                continue
            if writer[1] == socket.gethostname():
                is_dead = not _runs(int(writer[2]))
            else:
                is_dead = time.time() - left.stat().st_mtime > _OLD_SECONDS
            if is_dead:
                shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)  # signal 0 is only checked, not sent
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # folders of some file systems
            raise
    finally:
        os.close(handle)


# --- reading -------------------------------------------------------------------------------------------


def read_json(path: Path, *keys: str, remedy: str = COPY_AGAIN) -> dict[str, Any]:
    """The object in a JSON file, without its checksum.

    Raises:
        UserError: there is none, it is damaged, or it lacks one of `keys`; with the `remedy`.
    """
    try:
        text = path.read_bytes()
        value = json.loads(text.decode("utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(
            f"{path} must be a JSON file; it cannot be read as one ({error}): {remedy}"
        ) from error
    if not isinstance(value, dict) or not set(keys) <= set(value):
        wanted = f" with {', '.join(keys)}" if keys else ""
        raise UserError(f"{path} must hold a JSON object{wanted}; it holds none: {remedy}")
    last = next(reversed(value), "")
    # The one flipped bit may be in the key or in its value.
    if last == "checksum" or re.fullmatch("sha256:[0-9a-f]{64}", str(value.get(last))):
        del value[last]
        tail = _JSON_TAIL.search(text)
        if tail is None or hashlib.sha256(text[: tail.start()]).hexdigest().encode() != tail[1]:
            raise UserError(
                f"{path} is damaged or was edited (its checksum differs): {remedy}, "
                "or delete the line of the checksum to use it as it is"
            )
    return value


def finished_below(folder: Path) -> list[Path]:
    """The `metrics.json` of every finished run below a folder, in order; an export has a copy of one."""
    return sorted(path for path in folder.rglob("metrics.json") if not path.with_name(EXPORT_MARK).exists())


def read_yaml(path: Path, remedy: str = COPY_AGAIN) -> str:
    """The text of a YAML file, compared with its checksum.

    Raises:
        UserError: it is damaged, or no text; with the `remedy`.
    """
    try:
        text = path.read_bytes()
        decoded = text.decode("utf-8")
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path} must be a YAML file; it cannot be read ({error}): {remedy}") from error
    head, first = _YAML_HEAD.match(text), text.partition(b"\n")[0]
    if head is not None:
        is_whole = hashlib.sha256(text[head.end() :]).hexdigest().encode() == head[1]
    else:  # the one flipped bit may be in the first line
        is_whole = b"checksum of the lines below" not in first and b": sha256:" not in first
    if not is_whole:
        raise UserError(
            f"{path} is damaged or was edited (its checksum differs): {remedy}, "
            "or delete its first line to use it as it is"
        )
    return decoded


def read_tensors(path: Path, what: str = "weights", remedy: str = COPY_AGAIN) -> Any:
    """What `torch.save` wrote, on the CPU; nothing in it is ever executed.

    what: what the file must hold, for the message.

    Raises:
        UserError: there is no such file, it is damaged, or it holds something else; with the `remedy`.
    """
    import torch

    check_tensors(path, what, remedy)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch has no common class for what may be wrong
        raise UserError(_NOT_READ.format(path=path, what=what, remedy=remedy)) from error


def check_tensors(path: Path, what: str = "weights", remedy: str = COPY_AGAIN) -> None:
    """Whether `read_tensors` could read the file, as far as its checksum tells.

    Raises:
        UserError: there is no such file, or it is damaged; with the `remedy`.
    """
    try:
        with open(path, "rb") as file:
            if not _is_intact(path, file):
                raise UserError(_NOT_READ.format(path=path, what=what, remedy=remedy))
    except FileNotFoundError as error:
        raise UserError(f"{path} must hold {what}; there is no such file: {remedy}") from error
    except OSError as error:
        raise UserError(f"{path} must hold {what}; it cannot be read ({error.strerror}): {remedy}") from error


def _is_intact(path: Path, file: BinaryIO) -> bool:
    """Compare an archive of `torch.save` with its own checksum; an older one with the CRC of its entries."""
    state = _state(file.fileno())
    if _intact.get(path) == state:
        return True
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _ZIP_COMMENT))
    comment = file.read()
    if comment.startswith(_ZIP_MARK):
        is_whole = _digest(file, size - _ZIP_COMMENT).encode() == comment[len(_ZIP_MARK) :]
    elif _ZIP_MARK in comment:
        is_whole = False  # its end is missing
    elif zipfile.is_zipfile(file):
        try:
            with zipfile.ZipFile(file) as archive:
                is_whole = archive.testzip() is None
        except Exception:  # zipfile has no common class either for what may be wrong
            is_whole = False
    else:
        is_whole = False
    if is_whole:
        _remember(path, state)
    return is_whole


def checksums(folder: Path, of: Collection[str] | None = None) -> dict[str, dict[str, Any]]:
    """Size in bytes and SHA-256 of every file in a folder, or `of` some, by its path there."""
    sums = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and (of is None or name in of):
            with open(path, "rb") as file:
                sums[name] = {
                    "bytes": os.fstat(file.fileno()).st_size,
                    "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
                }
    return sums


def verify(folder: Path, sums: Any, remedy: str, may_lack: bool = False) -> None:
    """Compare the files of a folder with their `checksums`, each once in a process while it stays as it is.

    sums: as `checksums` returned them, read from a file that may be anyone's. may_lack: a file that is not
        there is no fault.

    Raises:
        UserError: a file is missing, cut or damaged; with the `remedy`.
    """
    try:
        wanted = {str(name): (int(one["bytes"]), str(one["sha256"])) for name, one in sums.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder} must list the checksums of its files; it does not: {remedy}") from error
    for name, (size, digest) in wanted.items():
        path = folder / name
        if ".." in Path(name).parts or Path(name).is_absolute():
            raise UserError(f"{folder} must list the checksums of its own files; got that of {name}")
        try:
            with open(path, "rb") as file:
                state = _state(file.fileno())
                if state[1] != size:
                    raise UserError(f"{path} is damaged ({state[1]} bytes instead of {size}): {remedy}")
                if _intact.get(path) != state:
                    if _digest(file, size) != digest:
                        raise UserError(f"{path} is damaged (its checksum differs): {remedy}")
                    _remember(path, state)
        except FileNotFoundError:
            if not may_lack:
                raise UserError(f"{path} is missing: {remedy}") from None


def _remember(path: Path, state: tuple[int, int, int]) -> None:
    """Clocks of file systems tick a few times a second: what has just been written is compared again."""
    if time.time_ns() - state[2] > _TICK_NANOSECONDS:
        _intact[path] = state


def _digest(file: BinaryIO, size: int) -> str:
    """SHA-256 of the first `size` bytes."""
    digest = hashlib.sha256()
    file.seek(0)
    left = size
    while left and (part := file.read(min(left, 1 << 20))):
        digest.update(part)
        left -= len(part)
    return digest.hexdigest()


def _state(handle: int) -> tuple[int, int, int]:
    status = os.fstat(handle)
    return status.st_ino, status.st_size, status.st_mtime_ns
