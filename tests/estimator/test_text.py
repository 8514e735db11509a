"""What is measured on text counts the words of the target language."""

import pytest

from mple.estimator.text import TextScore

REFERENCES = ["我喜欢你的狗。", "他昨天去了北京。", "今天天气很好。"]


@pytest.mark.parametrize("code", ["zh", "zh-TW", "zh_CN", "cmn", "yue"])
def test_chinese_repetition_and_length_ratio_count_characters(code: str) -> None:
    measured = TextScore(code)("test", ["x"] * 3, REFERENCES, ["我你。", "他北。", "天天天天。"])
    assert measured["length_ratio"] == pytest.approx((3 + 3 + 5) / (7 + 8 + 7))
    assert measured["repetition_rate_percent"] == pytest.approx(100 * 3 / 11)


def test_words_of_a_language_with_spaces_are_between_white_space() -> None:
    measured = TextScore("en")("test", ["x"], ["the big dog runs."], ["the the dog."])
    assert measured["length_ratio"] == pytest.approx(3 / 4)
    assert measured["repetition_rate_percent"] == pytest.approx(100 / 3)
