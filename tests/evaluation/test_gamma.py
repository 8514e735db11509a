"""γ of a finished run of Dynamic KD: tuned on real references, refused on a single one."""

import random
from pathlib import Path

import numpy as np
import pytest
import sacrebleu
import torch

from mple.checks import UserError
from mple.data.candidates import DistilledWriter
from mple.estimator.gamma import GridSearch, similarity
from mple.evaluation import Evaluation
from mple.evaluation.finished import Finished
from mple.evaluation.gamma import Gamma
from mple.evaluation.references import Files
from tests.evaluation.test_mple import made
from tests.evaluation.test_references import lines
from tests.runs import _TGT, random_run, sentences
from tests.test_evaluate import opened

TEACHERS = ("tiny", "small", "base", "big")


def test_a_candidate_that_people_write_gets_the_weight(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two people write what one teacher says, with a word more each: γ must learn to follow that teacher."""
    run = made(tmp_path, "+experiment=vanilla_dynkd")
    candidates = run.data.candidates("valid")
    assert candidates is not None
    tokens = candidates.tokens(np.arange(len(candidates)))
    base = run.data.decode(torch.tensor(tokens[:, candidates.names.index("base")]))
    paths = (
        lines(tmp_path / "one", [f"{text} one" for text in base]),
        lines(tmp_path / "two", [f"the {text}" for text in base]),
    )
    evaluation = Gamma(references=Files(paths, allow_leak=True), folds=2)
    assert isinstance(evaluation, Evaluation)
    found = evaluation(run)
    assert found["selected_base_percent"] > 80
    assert found["gamma_gain_bleu"] > 0
    assert found["target_loss_bits_per_token"] < found["target_loss_uniform_bits_per_token"]
    assert f"proxy_target.gamma.base={found['gamma_base']:.3g}" in capsys.readouterr().out
    grid = Gamma(search=GridSearch(), references=Files(paths, allow_leak=True), folds=2)(run)
    truth = np.stack(
        [
            Files(paths, allow_leak=True)
            .similarity(run, "valid", run.data.decode(torch.tensor(tokens[:, k])))
            .values
            for k in range(5)
        ],
        1,
    )
    gamma = np.array([grid[f"gamma_{name}"] for name in candidates.names])
    best = similarity(np.asarray(candidates.scores), truth, gamma).mean()
    assert grid["target_loss_bits_per_token"] == pytest.approx(-0.2 * best)


def test_a_single_reference_is_refused(tmp_path: Path) -> None:
    run = made(tmp_path, "+experiment=vanilla_dynkd")
    with pytest.raises(UserError, match="several references of a sentence; the data have one"):
        Gamma(folds=2)(run)
    one = lines(tmp_path / "one", sentences(10, seed=7))
    with pytest.raises(UserError, match="none of 10 has them"):
        Gamma(references=Files((one,), allow_leak=True), folds=2)(run)


def test_other_runs_are_refused(tmp_path: Path) -> None:
    run = opened(random_run(tmp_path, "+experiment=vanilla_kd"))
    with pytest.raises(UserError, match="for a run of Dynamic KD; got vanilla_kd seed 1"):
        Gamma()(run)
    with pytest.raises(UserError, match=r"estimator\.folds"):
        Gamma(folds=1)


def distil_the_grammar(run: Finished) -> None:
    """Every teacher says one of the targets of a source, drawn evenly; of training, the reference."""
    grammar, data = run.job.source.grammar, run.data
    for seed, (name, teacher) in enumerate(run.job.teachers().items()):
        for split in ("train", "valid"):
            corpus, draw = data.corpus(split), random.Random(seed)
            tokens = corpus.tgt(range(len(corpus)))
            if split == "valid":
                said = [draw.choice(list(grammar.targets(source))) for source in corpus.text()[0]]
                tokens = data.tgt_vocabulary.encode(said)
            writer = DistilledWriter(teacher.distilled_folder() / split, corpus, name)
            for part in writer.missing():
                writer.write(part, [tokens[row] for row in writer.rows(part)])
            writer.finish()


def test_on_the_grammar_the_references_are_its_distribution(tmp_path: Path) -> None:
    """L̂_target at γ = 1 and at the γ found, by enumerating every target of every source."""
    sizes = [f"data.source.{split}={count}" for split, count in (("train", 40), ("valid", 6), ("test", 6))]
    folder = random_run(tmp_path, "+experiment=vanilla_dynkd", data=("data=grammar", *sizes))
    distil_the_grammar(opened(folder))
    run = opened(folder)
    found = Gamma(folds=2, beta=0.5)(run)
    candidates = run.data.candidates("valid")
    assert candidates is not None
    tokens = candidates.tokens(np.arange(len(candidates)))
    texts = [run.data.decode(torch.tensor(tokens[:, k])) for k in range(5)]
    grammar, sources = run.job.source.grammar, run.data.text("valid")[1]

    def bleu(hypothesis: str, reference: str) -> float:
        return sacrebleu.sentence_bleu(hypothesis, [reference], tokenize="none").score

    tuned = [found[f"gamma_{name}"] for name in candidates.names]
    for key, gamma in (("target_loss", tuned), ("target_loss_uniform", [1.0] * 5)):
        loss = 0.0
        for row, source in enumerate(sources):
            said = [text[row] for text in texts]
            agreement = [sum(g * bleu(t, i) for g, i in zip(gamma, said, strict=True)) for t in said]
            pick = said[int(np.argmax(np.round(agreement, 6)))]
            loss -= 0.5 * sum(p * bleu(pick, y) for y, p in grammar.targets(source).items())
        assert found[f"{key}_bits_per_token"] == pytest.approx(loss / len(sources), abs=1e-3)


def test_the_overrides_name_the_key_of_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An aligned target has Dynamic KD as its reference, one level down."""
    reference = ("+proxy_target@proxy_target.reference=dynamic_kd", "~proxy_target.reference.teacher")
    run = made(tmp_path, "+experiment=axe_tau5", *reference)
    paths = [lines(tmp_path / str(seed), sentences(10, seed, _TGT)) for seed in (7, 8)]
    Gamma(references=Files(paths, allow_leak=True), folds=2)(run)
    said = capsys.readouterr().out
    for name in ("tiny", "base", "raw"):
        assert f"proxy_target.reference.gamma.{name}=" in said
