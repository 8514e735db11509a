"""A word of a command that nobody would read, or that takes away what is read, is refused by its name."""

import math
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from mple.checks import UserError, accepts
from mple.evaluate import evaluate
from mple.launch import Job
from mple.settings import check_arguments, check_overrides

CONF = Path(__file__).parents[1] / "conf"


@pytest.fixture(autouse=True)
def configuration() -> Iterator[None]:
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def check(name: str, *words: str, also: tuple[str, ...] = ()) -> None:
    cfg = hydra.compose(name, list(words), return_hydra_config=True)
    check_overrides(name, list(words), cfg, list(cfg.hydra.runtime.choices), also)


def job(*words: str) -> Job:
    if not any(word.startswith("data=") for word in words):
        words = ("data=grammar", *words)
    check("train", *words)
    return Job(hydra.compose("train", list(words)), list(words))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "+trainer.max_time=5",
            "a key of trainer must be one of accelerator, devices, ",
        ),
        ("+updtes=5", "a setting must be one of accumulate, "),
        ("+model.d_model=5", "a setting must be one of accumulate, "),
        ("+estimator.samples=5", "a setting must be one of accumulate, "),
        ("+data.max_len=5", "a key of data must be one of dash_splits, max_length, "),
        ("+data.source.pairs=5", "a key of data.source must be one of grammar, "),
        ("+optimizer.warmup=5", "a key of optimizer must be one of betas, "),
        (
            "+objective.smoothing=5",
            "a key of objective must be one of label_smoothing, spread; got +obj",
        ),
        ("+proxy_target.teacher=tiny", "proxy_target has no settings; got +proxy_target.teacher=tiny"),
        ("+module.model.length.offset=5", "a key of module.model.length must be one of detach, "),
        ("+logger.wandb.project=x", "a key of logger must be one of csv; got +logger.wandb.project=x"),
        (
            "+sizes.student.depth=5",
            "a key of sizes.student must be one of attention_dropout, attention_init, d_ff, ",
        ),
        ("~trainer.devices", "trainer.devices must be there; got ~trainer.devices"),
        ("~optimizer", "optimizer must be there; got ~optimizer"),
        ("+module.seed=7", "a key of module must be one of "),
        ("+estimator=mple", "estimator must be a group of this command; got +estimator=mple"),
        ("+hydrafoo=5", "a setting must be one of accumulate, "),
        ("+trainer={max_time:5}", "a key of trainer must be one of accelerator, devices, "),
        ("+data.modes={oder:0.1}", "a key of data.modes must be one of formality, "),
        ("+updates_of.studnet=5", "a key of updates_of must be one of base, "),
        ("~objective._target_", "objective._target_ must be there; got ~objective._target_"),
        ("~sizes", "sizes must be there; got ~sizes"),
        ("proxy_target=axe ~proxy_target/reference", "proxy_target/reference must be there; got "),
        ("~seed", "seed must be there; got ~seed"),
        ("proxy_target=dynamic_kd ~proxy_target.gamma", "proxy_target.gamma must be there; got beta, "),
        ("sizes=5", "sizes must be a mapping; got sizes=5"),
        ("data.source=null", "data.source must be a mapping; got data.source=null"),
        ("sizes.student=null", "sizes.student must be a mapping; got sizes.student=null"),
        ("module.model.length.detach=abc", "module.model.length.detach must be true or false; got 'abc'"),
        ("data.max_length=abc", "data.max_length (tokens) must be a whole number of at least 1; got 'abc'"),
        ("name=../x", "name must be the name of a folder, without /; got '../x'"),
        ("name=null", "name must be the name of a folder, without /; got None"),
        ("data.name=a/b", "data.name must be the name of a folder, without /; got 'a/b'"),
        ("outputs=null", "outputs must be a path; got None"),
        ("data=multi30k data.root=5", "data.root must be a path; got 5 (a folder of that name is ./5)"),
    ],
)
def test_a_wrong_word_of_a_training_is_named(words: str, said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        job("+experiment=vanilla_raw", *words.split())


@pytest.mark.parametrize(
    "words",
    [
        ["+sizes.own={d_model: 64, d_ff: 64, num_heads: 2}", "size=own"],
        ["+updates_of.tiny=100"],
        ["start=null", "+experiment=oaxe_10k"],
        ["proxy_target=dynamic_kd", "~proxy_target.gamma.tiny"],
        ["proxy_target=axe", "proxy_target/reference=raw"],
        ["logger=[csv,wandb]", "logger.wandb.project=mine"],
        ["logger=[]"],
        ["~logger.csv"],
        ["+data.paper.beta=0.1"],
        ["data=[grammar]"],
        ["+objective={label_smoothing: 0.2}"],
        ["++optimizer.lr=0.1"],
    ],
)
def test_what_is_read_may_be_set(words: list[str]) -> None:
    experiment = [] if any(word.startswith("+experiment") for word in words) else ["+experiment=vanilla_raw"]
    job(*experiment, *words)


def test_a_reader_of_a_part_may_be_given_more() -> None:
    check("translate", "run=x", "+decoding.beam=3", also=("decoding",))
    with pytest.raises(UserError, match=r"a setting must be one of bucket, .*; got \+decoding.beam=3"):
        check("translate", "run=x", "+decoding.beam=3")


def test_of_an_evaluation_too() -> None:
    words, said = ["run=x", "+estimator.smaples=5"], "a key of estimator must be one of split; got "
    with pytest.raises(UserError, match=said + r"\+estimator.smaples=5"):
        check("evaluate", *words)
    with pytest.raises(UserError, match=said + "smaples=5"):
        evaluate(hydra.compose("evaluate", words), words)


def test_files_of_one_s_own_are_found(tmp_path: Path) -> None:
    """An experiment, data and a group that are not of this package, by `--config-dir`."""
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nname: mine\nown_rate: 0.1\n")
    (tmp_path / "module" / "length").mkdir(parents=True)
    length = "# @package module.model.length\nmax_offset: 16\n"
    (tmp_path / "module" / "length" / "short.yaml").write_text(length)
    words = ["+experiment=mine", "own_rate=0.2", "+module/length=short", "data=grammar"]
    searched = f"hydra.searchpath=[file://{tmp_path}]"
    cfg = hydra.compose("train", [searched, *words], return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    try:
        check_overrides("train", words, cfg, list(cfg.hydra.runtime.choices))
        with pytest.raises(UserError, match=r"a setting must be one of .*own_rate, .*; got \+other_rate=1"):
            check_overrides("train", [*words, "+other_rate=1"], cfg, list(cfg.hydra.runtime.choices))
    finally:
        HydraConfig.instance().cfg = None


def test_a_finished_command_is_not_judged() -> None:
    """A run that was trained with a word that nobody read can be opened."""
    words = ["+experiment=vanilla_raw", "data=grammar", "+trainer.max_time=5"]
    assert Job(hydra.compose("train", words), words).overrides == words


def test_of_a_wrong_kind_of_value_too() -> None:
    """In a process without the checks of types that the tests have."""
    code = """
from mple.optimizer import Adam
from mple.proxy_target.dynamic_kd import DynamicKD
for make in (lambda: Adam(betas=0.9), lambda: Adam(betas="ab"), lambda: DynamicKD(gamma=5)):
    try:
        make()
    except ValueError as error:
        print(error)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines() == [
        "optimizer.betas must be two numbers; got 0.9",
        "optimizer.betas must be two numbers; got 'ab'",
        "proxy_target.gamma must be candidates and their weights; got 5",
    ]


def anything(**given: int) -> dict[str, int]:
    return given


def test_what_takes_any_argument_is_left_alone() -> None:
    check_arguments({"_target_": "tests.test_settings.anything", "anything": 5})
    with pytest.raises(UserError, match=r"part\.whole has no settings; got anything=5"):
        check_arguments({"part": {"whole": {"_target_": "builtins.object", "anything": 5}}})


@pytest.mark.parametrize(
    ("hint", "phrase", "good", "bad"),
    [
        (int, "a whole number", [0, -1], [True, 1.0, "1", None, [1]]),
        (float | int, "a number", [1, 0.5], [True, "1", None, math.nan, math.inf, [1.0]]),
        (bool, "true or false", [True], [1, "true", None]),
        (str, "a text", ["", "x"], [1, None, True, ["x"]]),
        (str | None, "a text or null", ["x", None], [1, {}]),
        (Literal["a", "b"], "one of a, b", ["a"], ["c", None, 1]),
        (Sequence[float], "a list, each entry a number", [[1, 0.5], []], ["12", [True], [None], {"a": 1}, 1]),
        (tuple[str, ...] | list[str], "a list, each entry a text", [["a"], []], ["a", [1]]),
        (
            Mapping[str, float | None],
            "a mapping, each value a number or null",
            [{"a": 1, "b": None}, {}],
            [[1], {"a": "x"}, {1: 1}, None],
        ),
        (Path, "a path", ["x"], [1, ""]),
        (Job, "a mapping that describes an object (_target_)", [{"_target_": "x"}], [None, {}, "x", 1]),
        (Callable[..., Job], "a mapping that describes an object (_target_)", [{"_target_": "x"}], [None]),
        (Any, "anything", [None, "x", [1]], []),
    ],
)
def test_accepts_values_by_annotation(hint: Any, phrase: str, good: list[Any], bad: list[Any]) -> None:
    accepted = accepts(hint)
    assert accepted.phrase == phrase
    assert [value for value in good if not accepted.fits(value)] == []
    assert [value for value in bad if accepted.fits(value)] == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("data.source.grammar=null", "data.source.grammar must be a mapping that describes an object"),
        ("module.model=null", "module.model must be a mapping"),
        ("module.model.length=null", "module.model.length must be a mapping that describes an object"),
        ("decoding=length_parallel decoding.lengths=null", "decoding.lengths must be a mapping that descr"),
        ("decoding=npd decoding.choice=null", "decoding.choice must be a mapping that describes an object"),
        ("decoding=npd decoding.fill=null", "decoding.fill must be a mapping that describes an object"),
        ("proxy_target=axe proxy_target.reference=null", "proxy_target.reference must be a mapping that de"),
        (
            "proxy_target=axe proxy_target/reference=dynamic_kd proxy_target.reference.beta=-1",
            "proxy_target.reference.beta (nats per BLEU point) must be a number from 0 to 1e+06; got -1",
        ),
        ("+proxy_input.distance.foo=1", "distance"),
        (
            "+module.model.vanilla_input.foo=5",
            "module.model.vanilla_input must be a mapping that describes an object (_target_); got {'foo'",
        ),
        ("data.modes.order=abc", "data.modes.order must be a number; got 'abc'"),
        ("data=multi30k data.root=[1]", "data.root must be a path; got [1]"),
        ("optimizer._target_=mple.nothing.Here", "optimizer._target_ must name a class or function that can"),
        ("module._partial_=5", "module._partial_ must be true or false; got 5"),
        ("logger.csv=null", "logger.csv must "),
        ("optimizer.lr=0", "optimizer.lr must be a number above 0, at most 1e+08; got 0"),
        ("optimizer.lr=nan", "optimizer.lr must be a number; got nan"),
        ("student_updates=nan", "student_updates (updates) must be a whole number of at least 1; got nan"),
        ("student_updates=-1", "student_updates (updates) must be a whole number of at least 1; got -1"),
        ("teacher_updates=abc", "teacher_updates (updates) must be a whole number of at least 1; got 'abc'"),
        ("teacher_updates=-1", "teacher_updates (updates) must be a whole number of at least 1; got -1"),
        ("fine_tuning_lr=abc", "fine_tuning_lr must be a number above 0, at most 1e+08; got 'abc'"),
        (
            "updates_of.student=-1",
            "updates_of.student (updates) must be a whole number of at least 1; got -1",
        ),
        ("updates_of={}", "updates_of={} would have no effect"),
        ("proxy_target=dynamic_kd proxy_target.gamma={}", "proxy_target.gamma={} would have no effect"),
        ("sizes.big.d_model=7", "sizes.big.d_model must be a multiple of sizes.big.num_heads; got 7 and 4"),
        ("sizes.micro.d_model=100000000", "sizes.micro.d_model must be a whole number from 1 to 32768"),
        ("max_tokens=100000000000000000000", "max_tokens (tokens) must be a whole number from 1 to 1000000"),
        ("accumulate=1000000", "accumulate (micro-batches) must be a whole number from 1 to 10000; got 1000"),
        ("seed=99999999999999999999999", "seed must be a whole number from 0 to 4294967295; got 9999999"),
        ("logger=[csv,csv]", "logger must have each choice once; got logger=[csv,csv]"),
        ("seed=1 seed=2", "seed must be given once; got seed=1 and seed=2"),
        ("data.modes={order: 0.1} data.modes.order=0.2", "data.modes.order must be given once; got data.mo"),
        (
            "optimizer=adam optimizer=adam",
            "optimizer must be given once; got optimizer=adam and optimizer=adam",
        ),
    ],
)
def test_invalid_setting_raises(words: str, sentence: str) -> None:
    overrides = re.split(r" (?=[+~\w./]+=)", words)
    with pytest.raises(UserError) as caught:
        job("+experiment=vanilla_raw", *overrides)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("words", ["decoding.beam=100000", "decoding.beam=1.5", "decoding.allow_unk=1"])
def test_invalid_beam_raises(words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words.partition("=")[0])):
        job("+experiment=at", words)
