"""What a run leaves for a W&B dashboard: a micro run of `logger=wandb`, offline, read back from its file."""

import json
import re
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra

from mple.launch import Job, wandb_id, wandb_logger
from mple.run import Run
from tests.runs import CONF, distil_at_random, text_job

wandb = pytest.importorskip("wandb")
EXPERIMENT = "glat_dynkd"


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("wandb")


@pytest.fixture(scope="module")
def made(outputs: Path) -> Iterator[Job]:
    """Eight updates of GLAT with Dynamic KD on what teachers are made to say; it decodes in three passes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_SILENT", "true")
        patch.delenv("WANDB_API_KEY", raising=False)
        made = text_job(
            outputs,
            f"+experiment={EXPERIMENT}",
            "logger=[csv,wandb]",
            "decoding=mask_predict",
            "decoding.fill.iterations=3",
            "student_updates=8",
            "valid_every=4",
            "log_every=2",
        )
        hydra.initialize_config_dir(str(CONF), version_base="1.3")  # teachers' jobs are composed too
        distil_at_random(made)
        data = made.data(
            made.cfg.seed,
            made.candidates,
            {name: teacher.distilled_folder() for name, teacher in made.teachers().items()},
        )
        data.setup()
        made.fit_and_test(data)
        yield made
        GlobalHydra.instance().clear()


def blobs(path: Path) -> Iterator[bytes]:
    """The records of a W&B file: seven bytes, then LevelDB's log of 32 KiB blocks, whose chunks have a
    checksum, a size and a kind (1 whole, 2 first, 3 middle, 4 last)."""
    data, at, parts = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        size, kind = struct.unpack_from("<HB", data, at + 4)
        if at + 7 + size > len(data):
            return  # half-written
        parts += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            yield parts
            parts = b""


@pytest.fixture(scope="module")
def records(made: Job) -> list[Any]:
    """Everything in the one offline run's file, in order. Another process writes it, and may still do so."""
    from wandb.proto import wandb_internal_pb2

    (path,) = made.run.folder.glob("wandb/offline-run-*/run-*.wandb")
    deadline = time.monotonic() + 15
    while True:
        found = [wandb_internal_pb2.Record.FromString(blob) for blob in blobs(path)]
        if any(r.WhichOneof("record_type") == "exit" for r in found) or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


@pytest.fixture(scope="module")
def history(records: list[Any]) -> list[dict[str, Any]]:
    """What was logged, a dictionary a call."""
    found: list[dict[str, Any]] = []
    for record in records:
        if record.WhichOneof("record_type") == "history":
            line: dict[str, Any] = {}
            for item in record.history.item:
                *outer, last = item.nested_key or [item.key]
                place = line
                for key in outer:
                    place = place.setdefault(key, {})
                place[last] = json.loads(item.value_json)
            found.append(line)
    return found


def test_runs_are_grouped_by_experiment_and_data(made: Job, records: list[Any]) -> None:
    (run,) = {
        (r.run.project, r.run.run_group, r.run.job_type, r.run.display_name, tuple(r.run.tags), r.run.run_id)
        for r in records
        if r.WhichOneof("record_type") == "run"
    }
    own = made.run
    group = f"{EXPERIMENT}, {own.data}"
    name = f"{EXPERIMENT}-{own.data}-{own.key}-{own.seed}"
    assert run[:4] == ("mple", group, "train", f"{EXPERIMENT} seed {own.seed}")
    assert set(run[4]) == {EXPERIMENT, own.data}
    assert run[5] == name


def test_every_number_of_training_is_there(made: Job, history: list[dict[str, Any]]) -> None:
    keys = {key for line in history for key in line}
    expected = {f"train/selected_{name}" for name in made.candidates}
    assert len(expected) == 5
    expected |= {"train/glancing_ratio", "train/revealed", "train/gradient_norm", "train/learning_rate"}
    expected |= {"train/length_accuracy", "valid/length_accuracy_percent", "speed/tokens_per_second"}
    assert expected <= keys
    trained = [line for line in history if "train/learning_rate" in line]
    assert [line["trainer/global_step"] for line in trained] == [2, 4, 6, 8]
    for line in trained:
        assert sum(line[f"train/selected_{name}"] for name in made.candidates) == pytest.approx(1)
        assert 0.3 <= line["train/glancing_ratio"] <= 0.5
        assert 0 <= line["train/revealed"] < 1
        assert line["train/gradient_norm"] > 0
        assert line["speed/tokens_per_second"] > 0
    rates = [line["train/learning_rate"] for line in trained]
    assert rates == sorted(set(rates))  # in the warm-up
    ratios = [line["train/glancing_ratio"] for line in trained]
    assert ratios == sorted(set(ratios), reverse=True)


def test_the_samples_are_a_table_of_both_passes(made: Job, history: list[dict[str, Any]]) -> None:
    for split in ("valid", "test"):
        shown = [line[f"{split}/samples"] for line in history if f"{split}/samples" in line]
        assert len(shown) == {"valid": 3, "test": 1}[split]  # at 4, at 8, and of the averaged weights
        for table in shown:
            assert table["_type"] == "table-file"
            (path,) = made.run.folder.glob(f"wandb/offline-run-*/files/{table['path']}")
            read = json.loads(path.read_text())
            assert read["columns"] == ["source", "reference", "output", "first_pass"]
            assert len(read["data"]) == 10
            for source, reference, output, first in read["data"]:
                assert source
                assert reference
                assert isinstance(output, str)
                assert isinstance(first, str)
            assert any(first for *_, first in read["data"])


def test_a_run_ends_its_own(made: Job) -> None:
    """Or the next job of a multirun would go on writing into it."""
    import wandb

    assert wandb.run is None


def run_named(folder: Path, experiment: str = "glat_kd", data: str = "wmt") -> Run:
    return Run(folder / experiment, experiment, data, "0a1b2c3d", 1)


def test_ids_have_the_characters_and_the_length_that_wandb_takes(tmp_path: Path) -> None:
    assert wandb_id(run_named(tmp_path)) == "glat_kd-wmt-0a1b2c3d-1"
    names = ["wmt:v2", "wmt-v2", "wmt;v2", "a" * 200, "a" * 199 + "b", "größe #1"]
    ids = [wandb_id(run_named(tmp_path, data=name)) for name in names]
    assert len(set(ids)) == len(names)
    for one in ids:
        assert wandb.Settings(run_id=one).run_id == one
        assert len(one) <= 128
    with pytest.raises(Exception, match="Run ID cannot contain"):
        wandb.Settings(run_id="glat_kd-wmt:v2")


@pytest.mark.parametrize(
    "error", [wandb.errors.CommError("Run initialization has timed out"), OSError("no network")]
)
def test_run_is_kept_offline_where_wandb_cannot_be_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def init(**settings: Any) -> None:
        raise error

    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(wandb, "init", init)
    logger = wandb_logger("mple", run_named(tmp_path, data="wmt:v2"), {})
    assert logger._offline
    assert re.search(rf"W&B is offline \({error}\); later: wandb sync", capsys.readouterr().out)
