"""Stages: whole or not at all, once."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

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
