"""C_i of a finished run: of the targets that it learned, with its table and picture."""

import csv
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from mple.checks import UserError
from mple.estimator.refinement import Refinement as Estimate
from mple.evaluation import Evaluation
from mple.evaluation.refinement import Refinement
from tests.evaluation.test_mple import made
from tests.runs import random_run
from tests.test_evaluate import opened


def test_it_is_of_the_text_that_the_run_learned(tmp_path: Path) -> None:
    run = made(tmp_path, "+experiment=cmlm")
    evaluation = Refinement(iterations=3)
    assert isinstance(evaluation, Evaluation)
    found = evaluation(run)
    said = run.data.candidates("valid")
    assert said is not None
    batches: list[Any] = list(run.batches_with_candidates("valid"))
    batches = [dataclasses.replace(batch, tgt_tokens=batch.tgt_candidates[:, 0]) for batch in batches]
    expected = Estimate(iterations=3)(run.module.model, batches)  # type: ignore[arg-type]
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, abs=1e-6)
    stem = run.folder / "evaluations" / "refinement-valid-original-3-1-0"
    rows = list(csv.DictReader(Path(f"{stem}.csv").read_text().splitlines()))
    assert [row["step"] for row in rows] == ["1", "2", "3"]
    assert float(rows[1]["total_correlation_bits_per_token"]) == pytest.approx(
        found["step2_total_correlation_bits_per_token"]
    )
    for suffix in ("svg", "png"):
        assert Path(f"{stem}.{suffix}").stat().st_size > 1000
    kept = Path(f"{stem}.csv").read_bytes()
    Refinement(iterations=3, seed=1)(run)
    assert Path(f"{stem}.csv").read_bytes() == kept  # other settings, another file


def test_the_first_step_sees_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its loss is that of plain decoding on the same text."""
    run = made(tmp_path, "+experiment=cmlm_fixed")
    found = Refinement(iterations=2)(run)
    means = [
        run.module.measure(batch)["nat_loss_base_bits_per_token"]
        for batch in run.batches_with_candidates("valid")
    ]
    total = sum(float(mean.total) for mean in means) / sum(float(mean.count) for mean in means)
    assert found["step1_nat_loss_bits_per_token"] == pytest.approx(total, rel=1e-4)
    # What cannot be is said: step 2 wholly below 0.
    impossible = {key: -abs(value) if "step2_total" in key else abs(value) for key, value in found.items()}
    monkeypatch.setattr(Refinement, "_estimate", lambda _: lambda *_: impossible)
    capsys.readouterr()
    Refinement(iterations=2)(run)
    assert "so at step 2 the estimate is off" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("experiment", ["vanilla_raw", "at"])
def test_models_trained_without_masks_are_refused(experiment: str, tmp_path: Path) -> None:
    run = opened(random_run(tmp_path, f"+experiment={experiment}"))
    with pytest.raises(UserError, match=f"needs a model trained with masks .* got {run.name}"):
        Refinement()(run)
    with pytest.raises(UserError, match=r"estimator\.schedule"):
        Refinement(schedule="none")
