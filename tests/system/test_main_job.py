"""The main job as a user runs it: `python train.py ...` in a process of its own, on a micro configuration."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
SIZES = ("tiny", "small", "base", "big", "student")
MICRO = [
    *(f"data.source.{split}={count}" for split, count in (("train", 400), ("valid", 40), ("test", 40))),
    *(f"sizes.{size}.{key}={value}" for size in SIZES for key, value in (("d_model", 16), ("d_ff", 32))),
    *(f"sizes.{size}.{part}_layers=1" for size in SIZES for part in ("encoder", "decoder")),
    *(f"sizes.{size}.num_heads=2" for size in SIZES),
    "teacher_updates=100",  # a teacher validates as its budget says, every 100 updates
    "student_updates=8",
    "valid_every=4",
    "log_every=2",
    "max_tokens=512",
    "trainer.precision=32-true",
    "trainer.accelerator=cpu",
]


def start(outputs: Path, *arguments: str, threads: int = 1) -> subprocess.Popen[str]:
    """The arguments have the last word over `MICRO`; a flag among them comes first."""
    flags = [part for part in arguments if part.startswith("-")]
    changes = [part for part in arguments if part not in flags]
    own = {part.split("=")[0] for part in changes}
    micro = [part for part in MICRO if part.split("=")[0] not in own]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "COLUMNS": "200"}
    return subprocess.Popen(
        [sys.executable, "train.py", *flags, *micro, *changes, f"outputs={outputs}"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that all of its processes can be killed at once
    )


def train(outputs: Path, *arguments: str, threads: int = 1) -> tuple[int, str, str]:
    """(exit status, stdout, stderr)"""
    process = start(outputs, *arguments, threads=threads)
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def run_folder(outputs: Path, experiment: str) -> Path:
    (folder,) = outputs.glob(f"{experiment}/grammar/*/seed1")
    return folder


def metrics_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_dynamic_kd_with_all_its_teachers_then_nothing_to_do(tmp_path: Path) -> None:
    status, out, err = train(tmp_path, "+experiment=glat_dynkd")
    assert status == 0, err
    for stage in ("data: train", "teacher: tiny", "distilled: big", "train and test: glat_dynkd"):
        assert stage in out
    folder = run_folder(tmp_path, "glat_dynkd")
    metrics = metrics_of(folder)
    assert 0 <= metrics["test"]["tokenised_bleu"] <= 100
    assert 0 <= metrics["test"]["valid_rate_percent"] <= 100
    assert set(metrics["selection_percent"]) == {"tiny", "small", "base", "big", "raw"}
    assert sum(metrics["selection_percent"].values()) == pytest.approx(100, abs=1e-3)
    assert metrics["signatures"]
    assert metrics["updates"] == 8
    assert (folder / "hypotheses.test.txt").read_text().count("\n") == 40
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert sorted(set(steps)) == [2, 4, 6, 8]
    for name in ("tiny", "small", "base", "big"):
        assert "averaged.pt" in {path.name for path in run_folder(tmp_path, f"at_{name}").iterdir()}

    before = files(tmp_path)
    status, out, err = train(tmp_path, "+experiment=glat_dynkd")
    assert status == 0, err
    assert "finished already" in out
    assert files(tmp_path) == before


def test_an_unknown_experiment_lists_the_valid_ones(tmp_path: Path) -> None:
    status, _, err = train(tmp_path / "outputs", "+experiment=glat_dynamic")
    assert status != 0
    for stem in (path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml")):
        assert stem in err
    assert "Traceback" not in err
    assert not (tmp_path / "outputs").exists()


def test_a_wrong_setting_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    status, _, err = train(tmp_path / "outputs", "+experiment=glat_dynkd", "proxy_target.beta=-1")
    assert status == 2
    assert "Traceback" not in err
    (line,) = err.strip().splitlines()
    assert line.startswith("error: proxy_target.beta")
    assert not (tmp_path / "outputs").exists()


UPDATES = 20
WIDE = ["sizes.student.d_model=128", "sizes.student.d_ff=256", "max_tokens=2048"]
"""Enough numbers for PyTorch to share them between threads."""


@pytest.mark.parametrize(
    ("experiment", "settings", "threads"),
    [
        ("vanilla_raw", [], 1),
        pytest.param("glat_dynkd", [], 1, marks=pytest.mark.slow),  # draws of Z, a lambda schedule, teachers
        pytest.param("glat_raw", ["trainer.devices=2"], 1, marks=pytest.mark.slow),
        pytest.param("glat_raw", WIDE, 2, marks=pytest.mark.slow),
    ],
    ids=["vanilla", "glat_dynkd", "two processes", "two threads"],
)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, experiment: str, settings: list[str], threads: int
) -> None:
    arguments = [f"+experiment={experiment}", f"student_updates={UPDATES}", *settings]
    arguments.append("sizes.student.dropout=0.3")
    status, _, err = train(tmp_path / "whole", *arguments, threads=threads)
    assert status == 0, err

    process = start(tmp_path / "cut", *arguments, threads=threads)
    deadline = time.monotonic() + 240
    try:
        while process.poll() is None and time.monotonic() < deadline:
            if list((tmp_path / "cut").glob(f"{experiment}/grammar/*/seed1/last.ckpt")):
                break
            time.sleep(0.005)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL, "the run ended before it could be killed"
    folder = run_folder(tmp_path / "cut", experiment)
    reached = torch.load(folder / "last.ckpt", weights_only=True)["global_step"]
    assert 0 < reached < UPDATES
    assert not (folder / "metrics.json").exists()

    status, out, err = train(tmp_path / "cut", *arguments, threads=threads)
    assert status == 0, err
    assert f"at update {reached}" in out
    assert_same_run(run_folder(tmp_path / "whole", experiment), folder)


def test_a_run_killed_in_its_test_is_tested_again(tmp_path: Path) -> None:
    arguments = ["+experiment=vanilla_raw"]
    status, _, err = train(tmp_path, *arguments)
    assert status == 0, err
    folder = run_folder(tmp_path, "vanilla_raw")
    whole = Path(shutil.copytree(folder, tmp_path / "whole"))
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:-1]))  # the last one is the test's
    for name in ("metrics.json", "averaged.pt", "hypotheses.test.txt", "samples.jsonl", "metrics.csv"):
        (folder / name).unlink()
    status, out, err = train(tmp_path, *arguments)
    assert status == 0, err
    assert "at update 8" in out
    assert_same_run(whole, folder)
    assert metrics_of(folder)["tokens_per_second"] == metrics_of(whole)["tokens_per_second"]


def assert_same_run(expected: Path, found: Path) -> None:
    """Bit-equal weights, equal results, an equal log: apart from times."""
    weights, again = (torch.load(folder / "averaged.pt", weights_only=True) for folder in (expected, found))
    assert weights.keys() == again.keys()
    assert all(torch.equal(weights[key], again[key]) for key in weights)
    results = [metrics_of(folder) for folder in (expected, found)]
    for split in ("test", "valid", "train"):
        assert results[0][split] == results[1][split]
    assert log_of(expected) == log_of(found)
    texts = [(folder / "hypotheses.test.txt").read_text() for folder in (expected, found)]
    assert texts[0] == texts[1]
    best = [sorted(path.name for path in (folder / "best").iterdir()) for folder in (expected, found)]
    assert best[0] == best[1]


def log_of(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith("speed/")} for line in lines]


def test_a_multirun_makes_every_run(tmp_path: Path) -> None:
    status, _, err = train(tmp_path, "-m", "+experiment=vanilla_raw,glat_raw")
    assert status == 0, err
    for experiment in ("vanilla_raw", "glat_raw"):
        folder = run_folder(tmp_path, experiment)
        assert metrics_of(folder)["experiment"] == experiment
    # The second of two jobs in one process is what it would have been in a process of its own.
    status, _, err = train(tmp_path / "alone", "+experiment=glat_raw")
    assert status == 0, err
    assert_same_run(run_folder(tmp_path / "alone", "glat_raw"), run_folder(tmp_path, "glat_raw"))


@pytest.mark.slow
def test_a_multirun_goes_on_after_a_job_that_failed(tmp_path: Path) -> None:
    status, _, err = train(tmp_path, "-m", "+experiment=vanilla_raw", "optimizer.lr=1e30,0.001")
    assert status == 2
    assert err.count("error: training diverged") == 1
    assert len(list(tmp_path.glob("vanilla_raw/grammar/*/seed1/metrics.json"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("number", "expected"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_interrupted_run_does_not_end_as_a_finished_one(
    tmp_path: Path, number: int, expected: int
) -> None:
    process = start(tmp_path, "+experiment=vanilla_raw", "student_updates=20000")
    deadline = time.monotonic() + 120
    while not list(tmp_path.rglob("last.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == expected
    assert "the same command continues" in err
    assert not list(tmp_path.rglob("metrics.json"))


def test_jobs_beside_each_other_share_a_teacher(tmp_path: Path) -> None:
    jobs = [start(tmp_path, "+experiment=vanilla_kd", f"seed={seed}") for seed in (1, 2, 3)]
    ended = [(job.communicate(timeout=240), job.returncode) for job in jobs]
    assert all(status == 0 for _, status in ended), ended
    assert sum("teacher base: " in out for (out, _), _ in ended) == 1  # the others found it
    assert len(list(tmp_path.glob("at_base/grammar/*/seed1/metrics.json"))) == 1
    assert len(list(tmp_path.glob("vanilla_kd/grammar/*/seed*/metrics.json"))) == 3
    assert not list(tmp_path.rglob(".*"))  # no locks, nothing half-made


def test_a_shared_teacher_is_free_when_it_is_done(tmp_path: Path) -> None:
    """A job beside one that trains on the same teacher's text does not wait for the end of that."""
    long = start(tmp_path, "+experiment=vanilla_kd", "updates=20000")
    try:
        status, _, err = train(tmp_path, "+experiment=vanilla_kd", "seed=2")
        assert status == 0, err
        assert long.poll() is None
    finally:
        long.kill()
        long.communicate()


@pytest.mark.slow
def test_a_multirun_of_jobs_on_two_devices(tmp_path: Path) -> None:
    """Teachers are trained and distilled by both processes, and each job has a pair of its own."""
    status, out, err = train(tmp_path, "-m", "+experiment=vanilla_kd,glat_kd", "trainer.devices=2")
    assert status == 0, err
    assert out.count("teacher base: ") == 1
    for experiment in ("at_base", "vanilla_kd", "glat_kd"):
        folder = run_folder(tmp_path, experiment)
        assert metrics_of(folder)["experiment"] == experiment
        assert len((folder / "hypotheses.test.txt").read_text().splitlines()) == 40
    assert not list(tmp_path.rglob(".*"))
