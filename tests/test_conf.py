"""Every configuration file: composes, makes its objects, and says all that can be said."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from mple.checks import UserError
from mple.launch import Job

CONF = Path(__file__).parents[1] / "conf"
STRATEGIES = ("proxy", "proxy_target", "proxy_input", "objective", "decoding", "optimizer")
AT_RUN_TIME = {"proxy": {"target", "input"}}
"""Constructor parameters that other parts of the configuration fill."""


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@pytest.fixture(autouse=True)
def configuration() -> Iterator[None]:
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def compose(*overrides: str) -> DictConfig:
    return hydra.compose("train", list(overrides))


def job(*overrides: str) -> Job:
    return Job(compose(*overrides), list(overrides))


def mistake(*overrides: str) -> str:
    """What is said about a wrong setting, with or without hydra's wrapping."""
    with pytest.raises((UserError, InstantiationException)) as caught:
        job(*overrides)
    error: BaseException | None = caught.value
    if not isinstance(error, UserError):
        error = error.__cause__ or error.__context__ if error else None
    assert isinstance(error, UserError)
    return str(error)


@pytest.mark.parametrize("experiment", names("experiment"))
def test_every_experiment_makes_its_objects(experiment: str) -> None:
    made = job(f"+experiment={experiment}", "data=grammar")
    assert made.cfg.name == ("at_base" if experiment == "at" else experiment)
    assert made.is_student == (experiment != "at")
    expected = {"raw": (), "kd": ("base",), "dynkd": ("tiny", "small", "base", "big", "raw"), "at": ()}
    kind = experiment.removesuffix("_noreg").split("_")[-1]
    assert made.candidates == expected[kind]
    assert list(made.teachers()) == [name for name in expected[kind] if name != "raw"]


def test_every_experiment_is_a_run_of_its_own() -> None:
    folders = [job(f"+experiment={experiment}").run.folder for experiment in names("experiment")]
    assert len(set(folders)) == len(folders)


def test_one_teacher_serves_the_students_of_all_methods_and_seeds() -> None:
    jobs = [
        job("+experiment=vanilla_kd", "seed=1"),
        job("+experiment=glat_kd", "seed=2"),
        job("+experiment=glat_dynkd", "proxy_target.beta=1", "seed=3"),
    ]
    assert len({made.teachers()["base"].run.folder for made in jobs}) == 1


@pytest.mark.parametrize(("group", "name"), [(g, n) for g in STRATEGIES for n in names(g)])
def test_a_strategy_file_spells_out_every_parameter(group: str, name: str) -> None:
    node: Any = OmegaConf.load(CONF / group / f"{name}.yaml")
    module, _, _ = node["_target_"].rpartition(".")
    assert module == ("mple.optimizer" if group == "optimizer" else f"mple.{group}.{name}")
    parameters = set(inspect.signature(hydra.utils.get_class(node["_target_"])).parameters)
    spelled = {str(key) for key in node if not str(key).startswith("_")}
    assert spelled == parameters - AT_RUN_TIME.get(group, set())


@pytest.mark.parametrize("name", names("data"))
def test_every_data_file_composes(name: str) -> None:
    root = [] if name == "grammar" else ["data.root=somewhere"]
    cfg = compose("+experiment=glat_dynkd", f"data={name}", *root)
    assert cfg.data.name
    assert set(cfg.sizes) == {"tiny", "small", "base", "big", "student"}
    assert cfg.valid_every % cfg.log_every == 0


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (("+experiment=glat_dynkd", "proxy_target.beta=-1"), "proxy_target.beta"),
        (("+experiment=glat_dynkd", "proxy_target.nll=median"), "proxy_target.nll"),
        (("+experiment=glat_dynkd", "proxy_target.gamma.raw=-1"), "proxy_target.gamma.raw"),
        (("+experiment=glat_raw", "optimizer.lr=-1"), "optimizer.lr"),
        (("+experiment=glat_raw", "optimizer.warmup_steps=0"), "optimizer.warmup_steps"),
        (("+experiment=glat_raw", "proxy_input.start=2"), "proxy_input.start"),
        (("+experiment=glat_raw", "objective.label_smoothing=1"), "objective.label_smoothing"),
        (("+experiment=at", "decoding.beam=0"), "decoding.beam"),
        (("+experiment=glat_raw", "updates=0"), "updates"),
        (("+experiment=glat_raw", "valid_every=30", "log_every=20"), "valid_every"),
        (("+experiment=glat_raw", "trainer.precision=half"), "trainer.precision"),
    ],
)
def test_a_wrong_setting_is_named(overrides: tuple[str, ...], key: str) -> None:
    message = mistake(*overrides)
    assert key in message
    assert "\n" not in message


def test_an_unknown_size_lists_the_sizes() -> None:
    assert mistake("+experiment=at", "size=huge") == (
        "size must be one of base, big, small, student, tiny; got 'huge'"
    )


def test_a_teacher_without_a_size_is_refused() -> None:
    with pytest.raises(UserError, match="base, big, small, tiny; got 'huge'"):
        job("+experiment=vanilla_kd", "proxy_target.teacher=huge").teachers()
