"""The difference in corpus BLEU of two systems on the same references; a paired bootstrap over sentences.

    bleu_difference(counts(outputs, references, "13a"), counts(others, references, "13a"))

Source: Koehn (2004); sacreBLEU's `--paired-bs` resamples alike, but has no interval of the difference.
"""

import numpy as np
from jaxtyping import Int

from mple.bleu import check_tokenizer
from mple.estimator.statistics import Bootstrap, Interval


def bleu_difference(left: np.ndarray, right: np.ndarray, bootstrap: Bootstrap | None = None) -> Interval:
    """sacreBLEU of one system's `counts` minus that of another's on the same references, with a paired
    bootstrap over sentences.

    Each resample is a corpus: its n-gram counts are the sums of those of the drawn sentences.
    """
    bootstrap = bootstrap or Bootstrap(resamples=1000)
    generator = np.random.default_rng(bootstrap.seed)
    n = len(left)
    drawn = generator.multinomial(n, np.full(n, 1 / n), size=bootstrap.resamples)  # (R, n)
    found = _bleu(drawn @ left) - _bleu(drawn @ right)
    tail = (1 - bootstrap.level) / 2
    low, high = np.quantile(found, [tail, 1 - tail])
    value = float((_bleu(left.sum(0)[None]) - _bleu(right.sum(0)[None]))[0])
    return Interval(value, float(low), float(high), bootstrap.level)


def counts(hypotheses: list[str], references: list[str], tokenize: str) -> Int[np.ndarray, "n 10"]:
    """Of every sentence matched n-grams by order, all n-grams by order, words of output and reference.

    tokenize: sacreBLEU's tokeniser, that of the score itself: `language(tgt_lang).bleu_tokenizer`.
    """
    from sacrebleu.metrics import BLEU

    check_tokenizer("tokenize", tokenize)
    metric = BLEU(tokenize=tokenize)
    rows = []
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        score = metric.corpus_score([hypothesis], [[reference]])
        rows.append([*score.counts, *score.totals, score.sys_len, score.ref_len])
    return np.array(rows, np.int64)


def _bleu(sums: np.ndarray) -> np.ndarray:
    """Corpus BLEU of summed counts (R, 10); orders without a match count 1/2, 1/4, …, and without
    any match it is 0, as in sacreBLEU."""
    matched, totals = sums[:, :4].astype(float), sums[:, 4:8].astype(float)
    halvings = (matched == 0).cumsum(1)
    matched = np.where(matched == 0, 0.5**halvings, matched)
    with np.errstate(divide="ignore", invalid="ignore"):
        precisions = np.log(matched / totals).mean(1)
        penalty = np.minimum(0.0, 1 - sums[:, 9] / sums[:, 8])
        has_score = (totals > 0).all(1) & (sums[:, :4] > 0).any(1)
        return np.where(has_score, 100 * np.exp(precisions + penalty), 0.0)
