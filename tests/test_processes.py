"""Jobs beside each other, and the processes of one run."""

import errno
import logging
import multiprocessing
import os
import threading
from pathlib import Path

import pytest
from pytorch_lightning.utilities import rank_zero_only

from mple import processes
from mple.checks import UserError
from mple.locks import locked


def hold(
    path: Path, has_it: "multiprocessing.synchronize.Event", may_go: "multiprocessing.synchronize.Event"
) -> None:
    with locked(path, "at_tiny"):
        has_it.set()
        may_go.wait(30)


class Holder:
    """A process that holds a lock until it is told, or killed."""

    def __init__(self, path: Path) -> None:
        context = multiprocessing.get_context("spawn")
        has_it, self.may_go = context.Event(), context.Event()
        self.process = context.Process(target=hold, args=(path, has_it, self.may_go))
        self.process.start()
        assert has_it.wait(60)


def test_another_process_waits_and_says_for_whom(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / ".lock"
    holder = Holder(path)
    with pytest.raises(UserError) as caught, locked(path, "at_tiny", waits=False):
        pass
    assert str(caught.value).startswith(f"at_tiny is being made by process {holder.process.pid} on ")
    threading.Timer(0.5, holder.may_go.set).start()
    with caplog.at_level(logging.INFO), locked(path, "at_tiny"):
        assert holder.may_go.is_set()
        assert f"waiting for process {holder.process.pid} on " in caplog.text
        holder.process.join(30)
        assert holder.process.exitcode == 0
        assert path.read_text().startswith(f"process {os.getpid()} on ")
    assert not path.exists()


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    holder = Holder(tmp_path / ".lock")
    holder.process.kill()
    holder.process.join()
    with locked(tmp_path / ".lock", "at_tiny", waits=False):
        pass


def test_a_file_system_without_locks_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with locked(tmp_path / ".lock", "at_tiny"):
        assert "has no file locks: let no other job make at_tiny meanwhile" in caplog.text
    assert not list(tmp_path.iterdir())


def test_only_the_first_process_of_a_run_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = {tmp_path / "b" / "seed1": "b", tmp_path / "a" / "seed1": "a"}
    with processes.alone(folders):
        assert sorted(tmp_path.rglob(".*.lock")) == [tmp_path / x / ".seed1.lock" for x in "ab"]
    assert not list(tmp_path.rglob(".*.lock"))
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    with processes.alone(folders):
        assert not list(tmp_path.rglob(".*.lock"))


def test_what_is_held_may_be_asked_for_again(tmp_path: Path) -> None:
    one, two = {tmp_path / "a" / "seed1": "a"}, {tmp_path / "b" / "seed1": "b"}
    with processes.alone(one | two):
        with processes.alone(one):
            pass
        assert len(list(tmp_path.rglob(".*.lock"))) == 2  # the inner one gave nothing back
    with processes.alone(one):
        assert len(list(tmp_path.rglob(".*.lock"))) == 1
    assert not list(tmp_path.rglob(".*.lock"))


def test_processes_that_a_cluster_started_do_not_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others would not know that the first one waits."""
    holder = Holder(tmp_path / ".seed1.lock")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    with (
        pytest.raises(UserError, match="at_tiny is being made by"),
        processes.alone({tmp_path / "seed1": "at_tiny"}),
    ):
        pass
    holder.may_go.set()


def test_work_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    assert processes.share([1, 2, 3]) == [1, 2, 3]
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    assert processes.share([1, 2, 3]) == []  # of processes that have not found each other the first does it
    monkeypatch.setattr(processes.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(processes.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(processes.dist, "get_rank", lambda: 1)
    assert processes.share([1, 2, 3]) == [2]


def test_who_waits_notices_that_its_parent_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([False, False, True])
    processes.wait_until(lambda: next(answers), every_seconds=0.001)
    parents = iter([10, 10, 1])
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    with pytest.raises(UserError, match="ended early"):
        processes.wait_until(lambda: False, every_seconds=0.001)
