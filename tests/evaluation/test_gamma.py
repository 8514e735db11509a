"""γ of a finished run of Dynamic KD: tuned on real references, refused on a single one."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mple.checks import UserError
from mple.estimator.gamma import GridSearch, similarity
from mple.evaluation import Evaluation
from mple.evaluation.gamma import Gamma
from mple.evaluation.references import Files
from tests.evaluation.test_mple import made
from tests.evaluation.test_references import lines
from tests.runs import random_run, sentences
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
