"""BLEU: of sentences, of all pairs of candidates, and of a corpus; every score on 0 to 100.

    pairwise_bleu(candidates, "13a")           S(Γ_i, Γ_k) for Dynamic KD: K lists of n lines -> (n, K, K)
    sentence_bleu(hypotheses, references, "zh")        one score a line, one reference each
    multi_reference_bleu(hypotheses, lists, "char")    one score a line, any number of references each
    BleuScorer(references, "de").score(hyps)   {"sacrebleu": …, "tokenised_bleu": …} of a corpus
    sentence_signature("13a")                  what the first three compute, for a run's record

Sentence BLEU is sacreBLEU's `BLEU(effective_order=True, smooth_method="exp")`, number for number, without
its cost of a dictionary of n-grams per pair. Every different word is tokenised once, and the tokens are
numbered from 1, so a 4-gram is one 64-bit integer of four 16-bit fields (0 past the end), its prefixes are
its shorter n-grams, and one sort per sentence orders the n-grams of all four orders. Matching two sentences
is then a merge. N-grams are never hashed, and words are told apart letter by letter: the counts are exact.
"""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, no_type_check

import numba
import numpy as np
import sacremoses
from jaxtyping import Float32, Float64, Int64, UInt64
from numba.extending import register_jitable
from sacrebleu.metrics import BLEU

from mple import checks
from mple.checks import UserError
from mple.language import has_tokenizer, language

TOKENIZERS = ("13a", "char", "ja-mecab", "ko-mecab", "none", "zh")
"""sacreBLEU's tokenisers that are offered; `none` splits at white space, those of MeCab need an extra.
`mple.language` has the one of a language."""

MAX_DISTINCT_WORDS = 2**16 - 1  # of the sentences that are compared with each other: a field of 16 bits
_BLOCK = 4096  # lines packed at a time: bounds the memory beside the result at some 10 MB


def check_tokenizer(name: str, tokenize: object) -> None:
    """Refuse anything but one of `TOKENIZERS` whose packages are installed. `name`: the setting.

    Raises:
        UserError: it is another, or lacks its packages.
    """
    checks.one_of(name, tokenize, TOKENIZERS)
    if not has_tokenizer(str(tokenize)):
        language_of = {"ja-mecab": "japanese", "ko-mecab": "korean"}[str(tokenize)]
        raise UserError(
            f"{name}={tokenize} needs MeCab, which is not installed: pip install 'mple[{language_of}]', "
            f"or {name}=char"
        )


def sentence_signature(tokenize: str, references: int = 1) -> str:
    """The sacreBLEU signature of the sentence scores of this module, for a run's record."""
    check_tokenizer("tokenize", tokenize)
    metric = BLEU(tokenize=tokenize, effective_order=True, smooth_method="exp")
    metric.num_refs = references
    return str(metric.get_signature())


def sentence_bleu(
    hypotheses: Sequence[str], references: Sequence[str], tokenize: str
) -> Float64[np.ndarray, "n"]:
    """S(reference, hypothesis) of every line: `multi_reference_bleu` with one reference each."""
    return multi_reference_bleu(hypotheses, [[reference] for reference in references], tokenize)


def multi_reference_bleu(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], tokenize: str
) -> Float64[np.ndarray, "n"]:
    """Smoothed sentence BLEU, 0 to 100, of `hypotheses[b]` against all of `references[b]`.

    An n-gram's count is clipped at its largest count in any one reference, and the brevity penalty takes
    the reference of the nearest length (the shorter of two). An empty hypothesis scores 0.

    Raises:
        UserError: other numbers of hypotheses and reference lists, or a hypothesis without a reference.
    """
    _check_lines("references", len(references), len(hypotheses))
    for line, candidates in enumerate(references, start=1):
        if not candidates:
            raise UserError(f"references of line {line} must be at least one sentence; got none")
    scores = np.empty(len(hypotheses))
    for start in range(0, len(hypotheses), _BLOCK):
        block = slice(start, start + _BLOCK)
        groups = [[hyp, *refs] for hyp, refs in zip(hypotheses[block], references[block], strict=True)]
        sizes = np.cumsum([0, *map(len, groups)], dtype=np.int64)
        _compiled(_score_groups)(*_packed(groups, tokenize), sizes, scores[block])
    return scores


def pairwise_bleu(candidates: Sequence[Sequence[str]], tokenize: str) -> Float32[np.ndarray, "n K K"]:
    """S(Γ_i, Γ_k): `[b, i, k]` scores line b of candidate k, the hypothesis, by candidate i, the reference.

    It is not symmetric: the brevity penalty and the precisions belong to the hypothesis. The diagonal is
    100, or 0 for an empty line, so an empty candidate scores 0 against everything, itself included. A line's
    scores depend on that line alone: call it on a slice of the corpus at a time to bound the memory (the
    result is 4 n K² bytes; the rest does not grow with n). It releases the GIL while it matches.

    Args:
        candidates: K lists, each of the same n sentences.
        tokenize: one of `TOKENIZERS`, what sacreBLEU does to both sides before it counts.

    Raises:
        UserError: no candidate, lists of different lengths, an unknown tokeniser.

    Source: On the Learning of Non-Autoregressive Transformers, Dynamic KD and the estimate of L_target,
    which write S(Y, T) for sentence BLEU and leave open its smoothing and which side is the reference. Here
    the smoothing is sacreBLEU's default (exponential) and Γ_i is the reference.
    """
    if not candidates:
        raise UserError("candidates must be at least one list of sentences; got none")
    n, count = len(candidates[0]), len(candidates)
    for k, lines in enumerate(candidates):
        _check_lines(f"candidate {k}", len(lines), n)
    scores = np.empty((n, count, count), np.float32)
    for start in range(0, n, _BLOCK):
        block = slice(start, start + _BLOCK)
        groups = zip(*(lines[block] for lines in candidates), strict=True)
        _compiled(_score_pairs)(*_packed(groups, tokenize), scores[block])
    return scores


class BleuScorer:
    """Corpus BLEU against fixed references, under two names because they are two numbers.

    `sacrebleu`: both sides detokenised text, tokenised by sacreBLEU as `mple.language` tells: 13a; zh for a
    Chinese target; MeCab for Japanese and Korean where it is installed, else char; char for Thai and other
    languages without spaces between words.
    `tokenised_bleu`: the kind that NAT papers report. Both sides go through the Moses tokeniser of the target
    language (English rules where Moses has none), then BLEU on those tokens as they are; a target without
    spaces between its words (Chinese, Japanese, Thai) is split into characters. Unlike in the papers,
    sacremoses stands for the Moses scripts, hyphens are split only with `dash_splits`, and sacreBLEU smooths
    an order without a match where multi-bleu gives 0.

    References are tokenised once, and those of a set of usual size are counted once, so that validation costs
    only its hypotheses. What is kept of a sentence is its text.

    Args:
        references: one sentence a line, plain (detokenised) text.
        tgt_lang: language code of the target, `de` or `zh-CN`, say.
        dash_splits: `tokenised_bleu` as of fairseq's WMT14 En-De scripts: Moses with `-a`, so that a hyphen
            inside a word is a token, and ’ as ' (on both sides here, where theirs normalise the corpus).

    Raises:
        UserError: no references, or `dash_splits` for a target that is split into characters.
    """

    def __init__(self, references: Sequence[str], tgt_lang: str, dash_splits: bool = False) -> None:
        if not references:
            raise UserError("references must be at least one sentence; got none")
        self._count = len(references)
        target = language(tgt_lang)
        self._tokenise: Callable[[str], str] = str
        if target.has_spaces:
            moses = sacremoses.MosesTokenizer(lang=target.base)
            options = {"aggressive_dash_splits": dash_splits, "return_str": True, "escape": False}
            plain = functools.partial(moses.tokenize, **options)
            self._tokenise = (lambda text: plain(text.replace("’", "'"))) if dash_splits else plain
        elif dash_splits:
            raise UserError(
                f"data.dash_splits must be null for a target that is split into characters; got {tgt_lang}"
            )
        self._plain = _Corpus(references, tokenize=target.bleu_tokenizer)
        self._tokenised = _Corpus(
            [self._tokenise(line) for line in references],
            tokenize="none" if target.has_spaces else "char",
            force=True,  # tokenised on purpose: no warning
        )
        tokenised_signature = self._tokenised.signature
        if target.has_spaces:
            convention = f"moses-{target.base}-a" if dash_splits else f"moses-{target.base}"
            tokenised_signature.update("tok", f"{convention}-sacremoses-{sacremoses.__version__}")
        self.signatures = {
            "sacrebleu": str(self._plain.signature),
            "tokenised_bleu": str(tokenised_signature),
        }
        """What was computed, to be recorded beside each score: version, tokenisation, smoothing."""

    def score(self, hypotheses: Sequence[str]) -> dict[str, float]:
        """`sacrebleu` and `tokenised_bleu` (0 to 100) of detokenised hypotheses, in the references' order.

        Raises:
            UserError: another number of hypotheses than of references.
        """
        _check_lines("hypotheses", len(hypotheses), self._count)
        return {
            "sacrebleu": self._plain.score(hypotheses),
            "tokenised_bleu": self._tokenised.score(map(self._tokenise, hypotheses)),
        }


class _Corpus:
    """sacreBLEU's corpus BLEU, its counts taken from some sentences at a time: the n-grams of a reference are
    ten thousand bytes of Python objects, so only those of the first `_BLOCK` are kept between two scores."""

    def __init__(self, references: Sequence[str], **settings: Any) -> None:
        self._references, self._settings = references, settings
        self._first = BLEU(references=[list(references[:_BLOCK])], **settings)
        self.signature = self._first.get_signature()

    def score(self, hypotheses: Iterable[str]) -> float:
        """0 to 100, of one hypothesis for each reference."""
        lines = iter(hypotheses)
        sums = np.zeros(2 + 2 * self._first.max_ngram_order, np.int64)
        for start in range(0, len(self._references), _BLOCK):
            references = self._references[start : start + _BLOCK]
            metric = self._first if start == 0 else BLEU(references=[list(references)], **self._settings)
            part = metric.corpus_score(list(islice(lines, len(references))), None)
            sums += [part.sys_len, part.ref_len, *part.counts, *part.totals]
        order = self._first.max_ngram_order
        return BLEU.compute_bleu(
            correct=sums[2 : 2 + order].tolist(),
            total=sums[2 + order :].tolist(),
            sys_len=int(sums[0]),
            ref_len=int(sums[1]),
            smooth_method=self._first.smooth_method,
            smooth_value=self._first.smooth_value,
            effective_order=self._first.effective_order,
        ).score


def corpus_bleu(
    hypotheses: Sequence[str], references: Sequence[str], tgt_lang: str
) -> dict[str, float | str]:
    """`BleuScorer`'s two scores, each with its signature under `…_signature`, for a single use."""
    scorer = BleuScorer(references, tgt_lang)
    signatures = {f"{name}_signature": signature for name, signature in scorer.signatures.items()}
    return {**scorer.score(hypotheses), **signatures}


def _check_lines(name: str, got: int, expected: int) -> None:
    if got != expected:
        raise UserError(f"{name} must have one sentence a line, {expected} lines in all; got {got} lines")


def _packed(
    groups: Iterable[Sequence[str]], tokenize: str
) -> tuple[UInt64[np.ndarray, "words"], Int64[np.ndarray, "sentences_plus_1"]]:
    """The sorted 4-grams of every sentence of every group, and where each sentence starts.

    Tokens are numbered once for all groups; where these have more than a field holds, then in each group
    again (`_renumber`), whose sentences meet no others.
    """
    members = list(groups)
    keys, offsets, distinct = _numbered([sentence for group in members for sentence in group], tokenize)
    if distinct > MAX_DISTINCT_WORDS:
        ends = np.cumsum([0, *map(len, members)], dtype=np.int64)
        place, distinct = _compiled(_renumber)(keys, offsets, ends)
        if place >= 0:
            raise UserError(
                f"sentences that are scored together must have at most {MAX_DISTINCT_WORDS} different words; "
                f"got {distinct}, in the group that starts with {members[place][0][:60]!r}"
            )
    _compiled(_pack)(keys, offsets)
    return keys, offsets


def _numbered(
    sentences: Sequence[str], tokenize: str
) -> tuple[UInt64[np.ndarray, "tokens"], Int64[np.ndarray, "sentences_plus_1"], int]:
    """The tokens of all sentences as numbers from 1, where each sentence starts, and how many differ.

    None of 13a's rules looks across white space within a line, and words recur: it is given every different
    word once. Where words are not to be had one by one, every sentence is a word.
    """
    split = _splitter(tokenize)
    text = " ".join(sentences)
    if tokenize in ("13a", "none") and "\n" not in text:  # where a line ends 13a joins hyphenated words
        characters = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        stops = np.cumsum(np.fromiter(map(len, sentences), np.int64, len(sentences)) + 1) - 1
        words, offsets, spans = _compiled(_find_words)(characters, stops)
        different = [text[start:stop] for start, stop in spans.tolist()]
    else:
        words, offsets = np.arange(len(sentences)), np.arange(len(sentences) + 1)
        different = list(sentences)
    number: dict[str, int] = {}
    parts: list[int] = []
    ends = [0]
    for word in different:
        parts += [number.setdefault(token, len(number) + 1) for token in split(word)]
        ends.append(len(parts))
    keys, offsets = _compiled(_expand)(words, offsets, np.array(parts, np.uint64), np.array(ends, np.int64))
    return keys, offsets, len(number)


@functools.cache
def _splitter(tokenize: str) -> Callable[[str], list[str]]:
    """Text to tokens, as sacreBLEU does it."""
    check_tokenizer("tokenize", tokenize)
    if tokenize == "none":
        return str.split
    tokenise = BLEU(tokenize=tokenize).tokenizer

    def split(text: str) -> list[str]:
        return tokenise(text.rstrip()).split()

    return functools.lru_cache(maxsize=2**18)(split) if tokenize == "13a" else split  # of words


@functools.cache
def _compiled(kernel: Callable[..., None]) -> Any:
    """`kernel` as machine code, kept on disk for the next process where that is possible.

    Compiled for a fixed signature at once, so that a cache folder which cannot be written (a read-only
    installation, a full disk) shows here, where compiling again without it is the cure.
    """
    compile_ = functools.partial(numba.njit, _SIGNATURES[kernel], nogil=True)
    try:
        return compile_(cache=True)(kernel)
    except (OSError, RuntimeError):
        return compile_()(kernel)


# The kernels. `no_type_check` keeps run-time type checkers from wrapping what numba has to read.


@register_jitable
@no_type_check
def _is_space(c):
    """As `str.isspace`."""
    if c < 128:
        return c == 32 or 9 <= c <= 13 or 28 <= c <= 31
    return (
        0x2000 <= c <= 0x200A
        or c == 0x85
        or c == 0xA0
        or c == 0x1680
        or c == 0x2028
        or c == 0x2029
        or c == 0x202F
        or c == 0x205F
        or c == 0x3000
    )


@no_type_check
def _find_words(characters, stops):
    """The words of a text between its white space, numbered from 0 in the order of their first places.

    `stops` says where each sentence ends. Returns the words, where each sentence starts among them, and where
    each different word is in the text.
    """
    most = len(characters) // 2 + 1
    size = 16
    while size < 2 * most:
        size *= 2
    table, mask = np.full(size, -1, np.int32), np.uint64(size - 1)
    words, spans = np.empty(most, np.int64), np.empty((most, 2), np.int64)
    offsets = np.zeros(len(stops) + 1, np.int64)
    count, different, position = 0, 0, 0
    for sentence in range(len(stops)):
        stop = stops[sentence]
        while position < stop:
            if _is_space(characters[position]):
                position += 1
                continue
            start, code = position, np.uint64(14695981039346656037)
            while position < stop and not _is_space(characters[position]):
                code = (code ^ np.uint64(characters[position])) * np.uint64(1099511628211)
                position += 1
            slot = (code ^ (code >> np.uint64(32))) & mask
            while True:
                found = table[slot]
                if found < 0:
                    table[slot] = found = different
                    spans[different, 0], spans[different, 1] = start, position
                    different += 1
                    break
                first = spans[found, 0]
                is_same = spans[found, 1] - first == position - start
                ahead = 0
                while is_same and ahead < position - start:
                    is_same = characters[first + ahead] == characters[start + ahead]
                    ahead += 1
                if is_same:
                    break
                slot = (slot + np.uint64(1)) & mask
            words[count] = found
            count += 1
        offsets[sentence + 1] = count
    return words[:count], offsets, spans[:different]


@no_type_check
def _expand(words, offsets, parts, ends):
    """The tokens in place of the words, and where each sentence starts; word k is
    parts[ends[k] : ends[k + 1]]."""
    total = 0
    for word in words:
        total += ends[word + 1] - ends[word]
    tokens, starts = np.empty(total, np.uint64), np.zeros(len(offsets), np.int64)
    count = 0
    for sentence in range(len(offsets) - 1):
        for position in range(offsets[sentence], offsets[sentence + 1]):
            for part in range(ends[words[position]], ends[words[position] + 1]):
                tokens[count] = parts[part]
                count += 1
        starts[sentence + 1] = count
    return tokens, starts


@no_type_check
def _renumber(keys, offsets, groups):
    """Numbers from 1 in every group, in place; `groups` says where each begins in `offsets`.

    Returns the first group with more words than a field of 16 bits holds, and how many it has; else −1.
    """
    for group in range(len(groups) - 1):
        begin, stop = offsets[groups[group]], offsets[groups[group + 1]]
        words = np.sort(keys[begin:stop])
        distinct = 0
        for position in range(len(words)):
            if position == 0 or words[position] != words[distinct - 1]:
                words[distinct] = words[position]
                distinct += 1
        if distinct > MAX_DISTINCT_WORDS:
            return group, distinct
        for position in range(begin, stop):
            keys[position] = np.searchsorted(words[:distinct], keys[position]) + 1
    return -1, 0


@no_type_check
def _pack(keys, offsets):
    """Words to sorted 4-grams, in place: four fields of 16 bits, the first word highest, 0 past the end."""
    field = np.uint64(16)
    for sentence in range(len(offsets) - 1):
        start, end = offsets[sentence], offsets[sentence + 1]
        for position in range(start, end):
            gram = np.uint64(0)
            for ahead in range(position, position + 4):
                gram = gram << field
                if ahead < end:
                    gram |= keys[ahead]
            keys[position] = gram
        keys[start:end].sort()


@register_jitable
@no_type_check
def _matches(keys, a, a_end, b, b_end, order):
    """Clipped n-gram matches of two sentences: the intersection of two sorted multisets; symmetric."""
    shift, last = np.uint64(16 * (4 - order)), np.uint64(0xFFFF)
    count = 0
    while a < a_end and b < b_end:
        left, right = keys[a] >> shift, keys[b] >> shift
        if left < right:
            a += 1
        elif right < left:
            b += 1
        else:
            if left & last:  # else the sentence ends before its n-th word
                count += 1
            a += 1
            b += 1
    return count


@register_jitable
@no_type_check
def _bleu(matches, hyp_length, ref_length):
    """sacreBLEU's formula with effective order: an order counts if the hypothesis is long enough for it;
    the k-th order without a match has precision 1 / (2^k · its n-grams)."""
    if matches[0] == 0:
        return 0.0
    log_precisions, orders, smooth = 0.0, min(hyp_length, 4), 1.0
    for n in range(orders):
        total = hyp_length - n
        if matches[n] == 0:
            smooth *= 2.0
            log_precisions += math.log(100.0 / (smooth * total))
        else:
            log_precisions += math.log(100.0 * matches[n] / total)
    brevity = 1.0 if hyp_length >= ref_length else math.exp(1.0 - ref_length / hyp_length)
    return brevity * math.exp(log_precisions / orders)


@no_type_check
def _score_pairs(keys, offsets, scores):
    """All pairs of the K sentences of each group; matches are counted once for both directions."""
    n, count, _ = scores.shape
    matches = np.zeros(4, np.int64)
    for group in range(n):
        starts = offsets[group * count : group * count + count + 1]
        for i in range(count):
            length = starts[i + 1] - starts[i]
            scores[group, i, i] = 100.0 if length else 0.0
            for k in range(i):
                matches[:] = 0
                for order in range(1, 5):
                    matches[order - 1] = _matches(
                        keys, starts[i], starts[i + 1], starts[k], starts[k + 1], order
                    )
                    if matches[order - 1] == 0:  # then no longer n-gram matches
                        break
                other = starts[k + 1] - starts[k]
                scores[group, i, k] = _bleu(matches, other, length)
                scores[group, k, i] = _bleu(matches, length, other)


@no_type_check
def _score_groups(keys, offsets, groups, scores):
    """The first sentence of each group against all its others together."""
    matches = np.zeros(4, np.int64)
    cursors = np.zeros(np.max(groups[1:] - groups[:-1]), np.int64)
    last = np.uint64(0xFFFF)
    for group in range(len(scores)):
        hyp, end = groups[group], groups[group + 1]
        length = offsets[hyp + 1] - offsets[hyp]
        nearest = offsets[hyp + 2] - offsets[hyp + 1]
        for ref in range(hyp + 2, end):
            ref_length = offsets[ref + 1] - offsets[ref]
            gap = abs(length - ref_length) - abs(length - nearest)
            if gap < 0 or (gap == 0 and ref_length < nearest):
                nearest = ref_length
        for order in range(1, 5):
            shift = np.uint64(16 * (4 - order))
            matches[order - 1] = 0
            for ref in range(hyp + 1, end):
                cursors[ref - hyp] = offsets[ref]
            position = offsets[hyp]
            while position < offsets[hyp + 1]:
                gram = keys[position] >> shift
                run = position
                while position < offsets[hyp + 1] and keys[position] >> shift == gram:
                    position += 1
                if not gram & last:
                    continue
                clip = 0  # the largest count in any reference
                for ref in range(hyp + 1, end):
                    cursor, stop = cursors[ref - hyp], offsets[ref + 1]
                    while cursor < stop and keys[cursor] >> shift < gram:
                        cursor += 1
                    first = cursor
                    while cursor < stop and keys[cursor] >> shift == gram:
                        cursor += 1
                    clip = max(clip, cursor - first)
                    cursors[ref - hyp] = cursor
                matches[order - 1] += min(position - run, clip)
        scores[group] = _bleu(matches, length, nearest)


_SIGNATURES = {
    _find_words: (
        "Tuple((int64[::1], int64[::1], int64[:, ::1]))(Array(uint32, 1, 'C', readonly=True), int64[::1])"
    ),
    _expand: "Tuple((uint64[::1], int64[::1]))(int64[::1], int64[::1], uint64[::1], int64[::1])",
    _renumber: "UniTuple(int64, 2)(uint64[::1], int64[::1], int64[::1])",
    _pack: "void(uint64[::1], int64[::1])",
    _score_pairs: "void(uint64[::1], int64[::1], float32[:, :, ::1])",
    _score_groups: "void(uint64[::1], int64[::1], int64[::1], float64[::1])",
}
