"""A full disk while a run writes: one sentence, the old file as it was, nothing half-written. /dev/full is a
device on which every write fails as on a full disk."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from mple import files
from mple.callbacks import Checkpoints
from mple.checks import UserError
from mple.files import write_text, write_whole
from mple.tracking import RunLog

pytestmark = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")

WEIGHTS = {"a": torch.zeros(200_000)}


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("averaged.pt", lambda path: write_whole(WEIGHTS, path)),
        ("metrics.json", lambda path: write_text(path, "{}\n")),
    ],
)
def test_the_old_file_stays_and_nothing_else(
    tmp_path: Path, name: str, write: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_private_name", lambda name: f".{name}.partial")
    (tmp_path / name).write_text("old")
    (tmp_path / f".{name}.partial").symlink_to("/dev/full")
    with pytest.raises(UserError, match=rf"the disk is full: .*{name} could not be written"):
        write(tmp_path / name)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: "old"}
    write(tmp_path / name)
    assert (tmp_path / name).read_bytes() != b"old"


class Full(pl.Trainer):
    """Saves what Lightning would, where there is no room."""

    is_global_zero = True  # type: ignore[assignment]

    def __init__(self) -> None:
        pass

    def save_checkpoint(self, filepath: Path, *args: object, **kwargs: object) -> None:  # type: ignore[override]
        filepath.write_bytes(b"half")
        with open("/dev/full", "wb") as file:
            file.write(b"the other half")


def test_the_checkpoint_to_resume_from_stays(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").write_text("old")
    with pytest.raises(UserError, match=r"the disk is full: .*last\.ckpt"):
        Checkpoints(tmp_path, "valid/tokenised_bleu")._save_last(Full())
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"last.ckpt": "old"}


def test_a_log_that_cannot_grow_says_so_and_a_failed_run_does_not_fail_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_private_name", lambda name: f".{name}.partial")
    log = RunLog(tmp_path)
    log.log_metrics({"loss": 1.0}, 1)
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"the disk is full: .*metrics\.jsonl"):
        log.log_metrics({"loss": 0.5}, 2)
    (tmp_path / "metrics.jsonl").unlink()
    log.log_metrics({"loss": 0.5}, 2)
    (tmp_path / ".metrics.csv.partial").symlink_to("/dev/full")
    log.finalize("failed")
    with pytest.raises(UserError, match=r"the disk is full: .*metrics\.csv"):
        log.finalize("success")
    log.finalize("success")
    assert (tmp_path / "metrics.csv").read_text() == "step,loss\n2,0.5\n"
