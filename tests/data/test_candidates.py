"""Distilled targets: written in parts that survive interruption, joined only with their own corpus."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from sacrebleu.metrics import BLEU

from mple import files
from mple.bleu import pairwise_bleu
from mple.checks import UserError
from mple.data.candidates import Candidates, Distilled, DistilledWriter, join
from mple.data.corpus import ContentDigest, Corpus, arrow_writer, write_corpus
from mple.data.vocabulary import WordVocabulary
from mple.types import PAD

WORDS = WordVocabulary("abcdefgh")
Targets = list[str]


def make_corpus(folder: Path, targets: Targets) -> Corpus:
    """Line ids 0, 2, 4, …: never the same as rows."""
    folder.mkdir(parents=True)
    write_corpus(folder, [(2 * i, "a b", tgt) for i, tgt in enumerate(targets)], WORDS, WORDS)
    return Corpus.open(folder)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    draw = np.random.default_rng(0)
    return make_corpus(tmp_path / "corpus", [" ".join(draw.choice(list("abcdefgh"), 5)) for _ in range(25)])


def distil(folder: Path, corpus: Corpus, targets: Targets, teacher: str = "base") -> Path:
    writer = DistilledWriter(folder, corpus, teacher, part_size=10)
    for part in writer.missing():
        writer.write(part, WORDS.encode([targets[row] for row in writer.rows(part)]))
    return writer.finish()


def random_targets(seed: int, count: int = 25) -> Targets:
    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice(list("abcdefgh"), draw.integers(1, 8))) for _ in range(count)]


def joined(
    corpus: Corpus, names: tuple[str, ...], folders: dict[str, Path], max_length: int | None
) -> Candidates:
    bleu = partial(pairwise_bleu, tokenize="none")
    return join(corpus, names, folders, WORDS, corpus.folder.parent, bleu, "none", max_length, "train")


# --- writing ---------------------------------------------------------------------------------------------


def test_writer_round_trip(tmp_path: Path, corpus: Corpus) -> None:
    targets = random_targets(1)
    targets[3] = ""
    folder = distil(tmp_path / "base", corpus, targets)
    assert sorted(path.name for path in folder.iterdir()) == ["distilled.arrow", "distilled.json"]
    distilled = Distilled.open(folder, corpus)
    assert WORDS.decode_all(distilled.tokens.lists("tgt", np.arange(25))) == targets
    assert distilled.counts == {
        "sentences": 25,
        "tokens": sum(len(target.split()) for target in targets),
        "empty": 1,
    }


def test_writer_resumes_with_the_missing_parts(tmp_path: Path, corpus: Corpus) -> None:
    targets, folder = random_targets(1), tmp_path / "base"
    writer = DistilledWriter(folder, corpus, "base", part_size=10)
    assert writer.missing() == [0, 1, 2]
    assert [writer.rows(part).tolist() for part in (1, 2)] == [list(range(10, 20)), list(range(20, 25))]
    writer.write(1, WORDS.encode(targets[10:20]))
    (folder / "parts" / ".part-00002.arrow.123").write_bytes(b"half")  # what a killed process leaves
    again = DistilledWriter(folder, corpus, "base", part_size=10)
    assert again.missing() == [0, 2]
    with pytest.raises(ValueError, match=r"2 parts of .* are not written, the first is 0"):
        again.finish()
    distil(folder, corpus, targets)
    assert WORDS.decode_all(Distilled.open(folder, corpus).tokens.lists("tgt", np.arange(25))) == targets
    assert DistilledWriter(folder, corpus, "base", part_size=10).missing() == []
    straight = distil(tmp_path / "straight", corpus, targets)
    for name in ("distilled.arrow", "distilled.json"):
        assert (straight / name).read_bytes() == (folder / name).read_bytes()


def test_interrupted_finish_is_repeated(
    tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets = random_targets(1)
    monkeypatch.setattr(
        json, "dumps", lambda *_, **__: 1 / 0
    )  # after the merge, before it counts as finished
    writer = object.__new__(DistilledWriter)
    monkeypatch.setattr(DistilledWriter, "_claim", lambda _: None)
    writer.__init__(tmp_path / "base", corpus, "base", 10)  # type: ignore[misc]
    for part in writer.missing():
        writer.write(part, WORDS.encode([targets[row] for row in writer.rows(part)]))
    with pytest.raises(ZeroDivisionError):
        writer.finish()
    monkeypatch.undo()
    assert not writer.is_finished()
    assert writer.missing() == []
    assert len(Distilled.open(writer.finish(), corpus).tokens) == 25


def test_who_comes_by_while_another_finishes_only_reads(
    tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it saw before: another process may finish between any two of its looks."""
    targets, folder = random_targets(1), tmp_path / "base"
    early = DistilledWriter(folder, corpus, "base", part_size=10)
    assert not folder.exists()
    distil(folder, corpus, targets)
    assert early.missing() == []
    looks = iter([False])  # before the other finished
    is_finished = DistilledWriter.is_finished
    monkeypatch.setattr(DistilledWriter, "is_finished", lambda self: next(looks, is_finished(self)))
    late = DistilledWriter(folder, corpus, "base", part_size=10)
    assert next(looks, None) is None
    assert late.missing() == []
    assert sorted(path.name for path in folder.iterdir()) == ["distilled.arrow", "distilled.json"]


def test_writer_refuses_foreign_parts(tmp_path: Path, corpus: Corpus) -> None:
    DistilledWriter(tmp_path / "base", corpus, "base", part_size=10).write(2, WORDS.encode(["a"] * 5))
    with pytest.raises(UserError, match=r"parts\.json must speak of teacher big; got base"):
        DistilledWriter(tmp_path / "base", corpus, "big", part_size=10)
    with pytest.raises(UserError, match=r"must speak of part_size 9; got 10"):
        DistilledWriter(tmp_path / "base", corpus, "base", part_size=9)
    other = make_corpus(tmp_path / "other", random_targets(9))
    with pytest.raises(UserError, match="must speak of corpus"):
        DistilledWriter(tmp_path / "base", other, "base", part_size=10)


# --- joining ---------------------------------------------------------------------------------------------


def test_join_aligns_scores_and_drops_together(tmp_path: Path, corpus: Corpus) -> None:
    base, big = random_targets(1), random_targets(2)
    base[3], big[5], big[6] = "", "a b c d e f g h", "a b c d e f g h"
    folders = {
        "base": distil(tmp_path / "base", corpus, base),
        "big": distil(tmp_path / "big", corpus, big, "big"),
    }
    candidates = joined(corpus, ("big", "raw", "base"), folders, max_length=7)
    assert candidates.counts == {"kept": 22, "empty": 1, "over_long": 2}
    assert candidates.rows.tolist() == [row for row in range(25) if row not in (3, 5, 6)]
    raw = WORDS.decode_all(corpus.tgt(np.arange(25)))
    index = np.array([20, 0, 4])
    tokens = candidates.tokens(index)
    sacrebleu = BLEU(effective_order=True, tokenize="none", smooth_method="exp")
    for i, row in enumerate(candidates.rows[index]):
        texts = [big[row], raw[row], base[row]]
        assert WORDS.decode_all(list(tokens[i])) == texts
        for reference in range(3):
            for hypothesis in range(3):
                score = sacrebleu.sentence_score(texts[hypothesis], [texts[reference]]).score
                assert candidates.scores[index[i], reference, hypothesis] == pytest.approx(score, abs=1e-3)
    src, tgt = candidates.lengths()
    longest = [max(len(texts[row].split()) for texts in (big, raw, base)) for row in candidates.rows]
    assert tgt.tolist() == longest
    assert src.tolist() == [2] * 22
    assert tokens.shape == (3, 3, max(longest[i] for i in index))


def test_validation_keeps_every_sentence(tmp_path: Path, corpus: Corpus) -> None:
    base = random_targets(1)
    base[3], base[5] = "", "a b c d e f g h"
    folder = distil(tmp_path / "base", corpus, base)
    candidates = joined(corpus, ("base", "raw"), {"base": folder}, max_length=None)
    assert len(candidates) == 25
    assert candidates.counts["empty"] == 1
    tokens = candidates.tokens(np.array([3, 5, 7]))
    raw = WORDS.decode(corpus.tgt([3])[0])
    assert WORDS.decode_all(list(tokens[:, 0])) == [raw, base[5], base[7]]
    assert (candidates.scores[3] == 100).all()
    assert tokens[0, 0].tolist().count(PAD) == 3  # padded to the longest of all


def test_join_is_a_stage(tmp_path: Path, corpus: Corpus) -> None:
    folder = distil(tmp_path / "base", corpus, random_targets(1))
    calls = []

    def bleu(texts):  # type: ignore[no-untyped-def]
        calls.append(len(texts[0]))
        return np.zeros((len(texts[0]), 2, 2))

    for _ in range(2):
        join(corpus, ("base", "raw"), {"base": folder}, WORDS, tmp_path, bleu, "zero", 9, "train")
    assert calls == [25]
    join(corpus, ("raw", "base"), {"base": folder}, WORDS, tmp_path, bleu, "zero", 9, "train")
    assert calls == [25, 25]


def test_join_refuses_names(tmp_path: Path, corpus: Corpus) -> None:
    folder = distil(tmp_path / "base", corpus, random_targets(1))
    with pytest.raises(UserError, match=r"data\.candidates must be among raw, base; got big"):
        joined(corpus, ("big", "raw"), {"base": folder}, None)
    for names in (("raw", "raw"), ()):
        with pytest.raises(UserError, match="must be different names"):
            joined(corpus, names, {"base": folder}, None)
    with pytest.raises(UserError, match="must leave a sentence; got 0 sentences kept"):
        joined(corpus, ("raw",), {}, 1)


def test_misaligned_candidates_are_refused(tmp_path: Path, corpus: Corpus) -> None:
    folder = distil(tmp_path / "base", corpus, random_targets(1))
    with pytest.raises(UserError, match="must hold distilled targets"):
        Distilled.open(tmp_path, corpus)

    other = make_corpus(tmp_path / "other", random_targets(9))
    with pytest.raises(UserError, match="must be distilled with the corpus of"):
        Distilled.open(folder, other)

    vocabulary = WordVocabulary("hgfedcba")
    (tmp_path / "respelled").mkdir()
    write_corpus(tmp_path / "respelled", [(0, "a", "b")], vocabulary, vocabulary)
    with pytest.raises(UserError, match="must be distilled with the target vocabulary of"):
        Distilled.open(folder, Corpus.open(tmp_path / "respelled"))

    table = pa.ipc.open_file((folder / "distilled.arrow").read_bytes()).read_all()
    head = files.read_json(folder / "distilled.json")
    for broken, message in (
        (table.slice(1), "line 0 and 0 others are missing"),
        (table.take(list(range(23, -1, -1))), "line 48 and 0 others are missing"),
        (table.take([1, 0, *range(2, 25)]), "other lines"),
    ):
        with arrow_writer(folder / "distilled.arrow", table.schema) as writer:
            writer.write_table(broken.combine_chunks())
        digest = ContentDigest()
        digest.update(broken["tgt"].combine_chunks())
        sums = files.checksums(folder, of=["distilled.arrow"])
        files.write_json(folder / "distilled.json", head | {"files": sums, "fingerprint": digest.hexdigest()})
        with pytest.raises(UserError, match=message):
            Distilled.open(folder, corpus)
