"""Weights to start from: read safely, refused when they do not fit."""

from pathlib import Path

import pytest
import torch

from mple import start
from mple.checks import UserError
from mple.data.vocabulary import WordVocabulary
from tests.fakes import autoregressive, nat, tiny_nat
from tests.runs import random_run, text_job


def test_a_checkpoint_and_a_file_of_weights_are_read_alike(tmp_path: Path) -> None:
    weights = nat().state_dict()
    torch.save(weights, tmp_path / "averaged.pt")
    torch.save({"state_dict": weights, "global_step": 3}, tmp_path / "last.ckpt")
    for name in ("averaged.pt", "last.ckpt"):
        found = start.read(tmp_path / name)
        assert all(torch.equal(found[key], value) for key, value in weights.items())
        start.check(found, weights, tmp_path / name)


class Danger:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("touched"),)  # type: ignore[return-value]


def test_a_file_that_is_no_weights_is_refused_and_not_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="there is no"):
        start.read(Path("missing.pt"))
    Path("text.pt").write_text("no weights")
    torch.save(Danger(), "danger.pt")
    torch.save({"step": 3}, "other.pt")
    for name, message in (("text", "cannot be read"), ("danger", "cannot be read"), ("other", "holds none")):
        with pytest.raises(UserError, match=message):
            start.read(Path(f"{name}.pt"))
    assert not Path("touched").exists()


def test_weights_of_another_model_are_refused_by_what_differs() -> None:
    model, path = nat().state_dict(), Path("run/last.ckpt")
    with pytest.raises(UserError, match=r"vocabulary of the data \(20 entries\); run/last\.ckpt has 30"):
        start.check(tiny_nat(30).state_dict(), model, path)
    with pytest.raises(UserError, match="same model size"):
        start.check(nat(d_ff=64).state_dict(), model, path)
    with pytest.raises(UserError, match=r"same model; run/last\.ckpt has no length"):
        start.check(autoregressive().state_dict(), model, path)
    with pytest.raises(UserError, match="besides"):
        start.check(nat(decoder_layers=3).state_dict(), model, path)


def test_a_vocabulary_of_the_same_size_but_other_words_is_refused(tmp_path: Path) -> None:
    for name, words in (("run", ["a", "b"]), ("other", ["a", "c"])):
        for side in ("src", "tgt"):
            folder = tmp_path / name / "vocabulary" / side
            folder.mkdir(parents=True)
            WordVocabulary(words).save(folder)
    own, other = (WordVocabulary(["a", last]) for last in "bc")
    for path in (tmp_path / "run" / "last.ckpt", tmp_path / "run" / "best" / "100.pt"):
        start.check_vocabulary(path, own, own)
        with pytest.raises(UserError, match=rf"{path} speaks another target vocabulary"):
            start.check_vocabulary(path, own, other)
    start.check_vocabulary(tmp_path / "alone.pt", own, other)  # nothing is known of it


def test_a_start_of_another_size_is_refused_before_there_are_data(tmp_path: Path) -> None:
    folder = random_run(tmp_path, "+experiment=vanilla_raw")
    path = folder / "averaged.pt"
    text_job(tmp_path, "+experiment=oaxe_10k", f"start={path}")
    with pytest.raises(UserError, match="same model size"):
        text_job(tmp_path, "+experiment=oaxe_10k", f"start={path}", "sizes.student.d_model=32")
    with pytest.raises(UserError, match="same model"):
        text_job(tmp_path, "+experiment=at", f"start={path}")


def test_weights_of_another_vocabulary_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    other = random_run(tmp_path / "other", "+experiment=vanilla_raw")
    made = text_job(tmp_path / "own", "+experiment=vanilla_raw", f"start={other / 'averaged.pt'}")
    for path in (tmp_path / "own" / "corpus").glob("*.en"):
        path.write_text(path.read_text().replace("man", "lad"))
    with pytest.raises(UserError, match="start must have the vocabulary of the data"):
        made.execute()
    assert not list((tmp_path / "own" / "outputs").glob("vanilla_raw*"))


def test_a_test_sentence_that_the_model_cannot_read_is_named_before_anything_is_made(tmp_path: Path) -> None:
    made = text_job(tmp_path, "+experiment=vanilla_raw")
    lines = (tmp_path / "corpus" / "test.de").read_text().splitlines()
    lines[6] = " ".join(["mann"] * 40)
    (tmp_path / "corpus" / "test.de").write_text("".join(f"{line}\n" for line in lines))
    said = (
        r"the source of line 7 of the test split must have fewer tokens than max_positions=32.*; it has \d+: "
        r"shorten or remove that line, or give sizes\.\w+\.max_positions=\d+"
    )
    with pytest.raises(UserError, match=said):
        made.execute()
    assert not list((tmp_path / "outputs").glob("vanilla_raw*"))
