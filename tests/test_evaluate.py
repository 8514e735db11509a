"""Evaluations of finished runs: opened whole, decoded in order, compared only where that means something."""

import dataclasses
import json
import math
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from mple.checks import UserError
from mple.decoding.argmax import Argmax
from mple.decoding.decode import Decode
from mple.decoding.fill import OnePass
from mple.decoding.lengths import TopLengths
from mple.decoding.mask_predict import MaskPredict
from mple.evaluate import evaluate
from mple.evaluation.finished import Finished
from mple.evaluation.length_factor import LengthFactor
from mple.evaluation.length_penalty import LengthPenalty
from mple.evaluation.text import Text
from mple.evaluation.total_correlation import TotalCorrelation, sentence_losses
from mple.files import read_json, write_json, write_yaml
from mple.model.autoregressive import Autoregressive
from tests.runs import CONF, distil_at_random, random_run, text_job


@pytest.fixture
def hydra_is_ready() -> Iterator[None]:
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        yield


@pytest.fixture
def nat(tmp_path: Path) -> Path:
    return random_run(tmp_path / "nat", "+experiment=vanilla_raw")


def opened(folder: Path) -> Finished:
    """As evaluate.py opens it, after hydra has begun; making another run ends that."""
    GlobalHydra.instance().clear()
    hydra.initialize_config_dir(str(CONF), version_base="1.3")
    return Finished.open(folder, "cpu")


def test_a_run_is_found_from_any_folder_above_it(nat: Path) -> None:
    assert opened(nat.parents[2]).folder == nat
    with pytest.raises(UserError, match="no folder"):
        Finished.open(nat / "nowhere")
    (nat / "averaged.pt").unlink()
    with pytest.raises(UserError, match=r"lacks averaged\.pt"):
        Finished.open(nat)


def test_data_and_teachers_are_found_where_the_outputs_are_now(tmp_path: Path) -> None:
    folder = random_run(tmp_path / "old", "+experiment=vanilla_kd")
    opened(folder)
    distil_at_random(Finished.open(folder).job)
    outputs = folder.parents[3]
    moved = Path(shutil.move(outputs, tmp_path / "new"))
    run = opened(moved / folder.relative_to(outputs))
    assert run.job.cfg.outputs == str(moved)
    assert next(run.batches_with_candidates("valid")).candidate_names == ("base",)
    assert not outputs.exists()


def test_several_runs_are_named(tmp_path: Path, nat: Path) -> None:
    random_run(tmp_path / "nat", "+experiment=glat_raw")
    with pytest.raises(UserError, match=r"holds 2: .*glat_raw.*vanilla_raw"):
        Finished.open(tmp_path / "nat")


def test_outputs_are_in_the_order_of_the_corpus_and_those_of_one_by_one(nat: Path) -> None:
    run = opened(nat)
    lines, _, _ = run.data.text("test")
    model = run.module.model
    alone = {}
    for batch in run.data.batches("test", max_tokens=1):
        assert len(batch) == 1
        alone[int(batch.ids)] = run.data.decode(Argmax()(model, batch.src_tokens).tokens)[0]
    assert run.translate("test", Argmax()) == [alone[int(line)] for line in lines]


def test_text_is_scored_as_the_run_was(nat: Path) -> None:
    run = opened(nat)
    found = Text(split="valid")(run)
    _, sources, references = run.data.text("valid")
    assert found == run.module.score("valid", sources, references, run.translate("valid", Argmax()))
    with pytest.raises(UserError, match=r"estimator\.split must be one of"):
        Text(split="train")


def test_the_loss_of_each_sentence_is_that_of_its_tokens(nat: Path) -> None:
    run = opened(nat)
    found = sentence_losses(run, "test")
    for row, batch in enumerate(sorted(run.data.batches("test", max_tokens=1), key=lambda b: int(b.ids))):
        length = int(batch.tgt_lengths)
        model = run.module.model
        output = model.decode(model.blank(batch.tgt_lengths), model.encode(batch.src_tokens))
        log_probs = output.logits[0].detach().log_softmax(-1)
        nats = -sum(float(log_probs[i, batch.tgt_tokens[0, i]]) for i in range(length))
        assert found.nats[row] == pytest.approx(nats, rel=1e-5)
        assert found.tokens[row] == length
        of_lengths = model.length.log_probs(model.encode(batch.src_tokens))[0].detach()
        offset, most = length - (int((batch.src_tokens != 0).sum()) - 1), model.length.max_offset  # no eos
        label = most + max(-most, min(most, offset))
        assert found.length_nats[row] == pytest.approx(-float(of_lengths[label]), rel=1e-5)


def test_total_correlation_is_the_difference_of_the_losses(tmp_path: Path, nat: Path) -> None:
    at = random_run(tmp_path / "nat", "+experiment=at", "size=student")
    run, other = opened(nat), Finished.open(at, "cpu")
    found = TotalCorrelation(at=str(at))(run)
    one, two = sentence_losses(run, "test"), sentence_losses(other, "test")
    assert two.length_nats is None  # its eos says it
    bits = (one.nats + one.length_nats - two.nats).sum() / math.log(2)
    assert found["total_correlation_bits_per_token"] == pytest.approx(bits / one.tokens.sum())
    assert np.array_equal(one.tokens, two.tokens)
    # eos is in the loss of the autoregressive model: it is what says the length
    model = other.module.model
    batch = next(iter(other.data.batches("test", max_tokens=1)))
    labels = torch.cat([batch.tgt_tokens[0], torch.tensor([2])])
    log_probs = model.decode(model.prefixes(batch.tgt_tokens), model.encode(batch.src_tokens)).logits[0]
    nats = -float(log_probs.detach().log_softmax(-1).gather(1, labels.unsqueeze(1)).sum())
    lines = other.data.text("test")[0].tolist()
    assert two.nats[lines.index(int(batch.ids))] == pytest.approx(nats, rel=1e-5)


def test_total_correlation_of_distilled_text(tmp_path: Path) -> None:
    """Two models of a teacher's text are measured on that text, the teacher's on the validation sentences."""
    kd = random_run(tmp_path, "+experiment=vanilla_kd")
    at = random_run(tmp_path, "+experiment=at_kd", "size=student")
    run, other = opened(kd), Finished.open(at, "cpu")
    distil_at_random(other.job)
    found = TotalCorrelation(at=str(at), split="valid")(run)
    one, two = sentence_losses(run, "valid"), sentence_losses(other, "valid")
    assert two.length_nats is None  # its eos says it
    bits = (one.nats + one.length_nats - two.nats).sum() / math.log(2)
    assert found["total_correlation_bits_per_token"] == pytest.approx(bits / one.tokens.sum())
    said = run.data.candidates("valid")
    assert said is not None
    learned = said.tokens(np.arange(len(said)))[:, 0]
    assert np.array_equal(one.tokens, (learned != 0).sum(1))
    row = int(np.argmax(one.tokens != run.data.corpus("valid").lengths()[1]))  # else raw text would do
    labels = torch.tensor(learned[row][learned[row] != 0])
    (batch,) = [b for b in run.data.batches("valid", max_tokens=1) if int(b.ids) == said.corpus.lines[row]]
    model = run.module.model
    with torch.no_grad():
        output = model.decode(model.blank(torch.tensor([len(labels)])), model.encode(batch.src_tokens))
        nats = -float(output.logits[0].log_softmax(-1).gather(1, labels.unsqueeze(1)).sum())
    assert one.nats[row] == pytest.approx(nats, rel=1e-5)


def test_c_is_of_two_models_of_one_text(tmp_path: Path) -> None:
    kd = random_run(tmp_path, "+experiment=vanilla_kd")
    at = random_run(tmp_path, "+experiment=at", "size=student")
    kd_of_big = random_run(tmp_path, "+experiment=at_kd", "size=student", "proxy_target.teacher=big")
    run = opened(kd)
    for other in (at, kd_of_big):
        with pytest.raises(UserError, match="two models of the same text"):
            TotalCorrelation(at=str(other), split="valid")(run)


def test_c_says_which_lengths_no_model_can_predict(tmp_path: Path) -> None:
    at = random_run(tmp_path, "+experiment=at", "size=student")
    for most, is_beyond in ((1, True), (30, False)):
        run = opened(
            random_run(tmp_path, "+experiment=vanilla_raw", f"module.model.length.max_offset={most}")
        )
        TotalCorrelation(at=str(at))(run)
        source, target = run.data.corpus("test").lengths()
        beyond = int((np.abs(np.subtract(target, source, dtype=np.int64)) > most).sum())
        assert (beyond > 0) == is_beyond
        assert [note.split(" targets")[0] for note in run.notes] == (
            [f"the lengths of {beyond} of 10"] if is_beyond else []
        )


def test_c_is_of_two_models_of_the_same_training_data(
    tmp_path: Path, nat: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fewer = random_run(tmp_path / "fewer", "+experiment=at", "size=student", "data.max_length=3")
    other = random_run(tmp_path / "other", "+experiment=at", "size=student", "data.vocabulary.size=70")
    large = random_run(tmp_path / "large", "+experiment=at", "sizes.base.d_ff=512")
    run = opened(nat)
    with pytest.raises(
        UserError, match=r"trained on the same data; vanilla_raw.* has learned from \d+ pairs"
    ):
        TotalCorrelation(at=str(fewer))(run)
    with pytest.raises(UserError, match="the same vocabularies"):
        TotalCorrelation(at=str(other))(run)
    TotalCorrelation(at=str(large))(run)
    assert "C is of two models of one size; at_base" in capsys.readouterr().out


def test_an_autoregressive_model_learns_a_text(tmp_path: Path) -> None:
    raw = text_job(tmp_path, "+experiment=at")
    for proxy_target in ("axe", "oaxe", "dynamic_kd"):
        with pytest.raises(UserError, match="proxy_target must be raw or kd"):
            text_job(tmp_path, "+experiment=at", f"proxy_target={proxy_target}")
    for setting in ("proxy_input=glancing", "vanilla_input=soft_copy", "proxy=input_first"):
        with pytest.raises(UserError, match=f"{setting} would have no effect: at_base is autoregressive"):
            text_job(tmp_path, "+experiment=at", setting)
    assert text_job(tmp_path, "+experiment=at", "proxy_input=blank").run.key == raw.run.key  # as by default
    made = text_job(tmp_path, "+experiment=at_kd")
    assert made.run.key != raw.run.key
    opened(random_run(tmp_path, "+experiment=at_kd"))
    distil_at_random(made)
    data = made.data(0, made.candidates, {n: job.distilled_folder() for n, job in made.teachers().items()})
    data.setup()
    module = made.module(data).eval()
    batch = next(iter(data.val_dataloader()))
    assert batch.tgt_candidates is not None
    as_raw = text_job(tmp_path, "+experiment=at").module(data).eval()
    as_raw.load_state_dict(module.state_dict())
    taught = dataclasses.replace(batch, tgt_tokens=batch.tgt_candidates[:, 0])
    measured, expected = module.measure(batch), as_raw.measure(taught)
    (of_raw,) = as_raw.measure(batch).values()
    assert list(measured) == ["at_loss_raw_bits_per_token", "at_loss_proxy_bits_per_token"]
    assert measured["at_loss_raw_bits_per_token"].value() == pytest.approx(of_raw.value())
    proxy = measured["at_loss_proxy_bits_per_token"].value()
    assert proxy == pytest.approx(expected["at_loss_raw_bits_per_token"].value())
    assert proxy != pytest.approx(of_raw.value(), rel=1e-3)
    with torch.no_grad():
        losses, expected_losses = module.losses(batch)[0], as_raw.losses(taught)[0]
    for one, other in zip(losses.values(), expected_losses.values(), strict=True):
        assert one.value() == pytest.approx(other.value())


def test_c_is_refused_where_it_means_nothing(tmp_path: Path, nat: Path) -> None:
    glat = random_run(tmp_path / "nat", "+experiment=glat_raw")
    at = random_run(tmp_path / "nat", "+experiment=at", "size=student")
    run = opened(nat)
    with pytest.raises(UserError, match=r"estimator\.at must name"):
        TotalCorrelation()(run)
    with pytest.raises(UserError, match="compares a NAT"):
        TotalCorrelation(at=str(nat))(run)
    with pytest.raises(UserError, match="another proxy's loss"):
        TotalCorrelation(at=str(at))(Finished.open(glat, "cpu"))


def test_a_decoding_that_the_model_cannot_serve_is_refused(nat: Path) -> None:
    run = opened(nat)
    with pytest.raises(UserError, match="the Z of vanilla_raw reveals nothing"):
        run.decode_with(Decode(TopLengths(beam=1), MaskPredict(iterations=4)))
    run.decode_with(Decode(TopLengths(beam=1), MaskPredict(iterations=1)))  # one pass shows nothing


def test_a_decoding_without_effect_is_refused(nat: Path) -> None:
    opened(nat)
    for estimator in ("total_correlation", "input_loss"):
        overrides = [f"run={nat}", f"estimator={estimator}", "decoding=length_parallel", "device=cpu"]
        with pytest.raises(UserError, match=f"estimator={estimator}, on which it has no effect"):
            evaluate(hydra.compose("evaluate", overrides), overrides)


def test_the_best_length_factor_is_the_best_on_validation(nat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def by_length(
        _split: str, _sources: list[str], references: list[str], outputs: list[str]
    ) -> dict[str, float]:
        """In place of BLEU, which is 0 for all that a random model says."""
        words, wanted = (sum(len(text.split()) for text in texts) for texts in (outputs, references))
        return {"tokenised_bleu": -abs(words / wanted - 1)}

    run = opened(nat)
    monkeypatch.setattr(run.module, "score", by_length)
    with pytest.raises(UserError, match="got Argmax"):
        LengthFactor()(run)
    run.decode_with(Decode(TopLengths(beam=1), OnePass()))
    found = LengthFactor(low=0.5, high=1.5, step=0.5)(run)
    bleu = {key: value for key, value in found.items() if key.startswith("valid_bleu_at")}
    assert list(bleu) == ["valid_bleu_at_0.5", "valid_bleu_at_1", "valid_bleu_at_1.5"]
    assert len(set(bleu.values())) == 3
    assert bleu[f"valid_bleu_at_{found['best_factor']:g}"] == max(bleu.values())


def test_the_best_length_penalty_is_the_best_on_validation(
    nat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="estimator=length_penalty needs an autoregressive run"):
        LengthPenalty()(opened(nat))
    run = opened(random_run(tmp_path / "at", "+experiment=at"))
    by_penalty = {0.5: 3.0, 1.0: 7.0, 1.5: 7.0}
    monkeypatch.setattr(run, "translate", lambda split, beam: [f"{split} {beam.beam} {beam.length_penalty}"])

    def score(
        split: str, _sources: list[str], _references: list[str], outputs: list[str]
    ) -> dict[str, float]:
        decoded, beam, penalty = outputs[0].split()
        assert (split, decoded, beam) == ("valid", "valid", "5")
        return {"tokenised_bleu": by_penalty[float(penalty)]}

    monkeypatch.setattr(run.module, "score", score)
    report = LengthPenalty(low=0.5, high=1.5, step=0.5)(run)
    assert report == {
        "valid_bleu_at_0.5": 3.0,
        "valid_bleu_at_1": 7.0,
        "valid_bleu_at_1.5": 7.0,
        "best_length_penalty": 1.0,  # of equal ones the nearest to 1
    }


def test_a_run_whose_version_lacked_the_papers_settings_opens_without_them(tmp_path: Path) -> None:
    """Its budget=paper had learned positions, dropout on attention weights, and smoothing over all tokens."""
    older = "autoregressive={positions: null, spread: null}"
    folder = random_run(
        tmp_path, "+experiment=at", "budget=paper", older, "micro_batches=null", "valid_every=100"
    )
    run_json = read_json(folder / "run.json")
    command = [w for w in shlex.split(run_json["command"]) if w != older and "micro_batches" not in w]
    write_json(folder / "run.json", run_json | {"command": shlex.join(command)})
    config = OmegaConf.load(folder / "config.yaml")
    assert isinstance(config, DictConfig)
    for key in ("autoregressive", "non_autoregressive", "micro_batches"):
        del config[key]
    del config.module.model["positions"], config.objective["spread"]
    for size in config.sizes.values():
        del size["attention_dropout"], size["attention_init"]
    write_yaml(folder / "config.yaml", OmegaConf.to_yaml(config))
    run = opened(folder)
    assert isinstance(run.module.model, Autoregressive)
    assert isinstance(run.module.model.encoder.embedding.positions, torch.nn.Embedding)
    assert run.job.size.attention_dropout is None
    assert run.job.objective.spread is None
    assert run.job.accumulate == 1


def test_what_was_measured_is_kept_with_its_command(nat: Path, hydra_is_ready: None) -> None:
    overrides = [f"run={nat}", "decoding=length_parallel", "device=cpu"]
    cfg = hydra.compose("evaluate", overrides)
    found = evaluate(cfg, overrides)
    (file,) = (nat / "evaluations").iterdir()
    report = json.loads(file.read_text())
    assert report["metrics"] == found
    assert report["command"] == " ".join(["python evaluate.py", *overrides])
    assert report["settings"]["decoding"]["lengths"]["beam"] == 3
    other = hydra.compose("evaluate", [*overrides, "decoding.lengths.beam=5"])
    assert OmegaConf.select(other, "decoding.lengths.beam") == 5
    evaluate(other, overrides)
    assert len(list((nat / "evaluations").iterdir())) == 2


def test_settings_of_a_decoding_change_the_run_s_own(nat: Path, hydra_is_ready: None) -> None:
    def settings(*words: str) -> Any:
        overrides = [f"run={nat}", "device=cpu", *words]
        evaluate(hydra.compose("evaluate", overrides), overrides)
        newest = max((nat / "evaluations").iterdir(), key=lambda path: path.stat().st_mtime_ns)
        return json.loads(newest.read_text())["settings"]["decoding"]

    own = settings("decoding=length_parallel", "++decoding.lengths.beam=2")
    assert own["lengths"]["beam"] == 2
    config = OmegaConf.load(nat / "config.yaml")
    OmegaConf.update(config, "decoding", own, merge=False)
    OmegaConf.save(config, nat / "config.yaml")
    assert settings("++decoding.deduplicate=token") == own | {"deduplicate": "token"}
    for words, sentence in (
        (["++decoding.lengths.bem=3"], r"a key of decoding\.lengths must be one of beam, factor; got bem=3"),
        (["++decoding.lengths.beam=x"], r"decoding\.lengths\.beam must be a whole number; got 'x'"),
        (
            ["++decoding.lengths.beam=0"],
            r"decoding\.lengths\.beam \(candidates\) must be a whole number of at",
        ),
        (["decoding=length_parallel", "++decoding.lengths=null"], r"decoding\.lengths must be a mapping"),
    ):
        with pytest.raises(UserError, match=sentence):
            settings(*words)
