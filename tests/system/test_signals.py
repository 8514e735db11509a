"""A training run that a signal ends between two validations, and the same command again: equal to the bit."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch

from tests.system.test_main_job import assert_same_run, run_folder, start, train
from tests.training.test_trainer import SLURM

LONG = ["student_updates=400", "valid_every=200", "log_every=20"]


def lines_of(outputs: Path) -> int:
    logs = list(outputs.glob("glat_raw/*/*/*/metrics.jsonl"))
    return len(logs[0].read_text().splitlines()) if logs else 0


def interrupted(outputs: Path, number: int, *arguments: str, after: int = 2) -> tuple[int, str]:
    process = start(outputs, "+experiment=glat_raw", *LONG, *arguments)
    deadline = time.monotonic() + 150
    while lines_of(outputs) < after and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(number)
    _, err = process.communicate(timeout=90)
    return process.returncode, err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT])
def test_resumed_after_a_signal_it_is_the_run_that_was_not(number: int, tmp_path: Path) -> None:
    status, err = interrupted(tmp_path / "cut", number)
    assert status == 128 + number, err
    assert "the same command continues" in err
    assert "Traceback" not in err
    folder = run_folder(tmp_path / "cut", "glat_raw")
    assert not (folder / "metrics.json").exists()
    step = torch.load(folder / "last.ckpt", weights_only=True)["global_step"]
    logged = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    assert logged <= step < 200  # before any validation
    status, out, err = train(tmp_path / "cut", "+experiment=glat_raw", *LONG)
    assert status == 0, err
    assert f"at update {step}" in out
    status, _, err = train(tmp_path / "whole", "+experiment=glat_raw", *LONG)
    assert status == 0, err
    assert_same_run(run_folder(tmp_path / "whole", "glat_raw"), folder)


@pytest.mark.slow
def test_two_processes_stop_at_the_same_update(tmp_path: Path) -> None:
    status, err = interrupted(tmp_path / "cut", signal.SIGTERM, "trainer.devices=2")
    assert status == 128 + signal.SIGTERM, err
    folder = run_folder(tmp_path / "cut", "glat_raw")
    assert (folder / "last.ckpt").exists()
    for outputs in (tmp_path / "cut", tmp_path / "whole"):
        status, _, err = train(outputs, "+experiment=glat_raw", *LONG, "trainer.devices=2")
        assert status == 0, err
    assert_same_run(run_folder(tmp_path / "whole", "glat_raw"), folder)


@pytest.mark.slow
def test_another_run_s_hpc_checkpoint_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With SLURM's variables set and `hpc_ckpt_1.ckpt` of another run in the run's folder."""
    for outputs, seed in ((tmp_path / "other", 2), (tmp_path / "whole", 1)):
        status, _, err = train(outputs, "+experiment=glat_raw", f"seed={seed}")
        assert status == 0, err
    folder = run_folder(tmp_path / "whole", "glat_raw")
    (foreign,) = (tmp_path / "other").rglob("last.ckpt")
    again = tmp_path / "again" / folder.relative_to(tmp_path / "whole")
    again.mkdir(parents=True)
    (again / "hpc_ckpt_1.ckpt").write_bytes(foreign.read_bytes())
    for name, value in SLURM.items():
        monkeypatch.setitem(os.environ, name, value)
    status, _, err = train(tmp_path / "again", "+experiment=glat_raw")
    assert status == 0, err
    assert_same_run(folder, again)
