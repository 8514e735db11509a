"""Codes of languages, and what follows from them."""

import pytest
from sacrebleu.metrics import BLEU

from mple.language import language, one_script, segmenters


@pytest.mark.parametrize(
    ("codes", "tokenizer", "has_spaces"),
    [
        ("zh zho cmn chi ZH zh-TW zh_CN zh-Hans zho_Hant Chinese yue lzh wuu", "zh", False),
        ("ja jpn ja-JP Japanese", "char", False),
        ("th tha km khm lo lao my mya bur my-MM Burmese bo", "char", False),
        ("ko kor ko-KR", "char", True),
        ("en de ro ru vi no nan-Latn zh-Latn ja-Latn deu pt-BR eng_Latn", "13a", True),
    ],
)
def test_tokenizer_of_a_code(codes: str, tokenizer: str, has_spaces: bool) -> None:
    for code in codes.split():
        found = language(code)
        assert (found.sentence_tokenizer, found.has_spaces, found.is_known) == (
            tokenizer,
            has_spaces,
            True,
        ), code


@pytest.mark.parametrize("code", ["", None, "x", "bb", "train.tok", "1e3", "source"])
def test_unknown_code_counts_as_latin(code: str | None) -> None:
    unknown = language(code)
    assert not unknown.is_known
    assert (unknown.sentence_tokenizer, unknown.has_spaces, unknown.segmenter) == ("13a", True, None)
    assert one_script(code, "en")


def test_base_is_the_two_letter_code() -> None:
    assert [language(code).base for code in ("deu", "de_AT", "EN", "zho-Hant", "x")] == [
        "de",
        "de",
        "en",
        "zh",
        "x",
    ]


def test_one_script() -> None:
    assert one_script("en", "de")
    assert one_script("zh-CN", "zh-TW")
    assert one_script("sr-Latn", "en")
    assert one_script("ru", "uk")
    for pair in (("en", "zh"), ("ja", "zh"), ("en", "ru"), ("en", "th"), ("sr", "sr-Latn")):
        assert not one_script(*pair)


def test_segmenters_are_keyed_by_the_given_code() -> None:
    assert segmenters("en", "zh-TW") == {"zh-TW": "jieba"}
    assert segmenters("cmn", "en") == {"cmn": "jieba"}
    assert segmenters("ja", "th") == {}


def test_mecab_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mple.language.find_spec", lambda name: object())
    assert [language(code).bleu_tokenizer for code in ("ja", "ko", "zh", "en")] == [
        "ja-mecab",
        "ko-mecab",
        "zh",
        "13a",
    ]
    assert language("ja").sentence_tokenizer == "char"  # the same everywhere
    monkeypatch.setattr("mple.language.find_spec", lambda name: None)
    assert [language(code).bleu_tokenizer for code in ("ja", "ko")] == ["char", "char"]


def test_words() -> None:
    assert (
        language("zh").words("我有3本AI book。") == BLEU(tokenize="zh").tokenizer("我有3本AI book。").split()
    )
    assert language("zh").words("我有AI book。") == ["我", "有", "AI", "book", "。"]
    assert language("ja").words("犬が いる") == ["犬", "が", "い", "る"]
    assert language("de").words(" ein  Hund, ja ") == ["ein", "Hund,", "ja"]


@pytest.mark.parametrize(
    ("code", "text"), [("zh", "我有 AI book。x"), ("th", "กข คง"), ("de", "ein Hund, ja")]
)
def test_spaced_words_joined_are_the_text(code: str, text: str) -> None:
    pieces = language(code).spaced_words(text)
    assert "".join(gap + word for gap, word in pieces) == text
    assert [word for _, word in pieces] == language(code).words(text)
