"""Which runs belong to a row, and the commands of those that are missing: checked by Hydra itself."""

import os
from pathlib import Path

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from experiments.paper_items.runs import (
    CONFIDENCE,
    EVALUATE,
    LPD,
    MPLE,
    PREDICT,
    Evaluation,
    Library,
    Study,
    Training,
    at,
    data_options,
    of_metrics,
    of_test,
    student_of,
    total_correlation,
)
from mple.checks import UserError
from tests.experiments import fake

CONF = Path(__file__).parents[2] / "conf"


def composed(name: str, words: list[str]) -> DictConfig:
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose(name, words)


def library(outputs: Path, **changes: object) -> Library:
    return Library(Study(outputs, **changes))  # type: ignore[arg-type]


def test_runs_are_ordered_by_seed_and_read_exactly(tmp_path: Path) -> None:
    for seed, bleu in ((2, 21.25), (1, 20.125)):
        fake.make_run(tmp_path, "vanilla_kd", seed, bleu=bleu)
    own = library(tmp_path)
    runs = own.runs(Training("vanilla_kd"))
    number = of_test(runs, "tokenised_bleu")
    assert number is not None
    assert list(number.values.items()) == [(1, 20.125), (2, 21.25)]
    assert not own.missing
    assert of_test(runs, "not_measured") is None


def test_a_changed_setting_makes_another_run(tmp_path: Path) -> None:
    fake.make_run(tmp_path, "axe_tau5", overrides="proxy_target.variant=strict")
    fake.make_run(tmp_path, "axe_tau5", key="22222222", overrides="data.modes.order=0.1")
    fake.make_run(tmp_path, "glat_kd", overrides="data=grammar budget=minutes trainer.devices=2")
    own = library(tmp_path)
    assert own.runs(Training("axe_tau5")) == []
    assert len(own.runs(Training("glat_kd"))) == 1
    assert [str(entry) for entry in own.missing] == [
        f"python train.py +experiment=axe_tau5 data=grammar budget=minutes outputs={tmp_path} seed=1"
    ]


def test_a_sweep_and_what_is_so_anyway_make_no_other_run(tmp_path: Path) -> None:
    """What train.py takes for the same run is the same row, or `reproduce` would ask for it for ever."""
    said = {"glat_kd": "+sweep=paper", "axe_tau1": "+sweep=tau proxy_target.delta=1"}
    said |= {"vanilla_dynkd": "proxy_target.beta=0.2 size=student trainer.devices=2"}
    for name, overrides in said.items():
        fake.make_run(tmp_path, name, overrides=f"{overrides} budget=mini")
    for name, overrides in {"glat_raw": "size=big", "cmlm": "size=huge", "axe_tau5": "no.such=1"}.items():
        fake.make_run(tmp_path, name, overrides=overrides)
        said[name] = ""
    own = library(tmp_path)
    found = {name for name in said if own.runs(Training(name))}
    assert found == {"glat_kd", "axe_tau1", "vanilla_dynkd"}
    assert {entry.command[2] for entry in own.missing} == {
        f"+experiment={name}" for name in ("glat_raw", "cmlm", "axe_tau5")
    }


def test_rows_of_several_budgets_are_noted(tmp_path: Path) -> None:
    fake.make_run(tmp_path, "vanilla_kd")
    fake.make_run(tmp_path, "glat_kd", overrides="budget=mini")
    own = library(tmp_path)
    own.runs(Training("vanilla_kd"))
    assert own.notes == []
    own.runs(Training("glat_kd"))
    (note,) = own.notes
    assert "(vanilla_kd of minutes, glat_kd of mini)" in note


def test_other_data_and_budgets_are_left_out(tmp_path: Path) -> None:
    fake.make_run(tmp_path, "glat_kd", data="multi30k_de-en", overrides="data=multi30k data.root=ROOT")
    fake.make_run(tmp_path, "glat_kd", 2, overrides="budget=mini")
    assert library(tmp_path).runs(Training("glat_kd"))[0].seed == 2
    assert library(tmp_path, budget="minutes").runs(Training("glat_kd")) == []
    assert library(tmp_path, data="multi30k_de-en", budget="mini").runs(Training("glat_kd"))


def test_the_configuration_with_the_most_seeds_is_shown(tmp_path: Path) -> None:
    fake.make_run(tmp_path, "glat_kd", 1, key="aaaaaaaa")
    fake.make_run(tmp_path, "glat_kd", 1, key="bbbbbbbb")
    fake.make_run(tmp_path, "glat_kd", 2, key="bbbbbbbb")
    own = library(tmp_path)
    assert len(own.runs(Training("glat_kd"))) == 2
    assert own.notes == ["glat_kd has several configurations (aaaaaaaa, bbbbbbbb); bbbbbbbb is shown"]


def test_every_wanted_seed_is_asked_for(tmp_path: Path) -> None:
    fake.make_run(tmp_path, "at_big", 2, overrides="size=big")
    own = library(tmp_path, seeds=3)
    own.runs(at("big"))
    assert [entry.command[-1] for entry in own.missing] == ["seed=1", "seed=3"]
    own.runs(at("big"))
    assert len(own.missing) == 2  # each once


def test_the_same_run_twice_is_refused(tmp_path: Path) -> None:
    fake.make_run(tmp_path / "a", "glat_kd")
    fake.make_run(tmp_path / "b", "glat_kd")
    with pytest.raises(UserError, match="are the same run"):
        library(tmp_path)


@pytest.mark.parametrize(
    ("data", "budget"),
    [
        ("grammar", "minutes"),
        ("grammar_p05", "minutes"),
        ("multi30k_de-en", "mini"),
        ("multi30k_en-de", "mini"),
        ("tatoeba_de-en", "mini"),
        ("synthetic_a_en", "mini"),
        ("synthetic_b_de", "mini"),
        ("wmt14_en_de", "paper"),
    ],
)
@pytest.mark.parametrize(
    "training",
    [at("student"), Training("oaxe_10k"), student_of("glat_kd", "tiny"), student_of("vanilla_kd", "raw")],
)
def test_commands_make_what_they_are_for(data: str, budget: str, training: Training, tmp_path: Path) -> None:
    """Hydra composes the command, and its name, data and budget are those that the row will look for."""
    words = library(tmp_path, data=data, root="ROOT").train_command(training, 3)
    assert words[:2] == ("python", "train.py")
    cfg = composed("train", list(words[2:]))
    assert (cfg.name, cfg.data.name, cfg.seed) == (training.name, data, 3)
    assert f"budget={budget}" in words
    if data == "grammar_p05":
        assert set(cfg.data.modes.values()) == {0.05}
    if training.experiment.endswith("_kd") and training.rename:
        assert cfg.proxy_target.teacher == "tiny"


def test_a_command_finds_its_own_run(tmp_path: Path) -> None:
    own = library(tmp_path, data="multi30k_en-de", root="/data")
    training = student_of("glat_kd", "big")
    words = " ".join(own.train_command(training, 1)[3:-1])
    fake.make_run(tmp_path, training.name, data="multi30k_en-de", overrides=words)
    assert len(library(tmp_path, data="multi30k_en-de").runs(training)) == 1


def test_commands_take_the_root_of_finished_runs(tmp_path: Path) -> None:
    fake.make_run(tmp_path, "at_base", data="multi30k_de-en", overrides="data=multi30k data.root=/here")
    for data in ("multi30k_en-de", "synthetic_a_en"):
        assert "data.root=/here" in library(tmp_path, data=data).train_command(Training("glat_kd"), 1)
    assert "data.root=FOLDER" in library(tmp_path, data="tatoeba_en-de").train_command(at("base"), 1)
    assert not any(w.startswith("data.root") for w in library(tmp_path).train_command(at("base"), 1))


def test_unknown_data_are_named() -> None:
    with pytest.raises(UserError, match=r"--data must be the name of a data set.*'nothing'"):
        data_options("nothing")


def test_evaluations_are_told_apart_by_their_settings(tmp_path: Path) -> None:
    run = fake.make_run(tmp_path, "axe_tau5")
    fake.evaluate(run, "text", tokenised_bleu=1.0)
    fake.evaluate(run, "text", fake.LPD, tokenised_bleu=2.0)
    own = library(tmp_path)
    training = Training("axe_tau5")
    number = of_metrics(own.measured(training, LPD), "tokenised_bleu")
    assert number is not None
    assert number.values == {1: 2.0}
    assert own.measured(training, MPLE) == []
    assert [str(entry) for entry in own.missing] == [
        f"python evaluate.py run={run} estimator=mple estimator.beta=0.2"
    ]


def test_an_evaluation_of_another_split_or_beta_is_another_one(tmp_path: Path) -> None:
    run = fake.make_run(tmp_path, "vanilla_kd")
    for settings, value in (
        ({"beta": 0.2, "split": "valid"}, 1.0),
        ({"beta": 0.5}, 2.0),
        ({"split": "test"}, 3.0),
    ):
        fake.evaluate(run, "mple", {"estimator": settings}, similarity=value)
    fake.evaluate(run, "text", fake.LPD | {"estimator": {"split": "valid"}}, tokenised_bleu=4.0)
    fake.evaluate(run, "confidence", {"estimator": {"split": "valid"}}, default_tokenised_bleu=5.0)
    wrong = {"estimator": {"split": "valid", "at": "outputs/at_base"}}
    fake.evaluate(run, "total_correlation", wrong, total_correlation_bits_per_token=6.0)
    own, training = library(tmp_path), Training("vanilla_kd")
    assert [metrics for _, metrics in own.measured(training, MPLE)] == [{"similarity": 1.0}]
    for wanted in (LPD, CONFIDENCE, total_correlation("outputs/at_base")):
        assert own.measured(training, wanted) == []
    assert [m for _, m in own.measured(training, total_correlation("outputs/at_base", "kd"))]
    half = library(tmp_path).at_beta(0.5)
    assert [metrics for _, metrics in half.measured(training, MPLE)] == [{"similarity": 2.0}]
    other = library(tmp_path).at_beta(0.25)
    assert other.measured(training, MPLE) == []
    assert str(other.missing[0]).endswith("estimator=mple estimator.beta=0.25")


def test_a_method_that_hides_parts_of_t_needs_an_input_predictor_first(tmp_path: Path) -> None:
    for name in ("cmlm_fixed", "glat_dynkd", "vanilla_dynkd", "oaxe_10k"):
        fake.make_run(tmp_path, name)
    fake.make_run(tmp_path, "vanilla_kd")
    own = library(tmp_path)
    for name in ("cmlm_fixed", "glat_dynkd", "vanilla_dynkd", "oaxe_10k"):
        own.measured(Training(name), MPLE)
    predicted = [entry.command[3] for entry in own.missing if entry.stage == PREDICT]
    assert [word.split("/")[-4] for word in predicted] == ["cmlm_fixed", "glat_dynkd"]


def test_input_predictors_are_asked_for_once(tmp_path: Path) -> None:
    run, vanilla = fake.make_run(tmp_path, "cmlm"), fake.make_run(tmp_path, "vanilla_kd")
    own = library(tmp_path)
    own.predictor(Training("cmlm"))
    own.predictor(Training("cmlm"))
    assert [str(entry) for entry in own.missing] == [
        f"python train.py +experiment=input_predictor of={run} vanilla={vanilla}"
    ]
    fake.predictor(run)
    own = library(tmp_path)
    own.predictor(Training("cmlm"))
    assert own.missing == []


def test_intervals_of_evaluations_are_read(tmp_path: Path) -> None:
    run = fake.make_run(tmp_path, "glat_kd")
    fake.evaluate(run, "mple", **fake.ends("nat_loss", "bits_per_token", 2.0, 0.25), similarity=30.0)
    measured = library(tmp_path).measured(Training("glat_kd"), MPLE)
    loss = of_metrics(measured, "nat_loss", "bits_per_token")
    assert loss is not None
    assert loss.sentences == {1: (1.75, 2.25)}
    similarity = of_metrics(measured, "similarity")
    assert similarity is not None
    assert not similarity.sentences


def test_c_belongs_to_its_at(tmp_path: Path) -> None:
    nat, other = fake.make_run(tmp_path, "vanilla_raw"), fake.make_run(tmp_path, "at_student")
    fake.evaluate(nat, "total_correlation", {"estimator": {"at": str(tmp_path / "at_base")}}, x=1.0)
    own = library(tmp_path)
    assert own.measured(Training("vanilla_raw"), total_correlation(other)) == []
    # the folder above the run, as evaluate.py takes it too
    above = {"estimator": {"at": os.path.relpath(tmp_path / "at_student")}}
    fake.evaluate(nat, "total_correlation", above, x=2.0)
    ((_, metrics),) = own.measured(Training("vanilla_raw"), total_correlation(other))
    assert metrics == {"x": 2.0}


def test_broken_reports_are_named(tmp_path: Path) -> None:
    run = fake.make_run(tmp_path, "glat_kd")
    (run / "evaluations").mkdir()
    (run / "evaluations" / "mple-1.json").write_text("{")
    with pytest.raises(UserError, match=r"mple-1\.json must be a report of evaluate.py"):
        library(tmp_path).measured(Training("glat_kd"), MPLE)


@pytest.mark.parametrize("wanted", [LPD, MPLE, total_correlation("outputs/at"), Evaluation("text")])
def test_evaluation_commands_are_accepted_by_hydra(wanted: Evaluation, tmp_path: Path) -> None:
    words = Library.evaluate_command("outputs/x", wanted)
    cfg = composed("evaluate", list(words[2:]))
    assert cfg.estimator._target_.split(".")[-2] == wanted.name
    settings = {
        "estimator": dict(cfg.estimator),
        "decoding": dict(cfg.decoding) if cfg.get("decoding") else None,
    }
    assert wanted.accepts(settings)


def test_a_future_folder_is_one_that_the_shell_finds(tmp_path: Path) -> None:
    import subprocess

    own = library(tmp_path)
    own.measured(Training("glat_kd"), MPLE)
    (command,) = [entry for entry in own.missing if entry.stage == EVALUATE]
    made = fake.make_run(tmp_path, "glat_kd")
    said = subprocess.run(["bash", "-c", f"echo {command}"], capture_output=True, text=True, check=True)
    words = ["python", "evaluate.py", f"run={made}", "estimator=mple", "estimator.beta=0.2"]
    assert said.stdout.split() == words


def test_multi30k_has_its_descriptions_for_references(tmp_path: Path) -> None:
    data = "multi30k_de-en"
    run = fake.make_run(tmp_path, "vanilla_kd", data=data, overrides="data=multi30k data.root=ROOT")
    fake.evaluate(run, "mple", {"estimator": {"references": {}}}, similarity=50.0)  # the single reference
    library = Library(Study(tmp_path, data=data))
    assert library.measured(Training("vanilla_kd"), MPLE) == []
    (missing,) = library.missing
    assert "estimator/references=files" in missing.command
    paths = next(word for word in missing.command if word.startswith("estimator.references.paths="))
    assert paths.count("ROOT/descriptions.val.") == 5
    assert paths.endswith("descriptions.val.5.en.gz]")
    assert "estimator.references.own_is_among_them=true" in missing.command
    other = {"paths": ["a"], "own_is_among_them": False}
    fake.evaluate(run, "mple", {"estimator": {"references": other}}, similarity=8.0)
    assert Library(Study(tmp_path, data=data)).measured(Training("vanilla_kd"), MPLE) == []
    fake.evaluate(run, "mple", {"estimator": {"references": {"paths": ["a"]}}}, similarity=9.0)
    ((_, metrics),) = Library(Study(tmp_path, data=data)).measured(Training("vanilla_kd"), MPLE)
    assert metrics["similarity"] == 9.0
