"""What is measured for Figures 1 and 2, on a tiny model: the plane through three checkpoints, likelihood."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

from experiments.paper_items import likelihood
from experiments.paper_items.plane import Plane, main, measure
from mple.checks import UserError
from mple.evaluation.finished import Finished
from mple.evaluation.total_correlation import sentence_losses
from tests.runs import random_run

CONF = Path(__file__).parents[2] / "conf"


def _weights(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "w": torch.randn(3, 2, generator=generator),
        "b": torch.randn(4, generator=generator),
        "n": torch.tensor(7),
    }


def test_corners_are_the_checkpoints() -> None:
    plane = Plane(*map(_weights, range(3)))
    for a, b, seed in ((0.0, 0.0, 0), (1.0, 0.0, 1), (0.0, 1.0, 2)):
        for name, value in plane.at(a, b).items():
            torch.testing.assert_close(value, _weights(seed)[name])
    assert plane.at(0.3, 0.4)["n"] == 7


def test_coordinates_keep_all_distances() -> None:
    plane = Plane(*map(_weights, range(3)))
    flat = [torch.cat([w["w"].flatten(), w["b"]]).double() for w in map(_weights, range(3))]
    places = torch.tensor(plane.corners(), dtype=torch.float64)
    for i in range(3):
        for j in range(3):
            assert float((places[i] - places[j]).norm()) == pytest.approx(
                float((flat[i] - flat[j]).norm()), abs=1e-6
            )


def test_one_checkpoint_twice_is_refused() -> None:
    with pytest.raises(UserError, match="must differ"):
        Plane(_weights(0), _weights(0), _weights(1)).corners()


@pytest.fixture
def corners(tmp_path: Path) -> list[Path]:
    """Three runs on the same data; the second and third have moved weights."""
    first = random_run(tmp_path, "+experiment=vanilla_raw")
    folders = [first]
    weights: dict[str, Any] = torch.load(first / "averaged.pt", weights_only=True)
    for place in (1, 2):
        folder = Path(shutil.copytree(first, first.parent / f"seed{place + 10}"))
        generator = torch.Generator().manual_seed(place)
        moved = {
            name: value + 0.3 * torch.randn(value.shape, generator=generator)
            if value.is_floating_point()
            else value
            for name, value in weights.items()
        }
        torch.save(moved, folder / "averaged.pt")
        folders.append(folder)
    for folder in folders:
        shutil.copy(folder / "averaged.pt", folder / "last.ckpt")
    return folders


def test_the_grid_has_the_checkpoints_own_losses(
    corners: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the corners L_NAT is that of the whole validation set, as C's evaluation measures it."""
    monkeypatch.setattr("experiments.paper_items.plane.REACH", 0.0)
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        found = measure(corners, sentences=10, points=2)
        assert found["sentences"] == 10
        grid = found["nat_loss_bits_per_token"]
        for folder, loss in zip(corners, (grid[0][0], grid[0][1], grid[1][0]), strict=True):
            own = sentence_losses(Finished.open(folder, "cpu"), "valid")
            assert loss == pytest.approx(own.nats.sum() / own.tokens.sum() / math.log(2), rel=1e-5)
        fewer = measure(corners, sentences=5, points=2)
        assert fewer["sentences"] == 5


def test_the_command_writes_its_report(corners: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    GlobalHydra.instance().clear()
    assert main([*map(str, corners), "--sentences", "4", "--points", "2"]) == 0
    (path,) = (corners[0] / "evaluations").iterdir()
    assert path.name.startswith("plane-")
    assert json.loads(path.read_text())["settings"]["points"] == 2
    assert str(path) in capsys.readouterr().out


def test_likelihood_is_that_of_the_runs_test(corners: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    GlobalHydra.instance().clear()
    assert likelihood.main([str(corners[1])]) == 0
    report = json.loads((corners[1] / "evaluations" / "likelihood-0.json").read_text())
    found = report["metrics"]
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        own = sentence_losses(Finished.open(corners[1], "cpu"), "test")
    expected = own.nats.sum() / own.tokens.sum() / math.log(2)
    assert found["nat_loss_raw_bits_per_token"] == pytest.approx(expected)
    assert found["nat_loss_raw_low_bits_per_token"] < expected < found["nat_loss_raw_high_bits_per_token"]


def test_likelihood_is_of_the_references_whatever_was_learned(tmp_path: Path) -> None:
    """The same weights have one likelihood, also in a run that learned a teacher's text."""
    raw = random_run(tmp_path, "+experiment=vanilla_raw")
    kd = random_run(tmp_path, "+experiment=glat_kd")
    shutil.copy(raw / "averaged.pt", kd / "averaged.pt")
    GlobalHydra.instance().clear()
    assert [likelihood.main([str(folder)]) for folder in (raw, kd)] == [0, 0]
    one, two = (
        json.loads((folder / "evaluations" / "likelihood-0.json").read_text())["metrics"]
        for folder in (raw, kd)
    )
    assert one == two


def test_what_is_no_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    GlobalHydra.instance().clear()
    assert main([str(tmp_path / name) for name in "abc"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: run must be the folder of a finished run")
