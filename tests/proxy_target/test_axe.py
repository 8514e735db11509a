"""AXE against enumeration of its two definitions, the paper's Fig. 9 and worked numbers, and its limits."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mple.backend.cpu import vocabulary
from mple.checks import UserError
from mple.objective.cross_entropy import CrossEntropy
from mple.proxy_target import AlignedTarget, ProxyTarget
from mple.proxy_target.axe import AXE, VARIANTS, Alignment, alignment, canvas_nll
from mple.proxy_target.dynamic_kd import DynamicKD
from mple.proxy_target.kd import KD
from mple.proxy_target.raw import Raw
from mple.randomness import Draws
from mple.snapshot import Snapshot
from mple.types import BLANK, MASK, PAD, Batch, DecoderInput, DecoderOutput, Target, decoder_input
from tests.fakes import VOCABULARY, contents, count_decodes, nat, output_of, random_batch, snapshot_of, take

DELTAS = (0, 0.5, 1, 2, 5)
Table = list[list[float]]
Found = tuple[float, tuple[int, ...], tuple[bool, ...]]
"""Cost, where each token went, which were skipped."""


def paths(nll: Table, blank: list[float], delta: float, i: int = 0, j: int = 0) -> Iterator[Found]:
    """Every path of operations of the published programme from cell (i, j) to the end, with its cost."""
    n, m = len(nll), len(blank)
    if i == n and j == m:
        yield 0.0, (), ()
    if i < n and j < m:
        for cost, at, skipped in paths(nll, blank, delta, i + 1, j + 1):
            yield nll[i][j] + cost, (j, *at), (False, *skipped)
    if j < m:
        for cost, at, skipped in paths(nll, blank, delta, i, j + 1):
            yield blank[j] + cost, at, skipped
    if i < n:
        here = max(j - 1, 0)
        for cost, at, skipped in paths(nll, blank, delta, i + 1, j):
            yield delta * nll[i][here] + cost, (here, *at), (True, *skipped)


def monotone(nll: Table, blank: list[float], delta: float) -> Iterator[Found]:
    """Every α of Eq. 20, with its cost."""
    n, m = len(nll), len(blank)
    for at in itertools.combinations_with_replacement(range(m), n):
        skipped = tuple(i > 0 and at[i] == at[i - 1] for i in range(n))
        terms = [(delta if skipped[i] else 1) * nll[i][at[i]] for i in range(n)]
        yield sum(terms) + sum(blank[j] for j in range(m) if j not in at), at, skipped


DEFINITIONS: dict[str, Callable[..., Iterator[Found]]] = {"original": paths, "strict": monotone}


def plain(nll: Table, blank: list[float], delta: float, variant: str) -> Found:
    """The programme one cell at a time, with its order of ties: what to compare with where costs tie."""
    n, m, inf = len(nll), len(blank), math.inf
    best = [[inf] * (m + 1) for _ in range(n + 1)]
    taken = [[inf] * (m + 1) for _ in range(n + 1)]
    before = best if variant == "original" else taken
    best[0][0] = 0.0

    def align(i: int, j: int) -> float:
        return best[i - 1][j - 1] + nll[i - 1][j - 1] if i and j else inf

    def pred(i: int, j: int) -> float:
        return best[i][j - 1] + blank[j - 1] if j else inf

    for i, j in itertools.product(range(n + 1), range(m + 1)):
        if i or j:
            skip = before[i - 1][j] + delta * nll[i - 1][max(j - 1, 0)] if i else inf
            taken[i][j] = min(align(i, j), skip)
            best[i][j] = min(taken[i][j], pred(i, j))
    at: list[int] = []
    skipped: list[bool] = []
    i, j, table = n, m, best
    while i or j:
        value = table[i][j]
        # At δ = 1 a skip before the aligned token of position 1 costs what one after it costs.
        is_skip_after = variant == "original" and delta == 1 and j == 1 and i > 1
        if is_skip_after and best[i - 1][1] + nll[i - 1][0] == value:
            at, skipped, i = [0, *at], [True, *skipped], i - 1
        elif align(i, j) == value:
            at, skipped, i, j, table = [j - 1, *at], [False, *skipped], i - 1, j - 1, best
        elif table is best and pred(i, j) == value:
            j -= 1
        else:
            at, skipped, i, table = [max(j - 1, 0), *at], [True, *skipped], i - 1, before
    return best[n][m], tuple(at), tuple(skipped)


def tables(n: int, m: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random distributions of m positions over ε and n different tokens: nll (n, m) and ε's (m,), float64."""
    generator = torch.Generator().manual_seed(1000 * seed + 10 * n + m)
    logits = 2 * torch.randn(m, n + 1, generator=generator, dtype=torch.float64)
    nll = -logits.log_softmax(-1).t()
    return nll[1:], nll[0]


def least_first(listed: Iterator[Found]) -> Found:
    """The first of the alignments whose cost is the least but for rounding."""
    tried = list(listed)
    least = min(cost for cost, _, _ in tried)
    return next(one for one in tried if one[0] < least + 1e-9)


def said(found: Found, positions: int) -> list[int | None]:
    """T: which token of R each position has, None for ε."""
    place = {j: i for i, (j, is_skipped) in enumerate(zip(*found[1:], strict=True)) if not is_skipped}
    return [place.get(j) for j in range(positions)]


def alone(nll: Tensor, blank: Tensor, delta: float, variant: str) -> Alignment:
    n, m = nll.shape
    return alignment(nll[None], blank[None], torch.tensor([n]), torch.tensor([m]), delta, variant)


def parts(found: Alignment, row: int = 0, tokens: int | None = None) -> Found:
    positions, skipped = found.positions[row][:tokens].tolist(), found.is_skipped[row][:tokens].tolist()
    return float(found.costs[row]), tuple(positions), tuple(skipped)


def cost_of(nll: Tensor, blank: Tensor, delta: float, found: Found) -> float:
    """The loss of an alignment, gathered anew."""
    _, at, skipped = found
    said = {j for j, s in zip(at, skipped, strict=True) if not s}
    terms = [(delta if s else 1) * float(nll[i, j]) for i, (j, s) in enumerate(zip(at, skipped, strict=True))]
    return sum(terms) + sum(float(blank[j]) for j in range(len(blank)) if j not in said)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("delta", DELTAS)
def test_least_of_all_alignments(delta: float, variant: str) -> None:
    for n, m, seed in itertools.product(range(1, 6), range(1, 6), range(2)):
        nll, blank = tables(n, m, seed)
        listed = DEFINITIONS[variant](nll.tolist(), blank.tolist(), delta)
        cost, at, skipped = least_first(listed)
        found = parts(alone(nll, blank, delta, variant))
        assert found[0] == pytest.approx(cost, abs=1e-12)
        assert cost_of(nll, blank, delta, found) == pytest.approx(cost, abs=1e-12)
        assert said(found, m) == said((cost, at, skipped), m)
        if delta not in (0, 1):  # where several alignments cost the same
            assert found[1:] == (at, skipped)


small = st.integers(1, 5)


@settings(max_examples=100, deadline=None)
@given(small, small, st.sampled_from(DELTAS), st.sampled_from(VARIANTS), st.randoms(use_true_random=False))
def test_ties_are_broken_in_the_stated_order(n: int, m: int, delta: float, variant: str, random: Any) -> None:
    """Whole numbers from 0 to 2: most tables then have many best alignments, and every sum is exact."""
    nll = [[float(random.randint(0, 2)) for _ in range(m)] for _ in range(n)]
    blank = [float(random.randint(0, 2)) for _ in range(m)]
    found = parts(alone(torch.tensor(nll), torch.tensor(blank), delta, variant))
    assert found == plain(nll, blank, delta, variant)
    assert found[0] == min(DEFINITIONS[variant](nll, blank, delta))[0]


def test_a_tie_by_hand() -> None:
    """With every cost 1 and δ = 1, align goes first; then two skips that both give 2, skip pred first."""
    one = torch.ones
    assert parts(alone(one(2, 2), one(2), 1, "original")) == (2, (0, 1), (False, False))
    assert parts(alone(one(1, 2), one(2), 1, "original")) == (2, (1,), (False,))
    nll, blank = torch.tensor([[1.0, 0], [0, 4]]), torch.tensor([0.0, 1])
    assert parts(alone(nll, blank, 0.5, "strict")) == (2, (0, 0), (False, True))  # else (2, (1, 1), …)


PROBABILITIES = [[0.6, 0.1, 0.1, 0.1, 0.1], [0.1, 0.6, 0.1, 0.1, 0.1], [0.05, 0.05, 0.7, 0.1, 0.1]]
PROBABILITIES.append([0.05, 0.05, 0.1, 0.6, 0.2])
EGO, EAT, PIZZA, TODAY = range(BLANK + 1, BLANK + 5)


def figure_9(delta: float, variant: str = "original") -> tuple[Snapshot, Target]:
    """Fig. 9 of the paper: its predictions as a model's, and its T."""
    logits = torch.full((1, 4, BLANK + 5), -200.0)
    logits[..., BLANK:] = torch.tensor(PROBABILITIES).log()
    model, batch = nat(), Batch(torch.tensor([0]), contents([3]), torch.tensor([[EGO, EAT, PIZZA, TODAY]]))
    encoder_out = model.encode(batch.src_tokens)
    look = Snapshot(
        model, encoder_out, batch.ids, batch.tgt_lengths, Draws(1, 0), 0, 1, output=output_of(logits)
    )
    return look, AXE(Raw(), delta, variant)(batch, look)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    ("delta", "loss", "tokens"),
    [
        (0, 1.8892, [BLANK, EGO, EAT, PIZZA]),
        (1, 3.4986, [BLANK, EGO, EAT, PIZZA]),
        (5, 8.5172, [EGO, EAT, PIZZA, TODAY]),
        (10, 8.5172, [EGO, EAT, PIZZA, TODAY]),
    ],
)
def test_figure_9(delta: float, loss: float, tokens: list[int], variant: str) -> None:
    look, target = figure_9(delta, variant)
    assert target.tokens.tolist() == [tokens]
    assert target.reference.tolist() == [[EGO, EAT, PIZZA, TODAY]]
    found = CrossEntropy(0.0)(look.output, target, look.inputs)
    assert float(found["nats"].total) == pytest.approx(loss, abs=5e-5)
    assert found["nll"].value() == pytest.approx(0.4723 if delta < 2 else 8.5172 / 4, abs=5e-5)
    assert target.penalty is not None
    if delta == 1:  # "today" shares position 4 with "pizza"
        assert target.penalty.weights.tolist() == [[0, 0, 0, 1]]
        assert int(target.penalty.positions[0, 3]) == 3
        assert int(target.penalty.tokens[0, 3]) == TODAY
    if delta >= 5:
        assert not target.penalty.weights.any()
    assert target.log["blank"].value() == (0.25 if delta < 2 else 0)
    assert target.log["skipped"].value() == (0.25 if delta < 2 else 0)


def test_the_whole_table_of_figure_9() -> None:
    """A[i, j] is the cost of the first i tokens at the first j positions."""
    nll = -torch.tensor(PROBABILITIES).log().t()
    table = [
        [0.0000, 0.5108, 2.8134, 5.8091, 8.8049],
        [2.3026, 2.3026, 1.0217, 4.0174, 7.0131],
        [4.6052, 4.6052, 3.3242, 1.3783, 4.3741],
        [6.9078, 6.9078, 5.6268, 3.6809, 1.8892],
        [9.2103, 9.2103, 7.9294, 5.9835, 3.4986],
    ]
    i, j = torch.cartesian_prod(torch.arange(5), torch.arange(5)).T
    found = alignment(nll[1:].expand(25, 4, 4), nll[0].expand(25, 4), i, j, 1, "original").costs
    torch.testing.assert_close(found.view(5, 5), torch.tensor(table), atol=6e-5, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_tie_at_position_1_goes_to_the_first_token(variant: str) -> None:
    """At δ = 1 a skip before and after the aligned token of position 1 cost the same, float for float."""
    probabilities = torch.tensor([[0.1, 0.3, 0.6], [0.9, 0.05, 0.05]])
    nll = -probabilities.log().t()
    found = parts(alone(nll[1:], nll[0], 1, variant))
    assert found == (pytest.approx(1.8202, abs=5e-5), (0, 0), (False, True))  # a ε
    nat_loss = float(nll[1, 0] + nll[0, 1])
    assert nat_loss == pytest.approx(1.3093, abs=5e-5)
    for seed in range(30):
        nll, blank = (3 * table for table in tables(6, 6, seed))
        own, strict = (said(parts(alone(nll, blank, 1, v)), 6) for v in VARIANTS)
        assert own == strict


def test_the_first_row_is_not_penalised() -> None:
    nll, blank = -torch.tensor([[0.1, 0.9]]).log(), -torch.tensor([0.9, 0.1]).log()
    for variant in VARIANTS:
        found = parts(alone(nll, blank, 5, variant))
        assert found == (pytest.approx(0.2107, abs=5e-5), (1,), (False,))


def test_the_programme_is_not_the_closed_form() -> None:
    """At position 1, the programme may skip a token before it aligns one."""
    first, second = {"ε": 0.1, "a": 0.3, "b": 0.6}, {"ε": 0.7, "a": 0.1, "b": 0.2}
    nll = -torch.tensor([[p[token] for p in (first, second)] for token in "ba"]).log()
    blank = -torch.tensor([first["ε"], second["ε"]]).log()
    assert parts(alone(nll, blank, 2, "original")) == (
        pytest.approx(2.5823, abs=5e-5),
        (0, 0),
        (True, False),
    )
    assert parts(alone(nll, blank, 2, "strict")) == (
        pytest.approx(2.8134, abs=5e-5),
        (0, 1),
        (False, False),
    )


def test_between_the_variants_and_in_delta() -> None:
    tried = [tables(4, 5, seed) for seed in range(100)]
    nll, blank = (torch.stack(some) for some in zip(*tried, strict=True))
    counts = torch.full((100,), 4), torch.full((100,), 5)
    costs = {v: [alignment(nll, blank, *counts, delta, v).costs for delta in DELTAS] for v in VARIANTS}
    for found in costs.values():
        assert all((x <= y + 1e-9).all() and (x < y - 1e-3).any() for x, y in itertools.pairwise(found))
    for delta, own, strict in zip(DELTAS, costs["original"], costs["strict"], strict=True):
        assert (own <= strict + 1e-9).all()
        assert torch.allclose(own, strict) == (delta == 1)


def test_a_position_that_is_given_tokens_says_one_of_them_when_strict() -> None:
    has_differed = False
    for seed in range(60):
        nll, blank = tables(4, 4, seed)
        _, at, skipped = parts(alone(nll, blank, 0.5, "strict"))
        assert list(at) == sorted(at)
        for j in set(at):
            assert not next(s for k, s in zip(at, skipped, strict=True) if k == j)
        has_differed |= parts(alone(nll, blank, 0.5, "original"))[1:] != (at, skipped)
    assert has_differed


def together(
    sizes: Sequence[tuple[int, int]],
    delta: float,
    variant: str,
    seed: int = 0,
    junk: float = 0.0,
    extra: int = 0,
) -> Alignment:
    """The tables of `sizes` as one batch, `junk` in what pads them."""
    n, m = max(s[0] for s in sizes) + extra, max(s[1] for s in sizes) + extra
    nll, blank = torch.full((len(sizes), n, m), junk), torch.full((len(sizes), m), junk)
    for b, size in enumerate(sizes):
        nll[b, : size[0], : size[1]], blank[b, : size[1]] = tables(*size, seed)
    counts = torch.tensor(sizes)
    return alignment(nll, blank, counts[:, 0], counts[:, 1], delta, variant)


any_delta = st.one_of(st.sampled_from(DELTAS), st.floats(0, 20))
any_variant = st.sampled_from(VARIANTS)
any_seed = st.integers(0, 10**6)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 8), st.integers(1, 8)), min_size=1, max_size=6),
    delta=any_delta,
    variant=any_variant,
    seed=any_seed,
    junk=st.sampled_from([0.0, 50.0, 1e5]),
    extra=st.integers(0, 3),
)
def test_a_batch_is_its_sentences_and_padding_is_nothing(
    sizes: list[tuple[int, int]], delta: float, variant: str, seed: int, junk: float, extra: int
) -> None:
    batch = together(sizes, delta, variant, seed)
    padded = together(sizes, delta, variant, seed, junk, extra)
    for b, (n, m) in enumerate(sizes):
        nll, blank = (table.float() for table in tables(n, m, seed))
        found = alone(nll, blank, delta, variant)
        assert parts(found) == parts(batch, b, n) == parts(padded, b, n)
        assert not padded.is_skipped[b, n:].any()
        assert not padded.positions[b, n:].any()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 8), st.integers(1, 8), any_seed, any_variant, st.lists(st.floats(0, 1e3), min_size=2))
def test_a_greater_delta_never_costs_less(
    n: int, m: int, seed: int, variant: str, deltas: list[float]
) -> None:
    nll, blank = tables(n, m, seed)
    costs = [float(alone(nll, blank, delta, variant).costs) for delta in sorted(deltas)]
    assert all(low <= high + 1e-9 for low, high in itertools.pairwise(costs))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), any_seed, any_variant, st.floats(1e3, 1e6))
def test_a_huge_delta_is_the_diagonal(n: int, seed: int, variant: str, delta: float) -> None:
    """As many positions as tokens: each has its own, and A[n, n] is the cross-entropy."""
    nll, blank = tables(n, n, seed)
    cost, positions, skipped = parts(alone(nll, blank, delta, variant))
    assert cost == pytest.approx(float(nll.diagonal().sum()), rel=1e-12)
    assert positions == tuple(range(n))
    assert not any(skipped)


@pytest.mark.parametrize(
    ("delta", "share"), [(0, 0.42), (0.5, 0.36), (1, 0.0), (2, 0.05), (5, 0.03)], ids=lambda x: str(x)
)
def test_how_often_the_variants_differ(delta: float, share: float) -> None:
    """The shares that methods.md 1.4 gives for 400 tables of four tokens at four positions. They are of its
    tables, which it does not describe; normal logits of deviation 1.5 have them within their errors."""
    generator = torch.Generator().manual_seed(0)
    logits = 1.5 * torch.randn(4000, 4, 5, generator=generator, dtype=torch.float64)
    nll, counts = -logits.log_softmax(-1).mT, torch.full((4000,), 4)
    own, strict = (alignment(nll[:, 1:], nll[:, 0], counts, counts, delta, v).costs for v in VARIANTS)
    assert (own <= strict + 1e-9).all()
    found = float((own < strict - 1e-9).double().mean())
    error = math.sqrt(share * (1 - share) / 400)  # of the given share
    assert found == pytest.approx(share, abs=2 * error)


def logits_of(lengths: Sequence[int], seed: int = 0) -> tuple[Tensor, Target, DecoderInput]:
    tokens = contents(lengths, seed)
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(*tokens.shape, VOCABULARY, generator=generator)
    counts = tokens != PAD
    shown = torch.where(counts, MASK, PAD)
    return logits, Target(tokens, counts, tokens), DecoderInput(shown, torch.zeros_like(counts))


def test_what_the_model_says_of_every_token_at_every_position() -> None:
    logits, target, _ = logits_of([5, 2, 7])
    nll, blank_nll = canvas_nll(output_of(logits), target.counts, target.tokens)
    log_probs = logits.log_softmax(-1)
    for b, j in target.counts.nonzero().tolist():
        assert float(blank_nll[b, j]) == pytest.approx(-float(log_probs[b, j, BLANK]), rel=1e-5)
        expected = -log_probs[b, j, target.tokens[b]]
        torch.testing.assert_close(nll[b, :, j], expected)


def test_float32_even_under_autocast() -> None:
    logits, target, _ = logits_of([5, 2, 7])
    exact, _ = canvas_nll(output_of(logits), target.counts, target.tokens)
    with torch.autocast("cpu", torch.bfloat16):
        rounded, blank_nll = canvas_nll(output_of(logits), target.counts, target.tokens)
    assert rounded.dtype == blank_nll.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    inside = target.counts.unsqueeze(1).expand_as(exact)
    torch.testing.assert_close(rounded[inside], exact[inside], atol=0.05, rtol=0.01)


def snapshot_on(model: Any, batch: Batch, logits: Tensor) -> Snapshot:
    encoder_out = model.encode(batch.src_tokens)
    return Snapshot(
        model, encoder_out, batch.ids, batch.tgt_lengths, Draws(1, 0), 0, 1, output=output_of(logits)
    )


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 8), min_size=1, max_size=4), any_delta, any_variant, any_seed)
def test_the_loss_is_the_alignment_s_and_so_is_its_gradient(
    canvas: list[int], delta: float, variant: str, seed: int
) -> None:
    logits, reference, inputs = logits_of(canvas, seed)
    batch = random_batch([3] * len(canvas), canvas)
    target = AXE(Raw(), delta, variant).align(reference, snapshot_on(nat(), batch, logits))
    nll = canvas_nll(output_of(logits), reference.counts, reference.tokens)
    lengths = reference.lengths
    costs = alignment(*nll, lengths, lengths, delta, variant).costs
    own, again = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss = CrossEntropy(0.0)(output_of(own), target, inputs)["nats"]
    assert float(loss.total.detach()) == pytest.approx(float(costs.sum()), rel=1e-5)
    assert float(loss.count) == int(lengths.sum())
    log_probs = again.log_softmax(-1)
    assert target.penalty is not None
    expected = -log_probs.gather(2, target.tokens.unsqueeze(2)).squeeze(2)[target.counts].sum()
    for b, i in reference.counts.nonzero().tolist():
        j = target.penalty.positions[b, i]
        assert target.penalty.tokens[b, i] == reference.tokens[b, i]
        expected = expected - target.penalty.weights[b, i] * log_probs[b, j, reference.tokens[b, i]]
    loss.total.backward()
    expected.backward()
    assert own.grad is not None
    assert own.grad.isfinite().all()
    torch.testing.assert_close(own.grad, again.grad)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 8), min_size=1, max_size=4), any_variant, any_seed)
def test_a_huge_delta_is_cross_entropy(canvas: list[int], variant: str, seed: int) -> None:
    logits, reference, inputs = logits_of(canvas, seed)
    batch = random_batch([3] * len(canvas), canvas)
    target = AXE(Raw(), 1e6, variant).align(reference, snapshot_on(nat(), batch, logits))
    assert torch.equal(target.tokens, reference.tokens)
    for smoothing in (0.0, 0.1):
        found = CrossEntropy(smoothing)(output_of(logits), target, inputs)
        plain_loss = CrossEntropy(smoothing)(output_of(logits), reference, inputs)
        assert torch.equal(found["nats"].total, plain_loss["nats"].total)


def test_revealed_positions_never_become_blank() -> None:
    """Position 1 is revealed where P(ε) is 0.99, and position 2 would take y_1."""
    tokens = torch.tensor([[BLANK + 1, BLANK + 2]])
    probabilities = torch.full((1, 2, VOCABULARY), 1e-4)
    probabilities[0, 0, BLANK] = 0.99
    probabilities[0, 1, BLANK + 1] = 0.99
    reference = Target(tokens, tokens != PAD, tokens)
    inputs = decoder_input(tokens, reference.counts, torch.tensor([[True, False]]))
    model, batch = nat(), random_batch([3], [2])
    look = Snapshot(
        model,
        model.encode(batch.src_tokens),
        batch.ids,
        batch.tgt_lengths,
        Draws(1, 0),
        0,
        1,
        output_of(probabilities.log()),
        inputs,
    )
    target = AXE(Raw(), 0.5).align(reference, look)
    assert torch.equal(target.tokens, tokens)
    assert target.penalty is not None
    assert not target.penalty.weights.any()


class LargestMade(TorchDispatchMode):
    """Notes how many numbers the largest tensor has that is made meanwhile; views of `given` are not made."""

    def __init__(self, *given: Tensor) -> None:
        super().__init__()
        self.numbers = 0
        self._given = {tensor.untyped_storage().data_ptr() for tensor in given}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for made in tree_leaves(result):
            if isinstance(made, Tensor) and made.untyped_storage().data_ptr() not in self._given:
                self.numbers = max(self.numbers, made.numel())
        return result


@pytest.mark.parametrize("variant", VARIANTS)
def test_memory_is_that_of_the_table_whatever_the_vocabulary(
    variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """O(B L²), never O(B L V). One position's logits at a time here, so that the chunk itself is small."""
    monkeypatch.setattr(vocabulary, "READING", dataclasses.replace(vocabulary.READING, most=1))

    def largest(sentences: int, length: int, entries: int) -> int:
        generator = torch.Generator().manual_seed(0)
        states = torch.randn(sentences, length, 4, generator=generator)
        output = DecoderOutput(states, torch.randn(entries, 4, generator=generator))
        tokens = torch.randint(BLANK + 1, 60, (sentences, length), generator=generator)
        counts = torch.ones_like(tokens, dtype=torch.bool)
        batch = random_batch([3] * sentences, [length] * sentences)
        look = snapshot_on(nat(max_positions=128), batch, torch.zeros(sentences, length, 6))
        look = Snapshot(look.model, look.encoder_out, look.ids, look.lengths, look.draws, 0, 1, output)
        reference = Target(tokens, counts, tokens)
        with LargestMade(output.features, output.weight) as made:
            AXE(Raw(), 0.5, variant).align(reference, look)
        return made.numbers

    small, wide = largest(4, 40, 64), largest(4, 40, 10_000)
    assert wide == small < 6 * 4 * 40**2 < 4 * 40 * 10_000 / 20
    assert largest(8, 40, 64) == 2 * small
    assert 2 * 2 * 0.9 < largest(4, 80, 64) / small < 2 * 2


BATCH = random_batch([4, 2, 6], [5, 2, 7], [[3, 5], [6, 2], [1, 7]], names=("base", "raw"))
REFERENCES: list[ProxyTarget] = [Raw(), KD("base"), DynamicKD({"base": 1.0, "raw": 2.0}, 0.02)]


@pytest.mark.parametrize("reference", REFERENCES, ids=["raw", "kd", "dynamic_kd"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_on_every_reference(reference: ProxyTarget, variant: str) -> None:
    model, aligned = nat(), AXE(reference, 0.5, variant)
    assert isinstance(aligned, AlignedTarget)
    assert isinstance(aligned, ProxyTarget)
    assert not isinstance(reference, AlignedTarget)
    assert aligned.says_blank
    assert aligned.candidates == reference.candidates
    plain_target = reference(BATCH, snapshot_of(model, BATCH))
    calls = count_decodes(model)
    target = aligned(BATCH, snapshot_of(model, BATCH))
    # one pass, whatever the lengths
    assert calls.rows == ([6] if isinstance(reference, DynamicKD) else [3])
    assert torch.equal(target.counts, plain_target.counts)
    assert torch.equal(target.reference, plain_target.reference)
    assert set(target.log) == set(plain_target.log) | {"blank", "skipped"}
    assert target.penalty is not None
    assert target.penalty.weights.any()
    assert set(target.penalty.weights.unique().tolist()) == {0.0, 0.5}
    for b in range(3):
        said, text = target.tokens[b], iter(plain_target.tokens[b].tolist())
        assert all(token in text for token in said[target.counts[b]].tolist() if token != BLANK)
        assert (said[~target.counts[b]] == PAD).all()
        kept = int(((said != BLANK) & target.counts[b]).sum())
        assert kept + int((target.penalty.weights[b] > 0).sum()) == int(target.lengths[b])


def test_t_does_not_depend_on_the_batch() -> None:
    model = nat()
    for reference in REFERENCES:
        aligned = AXE(reference, 0.5)
        target = aligned(BATCH, snapshot_of(model, BATCH))
        for b in range(3):
            one = take(BATCH, [b])
            found = aligned(one, snapshot_of(model, one))
            length = int(target.lengths[b])
            assert found.tokens.tolist() == [target.tokens[b, :length].tolist()]
            assert found.penalty is not None
            assert target.penalty is not None
            assert found.penalty.positions.tolist() == [target.penalty.positions[b, :length].tolist()]
            assert found.penalty.weights.tolist() == [target.penalty.weights[b, :length].tolist()]


def test_given_some_z_no_gradient_flows() -> None:
    model = nat()
    look = snapshot_of(model, BATCH)
    seen = look.given(model.blank(BATCH.tgt_lengths))
    assert seen.output.features.requires_grad
    aligned = AXE(Raw(), 1)
    found = aligned.align(Raw()(BATCH, look), seen)
    assert found.penalty is not None
    assert not found.penalty.weights.requires_grad
    assert not any(mean.total.requires_grad for mean in found.log.values())
    assert torch.equal(found.tokens, aligned(BATCH, look).tokens)  # this Z is Z*


def test_the_penalty_moves_with_its_target() -> None:
    _, target = figure_9(1)
    moved = target.to("meta")
    assert isinstance(moved, Target)
    assert moved.penalty is not None
    assert {t.device.type for t in (moved.tokens, moved.penalty.positions, moved.penalty.weights)} == {"meta"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"delta": -1}, r"proxy_target\.delta must be a number from 0 to 1e\+06; got -1"),
        ({"delta": math.nan}, r"proxy_target\.delta"),
        ({"delta": math.inf}, r"proxy_target\.delta"),
        ({"variant": "exact"}, r"proxy_target\.variant must be one of original, strict; got 'exact'"),
    ],
)
def test_refusals_name_the_key(changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        AXE(Raw(), **changes)


def test_ordinary_cross_entropy_of_torch_at_a_huge_delta() -> None:
    logits, reference, inputs = logits_of([6, 4])
    target = AXE(KD("base"), 1000).align(reference, snapshot_on(nat(), random_batch([3, 3], [6, 4]), logits))
    found = CrossEntropy(0.0)(output_of(logits), target, inputs)["nats"]
    torchs = functional.cross_entropy(logits[reference.counts], reference.tokens[reference.counts])
    assert found.value() == pytest.approx(float(torchs), rel=1e-5)
