"""From raw text to memory-mapped ids: nothing lost, nothing invented, nothing done twice."""

import json
import logging
import pickle
import sys
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mple.checks import UserError
from mple.data import corpus as corpus_module
from mple.data.corpus import (
    ArrowTokens,
    Corpus,
    Preparation,
    arrow_writer,
    prepare,
    token_lists,
    tracked,
    write_corpus,
)
from mple.data.grammar import Grammar
from mple.data.text import GrammarSource, LineFiles
from mple.data.vocabulary import BPE, Words, WordVocabulary
from mple.files import read_json
from mple.types import PAD

REAL = Path(__file__).parents[3] / "shared" / "data"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason=f"no real corpora in {REAL}")
WORDS = WordVocabulary("abcdefgh")


@dataclass(frozen=True)
class Lines:
    """A source that holds its pairs, and counts how often it is read."""

    splits: dict[str, list[tuple[str, str]]]
    reads: list[str]
    src_lang: str = "x"
    tgt_lang: str = "y"

    def pairs(self, split: str) -> Iterator[tuple[int, str, str]]:
        self.reads.append(split)
        for line, (src, tgt) in enumerate(self.splits[split]):
            yield line, src, tgt

    def size(self, split: str) -> int:
        return len(self.splits[split])

    def inputs(self) -> dict[str, str]:
        return {split: str(pairs) for split, pairs in self.splits.items()}


class Telling(Lines):
    """The same pairs; at the end of a split it says what was done to it."""

    def pairs(self, split: str) -> Generator[tuple[int, str, str], None, Mapping[str, float | int]]:
        yield from super().pairs(split)
        return {"dropped_percent": 12.5, "words": len(self.splits[split])}


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_arrow_tokens_find_any_row(tmp_path: Path, dtype: type) -> None:
    random = np.random.default_rng(0)
    lists = [random.integers(6, 60_000, n).astype(dtype) for n in random.integers(0, 30, 1000)]
    path = tmp_path / "x.arrow"
    schema = pa.schema([("line", pa.int64()), ("tgt", pa.list_(pa.from_numpy_dtype(dtype)))])
    with arrow_writer(path, schema) as writer:
        for start, end in ((0, 1), (1, 8), (8, 8), (8, 500), (500, 1000)):  # uneven batches, one empty
            lines = pa.array(range(start, end), pa.int64())
            tokens = token_lists(lists[start:end], np.dtype(dtype))
            writer.write_batch(pa.record_batch([lines, tokens], schema=schema))
    tokens = ArrowTokens(path)
    assert len(tokens) == 1000
    assert tokens.lengths("tgt").tolist() == [len(ids) for ids in lists]
    assert tokens.numbers("line").tolist() == list(range(1000))
    rows = random.integers(0, 1000, 300)
    assert all((a == lists[row]).all() for a, row in zip(tokens.lists("tgt", rows), rows, strict=True))
    padded, lengths = pickle.loads(pickle.dumps(tokens)).padded("tgt", rows)
    assert padded.shape == (300, max(len(lists[row]) for row in rows))
    for ids, length, row in zip(padded, lengths, rows, strict=True):
        assert (ids[:length] == lists[row]).all()
        assert (ids[length:] == PAD).all()
    with pytest.raises(IndexError, match="from 0 to 999"):
        tokens.lists("tgt", np.array([1000]))


def test_write_drops_and_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_module, "CHUNK", 2)
    texts = ["a b", "", "a", "a b c d", "h z", "a", "e f g"], ["b", "b", "", "a", "a b c", "a b c d", "g"]
    pairs = [(10 * i, src, tgt) for i, (src, tgt) in enumerate(zip(*texts, strict=True))]
    write_corpus(tmp_path, pairs, WORDS, WORDS, max_length=3)
    corpus = Corpus.open(tmp_path)
    assert corpus.counts == {"read": 7, "kept": 3, "empty": 2, "over_long": 2}
    assert corpus.lines.tolist() == [0, 40, 60]
    assert [WORDS.decode(ids) for ids in corpus.src([0, 2])] == ["a b", "e f g"]
    assert corpus.text() == (["a b", "h z", "e f g"], ["b", "a b c", "g"])  # z is no word, but it is text
    assert [lengths.tolist() for lengths in corpus.lengths()] == [[2, 2, 3], [1, 3, 1]]
    assert corpus.rows([60, 0]).tolist() == [2, 0]
    for absent in (10, 61, -1):
        with pytest.raises(KeyError, match=f"line {absent} "):
            corpus.rows([0, absent])


def test_fingerprint_is_of_the_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fingerprint(pairs: list[tuple[int, str, str]]) -> str:
        write_corpus(tmp_path, pairs, WORDS, WORDS)
        return Corpus.open(tmp_path).fingerprint

    base = fingerprint([(0, "a b", "c"), (1, "d", "e")])
    assert fingerprint([(0, "a b", "c"), (1, "d", "e"), (2, "", "x")]) == base
    assert fingerprint([(0, "a", "c"), (1, "b d", "e")]) != base
    assert fingerprint([(0, "a b", "c"), (2, "d", "e")]) != base


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("is_terminal", [False, True])
def test_what_a_source_says_at_its_end_is_recorded(
    count: int, is_terminal: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_module, "CHUNK", 2)  # some splits end with a chunk, others in one
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    said = {"dropped_percent": 12.5, "words": count}
    source = Telling({"valid": [("a b", "c")] * (count - 1) + [("a", "b c")]}, [])
    write_corpus(tmp_path, source.pairs("valid"), WORDS, WORDS)
    assert Corpus.open(tmp_path).realised == said
    assert len(Corpus.open(tmp_path)) == count
    assert json.loads((tmp_path / "corpus.json").read_text())["realised"] == said


def test_sources_that_say_nothing_and_old_folders_have_nothing(tmp_path: Path) -> None:
    source = Lines({"valid": [("a", "b")] * 3}, [])
    pairs = list(source.pairs("valid"))
    for silent in (pairs, iter(pairs), (pair for pair in pairs), source.pairs("valid")):
        write_corpus(tmp_path, silent, WORDS, WORDS)
        assert Corpus.open(tmp_path).realised == {}
        # What every version has written: a folder from before `realised` is just this.
        assert set(read_json(tmp_path / "corpus.json")) == {
            "fingerprint",
            "src_fingerprint",
            "tgt_fingerprint",
            "counts",
        }
    write_corpus(tmp_path, Telling(source.splits, []).pairs("valid"), WORDS, WORDS)
    head = read_json(tmp_path / "corpus.json")
    del head["realised"]
    (tmp_path / "corpus.json").write_text(json.dumps(head))
    old = Corpus.open(tmp_path)
    assert (old.realised, len(old)) == ({}, 3)


def test_what_a_source_says_is_no_part_of_a_key(tmp_path: Path) -> None:
    """A corpus that was prepared before its source said anything is still the same corpus."""
    splits = {split: [("a b", "a"), ("b", "c")] for split in ("train", "valid", "test")}
    silent, telling = Lines(splits, []), Telling(splits, [])
    keys = [
        {name: stage.key for name, stage in Preparation(source, tmp_path, Words(20), 5).stages().items()}
        for source in (silent, telling)
    ]
    assert keys[0] == keys[1]
    before = prepare(silent, tmp_path / "a", Words(20), max_length=5)
    after = prepare(telling, tmp_path / "b", Words(20), max_length=5)
    for split in splits:
        assert before.corpora[split].fingerprint == after.corpora[split].fingerprint
        assert before.corpora[split].folder.name == after.corpora[split].folder.name
        assert before.corpora[split].realised == {}
        assert after.corpora[split].realised == {"dropped_percent": 12.5, "words": 2}
    assert prepare(telling, tmp_path / "a", Words(20), max_length=5).corpora["valid"].realised == {}
    assert len(telling.reads) == 4  # nothing was prepared anew


def test_progress_without_a_terminal_is_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(tracked("abc", "letters")) == ["a", "b", "c"]
    assert capsys.readouterr().err == ""  # not for what takes no time
    assert list(tracked(iter("abc"), "letters", every_seconds=0.0)) == ["a", "b", "c"]
    assert capsys.readouterr().err == "letters: 1\nletters: 2\n"
    assert list(tracked(iter("abc"), "letters", 3, every_seconds=0.0)) == ["a", "b", "c"]
    assert capsys.readouterr().err == "letters: 1/3, 0.0 min left\nletters: 2/3, 0.0 min left\n"
    assert list(tracked("ab", "letters", every_seconds=0.0)) == ["a", "b"]
    assert capsys.readouterr().err == "letters: 1/2, 0.0 min left\n"


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"valid split must have a pair .*; got 0 pairs read, 0 empty"):
        write_corpus(tmp_path, [], WORDS, WORDS, label="valid split")
    with pytest.raises(UserError, match=r"got 2 pairs read, 1 empty, 1 over-long"):
        write_corpus(tmp_path, [(0, "", "a"), (1, "a b", "a")], WORDS, WORDS, max_length=1)
    with pytest.raises(UserError, match="must hold a prepared corpus"):
        Corpus.open(tmp_path)


def test_prepare_drops_long_pairs_from_training_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pairs = [("a b c", "a b"), ("a", "b"), ("", "b")]
    source = Lines({split: pairs for split in ("train", "valid", "test")}, [])
    with caplog.at_level(logging.INFO, logger="mple"):
        prepared = prepare(source, tmp_path, Words(20), max_length=2)
    assert [len(prepared.corpora[split]) for split in ("train", "valid", "test")] == [1, 2, 2]
    assert "train split: 1 pairs kept (3 pairs read, 1 empty, 1 over-long)" in caplog.text
    assert prepared.corpora["valid"].text() == (["a b c", "a"], ["a b", "b"])
    with pytest.raises(ValueError, match="keeps no raw text"):
        prepared.corpora["train"].text()


def test_prepare_does_only_what_is_missing(tmp_path: Path) -> None:
    splits = {split: [("a b c", "a b"), ("a", "b")] for split in ("train", "valid", "test")}
    source = Lines(splits, [])
    first = prepare(source, tmp_path, Words(20), max_length=2)
    assert source.reads == ["train", "train", "valid", "test"]  # vocabulary, corpora
    prepare(source, tmp_path, Words(20), max_length=2)
    assert len(source.reads) == 4
    other = prepare(source, tmp_path, Words(20), max_length=3)  # concerns the training corpus alone
    assert source.reads[4:] == ["train"]
    assert [len(first.corpora["train"]), len(other.corpora["train"])] == [1, 2]
    preparation = Preparation(source, tmp_path, Words(19), 3)
    assert not any(stage.is_done() for stage in preparation.stages().values())
    assert len(source.reads) == 5  # a plan reads nothing


def test_killed_preparation_is_continued(tmp_path: Path) -> None:
    source = Lines({split: [("a b", "b")] * 5 for split in ("train", "valid", "test")}, [])
    good = source.splits["valid"]
    source.splits["valid"] = None  # type: ignore[assignment]

    class Broken(Lines):
        def inputs(self) -> dict[str, str]:
            return {"same": "always"}

    broken = Broken(source.splits, [])
    with pytest.raises(TypeError):
        prepare(broken, tmp_path, Words(20), max_length=5)
    assert sorted(path.name.split("-")[0] for path in tmp_path.iterdir()) == ["train", "vocabulary"]
    broken.splits["valid"] = good
    prepared = prepare(broken, tmp_path, Words(20), max_length=5)
    assert broken.reads == ["train", "train", "valid", "valid", "test"]
    assert len(prepared.corpora["valid"]) == 5


@pytest.mark.parametrize("joint", [True, False])
def test_joint_or_separate(tmp_path: Path, joint: bool) -> None:
    source = GrammarSource(Grammar(), train=300, valid=20, test=20)
    prepared = prepare(source, tmp_path, BPE(120, joint=joint), max_length=50)
    assert (prepared.src_vocabulary is prepared.tgt_vocabulary) == joint
    corpus = prepared.corpora["train"]
    pairs = list(source.pairs("train"))
    assert prepared.src_vocabulary.decode_all(corpus.src(range(300))) == [src for _, src, _ in pairs]
    assert prepared.tgt_vocabulary.decode_all(corpus.tgt(range(300))) == [tgt for _, _, tgt in pairs]


@pytest.mark.real
@needs_real
def test_multi30k(tmp_path: Path) -> None:
    source = LineFiles(str(REAL / "multi30k"), "de", "en", valid="val", test="test_2016_flickr")
    prepared = prepare(source, tmp_path, BPE(8000), max_length=100)
    assert {split: len(corpus) for split, corpus in prepared.corpora.items()} == {
        "train": 29_000,
        "valid": 1014,
        "test": 1000,
    }
    corpus = prepared.corpora["train"]
    expected = [tgt for _, _, tgt in source.pairs("train")]
    assert prepared.tgt_vocabulary.decode_all(corpus.tgt(np.arange(len(corpus)))) == expected


def test_unknown_characters_and_copied_sentences_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for split, lines in (("train", ["ab ba"] * 50), ("valid", ["ab", "aéb éa", "b"]), ("test", ["ab"])):
        (tmp_path / f"{split}.x").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        (tmp_path / f"{split}.y").write_text("ba\n" * len(lines), encoding="utf-8")
    source = LineFiles(str(tmp_path), "x", "y")
    with caplog.at_level(logging.WARNING):
        prepare(source, tmp_path / "prepared", BPE(size=12), max_length=50)
    (unknown,) = caplog.messages
    assert unknown == (
        "valid split, source: 2 unknown to the vocabulary, which become ⁇, the first 'é' in line 2"
    )
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        prepare(LineFiles(str(tmp_path), "y", "y"), tmp_path / "copied", BPE(size=9), max_length=50)
    assert caplog.messages[0] == (
        "train split: 50 of 50 pairs have the same text as source and as target: "
        "a model of them learns to copy"
    )


def test_pairs_of_unequal_length_are_dropped_and_counted(tmp_path: Path) -> None:
    """max_ratio=1.5: 3 to 2 is kept, 4 to 2 and 1 to 2 are not; what is empty or over-long counts as that."""
    texts = [
        ("a b c", "a b"),
        ("a b c d", "a b"),
        ("a", "a b"),
        ("a b", "a b"),
        ("", "a"),
        ("a b c d e", "a"),
    ]
    pairs = [(line, src, tgt) for line, (src, tgt) in enumerate(texts)]
    write_corpus(tmp_path, pairs, WORDS, WORDS, max_length=4, max_ratio=1.5)
    corpus = Corpus.open(tmp_path)
    assert corpus.lines.tolist() == [0, 3]
    assert corpus.counts == {"read": 6, "kept": 2, "empty": 1, "over_long": 1, "unequal": 2}


def test_max_ratio_is_of_training_alone_and_of_its_manifest(tmp_path: Path) -> None:
    splits = {name: [("a b c d", "a b"), ("a b", "a b")] for name in ("train", "valid", "test")}
    plain = Preparation(Lines(splits, []), tmp_path, Words(20), 10)
    strict = Preparation(Lines(splits, []), tmp_path, Words(20), 10, max_ratio=1.5)
    assert plain.stages()["train"].key != strict.stages()["train"].key
    assert plain.stages()["valid"].key == strict.stages()["valid"].key
    assert {split: len(corpus) for split, corpus in strict.run().corpora.items()} == {
        "train": 1,
        "valid": 2,
        "test": 2,
    }
