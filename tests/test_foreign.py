"""Folders from elsewhere: no command executes what their files hold, and each refuses it in one sentence.

Every hostile file would make the file `canary`, by a pickle or by what a `_target_` names.
"""

import contextlib
import json
import os
import pickle
import shlex
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
import torch
import yaml
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

import mple.ctranslate2_export
import mple.explain
import mple.export
import translate
from mple import foreign
from mple.callbacks import Checkpoints
from mple.checks import UserError
from mple.command import guarded
from mple.evaluate import evaluate
from mple.launch import Job
from mple.settings import choices
from mple.trained import load, load_input_distribution
from tests.runs import CONF, MICRO

WORDS = [
    *MICRO,
    *("+experiment=glat_kd", "budget=minutes", "data.max_length=30", "teacher_updates=100"),
    *("data.source.train=60", "data.source.valid=10", "data.source.test=10"),
    *("updates=4", "valid_every=2", "log_every=1"),
]
SENTENCE = "the man sees the dog"


def started() -> None:
    GlobalHydra.instance().clear()
    hydra.initialize_config_dir(str(CONF), version_base="1.3")


def job(outputs: Path, *more: str) -> Job:
    started()
    words = [*WORDS, f"outputs={outputs}", *more]
    return Job(hydra.compose("train", words), words)


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A student of four updates, its teacher, their data, and an export."""
    outputs = tmp_path_factory.mktemp("original") / "outputs"
    made = job(outputs)
    made.execute()
    mple.export.export(made.run.folder, outputs.parent / "export", onnx=False)
    (teacher,) = made.teachers().values()
    relative = {"run": made.run.folder, "teacher": teacher.run.folder, "export": outputs.parent / "export"}
    return {"root": outputs.parent} | {n: p.relative_to(outputs.parent) for n, p in relative.items()}


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "canary"
    yield path
    assert not path.exists(), "what the folder holds was executed"


@pytest.fixture
def hostile(original: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Copies of all of `original` for a test to spoil."""
    root = Path(shutil.copytree(original["root"], tmp_path / "hostile"))
    for name in (
        "manifest.json",
        "export.json",
        "distilled.json",
    ):  # their sums are optional
        for path in root.rglob(name):
            found = json.loads(path.read_text(encoding="utf-8"))
            for key in ("files", "weights_sha256", "checksum"):
                found.pop(key, None)
            path.write_text(json.dumps(found), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return {name: root / path for name, path in original.items() if name != "root"}


class Pickled:
    """Its unpickling makes a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self.canary,)


def spoil(path: Path, canary: Path) -> None:
    """In the place of a file of weights or numbers, a pickle."""
    if path.suffix == ".npy":
        np.save(path, np.array([Pickled(canary)], dtype=object), allow_pickle=True)
    else:
        torch.save({"state_dict": Pickled(canary), "model.x": Pickled(canary)}, path)


def without_checksum(text: str) -> str:
    return "".join(line for line in text.splitlines(True) if "checksum" not in line)


def edit(folder: Path, key: str, value: Any) -> None:
    """Set a key of a folder's configuration; its checksum, which an attacker computes too, is left out."""
    path = folder / "config.yaml"
    config = node = yaml.safe_load(path.read_text(encoding="utf-8"))
    *parents, last = key.split(".")
    for parent in parents:
        node = node[parent]
    node[last] = value
    path.write_text(yaml.safe_dump(config), encoding="utf-8")


def add_to_command(run: Path, *words: str) -> None:
    path = run / "run.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    found.pop("checksum", None)
    found["command"] += "".join(f" {shlex.quote(word)}" for word in words)
    path.write_text(json.dumps(found), encoding="utf-8")


def refused(command: Callable[[], Any], capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence with which a command ends, with status 2."""
    started()
    capsys.readouterr()

    @guarded
    def run() -> None:
        command()

    with pytest.raises(SystemExit) as end:
        run()
    assert end.value.code == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.startswith("error: ")
    return sentence


def evaluated(run: Path, *words: str) -> Any:
    return evaluate(hydra.compose("evaluate", [f"run={run}", "device=cpu", *words]), [])


def translated(folder: Path, *words: str) -> Any:
    return translate.translator(hydra.compose("translate", [f"run={folder}", "device=cpu", *words]))


def explained(folder: Path) -> Any:
    return mple.explain.main.__wrapped__([f"run={folder}", SENTENCE, "to=page.html"])


def exported(folder: Path) -> Any:
    return mple.export.main.__wrapped__([f"run={folder}", "to=exported", "onnx=false"])


def converted(folder: Path) -> Any:
    return mple.ctranslate2_export.main.__wrapped__([f"run={folder}", "to=converted"])


COMMANDS = [translated, explained, exported, converted, evaluated]


def test_untouched_copies_are_opened(hostile: dict[str, Path], canary: Path) -> None:
    """What the other tests change is all that is wrong with their folders."""
    started()
    assert evaluated(hostile["run"])["tokenised_bleu"] >= 0
    for folder in (hostile["run"], hostile["export"], hostile["teacher"]):
        translated(folder)
    explained(hostile["run"])
    exported(hostile["run"])


# --- what conf/ itself names ---------------------------------------------------------------------------


@pytest.mark.parametrize("group", ["experiment", "data", "decoding", "vanilla_input"])
def test_every_choice_of_conf_is_allowed(group: str) -> None:
    started()
    for name in choices(group):
        word = f"+experiment={name}" if group == "experiment" else f"{group}={name}"
        more = ["data.src_lang=de", "data.tgt_lang=en"] if name in ("text", "tatoeba") else []
        cfg = hydra.compose("train", [word, *more, "logger=[csv,wandb]"])
        foreign.check_targets(OmegaConf.to_container(cfg, resolve=True), "config.yaml")


def test_every_reference_and_part_of_a_decoding_is_allowed() -> None:
    started()
    for reference in choices("proxy_target/reference"):
        for words in (["proxy_target=axe"], ["proxy_target=oaxe", "proxy=input_first"]):
            words = [*words, f"proxy_target/reference={reference}", "decoding=length_parallel"]
            words += [
                "decoding/lengths=window",
                "decoding/fill=mask_predict",
                "decoding/choice=teacher_score",
            ]
            cfg = hydra.compose("train", words)
            foreign.check_targets(OmegaConf.to_container(cfg, resolve=True), "config.yaml")


def test_a_key_takes_the_classes_of_its_own_files_only() -> None:
    assert set(foreign.slots()["decoding.lengths"]) == {
        "mple.decoding.lengths.TopLengths",
        "mple.decoding.lengths.WindowLengths",
    }
    assert foreign.slots()["module.model.vanilla_input"] == foreign.slots()["vanilla_input"]
    reference = set(foreign.slots()["proxy_target"]) - set(foreign.slots()["proxy_target.reference"])
    assert {name.rpartition(".")[2] for name in reference} == {"AXE", "OaXE"}


# --- config.yaml ---------------------------------------------------------------------------------------


def hostile_values(canary: Path, other: Path) -> dict[str, tuple[str, Any]]:
    touch = {"_target_": "pathlib.Path.touch", "self": {"_target_": "pathlib.Path", "_args_": [str(canary)]}}
    unpickle = {"_target_": "torch.load", "f": str(other / "x.bin"), "weights_only": False}
    shell = {"_target_": "os.system", "command": f"touch {canary}"}
    log = {"_target_": "mple.tracking.RunLog", "folder": str(other)}
    decode = {"_target_": "mple.decoding.decode.Decode"}
    composed = {
        "_target_": "mple.launch.Job",
        "_convert_": "none",
        "_recursive_": False,
        "cfg": {"name": "x"},
        "overrides": ["~data.source", f"+data.source={{_target_: torch.load, f: {other}/x.bin}}"],
    }
    return {
        "torch.load": ("decoding", unpickle),
        "os.system": ("decoding", shell),
        "subprocess": ("objective", {"_target_": "subprocess.run", "args": ["touch", str(canary)]}),
        "Path.touch": ("optimizer", touch),
        "eval": ("proxy", {"_target_": "builtins.eval", "_args_": [f"open({str(canary)!r}, 'w')"]}),
        "import": ("proxy_input", {"_target_": "importlib.import_module", "name": "antigravity"}),
        "import of mple": ("decoding", {"_target_": "mple.run.os.system", "command": f"touch {canary}"}),
        "partial": ("proxy_target", {"_target_": "os.system", "_partial_": True}),
        "Hydra's own": ("decoding", {"_target_": "hydra.utils.call", "config": shell}),
        "nested": ("decoding", decode | {"fill": shell}),
        "in a list": ("decoding", decode | {"fill": [shell]}),
        "in a mapping": ("decoding", decode | {"fill": {"deep": shell}}),
        "an argument": ("data.source.seed", shell),
        "model": ("module.model._target_", "os.system"),
        "length": ("module.model.length", touch),
        "vanilla input": ("module.model.vanilla_input", touch),
        "vocabulary": ("data.vocabulary", unpickle),
        "logger": ("logger.more", touch),
        "a new key": ("more", touch),
        "a number": ("decoding._target_", 5),
        "a Job": ("decoding", decode | {"lengths": composed}),
        "a log": ("decoding", decode | {"lengths": log}),
        "a log at once": ("logger.csv", log | {"_partial_": False}),
        "a function": ("decoding", {"_target_": "mple.run.write_text", "path": str(canary), "text": "x"}),
        "another group's": ("decoding", {"_target_": "mple.model.nat.NAT"}),
        "positional": ("decoding", {"_target_": "mple.decoding.beam.Beam", "_args_": [touch]}),
        "not recursive": ("decoding", decode | {"_recursive_": False}),
        "interpolated": ("decoding", {"_target_": "${oc.decode:os.system}"}),
        "from the environment": ("name", "${oc.env:HOME}"),
    }


@pytest.mark.parametrize("kind", hostile_values(Path("canary"), Path("other")))
def test_hostile_configuration_is_refused(
    kind: str, hostile: dict[str, Path], canary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "metrics.jsonl").write_text('{"step": 1}\n')
    (other / "x.bin").write_bytes(pickle.dumps(Pickled(canary)))
    key, value = hostile_values(canary, other)[kind]
    edit(hostile["run"], key, value)
    for command in COMMANDS:
        sentence = refused(partial(command, hostile["run"]), capsys)
        assert key.removesuffix("._target_") in sentence
        assert "config.yaml" in sentence or command is evaluated
    if not key.startswith("logger"):  # which an export has no longer
        edit(hostile["export"], key, value)
        refused(lambda: translated(hostile["export"]), capsys)
    assert (other / "metrics.jsonl").read_text() == '{"step": 1}\n'
    assert not Path("exported").exists()
    assert not Path("converted").exists()


def test_configuration_with_aliases_is_refused_at_once(
    hostile: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["x0: &x0 [lol]"]
    lines += [f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 9)}]" for i in range(1, 12)]
    text = without_checksum((hostile["run"] / "config.yaml").read_text()) + "\n".join(lines)
    (hostile["run"] / "config.yaml").write_text(text)
    for command in COMMANDS:
        assert "aliases" in refused(partial(command, hostile["run"]), capsys)


@pytest.mark.parametrize(
    "content",
    [b"a: " + b"[" * 5000, b"\xff\xfe", b"- 1", b"", b"!!python/object/apply:os.getcwd []", b"x" * 2**21],
)
def test_configuration_that_is_none_is_refused(
    content: bytes, hostile: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (hostile["run"] / "config.yaml").write_bytes(content)
    for command in (translated, evaluated):
        assert "config.yaml" in refused(partial(command, hostile["run"]), capsys)


def test_pipe_in_the_place_of_a_configuration_is_refused(
    hostile: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (hostile["run"] / "config.yaml").unlink()
    os.mkfifo(hostile["run"] / "config.yaml")
    assert "is not a file" in refused(lambda: translated(hostile["run"]), capsys)


@pytest.mark.parametrize("key", ["d_model", "d_ff", "max_positions"])
def test_size_that_is_not_the_weights_takes_no_memory(
    key: str, hostile: dict[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A million in each dimension would be terabytes; so no tensor of the model's is made but on `meta`."""

    def fill(tensor: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        assert tensor.device.type == "meta"
        return tensor

    for name in ("normal_", "xavier_uniform_", "uniform_"):
        monkeypatch.setattr(torch.nn.init, name, fill)
    for folder in (hostile["run"], hostile["export"]):
        edit(folder, f"sizes.student.{key}", 1 << 14)
        refused(partial(translated, folder), capsys)
    refused(lambda: evaluated(hostile["run"]), capsys)


def test_number_repeated_by_strides_is_no_weight(
    hostile: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    weights = torch.load(hostile["run"] / "averaged.pt", weights_only=True)
    name = "model.encoder.embedding.positions.weight"
    weights[name] = torch.zeros(1, 1).expand(1 << 14, 16)
    torch.save(weights, hostile["run"] / "averaged.pt")
    edit(hostile["run"], "sizes.student.max_positions", 1 << 14)
    for command in (translated, evaluated):
        refused(partial(command, hostile["run"]), capsys)


# --- run.json ------------------------------------------------------------------------------------------


def test_command_that_means_another_thing_for_teachers_is_refused(
    hostile: dict[str, Path], canary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`${name}` is the name of the run that is composed, so that the student's configuration looks well."""
    run = hostile["run"]
    (run / "x.bin").write_bytes(pickle.dumps(Pickled(canary)))
    own = "{_target_:mple.data.text.GrammarSource,train:60,valid:10,test:10}"
    load_it = f"{{_target_:'${{data.t.${{name}}}}',f:'{run}/x.bin',weights_only:false}}"
    add_to_command(
        run,
        "+data.t={glat_kd:mple.checks.UserError,at_base:torch.load}",
        f"+data.s={{glat_kd:{own},at_base:{load_it}}}",
        "data.source='${data.s.${name}}'",
    )
    assert "must describe no object" in refused(lambda: evaluated(run), capsys)


@pytest.mark.parametrize(
    "word",
    [
        "hydra.searchpath=[file:///tmp]",
        "hydra.run.dir=elsewhere",
        "hydra/launcher=joblib",
        "+hydra.sweeper.x=1",
        "data=../../elsewhere",
        "+experiment=../../elsewhere",
        "+sweep=[paper,../../elsewhere]",
        "+../../elsewhere=x",
        "+data@hydra.job=grammar",
        "data.source={",
    ],
)
def test_command_that_leaves_conf_is_refused(
    word: str, hostile: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    add_to_command(hostile["run"], word)
    assert "the command of" in refused(lambda: evaluated(hostile["run"]), capsys)


@pytest.mark.parametrize("command", [5, None, ["python"], 'python train.py "unclosed'])
def test_command_that_is_none_is_refused(
    command: object, hostile: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (hostile["run"] / "run.json").write_text(json.dumps({"command": command}))
    assert "run.json" in refused(lambda: evaluated(hostile["run"]), capsys)


def test_ordinary_overrides_are_allowed() -> None:
    words = [
        "+experiment=glat_dynkd",
        "data.root='/a b/c=d'",
        "~proxy_target.gamma.big",
        "logger=[csv,wandb]",
    ]
    words += ["decoding/lengths=window", "proxy_target.gamma={raw: 1, base: 2}", "seed=3", "outputs=/x/../y"]
    words += ["updates=${student_updates}", "+data.note='../x'", "optimizer.lr=1e-3", "start=null"]
    foreign.check_overrides(words, "run.json")


def test_start_that_names_a_file_outside_conf_is_refused(
    hostile: dict[str, Path], canary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("where.yaml").write_text(
        f"# @package _global_\noptimizer: {{_target_: os.system, command: touch {canary}}}\n"
    )
    up = "../" * 20 + str(Path.cwd()).lstrip("/")
    with pytest.raises(UserError, match=r"start\.experiment must be the name of a choice"):
        job(Path("outputs"), f"start={{experiment: '{up}/where', updates: 2}}")


def test_outputs_of_a_renamed_run_choose_no_folder(hostile: dict[str, Path], tmp_path: Path) -> None:
    away = tmp_path / "away" / "my_run"
    shutil.copytree(hostile["run"], away)
    edit(away, "outputs", str(tmp_path / "elsewhere"))
    edit(
        away, "data.source", {"_target_": "mple.data.text.GrammarSource", "train": 50, "valid": 5, "test": 5}
    )
    started()
    with contextlib.suppress(UserError):  # other data than the run's may be refused
        evaluated(away)
    assert not (tmp_path / "elsewhere").exists()


# --- weights and numbers -------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_pickle_for_weights_of_a_run_is_not_executed(
    command: Callable[[Path], Any], hostile: dict[str, Path], canary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(hostile["run"] / "averaged.pt", canary)
    assert "averaged.pt" in refused(lambda: command(hostile["run"]), capsys)


@pytest.mark.parametrize("name", ["model.safetensors", "averaged.pt"])
def test_pickle_for_weights_of_an_export_is_not_executed(
    name: str, hostile: dict[str, Path], canary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (hostile["export"] / "model.safetensors").unlink()
    spoil(hostile["export"] / name, canary)
    assert name in refused(lambda: translated(hostile["export"]), capsys)


def test_pickle_for_weights_of_a_teacher_is_not_executed(
    hostile: dict[str, Path], canary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(hostile["teacher"] / "averaged.pt", canary)
    word = f"teacher={hostile['teacher']}"
    assert "averaged.pt" in refused(lambda: translated(hostile["run"], "decoding=npd", word), capsys)
    assert "averaged.pt" in refused(lambda: evaluated(hostile["run"], "decoding=npd"), capsys)


def test_pickle_for_an_input_predictor_is_not_executed(
    hostile: dict[str, Path], tmp_path: Path, canary: Path
) -> None:
    trained = load(hostile["run"])
    spoil(tmp_path / "mask_predictor.pt", canary)
    with pytest.raises(UserError, match=r"mask_predictor\.pt"):
        load_input_distribution(tmp_path, trained.model, 50, 50, False)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes", [{"parameters": "many"}, {"test": ["x"]}, {"seed": None, "commit": None}, {"signatures": 5}]
)
def test_results_of_a_wrong_kind_are_refused_by_the_export(
    changes: dict[str, Any], hostile: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = hostile["run"] / "metrics.json"
    metrics = json.loads(path.read_text()) | changes
    for key in [key for key, value in changes.items() if value is None] + ["checksum"]:
        metrics.pop(key, None)
    path.write_text(json.dumps(metrics))
    assert "metrics.json" in refused(lambda: exported(hostile["run"]), capsys)
    assert not Path("exported").exists()


def test_pickle_for_a_checkpoint_is_not_executed(
    hostile: dict[str, Path], canary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same command resumes from last.ckpt; another starts from it."""
    spoil(hostile["run"] / "last.ckpt", canary)
    (hostile["run"] / "metrics.json").unlink()
    outputs = hostile["run"].parents[3]
    assert "last.ckpt" in refused(lambda: job(outputs).execute(), capsys)
    start = f"start={hostile['run'] / 'last.ckpt'}"
    assert "last.ckpt" in refused(lambda: job(outputs, "seed=2", start), capsys)


def test_pickle_for_a_best_checkpoint_is_not_executed(hostile: dict[str, Path], canary: Path) -> None:
    checkpoints = Checkpoints(hostile["run"], "valid/tokenised_bleu", keep=2)
    checkpoints.best = [(1.0, 4), (1.0, 2)]
    assert checkpoints.average()
    spoil(hostile["run"] / "best" / "update00000002.pt", canary)
    with pytest.raises(UserError, match="update00000002"):
        checkpoints.average()


@pytest.mark.parametrize("name", ["rows.npy", "scores.npy"])
def test_pickle_for_numbers_of_prepared_data_is_not_executed(
    name: str, hostile: dict[str, Path], canary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (hostile["run"].parents[3] / "data").rglob(name):
        spoil(path, canary)
    assert name in refused(lambda: evaluated(hostile["run"], "estimator=mple"), capsys)


@pytest.mark.parametrize(
    "name", ["corpus.json", "distilled.json", "vocabulary.json", "metrics.json", "run.json"]
)
@pytest.mark.parametrize("kind", ["an object of another library", "nested"])
def test_json_is_read_as_data(
    name: str, kind: str, hostile: dict[str, Path], canary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.dumps({"py/object/apply": "os.system", "py/tuple": [f"touch {canary}"]})
    if kind == "nested":
        content = "[" * 100_000
    for path in hostile["run"].parents[3].rglob(name):
        path.write_text(content)
    assert name in refused(lambda: evaluated(hostile["run"], "estimator=diagnostics"), capsys)


# --- vocabularies and what is copied -------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_link_in_a_vocabulary_is_not_copied(
    kind: str, hostile: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "secret").write_text("secret")
    path = hostile["run"] / "vocabulary" / "src" / "notes.txt"
    path.symlink_to(tmp_path / "secret") if kind == "link" else os.mkfifo(path)
    assert "notes.txt" in refused(lambda: exported(hostile["run"]), capsys)
    assert not Path("exported").exists()


def test_control_characters_of_a_vocabulary_reach_no_output(hostile: dict[str, Path]) -> None:
    for path in (hostile["run"] / "vocabulary").glob("*/vocabulary.json"):
        found = json.loads(path.read_text(encoding="utf-8"))
        found["words"] = [f"\x1b[31m{word}\x9b\r" for word in found["words"]]
        found.pop("checksum", None)
        path.write_text(json.dumps(found), encoding="utf-8")
    (hostile["run"] / "vocabulary" / "manifest.json").unlink()  # it has checksums, which need not be there
    started()
    translator = translated(hostile["run"])
    ((translation,),) = translator.stream([b"the man\n"])
    assert translation.text
    assert translation.text.isprintable()


# --- strategies of the user's own ----------------------------------------------------------------------


def test_own_package_is_allowed_by_name_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hostile: dict[str, Path], canary: Path
) -> None:
    package = tmp_path / "site" / "my_methods"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "half.py").write_text(
        "from os import system\nfrom pathlib import Path\nfrom mple.decoding.argmax import Argmax\n\n\n"
        "class Half(Argmax):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "site")
    edit(hostile["run"], "decoding", {"_target_": "my_methods.half.Half"})
    with pytest.raises(UserError, match=r"decoding of .* must name one of .* MPLE_ALLOW; got 'my_methods"):
        load(hostile["run"])
    monkeypatch.setenv("MPLE_ALLOW", "others, my_methods")
    assert type(load(hostile["run"]).decoding).__name__ == "Half"
    for target in (
        "my_methods.half.system",
        "my_methods.half.Path",
        "my_methods.half.os.system",
        "os.system",
    ):
        edit(hostile["run"], "decoding", {"_target_": target, "command": f"touch {canary}"})
        with pytest.raises(UserError, match="got '"):
            load(hostile["run"])
