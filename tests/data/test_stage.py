"""Stages: whole or not at all, once."""

import errno
import fcntl
import json
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from mple.checks import UserError
from mple.data.stage import Stage


def stage(root: Path, **settings: object) -> Stage:
    return Stage(root, "vocabulary", settings, {"train.en": "abc"})


def test_builds_once_and_says_from_what(tmp_path: Path) -> None:
    calls = []

    def build(folder: Path) -> None:
        calls.append(folder)
        (folder / "words").write_text("x")

    first = stage(tmp_path / "deep" / "root", size=8)
    assert not first.is_done()
    assert first.run(build) == first.run(build) == first.folder
    assert len(calls) == 1
    manifest = json.loads((first.folder / "manifest.json").read_text())
    assert manifest["settings"] == {"size": 8}
    assert manifest["inputs"] == {"train.en": "abc"}
    assert "sentencepiece" in manifest["versions"]
    assert os.listdir(tmp_path / "deep" / "root") == [first.folder.name]  # no lock, no temporary


def test_settings_inputs_and_name_are_the_identity(tmp_path: Path) -> None:
    stages = [
        stage(tmp_path, size=8),
        stage(tmp_path, size=9),
        Stage(tmp_path, "train", {"size": 8}, {"train.en": "abc"}),
        Stage(tmp_path, "vocabulary", {"size": 8}, {"train.en": "abd"}),
    ]
    assert len({s.folder for s in stages}) == 4
    assert Stage(tmp_path, "v", {"a": 1, "b": 2}, {}).key == Stage(tmp_path, "v", {"b": 2, "a": 1}, {}).key


def test_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        stage(tmp_path).run(build)
    assert os.listdir(tmp_path) == []
    assert stage(tmp_path).run(lambda folder: (folder / "all").write_text("x")).is_dir()


def _build_until_killed(root: Path) -> None:
    def build(folder: Path) -> None:
        (folder / "half").write_text("x")
        os.kill(os.getpid(), signal.SIGKILL)

    stage(root).run(build)


def test_killed_build_is_repeated(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=_build_until_killed, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not stage(tmp_path).is_done()
    there: list[str] = []
    stage(tmp_path).run(lambda folder: there.extend(os.listdir(folder)))
    assert there == []
    assert os.listdir(tmp_path) == [stage(tmp_path).folder.name]


def _slow_build(root: Path) -> None:
    def build(folder: Path) -> None:
        with open(root / "calls", "a") as file:
            file.write("x")
        time.sleep(0.2)

    stage(root / "stages").run(build)


def test_two_processes_build_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_slow_build, args=(tmp_path,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert (tmp_path / "calls").read_text() == "x"


def _build_without_locks(root: Path, barrier: Any) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    fcntl.flock = no_locks

    def build(folder: Path) -> None:
        barrier.wait()  # all three are building
        (folder / "src").mkdir()
        for number in range(20):
            (folder / "src" / str(number)).write_text(str(number))
            time.sleep(0.001)
        barrier.wait()  # none is done before all have written

    stage(root).run(build)


def test_simultaneous_builds_without_file_locks(tmp_path: Path) -> None:
    """On a file system without locks each process builds in a folder of its own; one result stays, whole."""
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(3)
    processes = [context.Process(target=_build_without_locks, args=(tmp_path, barrier)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert os.listdir(tmp_path) == [stage(tmp_path).folder.name]
    folder = stage(tmp_path).run(lambda folder: pytest.fail("it is done"))
    assert {path.name: path.read_text() for path in (folder / "src").iterdir()} == {
        str(number): str(number) for number in range(20)
    }


def test_damaged_file_of_a_stage_is_refused_until_it_is_deleted(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        (folder / "src").mkdir()
        (folder / "src" / "words").write_text("a b c")

    folder = stage(tmp_path).run(build)
    for damage in ("a b d", "a b", ""):
        (folder / "src" / "words").write_text(damage)
        with pytest.raises(UserError, match=rf"src/words is damaged .*: delete {folder} to have it made"):
            stage(tmp_path).run(build)
    (folder / "src" / "words").unlink()
    with pytest.raises(UserError, match="src/words is missing"):
        stage(tmp_path).run(build)
    shutil.rmtree(folder)
    assert (stage(tmp_path).run(build) / "src" / "words").read_text() == "a b c"


def test_stage_of_an_older_version_without_checksums_is_done(tmp_path: Path) -> None:
    folder = stage(tmp_path).run(lambda folder: (folder / "words").write_text("a"))
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"], manifest["checksum"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert stage(tmp_path).run(lambda folder: pytest.fail("it is done")) == folder


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full, the device that is always full")
def test_full_disk(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        (folder / "half").write_text("x")
        with open("/dev/full", "w") as file:
            file.write("x")

    with pytest.raises(UserError, match=r"the disk is full: .*vocabulary-"):
        stage(tmp_path).run(build)
    assert os.listdir(tmp_path) == []


def test_edited_folder_is_refused(tmp_path: Path) -> None:
    folder = stage(tmp_path).run(lambda folder: None)
    manifest = folder / "manifest.json"
    for text in (manifest.read_text().replace(stage(tmp_path).key, "0" * 64), "{", "{}"):
        manifest.write_text(text)
        with pytest.raises(UserError, match=rf"manifest\.json .* delete {folder} to have it made again"):
            stage(tmp_path).run(lambda folder: None)
    manifest.write_text(json.dumps({"key": "0" * 64}))  # that of an older version, without a checksum
    with pytest.raises(UserError, match=r"manifest\.json must hold the key"):
        stage(tmp_path).run(lambda folder: None)
