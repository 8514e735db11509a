"""A finished run that came from anybody: its faults are named, and nothing that it names is executed."""

import shlex
from pathlib import Path
from typing import Any

import hydra
import pytest
import yaml
from hydra.core.global_hydra import GlobalHydra

from mple.checks import UserError
from mple.evaluation.finished import Finished
from mple.files import read_json, write_json
from tests.runs import CONF, random_run


def opened(folder: Path) -> Finished:
    GlobalHydra.instance().clear()
    hydra.initialize_config_dir(str(CONF), version_base="1.3")
    return Finished.open(folder, "cpu")


@pytest.fixture
def nat(tmp_path: Path) -> Path:
    return random_run(tmp_path, "+experiment=vanilla_raw")


def edit(folder: Path, path: str, value: Any) -> None:
    config = node = yaml.safe_load((folder / "config.yaml").read_text())
    *parents, last = path.split(".")
    for key in parents:
        node = node[key]
    node[last] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("decoding", "pathlib.Path.touch"),
        ("optimizer", "pathlib.Path.touch"),
        ("module.model.length", "mple.run.write_text"),
        ("data.source", "${oc.decode:pathlib.Path.touch}"),
        ("proxy_target.deep", "mple.run.os.system"),
    ],
)
def test_a_configuration_that_would_run_code_is_refused(
    nat: Path, path: str, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    edit(nat, path, {"_target_": name, "_args_": [{"_target_": "pathlib.Path", "_args_": ["touched"]}]})
    with pytest.raises(UserError, match=r"must (name one of|describe no object|be a value)"):
        _ = opened(nat).job
    assert not Path("touched").exists()


def test_command_that_names_another_class_for_teachers_is_refused(tmp_path: Path) -> None:
    """The configuration hides it from the run itself, not from the teachers, which are composed anew."""
    run = random_run(tmp_path, "+experiment=glat_kd")
    found = read_json(run / "run.json")
    found["command"] += " " + shlex.quote("data.source._target_=subprocess.run")
    write_json(run / "run.json", found)
    with pytest.raises(UserError, match=r"data\.source .* must name one of .*; got 'subprocess\.run'"):
        _ = opened(run).job


def test_every_name_of_an_ordinary_configuration_is_allowed(tmp_path: Path) -> None:
    for overrides in (["+experiment=glat_raw", "logger=wandb"], ["+experiment=at"]):
        assert opened(random_run(tmp_path, *overrides)).job.cfg.name in ("glat_raw", "at_base")


@pytest.mark.parametrize("name", ["metrics.json", "run.json"])
@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_json_file_that_is_none_is_named(nat: Path, name: str, content: str) -> None:
    (nat / name).write_text(content)
    with pytest.raises(UserError, match=rf"{name} must (be a JSON file|hold a JSON object with)"):
        _ = opened(nat).job


@pytest.mark.parametrize("content", ["a: [", "", "- 1"])
def test_a_configuration_that_is_none_is_named(nat: Path, content: str) -> None:
    (nat / "config.yaml").write_text(content)
    with pytest.raises(UserError, match=r"config\.yaml must be "):
        _ = opened(nat).job


def test_a_run_of_version_0_1_keeps_its_vocabulary(tmp_path: Path) -> None:
    """Today's conf/ segments Chinese, which a run whose configuration has no `segment` did not."""
    folder = random_run(tmp_path, "+experiment=vanilla_raw")
    path = folder / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["data"] |= {"src_lang": "zh", "tokenize": "13a"}
    config["data"]["source"]["src_lang"] = "zh"
    config["data"]["vocabulary"] = {"_target_": "mple.data.vocabulary.BPE", "size": 90, "joint": True}
    path.write_text(yaml.safe_dump(config))
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = Finished.open(folder, "cpu").job.cfg
    assert (cfg.data.vocabulary.joint, cfg.data.tokenize) == (True, "13a")
    assert cfg.data.vocabulary.get("segment") is None
