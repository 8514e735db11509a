"""The input predictor through the product: trained for a finished run, used by evaluate and translate."""

import json
import math
import shutil
from pathlib import Path

import hydra
import numpy as np
import pytest
import sacrebleu
import torch
from hydra.core.global_hydra import GlobalHydra

from mple.callbacks import Checkpoints
from mple.checks import UserError
from mple.decoding.argmax import Argmax
from mple.decoding.input_sampling import InputSampling
from mple.estimator.input_loss import LAWS, GivenCount, Law, OneByOne, UniformCount
from mple.estimator.input_loss import InputLoss as Estimate
from mple.evaluation.confidence import Confidence
from mple.evaluation.finished import Finished
from mple.evaluation.input_loss import InputLoss, input_information
from mple.evaluation.mple import MPLE
from mple.input_predictor import PredictorJob
from mple.proxy_input import ProxyInput
from mple.proxy_input.blank import Blank
from mple.proxy_input.fixed_mask import FixedMask
from mple.proxy_input.glancing import Glancing
from mple.proxy_input.uniform_mask import UniformMask
from mple.trained import load
from tests.runs import CONF, distil_at_random, job, random_run, sentences

SMALL = ["trainer.accelerator=cpu", "updates=4", "log_every=2", "valid_every=2", "optimizer.warmup_steps=2"]


def ready() -> None:
    """As after the start of a command; making a run ends that."""
    GlobalHydra.instance().clear()
    hydra.initialize_config_dir(str(CONF), version_base="1.3")


def predictor(of: Path | str, vanilla: Path | str, *more: str) -> PredictorJob:
    ready()
    overrides = [f"of={of}", f"vanilla={vanilla}", *SMALL, *more]
    return PredictorJob(hydra.compose("input_predictor", overrides), overrides)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """`glat` has an input predictor, whose vanilla NAT is gone; `bare` is the same without."""
    root = tmp_path_factory.mktemp("runs")
    found = {
        "glat": random_run(root, "+experiment=glat_raw", "sizes.student.dropout=0.1"),
        "vanilla": random_run(root, "+experiment=vanilla_raw", seed=1),
    }
    found["bare"] = Path(shutil.copytree(found["glat"], root / "bare"))
    moved = Path(shutil.copytree(found["vanilla"], root / "moved"))
    predictor(found["glat"], moved).execute()
    shutil.rmtree(moved)
    return found


def opened(folder: Path) -> Finished:
    ready()
    return Finished.open(folder, "cpu")


# --- training -----------------------------------------------------------------------------------------


def test_a_run_gets_its_input_predictor_and_stays_as_it_is(runs: dict[str, Path]) -> None:
    (folder,) = (runs["glat"] / "input_predictor").iterdir()
    results = json.loads((folder / "input_predictor.json").read_text())
    assert 0 < results["valid"]["mask_nll_bits_per_token"] < 1.5
    assert results["best_update"] in (2, 4)
    assert results["command"].startswith("python train.py +experiment=input_predictor of=")
    log = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    validated = {
        line["step"]: line["valid/mask_nll_bits_per_token"] for line in log if "valid/masked_percent" in line
    }
    assert results["valid"]["mask_nll_bits_per_token"] == min(validated.values())
    kept = {path.name for path in runs["glat"].iterdir()} - {"input_predictor", "evaluations"}
    assert kept == {path.name for path in runs["bare"].iterdir()} - {"input_predictor"}
    for name in ("averaged.pt", "config.yaml", "metrics.json"):
        assert (runs["glat"] / name).read_bytes() == (runs["bare"] / name).read_bytes()
    assert opened(runs["glat"].parents[2]).folder == runs["glat"]  # no second run is found below it


def test_what_learns_is_trained_with_dropout(runs: dict[str, Path]) -> None:
    module = predictor(runs["bare"], runs["vanilla"]).module()
    assert all(part.training for part in module.modules())
    assert not any(part.training for nat in module._finished for part in nat.modules())


def test_a_third_of_the_budget_and_the_run_s_own_settings(runs: dict[str, Path]) -> None:
    ready()
    overrides = [f"of={runs['bare']}", f"vanilla={runs['vanilla']}"]
    made = PredictorJob(hydra.compose("input_predictor", overrides), overrides)
    own = made.run.job.cfg
    assert made.settings["updates"] == round(own.student_updates / 3)
    assert made.settings["max_tokens"] == own.max_tokens == 512
    assert made.settings["optimizer"] == own.optimizer
    assert made.settings["valid_every"] % made.settings["log_every"] == 0
    other = predictor(runs["bare"], runs["vanilla"], "optimizer.lr=0.5", "max_tokens=100")
    assert other.optimizer.lr == 0.5
    assert other.data().max_tokens == 100
    assert other.folder != predictor(runs["bare"], runs["vanilla"]).folder


def test_interrupted_it_goes_on_and_finished_it_does_nothing(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(shutil.copytree(runs["bare"], tmp_path / "run"))
    save, saved = Checkpoints._save_last, []

    def cut(self: Checkpoints, trainer: object) -> None:
        saved.append(self)
        if len(saved) == 2:
            raise RuntimeError("cut")
        save(self, trainer)  # type: ignore[arg-type]

    monkeypatch.setattr(Checkpoints, "_save_last", cut)
    with pytest.raises(RuntimeError, match="cut"):
        predictor(run, runs["vanilla"]).execute()
    monkeypatch.undo()
    made = predictor(run, runs["vanilla"])
    assert torch.load(made.folder / "last.ckpt", weights_only=True)["global_step"] == 2
    with pytest.raises(UserError, match="must have a trained input predictor"):
        opened(run).input_distribution()
    results = made.execute()
    whole = predictor(runs["glat"], runs["vanilla"])
    assert whole.folder.name == made.folder.name
    expected, found = (torch.load(each.folder / "mask_predictor.pt") for each in (whole, made))
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert predictor(run, runs["vanilla"]).execute() == results
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_runs_that_cannot_serve_are_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^of must be a run whose .* L_input is 0 by definition$"):
        predictor(runs["vanilla"], runs["vanilla"])
    with pytest.raises(UserError, match=r"^vanilla must be a vanilla NAT .* got glat_raw seed 1$"):
        predictor(runs["bare"], runs["glat"])
    with pytest.raises(UserError, match=r"^vanilla must be the folder of a finished run; there is no folder"):
        predictor(runs["bare"], tmp_path / "nowhere")
    cut = Path(shutil.copytree(runs["bare"], tmp_path / "cut"))
    (cut / "metrics.json").unlink()
    with pytest.raises(UserError, match=r"^of must be the folder of a finished run; .* lacks metrics\.json$"):
        predictor(cut, runs["vanilla"])
    with pytest.raises(UserError, match=r"^vanilla must be the folder of a finished run; got none"):
        predictor(runs["bare"], "???")
    other = random_run(tmp_path / "other", "+experiment=vanilla_raw", "data.vocabulary.size=80")
    with pytest.raises(UserError, match=r"^vanilla must be a run with the vocabularies of glat_raw seed 1"):
        predictor(runs["bare"], other)
    at = random_run(tmp_path / "other", "+experiment=at")
    with pytest.raises(UserError, match="is autoregressive"):
        predictor(at, runs["vanilla"])
    with pytest.raises(UserError, match="valid_every must be a multiple of log_every"):
        predictor(runs["bare"], runs["vanilla"], "valid_every=3")


# --- L_input ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("proxy_input", "law"),
    [
        (UniformMask(), UniformCount()),
        (FixedMask(), GivenCount()),
        (Glancing(), GivenCount()),
        (Glancing(distance="levenshtein"), GivenCount()),
        (Glancing(choice="p_ref"), OneByOne("p_ref")),
        (Glancing(choice="one_minus_p_ref"), OneByOne("one_minus_p_ref")),
    ],
)
def test_a_proxy_input_names_its_law(proxy_input: ProxyInput, law: Law) -> None:
    assert LAWS[proxy_input.law] == law
    for blank in (Blank(), FixedMask(0), Glancing(0, 0)):
        assert blank.law == "none"
    assert "none" not in LAWS


@pytest.mark.parametrize("split", ["valid", "test"])
def test_l_input_is_that_of_each_sentence_alone_in_the_order_of_the_corpus(
    runs: dict[str, Path], split: str
) -> None:
    run = opened(runs["glat"])
    found = input_information(run, split)
    module, distribution = run.module, run.input_distribution()
    alone = {}
    for batch in run.data.batches(split, max_tokens=1):
        one = Estimate(GivenCount(), draws=4)(module.model, module.proxy, distribution, [batch])  # type: ignore[arg-type]
        alone[int(batch.ids)] = float(one.nats[0]), int(one.tokens[0])
    expected = [alone[int(line)] for line in run.data.corpus(split).lines]
    np.testing.assert_allclose(found.nats, [nats for nats, _ in expected], rtol=1e-4, atol=1e-5)
    assert found.tokens.tolist() == [tokens for _, tokens in expected]
    bits = found.nats.sum() / found.tokens.sum() / math.log(2)
    assert InputLoss(split)(run)["input_loss_bits_per_token"] == pytest.approx(bits)
    assert found.revealed.sum() > 0


@pytest.mark.parametrize("experiment", ["cmlm", "glat_kd", "axe_cmlm"])
def test_l_mple_of_an_input_that_hints(experiment: str, tmp_path: Path) -> None:
    """Its L_NAT is that of the run's validation, its L_input that of `estimator=input_loss`."""
    made = Finished.open(random_run(tmp_path, f"+experiment={experiment}"), "cpu")
    ready()
    distil_at_random(made.job)
    vanilla = random_run(tmp_path, "+experiment=vanilla_raw", seed=1)
    predictor(made.folder, vanilla).execute()
    run = opened(made.folder)
    found = MPLE(beta=0.3)(run)
    given = InputLoss()(run)["input_loss_bits_per_token"]
    assert found["input_loss_bits_per_token"] == pytest.approx(given) != 0
    means = [
        run.module.measure(batch)["nat_loss_proxy_bits_per_token"]
        for batch in run.batches_with_candidates("valid")
    ]
    loss = sum(float(mean.total) for mean in means) / sum(float(mean.count) for mean in means)
    assert found["nat_loss_bits_per_token"] == pytest.approx(loss, rel=1e-5)
    total = loss - 0.3 * found["similarity"] + given
    assert found["mple_loss_bits_per_token"] == pytest.approx(total, rel=1e-5)
    low, high = (found[f"input_loss_{end}_bits_per_token"] for end in ("low", "high"))
    assert low < given < high


def test_a_blank_input_has_none_by_definition(
    runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = opened(runs["vanilla"])
    assert InputLoss()(run)["input_loss_bits_per_token"] == 0
    assert "by definition" in capsys.readouterr().out
    assert (Confidence()(run).keys() & {"default_tokenised_bleu", "sampled_tokenised_bleu"}) == {
        "default_tokenised_bleu"
    }


def test_without_an_input_predictor_the_command_is_named(runs: dict[str, Path]) -> None:
    run = opened(runs["bare"])
    for evaluation in (InputLoss(), Confidence()):
        with pytest.raises(UserError, match=r"python train\.py \+experiment=input_predictor of="):
            evaluation(run)  # type: ignore[operator]


def test_of_several_one_is_chosen_by_name(runs: dict[str, Path], tmp_path: Path) -> None:
    run = Path(shutil.copytree(runs["glat"], tmp_path / "run"))
    (first,) = (run / "input_predictor").iterdir()
    shutil.copytree(first, first.with_name("other"))
    assert first.name != "other"
    with pytest.raises(UserError, match=rf"one of those of .*: {first.name}, other; got none"):
        InputLoss()(opened(run))
    with pytest.raises(UserError, match="got third"):
        InputLoss(input_predictor="third")(opened(run))
    found = [input_information(opened(run), "valid", name).nats for name in (first.name, "other")]
    np.testing.assert_array_equal(*found)


def test_distilled_targets_are_not_there_for_the_test_split(tmp_path: Path) -> None:
    run = opened(random_run(tmp_path, "+experiment=glat_kd"))
    with pytest.raises(UserError, match="only valid has those of base"):
        next(run.batches_with_candidates("test"))


# --- decoding -----------------------------------------------------------------------------------------


def test_input_sampling_is_the_same_in_evaluate_and_translate(runs: dict[str, Path]) -> None:
    run = opened(runs["glat"])
    run.decode_with(InputSampling(seed=3))
    decoding = run.module.decoding  # type: ignore[union-attr]
    assert isinstance(decoding, InputSampling)
    assert decoding.distribution is not None
    _, sources, _ = run.data.text("test")
    expected = run.translate("test", decoding)
    node = {"_target_": "mple.decoding.input_sampling.InputSampling", "seed": 3, "input_predictor": None}
    trained = load(runs["glat"]).with_decoding(node)
    assert [trained.translate([source])[0] for source in sources] == expected
    assert expected != run.translate("test", Argmax())
    assert len(trained.translate(sentences(3, seed=5))) == 3


def test_input_sampling_is_refused_where_it_cannot_be(runs: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="which is trained for a finished run"):
        job("+experiment=glat_raw", "decoding=input_sampling")
    with pytest.raises(UserError, match="the Z of vanilla_raw reveals nothing"):
        opened(runs["vanilla"]).decode_with(InputSampling())
    node = {"_target_": "mple.decoding.input_sampling.InputSampling"}
    with pytest.raises(UserError, match="must have a trained input predictor"):
        load(runs["bare"]).with_decoding(node)


def test_confidence_and_bleu_of_both_decodings(runs: dict[str, Path]) -> None:
    run = opened(runs["glat"])
    found = Confidence(InputSampling(seed=3), split="valid")(run)
    _, sources, references = run.data.text("valid")
    sampling = InputSampling(seed=3).prepared(distribution=run.input_distribution())
    sums = []
    for way, decoding in (("default", Argmax()), ("sampled", sampling)):
        outputs = run.translate("valid", decoding)
        sums.append(sacrebleu.corpus_bleu(outputs, [references]).score)
        bleu = run.module.score("valid", sources, references, outputs)["tokenised_bleu"]
        assert found[f"{way}_tokenised_bleu"] == bleu
        parts = [found[f"{way}_confidence_{part}_nats_per_token"] for part in ("input", "target")]
        assert found[f"{way}_confidence_nats_per_token"] == pytest.approx(sum(parts))
    assert found["sampling_gain_bleu"] == pytest.approx(sums[1] - sums[0])
    assert found["sampling_gain_low_bleu"] <= found["sampling_gain_bleu"] <= found["sampling_gain_high_bleu"]
    assert found["default_confidence_nats_per_token"] != found["sampled_confidence_nats_per_token"]
