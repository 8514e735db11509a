"""L̂_MPLE of finished runs: against loops over sentences, the run's own validation, and its parts."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import hydra
import numpy as np
import pytest
import torch

from mple.checks import UserError
from mple.estimator.statistics import Bootstrap
from mple.evaluate import evaluate
from mple.evaluation import Evaluation
from mple.evaluation.finished import Finished
from mple.evaluation.mple import MPLE, draw_targets
from mple.evaluation.references import Known, Similarity
from mple.types import BLANK, PAD
from tests.runs import distil_at_random, random_run, text_job, write_corpus
from tests.test_evaluate import opened

FAST = Bootstrap(200)
UNITS = ("nat_loss", "target_loss", "input_loss", "mple_loss")


def made(root: Path, *overrides: str) -> Finished:
    run = opened(random_run(root, *overrides))
    distil_at_random(run.job)
    return opened(run.folder)


def test_every_part_of_plain_likelihood(tmp_path: Path) -> None:
    run = made(tmp_path, "+experiment=vanilla_kd")
    found = MPLE(beta=0.3, bootstrap=FAST)(run)
    assert isinstance(MPLE(), Evaluation)
    nats, tokens, model = 0.0, 0, run.module.model
    said = run.data.candidates("valid")
    assert said is not None
    texts = []
    for batch in run.data.batches("valid", max_tokens=1):
        row = said.corpus.lines.tolist().index(int(batch.ids))
        labels = torch.tensor(said.tokens(np.array([row]))[0, 0])
        labels = labels[labels != PAD]
        output = model.decode(model.blank(torch.tensor([len(labels)])), model.encode(batch.src_tokens))
        log_probs = output.logits[0].log_softmax(-1)
        nats -= float(log_probs.gather(1, labels.unsqueeze(1)).sum().detach())
        tokens += len(labels)
        texts.append((row, run.data.decode(labels.unsqueeze(0))[0]))
    assert found["nat_loss_bits_per_token"] == pytest.approx(nats / tokens / math.log(2), rel=1e-5)
    similarity = Known().similarity(run, "valid", [text for _, text in sorted(texts)]).values.mean()
    assert found["similarity"] == pytest.approx(similarity)
    assert found["target_loss_bits_per_token"] == pytest.approx(-0.3 * similarity)
    assert found["input_loss_bits_per_token"] == 0
    assert found["bleu"] == run.metrics["test"]["tokenised_bleu"]


@pytest.mark.parametrize("experiment", ["vanilla_raw", "axe_tau5", "oaxe_10k", "vanilla_dynkd"])
def test_it_is_what_the_runs_own_validation_measures(experiment: str, tmp_path: Path) -> None:
    start = (
        ()
        if experiment != "oaxe_10k"
        else (f"start={random_run(tmp_path, '+experiment=vanilla_kd')}/averaged.pt",)
    )
    run = made(tmp_path, f"+experiment={experiment}", *start)
    means = [
        run.module.measure(batch)["nat_loss_proxy_bits_per_token"]
        for batch in run.batches_with_candidates("valid")
    ]
    total = sum(float(mean.total) for mean in means) / sum(float(mean.count) for mean in means)
    found = MPLE(bootstrap=FAST)(run)
    assert found["nat_loss_bits_per_token"] == pytest.approx(total, rel=1e-5)
    parts = sum(found[f"{name}_bits_per_token"] for name in UNITS[:3])
    assert found["mple_loss_bits_per_token"] == pytest.approx(parts)
    for name in UNITS:
        low, value, high = (found[f"{name}{end}_bits_per_token"] for end in ("_low", "", "_high"))
        assert low <= value <= high
        assert low < high or name == "input_loss" or (name == "target_loss" and experiment == "vanilla_raw")
    assert found["similarity_low"] <= found["similarity"] <= found["similarity_high"]


@pytest.mark.parametrize(
    ("data", "langs", "beta"), [("wmt17_zh_en", ("zh", "en"), 0.25), ("wmt14_en_de", ("en", "de"), 0.2)]
)
def test_beta_is_the_data_sets(data: str, langs: tuple[str, str], beta: float, tmp_path: Path) -> None:
    """0.25 for Zh-En in L_MPLE, where Dynamic KD has 0.1; 0.2 for En-De."""
    corpus = write_corpus(tmp_path / "corpus")
    for split in ("train", "valid", "test"):
        for old, new in zip(("de", "en"), langs, strict=True):
            (corpus / f"{split}.{old}").rename(corpus / f"{split}.{new}.new")
        for new in langs:
            (corpus / f"{split}.{new}.new").rename(corpus / f"{split}.{new}")
    names = (f"data={data}", f"data.root={corpus}", "data.vocabulary.size=90", "budget=mini")
    folder = random_run(tmp_path, "+experiment=vanilla_raw", data=names)
    run = opened(folder)
    assert run.beta == beta
    overrides = [f"run={folder}", "estimator=mple", "device=cpu"]
    found = evaluate(hydra.compose("evaluate", overrides), overrides)
    assert found["beta"] == beta
    assert found["target_loss_bits_per_token"] == pytest.approx(-beta * found["similarity"])
    (report,) = (folder / "evaluations").glob("mple-*.json")
    assert json.loads(report.read_text())["settings"]["estimator"]["beta"] == beta
    overrides.append("estimator.beta=0.3")
    assert evaluate(hydra.compose("evaluate", overrides), overrides)["beta"] == 0.3


def test_sentences_without_references_have_no_share_in_the_target_loss(tmp_path: Path) -> None:
    class Few:
        def similarity(self, run: Finished, split: str, targets: Sequence[str]) -> Similarity:
            return Similarity(np.array([50.0, np.nan] * (len(targets) // 2)), "half of them")

    run = made(tmp_path, "+experiment=vanilla_raw")
    found = MPLE(beta=0.2, references=Few(), bootstrap=FAST)(run)
    assert found["target_loss_bits_per_token"] == pytest.approx(-10)
    assert found["similarity"] == 50


def test_revealed_positions_lose_nothing_in_the_nat_loss(tmp_path: Path) -> None:
    """As in the validation of the run: a token that Z reveals counts, with 0."""
    run = made(tmp_path, "+experiment=cmlm")
    means = [
        run.module.measure(batch)["nat_loss_proxy_bits_per_token"]
        for batch in run.batches_with_candidates("valid")
    ]
    total = sum(float(mean.total) for mean in means) / sum(float(mean.count) for mean in means)
    drawn = draw_targets(run, "valid")
    assert drawn.nats.sum() / drawn.tokens.sum() / math.log(2) == pytest.approx(total, rel=1e-5)


def test_recorded_losses_of_a_bf16_run_are_float32(tmp_path: Path) -> None:
    """What a run recorded of its validation and what estimator=mple computes later are one number."""
    few = ("updates=4", "valid_every=2", "log_every=2", "trainer.precision=bf16-mixed")
    made = text_job(tmp_path, "+experiment=glat_raw", *few)
    recorded = made.execute()
    drawn = draw_targets(opened(made.run.folder), "valid")
    proxy = drawn.nats.sum() / drawn.tokens.sum() / math.log(2)
    assert recorded["valid"]["nat_loss_proxy_bits_per_token"] == pytest.approx(proxy, abs=1e-6)


def test_texts_of_aligned_targets_are_the_models_and_have_no_blanks(tmp_path: Path) -> None:
    run = made(tmp_path, "+experiment=axe_tau1", "proxy_target.delta=0")
    drawn = draw_targets(run, "valid")
    corpus = run.data.corpus("valid")
    blanks = 0
    for batch in run.batches_with_candidates("valid"):
        encoder_out = run.module.model.encode(batch.src_tokens)
        target, _, _ = run.module.proxy(batch, run.module.snapshot(batch, encoder_out))  # type: ignore[union-attr]
        blanks += int((target.tokens == BLANK).sum())
        for line, tokens in zip(batch.ids.tolist(), target.tokens, strict=True):
            row = corpus.lines.tolist().index(line)
            kept = tokens[(tokens != BLANK) & (tokens != PAD)]
            assert drawn.texts[row] == run.data.decode(kept.unsqueeze(0))[0]
            assert drawn.tokens[row] == int((tokens != PAD).sum())
    assert blanks > 0


def test_what_it_does_not_apply_to_is_refused(tmp_path: Path) -> None:
    run = opened(random_run(tmp_path, "+experiment=at", "size=student"))
    with pytest.raises(UserError, match="at_student seed 1 is autoregressive"):
        MPLE()(run)
    run = opened(random_run(tmp_path, "+experiment=glat_raw"))
    with pytest.raises(UserError, match="must have a trained input predictor"):
        MPLE()(run)
    run = opened(random_run(tmp_path, "+experiment=vanilla_kd"))
    with pytest.raises(UserError, match="only valid has those of base"):
        MPLE(split="test")(run)
    with pytest.raises(UserError, match=r"estimator\.beta"):
        MPLE(beta=-1)


def test_joint_intervals_of_ratios() -> None:
    """A sum whose terms cancel in every sentence has no spread; one term alone is its own interval."""
    draw = np.random.default_rng(0)
    a, b = draw.random(50), draw.integers(1, 5, 50).astype(float)
    assert FAST.ratios([(a, b, 2.0), (a, b, -2.0)]).high == pytest.approx(0, abs=1e-12)
    alone = FAST.ratios([(a, b, 1 / math.log(2))])
    expected = FAST.bits_per_token(a, b.astype(np.int64))
    assert (alone.value, alone.low, alone.high) == pytest.approx(
        (expected.value, expected.low, expected.high)
    )
