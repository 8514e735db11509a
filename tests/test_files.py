"""Files that are whole: atomic writes by several processes; damage that is reported when a file is read."""

import json
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch
import yaml

from mple import files
from mple.checks import UserError

WEIGHTS = {"a": torch.arange(40, dtype=torch.float32), "b": torch.ones(3)}
OBJECT = {"seed": 1, "test": {"tokenised_bleu": 12.5}, "name": "ß"}


def write_archive(path: Path) -> None:
    files.write_whole(WEIGHTS, path)


def write_object(path: Path) -> None:
    files.write_json(path, OBJECT)


def write_settings(path: Path) -> None:
    files.write_yaml(path, "seed: 1\nname: ß\nlast: 2\n")


def read_settings(path: Path) -> Any:
    return yaml.safe_load(files.read_yaml(path))


KINDS: dict[str, tuple[Callable[[Path], None], Callable[[Path], Any]]] = {
    "weights.pt": (write_archive, files.read_tensors),
    "object.json": (write_object, files.read_json),
    "settings.yaml": (write_settings, read_settings),
}


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else bool(one == other)


@pytest.mark.parametrize("name", KINDS)
def test_every_flipped_bit_is_refused_or_without_effect(tmp_path: Path, name: str) -> None:
    """No flipped bit of a file gives another value, and no damage gives another exception than UserError."""
    path = tmp_path / name
    write, read = KINDS[name]
    write(path)
    whole, expected = path.read_bytes(), read(path)
    messages = []
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            assert equal(read(path), expected), f"bit {place % 8} of byte {place} gives another value"
        except UserError as error:
            messages.append(str(error))
    assert len(messages) > 0.9 * (len(whole) - 100)  # the label of the checksum itself is no content
    assert all(name in message and "\n" not in message for message in messages)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("keep", [0.0, 0.5, -1])
def test_cut_or_empty_file_is_refused(tmp_path: Path, name: str, keep: float) -> None:
    path = tmp_path / name
    write, read = KINDS[name]
    write(path)
    text = path.read_bytes()
    path.write_bytes(text[:-1] if keep < 0 else text[: int(keep * len(text))])
    if name == "settings.yaml" and not keep:
        assert read(path) is None  # an empty YAML file is a valid one: its reader refuses what lacks its keys
    else:
        with pytest.raises(UserError, match=name):
            read(path)


@pytest.mark.parametrize("name", KINDS)
def test_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=name):
        KINDS[name][1](tmp_path / name)


def test_archive_without_checksum_is_checked_by_its_crc(tmp_path: Path) -> None:
    path = tmp_path / "old.pt"
    torch.save(WEIGHTS, path)
    text = path.read_bytes()
    assert equal(files.read_tensors(path), WEIGHTS)
    place = text.index(WEIGHTS["a"].numpy().tobytes())
    path.write_bytes(text[: place + 7] + bytes([text[place + 7] ^ 0x40]) + text[place + 8 :])
    with pytest.raises(UserError, match=r"old\.pt must hold weights .*; it is damaged .*: rebuild it"):
        files.read_tensors(path, remedy="rebuild it")


def test_plain_torch_load_reads_sealed_archive(tmp_path: Path) -> None:
    write_archive(tmp_path / "a.pt")
    assert equal(torch.load(tmp_path / "a.pt", weights_only=True), WEIGHTS)
    assert equal(torch.load(tmp_path / "a.pt", weights_only=True, mmap=True), WEIGHTS)


def test_json_and_yaml_without_checksum_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(OBJECT))
    assert files.read_json(tmp_path / "a.json", "seed") == OBJECT
    with pytest.raises(UserError, match="with key"):
        files.read_json(tmp_path / "a.json", "key")
    (tmp_path / "a.yaml").write_text("a: 1\n")
    assert files.read_yaml(tmp_path / "a.yaml") == "a: 1\n"
    write_object(tmp_path / "a.json")
    (tmp_path / "a.json").write_text(json.dumps(json.loads((tmp_path / "a.json").read_text()) | {"seed": 2}))
    with pytest.raises(UserError, match="delete the line of the checksum to use it as it is"):
        files.read_json(tmp_path / "a.json")


def test_folder_is_compared_with_its_checksums(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a").write_bytes(b"abc")
    (tmp_path / "b").write_bytes(b"")
    sums = files.checksums(tmp_path)
    assert sums["src/a"]["bytes"] == 3
    assert sums["src/a"]["sha256"].startswith("ba7816bf8f01cfea414140de5dae2223")  # FIPS 180-2, B.1
    files.verify(tmp_path, sums, "rebuild it")
    (tmp_path / "src" / "a").write_bytes(b"abd")
    with pytest.raises(UserError, match=r"src/a is damaged \(its checksum differs\): rebuild it"):
        files.verify(tmp_path, sums, "rebuild it")
    (tmp_path / "src" / "a").write_bytes(b"ab")
    with pytest.raises(UserError, match=r"src/a is damaged \(2 bytes instead of 3\)"):
        files.verify(tmp_path, sums, "rebuild it")
    (tmp_path / "src" / "a").unlink()
    with pytest.raises(UserError, match=r"src/a is missing: rebuild it"):
        files.verify(tmp_path, sums, "rebuild it")
    files.verify(tmp_path, sums, "rebuild it", may_lack=True)
    for wrong in ({"../b": {"bytes": 0, "sha256": ""}}, {"b": 3}, [1]):
        with pytest.raises(UserError, match="must list the checksums"):
            files.verify(tmp_path, wrong, "rebuild it")


def test_unchanged_file_is_read_once_and_changed_one_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    os.utime(tmp_path / "a", (1, 1))
    sums = files.checksums(tmp_path)
    reads = []
    digest = files._digest

    def counted(file: BinaryIO, size: int) -> str:
        reads.append(size)
        return digest(file, size)

    monkeypatch.setattr(files, "_digest", counted)
    for _ in range(3):
        files.verify(tmp_path, sums, "")
    assert len(reads) == 1
    (tmp_path / "a").write_bytes(b"abd")
    for _ in range(2):
        with pytest.raises(UserError):
            files.verify(tmp_path, sums, "")


def _write_until_killed(path: Path) -> None:
    with files.whole(path) as temporary:
        temporary.write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)


def test_killed_writer_leaves_the_old_file_and_its_rest_is_deleted_later(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    path.write_text("old")
    process = multiprocessing.get_context("fork").Process(target=_write_until_killed, args=(path,))
    process.start()
    process.join()
    assert path.read_text() == "old"
    rest = [each.name for each in tmp_path.iterdir() if each != path]
    assert len(rest) == 1
    own = tmp_path / f".last.ckpt.{socket.gethostname()}.{os.getpid()}.01234567.partial"
    recent, stale = (tmp_path / f".last.ckpt.elsewhere.1.{number:08d}.partial" for number in range(2))
    for each in (own, recent, stale):
        each.write_text("of a process that may still write")
    os.utime(stale, (time.time() - 2 * 86400,) * 2)
    files.write_text(path, "new")
    assert path.read_text() == "new"
    assert {each.name for each in tmp_path.iterdir()} == {path.name, own.name, recent.name}


def _write_slowly(path: Path, text: str, barrier: Any) -> None:
    with files.whole(path) as temporary:
        barrier.wait()
        for letter in text:
            with open(temporary, "a") as file:
                file.write(letter)
            time.sleep(0.001)
        barrier.wait()


def test_simultaneous_writers_do_not_mix(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(3)
    texts = ["a" * 50, "b" * 60, "c" * 70]
    processes = [
        context.Process(target=_write_slowly, args=(tmp_path / "file", text, barrier)) for text in texts
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert (tmp_path / "file").read_text() in texts
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_file_is_on_the_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    sync, replace = os.fsync, os.replace

    def synced(handle: int) -> None:
        events.append("sync " + ("folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "file"))
        sync(handle)

    def replaced(one: Path, other: Path) -> None:
        events.append("rename")
        replace(one, other)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    files.write_text(tmp_path / "file", "text")
    assert events == ["sync file", "rename", "sync folder"]
