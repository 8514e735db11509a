"""Checkpoints: the best are kept, and a mean of them that is worse than the best is said to be."""

from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn, TrainerState

from mple.callbacks import Checkpoints
from mple.files import write_whole


def best(tmp_path: Path, *values: float) -> Checkpoints:
    """Of updates 1000, 900, …"""
    checkpoints = Checkpoints(tmp_path, "valid/tokenised_bleu")
    checkpoints.load_state_dict({"best": [[value, 1000 - 100 * k] for k, value in enumerate(values)]})
    return checkpoints


def test_checkpoints_far_from_the_best_are_not_averaged(tmp_path: Path) -> None:
    for values, kept in (
        ((36.4, 35.7, 34.9, 34.5, 34.2), 5),  # a long run: the paper's five
        ((55.7, 55.6, 50.9, 14.3), 3),
        ((42.9, 25.9, 5.2, 0.0), 1),
        ((10.0, 8.0, 7.9), 2),
        ((0.0, 0.0), 2),
        ((-1.0, -1.1), 2),  # a log-probability has no share
    ):
        checkpoints = best(tmp_path, *values)
        (tmp_path / "best").mkdir(exist_ok=True)
        for place, (_, update) in enumerate(checkpoints.best):
            write_whole(
                {"w": torch.full((2,), float(place)), "n": torch.tensor(update)}, checkpoints.path(update)
            )
        assert [value for value, _ in checkpoints.averaged] == list(values[:kept])
        mean = checkpoints.average()
        assert mean["w"].tolist() == [sum(range(kept)) / kept] * 2
        assert int(mean["n"]) == 1000  # no mean of what counts


class FakeTrainer(pl.Trainer):
    """What `Checkpoints` asks of a trainer."""

    is_global_zero = True
    global_step = 0

    def __init__(self, fn: TrainerFn = TrainerFn.FITTING) -> None:
        self.state = TrainerState(fn=fn)

    def save_checkpoint(self, filepath: Path, *_: object, **__: object) -> None:  # type: ignore[override]
        torch.save({"step": self.global_step}, filepath)


def validated(checkpoints: Checkpoints, trainer: FakeTrainer, update: int, value: float) -> None:
    module = pl.LightningModule()
    module.results = {"valid/tokenised_bleu": value}  # type: ignore[assignment]
    module.register_buffer("w", torch.tensor(float(update)))
    trainer.global_step = update
    checkpoints.on_validation_end(trainer, module)


def test_the_best_checkpoints_are_kept_and_their_files_alone(tmp_path: Path) -> None:
    checkpoints, trainer = Checkpoints(tmp_path, "valid/tokenised_bleu", keep=2), FakeTrainer()
    for update, value in ((100, 10.0), (200, 30.0), (300, 20.0)):
        validated(checkpoints, trainer, update, value)
    assert checkpoints.best == [(30.0, 200), (20.0, 300)]
    files = sorted(path.name for path in (tmp_path / "best").iterdir())
    assert files == ["update00000200.pt", "update00000300.pt"]
    assert float(torch.load(checkpoints.path(200))["w"]) == 200
    assert torch.load(checkpoints.last) == {"step": 300}
    validated(checkpoints, trainer, 400, 5.0)  # none of the best, but to be resumed from
    assert checkpoints.best == [(30.0, 200), (20.0, 300)]
    assert torch.load(checkpoints.last) == {"step": 400}
    assert not checkpoints.path(400).exists()
    validated(checkpoints, trainer, 500, 20.0)  # the later one of a tie
    assert checkpoints.best == [(30.0, 200), (20.0, 500)]
    assert not checkpoints.path(300).exists()


def test_a_validation_outside_training_keeps_nothing(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "valid/tokenised_bleu")
    validated(checkpoints, FakeTrainer(TrainerFn.VALIDATING), 100, 10.0)
    assert checkpoints.best == []
    assert list(tmp_path.iterdir()) == []


def test_a_mean_worse_than_its_best_checkpoint_is_said(tmp_path: Path) -> None:
    checkpoints = best(tmp_path, 9.0, 8.0, 0.5)
    assert checkpoints.warning(9.4) is None
    assert checkpoints.warning(8.2) is None  # within what checkpoints differ by
    assert checkpoints.warning(3.93) == (
        "the mean of the checkpoints of updates 900, 1,000 has valid/tokenised_bleu 3.93, that of "
        "update 1,000 alone 9.00: average fewer of them (average_best=1) or train longer"
    )
