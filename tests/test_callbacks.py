"""Checkpoints: the best are kept, and a mean of them that is worse than the best is said to be."""

from pathlib import Path

from mple.callbacks import Checkpoints


def test_a_mean_worse_than_its_best_checkpoint_is_said(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "valid/tokenised_bleu", keep=3)
    checkpoints.load_state_dict({"best": [[9.0, 1000], [4.0, 800], [0.5, 400]]})
    assert checkpoints.warning(9.4) is None
    assert checkpoints.warning(8.2) is None  # within what checkpoints differ by
    assert checkpoints.warning(3.93) == (
        "the mean of the checkpoints of updates 400, 800, 1,000 has valid/tokenised_bleu 3.93, that of "
        "update 1,000 alone 9.00: average fewer of them (average_best=1) or train longer"
    )
