"""Every configuration file: composes, makes its objects, and says all that can be said."""

import inspect
import itertools
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from mple.checks import UserError
from mple.launch import Job, precision_of
from mple.resolvers import as_far_as

CONF = Path(__file__).parents[1] / "conf"
STRATEGIES = ("proxy", "proxy_target", "proxy_input", "vanilla_input", "objective", "decoding", "optimizer")
AT_RUN_TIME = {
    "TargetFirst": {"target", "input"},
    "InputFirst": {"target", "input"},
    "Decode": {"starts_word"},
    "TeacherScore": {"model"},
}
"""Constructor parameters that other parts of the configuration fill, or that a trained model does."""
EVERY_TEACHER = ("tiny", "small", "base", "big")


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
    autoregressive = {"at": "at_base", "at_kd": "at_base_kd"}
    assert made.cfg.name == autoregressive.get(experiment, experiment)
    assert made.is_student == (experiment not in autoregressive)
    if experiment == "at" or "raw" in experiment:
        expected: tuple[str, ...] = ()
    elif "dynkd" in experiment:
        expected = (*EVERY_TEACHER, "raw")
    else:
        expected = ("base",)
    assert made.candidates == expected
    assert list(made.teachers()) == [name for name in expected if name != "raw"]


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
    node: Any = compose(f"{group}={name}")[group]
    module, _, _ = node["_target_"].rpartition(".")
    if group == "decoding":  # several files are one composition of parts
        assert module.startswith("mple.decoding.")
    else:
        assert module == ("mple.optimizer" if group == "optimizer" else f"mple.{group}.{name}")
    spells_out(node)


def spells_out(node: Any) -> None:
    strategy = hydra.utils.get_class(node["_target_"])
    spelled = {str(key) for key in node if not str(key).startswith("_")}
    assert spelled == set(inspect.signature(strategy).parameters) - AT_RUN_TIME.get(strategy.__name__, set())
    for part in node.values():
        if OmegaConf.is_dict(part) and "_target_" in part:
            spells_out(part)


@pytest.mark.parametrize("name", names("sweep"))
def test_every_job_of_a_sweep_makes_its_objects(name: str) -> None:
    params = OmegaConf.to_container(OmegaConf.load(CONF / "sweep" / f"{name}.yaml").hydra.sweeper.params)
    assert isinstance(params, dict)
    choices = [[f"{key}={value.strip()}" for value in str(text).split(",")] for key, text in params.items()]
    folders = {job(f"+sweep={name}", *overrides).run.folder for overrides in itertools.product(*choices)}
    assert len(folders) == math.prod(map(len, choices))


def test_a_run_starts_from_a_run_of_the_same_seed_and_data() -> None:
    settings = ["seed=2", "optimizer.lr=0.1", "student_updates=1200", "teacher_updates=700", "data=grammar"]
    made = job("+experiment=oaxe_50k", *settings)
    first = made.first_stage()
    assert first is not None
    assert (first.cfg.name, first.cfg.seed, first.cfg.updates) == ("vanilla_kd", 2, 338)
    assert first.cfg.optimizer.lr != 0.1
    assert made.cfg.updates == 400
    assert first.teachers()["base"].run.folder == made.teachers()["base"].run.folder
    assert [row[0] for row in made.plan()][-2:] == ["start: vanilla_kd", "train and test: oaxe_50k"]


@pytest.mark.parametrize(
    ("update", "updates", "warmup_steps", "expected"),
    [
        (10_000, 300_000, 10_000, 10_000),  # the paper's own
        (50_000, 300_000, 10_000, 50_000),
        (300_000, 300_000, 10_000, 300_000),
        (5_000, 1000, 200, 100),
        (10_000, 1000, 200, 200),
        (155_000, 1000, 200, 600),  # half of what follows the warm-up
        (300_000, 1000, 200, 1000),
        (50_000, 24, 200, 24),  # a run that only warms up
    ],
)
def test_as_far_as_in_the_paper(update: int, updates: int, warmup_steps: int, expected: int) -> None:
    assert as_far_as(update, updates, warmup_steps) == expected


def test_the_autoregressive_model_beside_a_nat_has_its_updates() -> None:
    def updates(*words: str) -> int:
        return job("+experiment=at", "teacher_updates=700", "student_updates=900", *words).cfg.updates

    assert [updates(), updates("size=tiny"), updates("size=student")] == [700, 700, 900]
    assert updates("size=student", "updates=300") == 300


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["seed=-1"], "seed must be a whole number of at least 0; got -1"),
        (["seed=x"], "seed must be a whole number of at least 0; got 'x'"),
        (["seed=4294967296"], "seed must be a whole number from 0 to 4294967295; got 4294967296"),
        (["trainer.devices=0"], "trainer.devices must be a whole number of at least 1; got 0"),
        (["trainer.accelerator=tpu"], "trainer.accelerator must be one of auto, cpu, cuda, gpu; got 'tpu'"),
        (["data.max_length=64"], "data.max_length must be below sizes.student.max_positions=64; got 64"),
        (["start={experiment: at, updates: 100}"], "start.experiment must be a NAT, as this run; got at"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_made(words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        job("+experiment=vanilla_kd", "data=grammar", *words)


@pytest.mark.parametrize(("given", "side"), [((), "src_lang"), (("data.src_lang=de",), "tgt_lang")])
def test_a_text_without_its_languages_is_one_sentence(given: tuple[str, ...], side: str) -> None:
    with pytest.raises(UserError, match=f"data.{side} must name a language, .*; got none"):
        job("+experiment=vanilla_raw", "data=text", "data.root=x", *given)


def test_a_teacher_that_reads_less_than_its_student_is_named() -> None:
    with pytest.raises(UserError, match=r"below sizes\.base\.max_positions=40; got 50"):
        job("+experiment=vanilla_kd", "data=grammar", "sizes.base.max_positions=40")


def test_students_that_sweep_the_optimizer_share_their_teachers() -> None:
    made, other = (job("+experiment=vanilla_kd", *more) for more in ((), ("optimizer.lr=0.1",)))
    assert made.run.folder != other.run.folder
    assert {n: t.run.folder for n, t in made.teachers().items()} == {
        n: t.run.folder for n, t in other.teachers().items()
    }


def test_a_start_at_the_last_update_is_that_experiment_itself() -> None:
    first = job("+experiment=oaxe_300k").first_stage()
    assert first is not None
    assert first.run.folder == job("+experiment=vanilla_kd").run.folder


def test_the_key_of_a_run_knows_its_teachers_and_nothing_that_it_does_not_use() -> None:
    def key(*overrides: str) -> str:
        return job(*overrides).run.key

    assert key("+experiment=vanilla_raw") == key("+experiment=vanilla_raw", "teacher_updates=1000")
    assert key("+experiment=vanilla_kd") != key("+experiment=vanilla_kd", "teacher_updates=1000")
    assert key("+experiment=vanilla_kd") == key("+experiment=vanilla_kd", "sizes.big.dropout=0.5")
    assert key("+experiment=glat_dynkd") != key("+experiment=glat_dynkd", "sizes.big.dropout=0.5")
    assert key("+experiment=vanilla_kd") != key("+experiment=vanilla_kd", "teacher_seed=2")
    assert key("+experiment=at") == key("+experiment=at", "student_updates=400")
    assert key("+experiment=oaxe_10k") != key("+experiment=oaxe_10k", "sizes.base.dropout=0.5")


@pytest.mark.parametrize("setting", ["max_tokens=1024", "accumulate=8"])
def test_the_size_of_a_batch_is_that_of_teachers_and_start_too(setting: str) -> None:
    made = job("+experiment=oaxe_10k", setting)
    name, value = setting.split("=")
    first = made.first_stage()
    assert first is not None
    for other in (*made.teachers().values(), first, *first.teachers().values()):
        assert other.cfg[name] == int(value)


def test_a_candidate_without_a_weight_is_left_out() -> None:
    made = job("+experiment=glat_dynkd", "proxy_target.gamma.tiny=null", "proxy_target.gamma.big=null")
    assert made.candidates == ("small", "base", "raw")
    assert set(made.teachers()) == {"small", "base"}
    assert made.run.key != job("+experiment=glat_dynkd").run.key
    nothing = [f"proxy_target.gamma.{name}=null" for name in (*EVERY_TEACHER, "raw")]
    assert "must weigh at least one candidate" in mistake("+experiment=glat_dynkd", *nothing)


@pytest.mark.parametrize(
    ("data", "beta", "gamma", "updates"),
    [
        ("wmt14_en_de", 0.2, [0.7, 0.6, 1.3, 1.5, 2.3], 100_000),
        ("wmt17_zh_en", 0.1, [0.9, 1.4, 1.3, 0.9, 2.0], 300_000),
        ("wmt16_en_ro", 0.2, [1.0] * 5, 100_000),  # not in the paper
    ],
)
def test_the_papers_data_have_the_papers_weights_and_teachers(
    data: str, beta: float, gamma: list[float], updates: int
) -> None:
    """App. F; i = 5 is the raw data."""
    cfg = compose("+experiment=glat_dynkd", f"data={data}")
    assert cfg.proxy_target.beta == beta
    assert list(cfg.proxy_target.gamma) == [*EVERY_TEACHER, "raw"]
    assert list(cfg.proxy_target.gamma.values()) == gamma
    assert cfg.teacher_updates == updates
    assert compose("+experiment=glat_dynkd_noreg", f"data={data}").proxy_target.beta == 0
    assert compose("+experiment=glat_dynkd", f"data={data}", "budget=mini").teacher_updates == 2400


def test_chinese_is_segmented_and_scored_as_chinese() -> None:
    def settings(src: str, tgt: str) -> tuple[object, ...]:
        data = compose("data=tatoeba", "data.root=x", f"data.src_lang={src}", f"data.tgt_lang={tgt}").data
        return data.vocabulary.joint, dict(data.vocabulary.segment), data.tokenize

    assert settings("en", "de") == (True, {}, "13a")
    assert settings("en", "zh") == (False, {"zh": "jieba"}, "zh")
    assert settings("zh", "en") == (False, {"zh": "jieba"}, "13a")


@pytest.mark.parametrize(
    ("target", "tokenize"), [("zh", "zh"), ("zho_Hant", "zh"), ("ja", "char"), ("ro", "13a")]
)
@pytest.mark.parametrize("name", names("data"))
def test_every_data_file_follows_its_target_language(name: str, target: str, tokenize: str) -> None:
    """Wherever the target's language can be given."""
    if name.startswith("grammar"):
        return
    given = f"data={name}", "data.root=x"
    node = compose(*given).data
    side = "data." if "tgt_lang" in node else "data.source."
    languages = [f"{side}tgt_lang={target}"]
    if not name.startswith("synthetic"):  # which has one language on both sides
        languages.append(f"{side}src_lang=en")
    data = compose(*given, *languages).data
    assert data.tokenize == tokenize
    assert (data.vocabulary.segment or {}) == ({target: "jieba"} if tokenize == "zh" else {})
    assert data.vocabulary.joint == (tokenize == "13a" or name.startswith("synthetic"))


def test_keys_of_european_and_chinese_data_are_those_of_version_0_1() -> None:
    """Values, and nulls that no key has: `mple.run.key_of`."""

    def vocabulary(*words: str) -> dict[str, object]:
        node = OmegaConf.to_container(compose(*words, "data.root=x").data.vocabulary, resolve=True)
        assert isinstance(node, dict)
        return {str(k): v for k, v in node.items() if v is not None and k not in ("_target_", "size")}

    for name in ("multi30k", "iwslt14_de_en", "wmt14_en_de", "wmt16_en_ro", "synthetic_a", "synthetic_b"):
        assert vocabulary(f"data={name}") == {"joint": True}
    assert vocabulary("data=text", "data.src_lang=de", "data.tgt_lang=en") == {"joint": True}
    assert vocabulary("data=wmt17_zh_en") == {"joint": False, "segment": {"zh": "jieba"}}
    assert vocabulary("data=tatoeba") == {"joint": True, "segment": {}}
    assert vocabulary("data=tatoeba", "data.tgt_lang=zh") == {"joint": False, "segment": {"zh": "jieba"}}


@pytest.mark.parametrize("name", names("data"))
def test_every_data_file_composes(name: str) -> None:
    root = [] if name.startswith("grammar") else ["data.root=somewhere"]
    cfg = compose("+experiment=glat_dynkd", f"data={name}", *root)
    assert cfg.data.name
    assert set(cfg.sizes) >= {"tiny", "small", "base", "big", "student"}
    assert cfg.valid_every == "epoch" or cfg.valid_every % cfg.log_every == 0


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
        (("+experiment=axe_tau1", "proxy_target.delta=-1"), "proxy_target.delta"),
        (("+experiment=glat_raw", "start=nowhere.pt"), "start must name a file"),
        (("+experiment=oaxe_10k", "start.updates=0"), "start.updates"),
        (("+experiment=oaxe_10k", "~start.updates"), "start must be a file"),
        (("+experiment=glat_raw", "updates=0"), "updates"),
        (("+experiment=glat_raw", "valid_every=30", "log_every=20"), "valid_every"),
        (("+experiment=glat_raw", "trainer.precision=half"), "trainer.precision"),
    ],
)
def test_a_wrong_setting_is_named(overrides: tuple[str, ...], key: str) -> None:
    message = mistake(*overrides)
    assert key in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "override",
    [
        "max_tokens=5",
        "accumulate=0",
        "average_best=0",
        "optimizer.eps=-1",
        "data.tokenize=abc",
        "seed=5000000000",
        "trainer.num_workers=-1",
        "module.model.length.weight=-1",
        "module.model.length.max_offset=0",
        "sizes.student.dropout=2",
        "sizes.student.d_model=0",
        "data.source.train=0",
        "data.vocabulary.size=2",
        "data.modes.order=1",
        "data=synthetic_a data.root=x data.source.replace=2",
        "data=synthetic_b data.root=x data.source.drop=1",
        "data=synthetic_a data.root=x data.source.draw=often",
        "data=tatoeba data.root=x data.source.valid=-1",
        "data=multi30k data.root=x data.vocabulary.size=2",
        "data=multi30k data.root=x +data.vocabulary.sample=0",
    ],
)
def test_a_value_is_refused_by_the_key_that_was_given(override: str) -> None:
    def begin() -> None:
        job("+experiment=glat_raw", *override.split()).data(0)

    given = override.split()[-1].lstrip("+").split("=")[0]
    with pytest.raises((UserError, InstantiationException)) as caught:
        begin()
    said = f"{caught.value} {caught.value.__cause__} {caught.value.__context__}"
    assert re.search(rf"(?<![\w.]){re.escape(given)}( |=|$)", said), said


def test_an_unknown_size_lists_the_sizes() -> None:
    assert mistake("+experiment=at", "size=huge") == (
        "size must be one of base, big, micro, small, student, tiny; got 'huge'"
    )


def test_invalid_setting_of_a_teacher_names_the_teacher() -> None:
    words = ["+experiment=vanilla_kd", "data=grammar", "sizes.base.max_positions=40"]
    with pytest.raises(
        UserError, match=r"^teacher base: data\.max_length must be below sizes\.base\.max_posi"
    ):
        job(*words)


def test_few_teacher_updates_validate_once() -> None:
    """TINY of `glat_dynkd`: 40 updates where the budget validates every 200 and reports every 50."""
    rhythm = ["updates=60", "student_updates=60", "valid_every=20", "log_every=10"]
    made = job("+experiment=glat_dynkd", "data=grammar", "budget=mini", "teacher_updates=40", *rhythm)
    for teacher in made.teachers().values():
        cfg = teacher.cfg
        assert (cfg.updates, cfg.valid_every, cfg.log_every) == (40, 40, 10)
        again = compose(*teacher.overrides)
        assert (again.updates, again.valid_every, again.log_every) == (40, 40, 10)
    usual = job("+experiment=vanilla_kd", "data=grammar", "teacher_updates=200").teachers()["base"]
    assert not any(word.startswith(("valid_every", "log_every")) for word in usual.overrides)


def test_a_teacher_without_a_size_is_refused() -> None:
    with pytest.raises(UserError, match="base, big, small, tiny; got 'huge'"):
        job("+experiment=vanilla_kd", "proxy_target.teacher=huge").teachers()


@pytest.mark.parametrize("experiment", ["axe_tau5", "oaxe_50k"])
@pytest.mark.parametrize(
    ("reference", "candidates"), [("raw", ()), ("kd", ("base",)), ("dynamic_kd", (*EVERY_TEACHER, "raw"))]
)
def test_the_reference_that_is_aligned_is_a_choice(
    experiment: str, reference: str, candidates: tuple[str, ...]
) -> None:
    made = job(f"+experiment={experiment}", f"proxy_target/reference={reference}")
    assert made.candidates == candidates
    alone = compose(f"proxy_target={reference}").proxy_target
    assert made.plain["proxy_target"]["reference"] == OmegaConf.to_container(alone, resolve=True)
    is_default = made.run.key == job(f"+experiment={experiment}").run.key
    assert is_default == (reference == "kd")


def test_the_reference_keeps_its_own_settings() -> None:
    made = job("+experiment=axe_dynkd", "proxy_target.reference.beta=1", "proxy_target.delta=1")
    assert (made.target.reference.beta, made.target.delta) == (1, 1)


def test_a_gpu_that_is_not_there_is_said_where_a_run_is_made_not_where_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    made = job("+experiment=vanilla_raw", "trainer.accelerator=gpu", f"outputs={tmp_path / 'outputs'}")
    with pytest.raises(UserError, match=r"trainer\.accelerator must be auto or cpu here; got gpu"):
        made.execute()
    assert not (tmp_path / "outputs").exists()


def test_more_gpus_than_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    outputs = f"outputs={tmp_path / 'outputs'}"
    made = job("+experiment=vanilla_raw", "trainer.devices=3", "trainer.precision=32-true", outputs)
    with pytest.raises(UserError, match=r"trainer\.devices must be at most 2, the GPUs here; got 3"):
        made.execute()
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("has_units", [True, False])
def test_auto_precision_is_of_the_device_that_trains(
    has_units: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU that only emulates bf16 has no units for it; for a run on the CPU no GPU counts."""

    def supported(including_emulation: bool = True) -> bool:
        return including_emulation or has_units

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "flags: avx2")
    assert precision_of("auto", "auto") == ("bf16-mixed" if has_units else "32-true")
    assert precision_of("auto", "cpu") == "32-true"
    assert precision_of("16-mixed", "auto") == "16-mixed"


def test_one_language_on_both_sides_is_refused(tmp_path: Path) -> None:
    english = ("data.root=x", "data.src_lang=en", "data.tgt_lang=en")
    made = job("+experiment=vanilla_raw", "data=text", *english, f"outputs={tmp_path}")
    with pytest.raises(UserError, match=r"data\.src_lang and data\.tgt_lang must differ, .* en for both"):
        made.execute()
    columns = ("data.source.src_column=0", "data.source.tgt_column=1")
    job("+experiment=vanilla_raw", "data=tatoeba", *english, *columns)._check_languages()  # paraphrases


def test_an_unknown_language_code_is_noted(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("+experiment=vanilla_raw", "data=text", "data.root=x", "data.src_lang=de")
    job(*words, "data.tgt_lang=bb")._check_languages()
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("bb is no language code of ISO 639 or BCP 47")
    job(*words, "data.tgt_lang=ja")._check_languages()
    assert capsys.readouterr().out == ""
