"""The processes of a run share a teacher's translation, however far apart they come by."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from mple import distill
from mple.data.candidates import Distilled, DistilledWriter
from mple.data.datamodule import TranslationData
from mple.data.grammar import Grammar
from mple.data.text import GrammarSource
from mple.data.vocabulary import Words
from mple.decoding.beam import Beam
from mple.model.autoregressive import Autoregressive
from tests.fakes import tiny_size

SENTENCES, PART = 8, 2


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TranslationData:
    source = GrammarSource(Grammar(), train=SENTENCES, valid=2, test=2)
    root = tmp_path_factory.mktemp("data")
    data = TranslationData(source, root, Words(300), max_length=50, max_tokens=200, seed=1, tokenize="none")
    data.setup()
    return data


@pytest.fixture(scope="module")
def teacher(data: TranslationData) -> Autoregressive:
    torch.manual_seed(0)
    size = tiny_size(max_positions=20)
    return Autoregressive(size, len(data.src_vocabulary), len(data.tgt_vocabulary), is_joint=False).eval()


@pytest.fixture
def come_by(
    data: TranslationData, teacher: Autoregressive, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Path, int, int], None]:
    """`come_by(folder, rank, size)`: what process `rank` of `size` does; where it would wait for another
    process it goes away instead, and the first, which comes last, must not wait."""

    def run(folder: Path, rank: int, size: int) -> None:
        def share(items: Sequence[int]) -> list[int]:
            return list(items[rank::size])

        def wait_until(is_done: Callable[[], bool]) -> None:
            assert rank or is_done(), "the first would wait for ever"

        monkeypatch.setattr(distill, "share", share)
        monkeypatch.setattr(distill, "is_first", lambda: rank == 0)
        monkeypatch.setattr(distill, "wait_until", wait_until)
        distill.distill(teacher, data, "train", folder, "base", Beam(2), 64, torch.float32, part_size=PART)

    return run


@pytest.mark.parametrize("ahead", [[], [0], [1], [0, 2], [0, 1, 2, 3]])
def test_every_part_has_one_process_whatever_is_there_when_it_comes_by(
    ahead: list[int], data: TranslationData, come_by: Callable[[Path, int, int], None], tmp_path: Path
) -> None:
    """Of two processes and four parts, `ahead` are written when the second comes by."""
    corpus, alone, shared = data.corpus("train"), tmp_path / "alone", tmp_path / "shared"
    assert len(corpus) == SENTENCES
    come_by(alone, 0, 1)
    expected = Distilled.open(alone, corpus)
    writer = DistilledWriter(shared, corpus, "base", PART)
    for part in ahead:
        writer.write(part, expected.tokens.lists("tgt", writer.rows(part)))
    come_by(shared, 1, 2)
    come_by(shared, 0, 2)
    found = Distilled.open(shared, corpus)
    assert (found.fingerprint, found.counts) == (expected.fingerprint, expected.counts)
    rows = np.arange(len(corpus))
    pairs = zip(found.tokens.lists("tgt", rows), expected.tokens.lists("tgt", rows), strict=True)
    assert all(np.array_equal(one, other) for one, other in pairs)
    come_by(shared, 1, 2)
    assert sorted(path.name for path in shared.iterdir()) == ["distilled.arrow", "distilled.json"]
