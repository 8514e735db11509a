"""Damaged files of a run, of its data and of an export: one sentence, and never another result.

Each file of a tiny finished run is emptied, cut or deleted, or gets one flipped bit; then each command that
opens it is run in this process. It must refuse in one sentence, or give what it gave before.
"""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra

from mple import files
from mple.checks import UserError
from mple.evaluation.finished import Finished
from mple.evaluation.text import Text
from mple.export import export
from mple.launch import Job
from mple.trained import load
from tests.runs import CONF, MICRO

SETTINGS = [
    *("+experiment=glat_dynkd", "data=grammar", "data.source.train=60", "data.source.valid=12"),
    *("data.source.test=12", "data.max_length=30", "updates=4", "student_updates=4", "teacher_updates=100"),
    *(
        "valid_every=2",
        "log_every=1",
        *(f"proxy_target.gamma.{name}=null" for name in ("tiny", "small", "big")),
        "decoding=argmax",
    ),
    *MICRO,
]

STUDENT, TEACHER, DATA = "outputs/glat_dynkd/*/*/seed1", "outputs/at_base/*/*/seed1", "outputs/data/*"


@dataclass(frozen=True)
class Made:
    """A finished run and an export of it below `root`."""

    root: Path
    _given: dict[str, Any] = field(default_factory=dict)

    def given(self, command: str) -> Any:
        """What a command gives before any damage."""
        if command not in self._given:
            copy = Path(shutil.copytree(self.root, self.root.with_name(command)))
            self._given[command] = BY_NAME[command](copy)
            shutil.rmtree(copy)
        return self._given[command]


def in_hydra(call: Callable[[], Any]) -> Any:
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return call()


def job(root: Path) -> Job:
    overrides = [*SETTINGS, f"outputs={root / 'outputs'}"]
    return Job(hydra.compose("train", overrides), overrides)


def numbers(metrics: dict[str, Any]) -> dict[str, Any]:
    """What does not depend on the clock or the machine."""
    return {name: metrics[name] for name in ("experiment", "key", "seed", "updates", "test", "valid")}


def run_of(root: Path) -> Path:
    (path,) = root.glob(STUDENT)
    return path


def train(root: Path) -> Any:
    return numbers(in_hydra(lambda: job(root).execute()))


def train_again(root: Path) -> Any:
    """The run was killed in its test: its results are made again of what is there."""
    (run_of(root) / "metrics.json").unlink(missing_ok=True)
    return train(root)


def train_another(root: Path) -> Any:
    """Another student on the same data and teachers."""
    overrides = [*SETTINGS, "seed=2", f"outputs={root / 'outputs'}"]
    return numbers(in_hydra(lambda: Job(hydra.compose("train", overrides), overrides).execute()))


def distil_again(root: Path) -> Any:
    """What the teacher translated was deleted."""
    (folder,) = root.glob(f"{TEACHER}/distilled")
    shutil.rmtree(folder)
    return train_another(root)


def evaluate(root: Path) -> Any:
    return in_hydra(lambda: Text()(Finished.open(run_of(root), "cpu")))


def translate(root: Path) -> Any:
    return load(run_of(root)).translate(["der hund sieht die katze"])


def export_again(root: Path) -> Any:
    shutil.rmtree(root / "new", ignore_errors=True)
    export(run_of(root), root / "new", onnx=False)
    return load(root / "new").translate(["der hund sieht die katze"])


def translate_export(root: Path) -> Any:
    return load(root / "export").translate(["der hund sieht die katze"])


COMMANDS = (
    train,
    train_again,
    train_another,
    distil_again,
    evaluate,
    translate,
    export_again,
    translate_export,
)
QUICK = ("train", "evaluate", "translate", "export_again", "translate_export")
BY_NAME = {command.__name__: command for command in COMMANDS}

FILES: dict[str, tuple[str, ...]] = {
    # The commands of the fast test come first; the slow one takes all of them.
    f"{STUDENT}/last.ckpt": ("train_again",),
    f"{STUDENT}/best/*.pt": ("train_again",),
    f"{STUDENT}/averaged.pt": ("evaluate", "translate", "export_again"),
    f"{STUDENT}/metrics.json": ("train", "evaluate"),
    f"{STUDENT}/run.json": ("evaluate",),
    f"{STUDENT}/config.yaml": ("translate", "evaluate"),
    f"{STUDENT}/vocabulary/manifest.json": ("translate",),
    f"{STUDENT}/vocabulary/tgt/vocabulary.json": ("translate",),
    f"{TEACHER}/metrics.json": ("train_another",),
    f"{TEACHER}/averaged.pt": ("distil_again",),
    f"{TEACHER}/distilled/train/distilled.arrow": ("train_another",),
    f"{TEACHER}/distilled/valid/distilled.json": ("train_another",),
    f"{DATA}/vocabulary-*/tgt/vocabulary.json": ("train_another",),
    f"{DATA}/train-*/corpus.arrow": ("train_another",),
    f"{DATA}/test-*/corpus.arrow": ("evaluate",),
    f"{DATA}/test-*/corpus.json": ("evaluate",),
    f"{DATA}/valid-*/manifest.json": ("evaluate",),
    f"{DATA}/candidates-train-*/rows.npy": ("train_another",),
    f"{DATA}/candidates-train-*/scores.npy": ("train_another",),
    f"{DATA}/candidates-valid-*/counts.json": ("train_another",),
    "export/model.safetensors": ("translate_export",),
    "export/config.yaml": ("translate_export",),
    "export/export.json": ("translate_export",),
    "export/vocabulary/src/vocabulary.json": ("translate_export",),
    "export/decoder.onnx": ("translate_export",),
}
DAMAGES = ("empty", "half", "last byte missing", "one flipped bit", "missing")


def do_damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    path.unlink()
    if how == "one flipped bit":
        content[len(content) // 2] ^= 0x10
    elif how != "missing":
        del content[{"empty": 0, "half": len(content) // 2, "last byte missing": len(content) - 1}[how] :]
    if how != "missing":
        path.write_bytes(content)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp("runs") / "whole"
    train(root)
    with contextlib.suppress(ImportError):
        in_hydra(lambda: export(run_of(root), root / "export"))
    return Made(root)


@pytest.fixture
def copy(finished_run: Made, tmp_path: Path) -> Iterator[Path]:
    copied = tmp_path / "copy"
    yield Path(shutil.copytree(finished_run.root, copied))
    shutil.rmtree(copied)


def check(copy: Path, run: Made, file: str, how: str, command: str) -> UserError | None:
    paths = sorted(copy.glob(file))
    if not paths:
        pytest.skip(f"{file} is not made here")
    do_damage(paths[-1], how)
    try:
        given = BY_NAME[command](copy)
    except UserError as error:
        return error
    assert given == run.given(command)
    return None


def sentence(error: UserError | None) -> str:
    assert error is not None, "the damage was not noticed"
    assert "\n" not in str(error)
    return str(error)


@pytest.mark.parametrize("file", FILES)
def test_flipped_bit_is_refused(copy: Path, finished_run: Made, file: str) -> None:
    error = check(copy, finished_run, file, "one flipped bit", FILES[file][0])
    assert Path(file).name.lstrip("*") in sentence(error)


@pytest.mark.slow
@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("file", FILES)
def test_damaged_file_never_gives_a_trace_or_another_result(
    copy: Path, finished_run: Made, file: str, how: str
) -> None:
    """With the commands that open the file, and with those that take less than a training."""
    pristine = Path(shutil.copytree(copy, copy.with_name("pristine")))
    for command in dict.fromkeys((*FILES[file], *QUICK)):
        error = check(copy, finished_run, file, how, command)
        assert error is None or "\n" not in str(error)
        if command in FILES[file] and how != "missing":
            sentence(error)
        shutil.rmtree(copy)
        shutil.copytree(pristine, copy)
    shutil.rmtree(pristine)


def test_missing_best_checkpoint_is_refused_before_training(copy: Path) -> None:
    """The run of old trained to its end, and failed then, at every repeat."""
    run = run_of(copy)
    (run / "metrics.json").unlink()
    shutil.rmtree(run / "best")
    log = (run / "metrics.jsonl").read_text()
    with pytest.raises(
        UserError, match=r"best/update\d+\.pt must hold .*: copy it again .*, or delete .*last\.ckpt"
    ):
        train(copy)
    assert (run / "metrics.jsonl").read_text() == log


def test_remedy_of_damaged_results_makes_them_again(copy: Path, finished_run: Made) -> None:
    """What the sentences advise works: without its results a run makes the same ones again."""
    run = run_of(copy)
    for name in ("averaged.pt", "metrics.json"):
        do_damage(run / name, "half")
    with pytest.raises(UserError, match=r"metrics\.json .*: delete it, and the command of the run makes"):
        train(copy)
    (run / "metrics.json").unlink()
    assert train(copy) == finished_run.given("train")
    assert evaluate(copy) == finished_run.given("evaluate")


def test_remedy_of_damaged_data_makes_them_again(copy: Path, finished_run: Made) -> None:
    (folder,) = (copy / "outputs" / "data").glob("*/train-*")
    do_damage(folder / "corpus.arrow", "one flipped bit")
    with pytest.raises(
        UserError, match=rf"corpus\.arrow is damaged .*: delete {folder} to have it made again"
    ):
        train_another(copy)
    shutil.rmtree(folder)
    assert train_another(copy) == finished_run.given("train_another")


def test_command_that_is_no_command_line_is_refused(copy: Path) -> None:
    for command in ("python train.py 'unclosed", 5):
        path = run_of(copy) / "run.json"
        files.write_json(path, {"command": command})
        with pytest.raises(UserError, match=r"command of .*run\.json must be that of a run"):
            evaluate(copy)
