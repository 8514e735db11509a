"""Checkpoints: the best are kept, and a mean of them that is worse than the best is said to be."""

from pathlib import Path

import torch

from mple.callbacks import Checkpoints, write_whole


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


def test_a_mean_worse_than_its_best_checkpoint_is_said(tmp_path: Path) -> None:
    checkpoints = best(tmp_path, 9.0, 8.0, 0.5)
    assert checkpoints.warning(9.4) is None
    assert checkpoints.warning(8.2) is None  # within what checkpoints differ by
    assert checkpoints.warning(3.93) == (
        "the mean of the checkpoints of updates 900, 1,000 has valid/tokenised_bleu 3.93, that of "
        "update 1,000 alone 9.00: average fewer of them (average_best=1) or train longer"
    )
