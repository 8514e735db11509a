"""Vocabularies: text to ids to text."""

import io
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece

from mple.checks import UserError
from mple.data.text import LineFiles, TsvFile
from mple.data.vocabulary import BPE, UNKNOWN, Words, joined, load_vocabulary, segmented
from mple.types import BLANK, BOS, EOS, MASK, PAD, SPECIAL_TOKENS, UNK

REAL = Path(__file__).parents[3] / "shared" / "data"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason=f"no real corpora in {REAL}")

SOURCE_WORDS = "der die das kleine große Haus Straße ist sieht über <mask> ( ) , . ! 1 2"
TARGET_WORDS = "the small big house street is sees a man <pad> over , . ! 1 2"


def pairs(count: int = 400) -> list[tuple[str, str]]:
    draw, src, tgt = random.Random(0), SOURCE_WORDS.split(), TARGET_WORDS.split()
    return [(" ".join(draw.choices(src, k=8)), " ".join(draw.choices(tgt, k=7))) for _ in range(count)]


@pytest.mark.parametrize("byte_fallback", [False, True])
def test_bpe_round_trip_is_exact(byte_fallback: bool) -> None:
    src, tgt = BPE(340 if byte_fallback else 90, byte_fallback=byte_fallback).learn(pairs(), "de", "en")
    texts = [src for src, _ in pairs()[:50]] + ["das  Haus", " das ", "Straße(über)", "", "ist,ist"]
    texts += ["日本 é \u00a0x\u2028y 🙂\tz"] * byte_fallback
    assert src.decode_all(src.encode(texts)) == texts
    assert [src.decode(ids) for ids in src.encode(texts)] == texts
    assert src.encode(texts)[0].dtype == src.dtype == np.uint16
    assert len(src) == (340 if byte_fallback else 90)
    assert len(tgt) == len(src)


def test_bpe_size_of_each_language() -> None:
    src, tgt = BPE({"de": 90, "en": 70}, joint=False).learn(pairs(), "de", "en")
    assert (len(src), len(tgt)) == (90, 70)
    assert BPE({"de": 90, "en": 70}, joint=False).settings()["size"] == {"de": 90, "en": 70}
    with pytest.raises(UserError, match=r"size must be one number with data\.vocabulary\.joint=true"):
        BPE({"de": 90, "en": 70})
    with pytest.raises(UserError, match=r"data\.vocabulary\.size must have a number for de and one for en"):
        BPE({"zh": 90, "en": 70}, joint=False).learn(pairs(), "de", "en")
    with pytest.raises(
        UserError, match=r"data\.vocabulary\.size\.en must be at most \d+ on this corpus; got 5000"
    ):
        BPE({"de": 90, "en": 5000}, joint=False).learn(pairs(), "de", "en")


@pytest.mark.parametrize("how", [BPE(90), Words(30)])
def test_special_ids(how: BPE | Words) -> None:
    vocabulary, _ = how.learn(pairs(), "de", "en")
    assert vocabulary.pieces([PAD, BOS, EOS, UNK, MASK, BLANK]) == list(SPECIAL_TOKENS)
    ids = vocabulary.encode(["das Haus"])[0].tolist()
    assert vocabulary.decode([BOS, *ids, MASK, BLANK, EOS, PAD, PAD]) == "das Haus"
    assert vocabulary.decode([]) == vocabulary.decode([PAD, PAD]) == ""
    literal = vocabulary.encode([" ".join(SPECIAL_TOKENS), "a<mask>b<unk>"])
    assert all(set(ids.tolist()) <= {UNK, *range(len(SPECIAL_TOKENS), len(vocabulary))} for ids in literal)
    # A literal "<mask>" that the training text had is a word like any other.
    assert vocabulary.decode(vocabulary.encode(["das <mask> Haus"])[0]) == "das <mask> Haus"


@pytest.mark.parametrize("how", [BPE(90), Words(30)])
def test_unknown_is_shown(how: BPE | Words) -> None:
    vocabulary, _ = how.learn(pairs(), "de", "en")
    ids = vocabulary.encode(["das 日 Haus"])[0]
    assert UNK in ids
    assert vocabulary.decode(ids) == f"das {UNKNOWN} Haus"


@pytest.mark.parametrize(
    "how", [BPE(90, joint=True), BPE(70, joint=False), Words(60, joint=True), Words(60, joint=False)]
)
def test_joint_separate_fingerprint_save(how: BPE | Words, tmp_path: Path) -> None:
    src, tgt = how.learn(pairs(), "de", "en")
    again, _ = how.learn(iter(pairs()), "de", "en")
    assert again.fingerprint == src.fingerprint
    assert (src.fingerprint == tgt.fingerprint) == how.joint
    assert (UNK in src.encode(["over"])[0]) != how.joint  # only English has a v
    src.save(tmp_path)
    words = SOURCE_WORDS.split()
    loaded = load_vocabulary(tmp_path)
    assert (loaded.fingerprint, len(loaded), loaded.kind) == (src.fingerprint, len(src), src.kind)
    assert all((a == b).all() for a, b in zip(loaded.encode(words), src.encode(words), strict=True))


def test_a_model_from_elsewhere_lacks_the_special_symbols(tmp_path: Path) -> None:
    (own, _) = BPE(90).learn(pairs(), "de", "en")
    own.save(tmp_path)
    assert load_vocabulary(tmp_path).fingerprint == own.fingerprint
    model = io.BytesIO()
    sentences = [text for pair in pairs() for text in pair]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        model_type="bpe",
        vocab_size=90,
        minloglevel=2,
        pad_id=0,
        bos_id=1,
        eos_id=2,
        unk_id=3,
        **{f"{token[1:-1]}_piece": f"\ue000{token}\ue001" for token in SPECIAL_TOKENS[:4]},
        control_symbols=[f"\ue000{SPECIAL_TOKENS[MASK]}\ue001"],
    )
    (tmp_path / "sentencepiece.model").write_bytes(model.getvalue())
    with pytest.raises(UserError, match=r"must begin with the special symbols .*; it lacks <blank>$"):
        load_vocabulary(tmp_path)


def test_words_are_ranked_and_capped() -> None:
    text = [("b b c a", "x"), ("b c d", "x")]
    vocabulary, _ = Words(9).learn(text, "de", "en")
    assert vocabulary.words == ("b", "c", "a")  # frequency, then spelling
    assert vocabulary.encode(["a d"])[0].tolist() == [8, UNK]


def test_large_vocabulary_needs_wide_ids() -> None:
    text = [(" ".join(f"w{i}" for i in range(70_000)), "x")]
    src, tgt = Words(100_000).learn(text, "de", "en")
    assert (src.dtype, tgt.dtype) == (np.int32, np.uint16)
    assert src.decode(src.encode(["w69999 w3"])[0]) == "w69999 w3"


def test_sample_bounds_what_is_learned_from() -> None:
    def stream():  # type: ignore[no-untyped-def]
        yield from ((f"a{i}", "b") for i in range(10_000))

    vocabulary, _ = Words(20_000, sample=100).learn(stream(), "de", "en")
    numbers = [int(word[1:]) for word in vocabulary.words]
    assert len(numbers) == 100
    assert 3500 < np.mean(numbers) < 6500  # from the whole stream: 5000 ± 5 standard deviations


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"vocabulary\.size must be at most \d+ on this corpus; got 5000"):
        BPE(5000).learn(pairs(), "de", "en")
    with pytest.raises(UserError, match=r"vocabulary\.size must be at least \d+ on this corpus.*; got 20"):
        BPE(20).learn(pairs(), "de", "en")
    with pytest.raises(UserError, match=r"vocabulary\.size must be a whole number of at least 7; got 6"):
        Words(6)
    with pytest.raises(UserError, match=r"vocabulary\.segment\.zh must be one of jieba; got 'moses'"):
        BPE(90, segment={"zh": "moses"})
    with pytest.raises(UserError, match="must be one of de, en; got 'zh'"):
        BPE(90, segment={"zh": "jieba"}).learn(pairs(), "de", "en")
    with pytest.raises(UserError, match="got none"):
        Words().learn([("", "x"), ("x", "")], "de", "en")
    with pytest.raises(UserError, match="must hold a vocabulary"):
        load_vocabulary(tmp_path)


CHINESE = [
    "我用 iPhone 打电话。",
    "  你好\u3000吗 ? ",
    "今天天气很好",
    "a b  c",
    "",
    "C++ 和 Python3.11",
    "他说:「好」",
]


def test_segmentation_is_reversible() -> None:
    assert " " in segmented("今天天气很好", "jieba")
    for text in CHINESE:
        assert joined(segmented(text, "jieba"), "jieba") == text


def test_segmented_vocabulary(tmp_path: Path) -> None:
    text = [(chinese, "a man , a house") for chinese in CHINESE if chinese] * 20
    src, tgt = BPE(75, segment={"zh": "jieba"}).learn(text, "zh", "en")
    assert src.decode_all(src.encode(CHINESE)) == CHINESE
    assert tgt.decode_all(tgt.encode(["a man , a house"])) == ["a man , a house"]
    assert src.fingerprint != tgt.fingerprint  # one model, but not the same map
    src.save(tmp_path)
    assert load_vocabulary(tmp_path).decode_all(src.encode(CHINESE)) == CHINESE


@pytest.mark.real
@needs_real
def test_multi30k_round_trip() -> None:
    source = LineFiles(str(REAL / "multi30k"), "de", "en", valid="val", test="test_2016_flickr")
    src, tgt = BPE(8000).learn(((s, t) for _, s, t in source.pairs("train")), "de", "en")
    for side, vocabulary in ((1, src), (2, tgt)):
        texts = [pair[side] for pair in source.pairs("train")]
        assert vocabulary.decode_all(vocabulary.encode(texts)) == texts


@pytest.mark.real
@needs_real
def test_tatoeba_chinese_round_trip() -> None:
    source = TsvFile(str(REAL / "tatoeba" / "en-zh.tsv.gz"), "en", "zh")
    text = [(src, tgt) for _, src, tgt in source.pairs("train")][:5000]
    _, vocabulary = BPE(5000, joint=False, segment={"zh": "jieba"}).learn(text, "en", "zh")
    targets = [tgt for _, tgt in text]
    assert vocabulary.decode_all(vocabulary.encode(targets)) == targets


PAIRS = [("der hund läuft", "the dog runs")] * 50


@pytest.mark.parametrize("line", ["日" * 1600, "▅ ab", "a\x1fb", "日 " * 2000 + "月"])
def test_every_character_of_the_training_text_is_known(line: str) -> None:
    """SentencePiece leaves out lines of more than 4,192 bytes, and those with U+2585 or U+001F."""
    pairs = [*PAIRS, *[(line, line)] * 3]
    for vocabulary in BPE(size=60).learn(pairs, "de", "en"):
        assert vocabulary.unknown(line) == []
        assert UNK not in vocabulary.encode([line])[0]
        assert vocabulary.decode(vocabulary.encode([line])[0]) == line


def test_text_without_such_lines_gives_the_same_vocabulary_as_before() -> None:
    """One line of 4,192 bytes is learned from as it is."""
    line = "日" * 1397 + "a"
    trained: list[list[str]] = []
    original = sentencepiece.SentencePieceTrainer.train

    def train(*, sentence_iterator: Iterator[str], **options: Any) -> Any:
        trained.append(list(sentence_iterator))
        assert "max_sentence_length" not in options  # it would be part of the model, so of its fingerprint
        return original(sentence_iterator=iter(trained[-1]), **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sentencepiece.SentencePieceTrainer, "train", train)
        BPE(size=60).learn([*PAIRS, (line, line + "a")], "de", "en")
    (sentences,) = trained
    assert line in sentences
    assert line + "a" not in sentences
    assert sentences[:50] == ["der hund läuft"] * 50


@pytest.mark.parametrize("line", ["dog cat " * 700, "abcdefg" * 700])
def test_long_training_lines_alone_are_enough(line: str) -> None:
    vocabulary, _ = BPE(size=17).learn([(line, line)] * 50, "de", "en")
    ids = vocabulary.encode([line * 4])[0]  # more than 10,000 bytes
    assert vocabulary.decode(ids) == line * 4


def test_old_runs_segment_nothing_by_default() -> None:
    assert BPE().settings() == BPE(segment={}).settings()
    assert BPE().settings()["segment"] == {}


def test_whole_words_are_not_segmented() -> None:
    assert Words(segment=None).settings() == {
        "kind": "word",
        "size": 8000,
        "joint": False,
        "sample": 1_000_000,
    }
    with pytest.raises(UserError, match=r"data\.vocabulary\.segment must be null for whole words"):
        Words(segment={"zh": "jieba"})
