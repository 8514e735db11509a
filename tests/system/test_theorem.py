"""Theorem 1 on data whose distribution is known: what plain maximum likelihood of a NAT converges to.

All targets of a few sources are trained on, each as often as it is probable, so the loss is the expectation
itself and no sampling noise is in the comparison: cross-entropy -> Σ_i H(y_i|X,L), KL(data || NAT) -> C.
"""

from dataclasses import dataclass

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from mple.data.grammar import Grammar
from mple.decoding.argmax import Argmax
from mple.modules.non_autoregressive import NonAutoregressive
from mple.objective.cross_entropy import CrossEntropy
from mple.optimizer import Adam
from mple.proxy.target_first import TargetFirst
from mple.proxy_input import ProxyInput
from mple.proxy_input.blank import Blank
from mple.proxy_input.glancing import Glancing
from mple.proxy_target.raw import Raw
from mple.types import EOS, PAD, SPECIAL_TOKENS, Batch
from tests.fakes import tiny_nat

SOURCES = (  # 1, 2, 4, 4 and 16 targets when all modes are open
    "i see the little card",
    "i see the new letter at night",
    "you buy a new poem in the garden",
    "he watched a good man",
    "you followed the little child outside",
)
COPIES = 16


@dataclass(frozen=True)
class Corpus:
    batch: Batch
    words: list[str]


def corpus(grammar: Grammar) -> Corpus:
    """Every target of every source, COPIES · P(Y|X) times."""
    pairs = [
        (source.split(), target.split())
        for source in SOURCES
        for target, p in grammar.targets(source).items()
        for _ in range(round(COPIES * p))
    ]
    assert len(pairs) == COPIES * len(SOURCES)  # no probability was rounded
    words = sorted({word for pair in pairs for side in pair for word in side})
    number = {word: len(SPECIAL_TOKENS) + i for i, word in enumerate(words)}

    def ids(sides: list[list[str]], end: list[int]) -> torch.Tensor:
        rows = [torch.tensor([number[word] for word in side] + end) for side in sides]
        return pad_sequence(rows, batch_first=True, padding_value=PAD)

    src = ids([source for source, _ in pairs], [EOS])
    tgt = ids([target for _, target in pairs], [])
    return Corpus(Batch(torch.arange(len(pairs)), src, tgt), words)


def trained(data: Corpus, proxy_input: ProxyInput, updates: int = 300) -> NonAutoregressive:
    size = len(SPECIAL_TOKENS) + len(data.words)
    torch.manual_seed(0)
    learner = NonAutoregressive(
        model=tiny_nat(size, d_model=64, d_ff=128, decoder_layers=1),
        proxy=TargetFirst(target=Raw(), input=proxy_input),
        objective=CrossEntropy(label_smoothing=0.0),
        decoding=Argmax(),
        optimizer=Adam(lr=0.005, warmup_steps=30, weight_decay=0.0),
        score=lambda *_: {},
        seed=1,
        updates=updates,
    )
    optimizer = learner.adam.build(learner.parameters())
    for step in range(updates):
        optimizer.param_groups[0]["lr"] = learner.adam.rate(step)
        minimised, _ = learner.losses(data.batch)
        optimizer.zero_grad()
        torch.stack([loss.total / loss.count.clamp(min=1) for loss in minimised.values()]).sum().backward()
        optimizer.step()
    return learner.eval()


def cross_entropy(learner: NonAutoregressive, data: Corpus) -> float:
    """−E log P(Y | Z*, X, L) of a sentence, in bits."""
    measured = learner.measure(data.batch)["nat_loss_raw_bits_per_token"]
    return float(measured.total) / len(data.batch)


@pytest.mark.parametrize(
    ("grammar", "correlation"),
    [
        (Grammar(order=0, formality=0, tense=0, separable=0), 0.0),
        pytest.param(Grammar(order=0.25, formality=0, tense=0, separable=0), None, marks=pytest.mark.slow),
        pytest.param(Grammar(order=0.5, formality=0.5, tense=0, separable=0), None, marks=pytest.mark.slow),
        (Grammar(), None),
    ],
    ids=["deterministic", "order", "order and formality", "all"],
)
def test_plain_maximum_likelihood_loses_exactly_the_total_correlation(
    grammar: Grammar, correlation: float | None
) -> None:
    exact = grammar.corpus_information(SOURCES)
    marginal, joint = (bits / len(SOURCES) for bits in (exact.marginal_entropy, exact.joint_entropy))
    lost = exact.total_correlation / len(SOURCES)
    data = corpus(grammar)
    untrained = cross_entropy(trained(data, Blank(), updates=0), data) - joint
    divergence = cross_entropy(trained(data, Blank()), data) - joint
    if correlation is None:
        assert lost > 0.3  # so that what follows says something
    else:
        assert lost == pytest.approx(correlation, abs=1e-9)
    assert untrained > lost + 5
    assert (
        lost - 1e-4 <= divergence <= lost + 0.1
    )  # bits per sentence; marginal entropy + KL of the marginals
    assert divergence + joint == pytest.approx(marginal, abs=0.1)


def test_what_is_learnt_are_the_marginals_and_their_mode_is_no_sentence() -> None:
    """Each position is right on its own; together they are not: the modes mix."""
    grammar = Grammar()
    data = corpus(grammar)
    learner = trained(data, Blank())
    encoder_out = learner.model.encode(data.batch.src_tokens)
    inputs = learner.model.blank(data.batch.tgt_lengths)
    with torch.no_grad():
        probs = learner.model.decode(inputs, encoder_out).logits.softmax(-1)
    distances, mixed = [], 0
    for row, source in zip(range(len(data.batch)), (s for s in SOURCES for _ in range(COPIES)), strict=True):
        marginals = grammar.marginals(source, int(data.batch.tgt_lengths[row]))
        for position, marginal in enumerate(marginals):
            exact = torch.zeros(probs.shape[-1])
            for word, p in marginal.items():
                exact[len(SPECIAL_TOKENS) + data.words.index(word)] = p
            distances.append(float((probs[row, position] - exact).abs().sum() / 2))  # total variation
        best = probs[row, : len(marginals)].argmax(-1).tolist()
        text = " ".join(data.words[token - len(SPECIAL_TOKENS)] for token in best)
        mixed += not grammar.in_support(source, text)
    assert sum(distances) / len(distances) < 0.03
    assert mixed > 0  # the best tokens together are no target of their source


def test_a_hint_takes_the_loss_below_what_independence_allows() -> None:
    """Glancing tells part of T, so the proxy's L_NAT falls below the marginal entropies."""
    grammar = Grammar(order=0.5, formality=0.5, tense=0, separable=0)
    data = corpus(grammar)
    learner = trained(data, Glancing(start=0.8, stop=0.8))
    measured = learner.measure(data.batch)
    marginal = grammar.corpus_information(SOURCES).marginal_entropy / len(SOURCES)
    proxy = float(measured["nat_loss_proxy_bits_per_token"].total) / len(data.batch)
    raw = float(measured["nat_loss_raw_bits_per_token"].total) / len(data.batch)
    assert proxy < marginal - 0.2
    assert raw > marginal - 1e-4
