"""log Q against every order of drawing, L_input against sums over every Z, and worked numbers."""

import itertools
import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mple.checks import UserError
from mple.data.grammar import Grammar
from mple.estimator.input_loss import (
    GivenCount,
    InputInformation,
    InputLoss,
    Law,
    OneByOne,
    UniformCount,
    as_a_race,
    log_choose,
    log_prob_one_by_one,
    no_hint,
    over_orders,
)
from mple.estimator.statistics import Bootstrap
from mple.model.input_predictor import InputDistribution
from mple.proxy.target_first import TargetFirst
from mple.proxy_input import ProxyInput
from mple.proxy_input.blank import Blank
from mple.proxy_input.fixed_mask import FixedMask
from mple.proxy_input.glancing import Glancing
from mple.proxy_input.uniform_mask import UniformMask
from mple.proxy_target.raw import Raw
from mple.types import EOS, MASK, PAD, Batch, DecoderInput, DecoderOutput, EncoderOutput
from tests.fakes import CONTENT, VOCABULARY, nat, output_of, random_batch, snapshot_of, take
from tests.table_models import TableMasks, TableNAT, table_batch

SUMS: list[Callable[[Tensor, Tensor, Tensor], Tensor]] = [over_orders, as_a_race, log_prob_one_by_one]
WHOLE = [(7, 1), (8, 2), (9, 3), (7, 4), (11, 4)]


PROXIES: dict[str, tuple[ProxyInput, Law]] = {
    "cmlm": (UniformMask(), UniformCount()),
    "fixed": (FixedMask(0.5), GivenCount()),
    "glancing": (Glancing(1, 1), GivenCount()),
    "p_ref": (Glancing(0.7, 0.7, choice="p_ref"), OneByOne("p_ref")),
    "one_minus_p_ref": (Glancing(0.7, 0.7, choice="one_minus_p_ref"), OneByOne("one_minus_p_ref")),
}


def brute_force(weights: list[float], chosen: set[int]) -> float:
    """Every order of the set, in exact arithmetic."""
    exact = [Fraction(w) for w in weights]
    total = Fraction(0)
    for order in itertools.permutations(sorted(chosen)):
        p, left = Fraction(1), sum(exact)
        for item in order:
            p *= exact[item] / left
            left -= exact[item]
        total += p
    return math.log(total)


def one(weights: list[float], chosen: set[int]) -> tuple[Tensor, Tensor, Tensor]:
    revealed = torch.tensor([[i in chosen for i in range(len(weights))]])
    return revealed, torch.ones_like(revealed), torch.tensor([weights], dtype=torch.float64).log()


class TestOneByOne:
    @pytest.mark.parametrize("log_prob", SUMS)
    def test_worked_numbers(self, log_prob: Callable[..., Tensor]) -> None:
        """methods.md 1.7: of (.7, .2, .1), two are drawn; the first is among them with .9528."""
        both = [float(log_prob(*one([0.7, 0.2, 0.1], {0, i})).exp()) for i in (1, 2)]
        assert sum(both) == pytest.approx(0.7 + 0.2 * 0.7 / 0.8 + 0.1 * 0.7 / 0.9, abs=1e-12)
        assert sum(both) == pytest.approx(0.9528, abs=5e-5)

    @pytest.mark.parametrize("log_prob", SUMS)
    @given(data=st.data())
    @settings(max_examples=40, deadline=None)
    def test_against_every_order(self, log_prob: Callable[..., Tensor], data: st.DataObject) -> None:
        exponents = data.draw(st.lists(st.floats(-12, 3), min_size=1, max_size=7))
        weights = [10.0**e for e in exponents]
        chosen = set(data.draw(st.lists(st.integers(0, len(weights) - 1), unique=True, max_size=5)))
        found = log_prob(*one(weights, chosen))
        assert float(found) == pytest.approx(brute_force(weights, chosen), abs=1e-9, rel=1e-9)

    @given(seed=st.integers(0, 10**6), spread=st.floats(0, 60))
    @settings(max_examples=8, deadline=None)
    def test_both_ways_agree(self, seed: int, spread: float) -> None:
        generator = torch.Generator().manual_seed(seed)
        weights = spread * torch.randn(6, 10, generator=generator, dtype=torch.float64)
        is_canvas = torch.arange(10) < torch.tensor([10, 9, 8, 7, 5, 1]).unsqueeze(1)
        revealed = is_canvas & (torch.rand(6, 10, generator=generator) < 0.6)
        race, orders = (f(revealed, is_canvas, weights) for f in (as_a_race, over_orders))
        torch.testing.assert_close(race, orders, atol=1e-9, rtol=1e-10)

    @pytest.mark.parametrize(("length", "count"), [(30, 11), (120, 60), (400, 200), (400, 399), (2, 1)])
    def test_equal_weights_are_a_uniform_choice(self, length: int, count: int) -> None:
        is_canvas = torch.ones(1, length, dtype=torch.bool)
        revealed = torch.arange(length).unsqueeze(0) < count
        found = as_a_race(revealed, is_canvas, torch.full((1, length), -3.0))
        expected = math.log(math.comb(length, count))
        assert -float(found) == pytest.approx(expected, abs=1e-9, rel=1e-12)
        assert float(log_choose(torch.tensor(length), torch.tensor(count))) == pytest.approx(
            expected, rel=1e-12
        )

    @pytest.mark.parametrize("log_prob", SUMS)
    def test_all_sets_of_a_size_sum_to_one(self, log_prob: Callable[..., Tensor]) -> None:
        weights = torch.tensor([-40.0, 0.0, 2.0, -3.0, 1.0, -0.5, 0.2, 0.1])
        for count in range(9):
            sets = torch.tensor(
                [[i in s for i in range(8)] for s in map(set, itertools.combinations(range(8), count))]
            )
            total = log_prob(sets, torch.ones_like(sets), weights.expand(len(sets), 8)).exp().sum()
            assert float(total) == pytest.approx(1, abs=1e-10)

    @pytest.mark.parametrize("log_prob", SUMS)
    def test_weight_zero_comes_last_in_any_order(self, log_prob: Callable[..., Tensor]) -> None:
        weights = [0.5, 0.0, 0.25, 0.0, 0.0]
        assert float(log_prob(*one(weights, {0, 2}))) == pytest.approx(0, abs=1e-9)
        assert float(log_prob(*one(weights, {0, 2, 4}))) == pytest.approx(-math.log(3), abs=1e-9)
        assert float(log_prob(*one(weights, {1})).exp()) == 0

    @pytest.mark.parametrize("log_prob", SUMS)
    def test_batch_and_padding(self, log_prob: Callable[..., Tensor]) -> None:
        weights = torch.randn(3, 9, generator=torch.Generator().manual_seed(0))
        is_canvas = torch.arange(9) < torch.tensor([[9], [4], [2]])
        revealed = is_canvas & (torch.rand(3, 9, generator=torch.Generator().manual_seed(1)) < 0.6)
        together = log_prob(revealed, is_canvas, weights)
        for row, length in enumerate((9, 4, 2)):
            part = slice(row, row + 1), slice(0, length)
            alone = log_prob(revealed[part], is_canvas[part], weights[part])
            torch.testing.assert_close(together[row], alone[0], atol=1e-12, rtol=1e-10)


def exact(
    law: Law, proxy_input: ProxyInput, batch: Batch, masks: TableMasks, words: int = 3
) -> InputInformation:
    distribution = InputDistribution(masks, TableNAT(words, seed=3))
    proxy = TargetFirst(Raw(), proxy_input)
    return InputLoss(law).exact(TableNAT(words), proxy, distribution, batch)


class TestWorkedNumbers:
    """methods.md 1.8."""

    def test_one_token_is_always_masked(self) -> None:
        batch, masks = table_batch([(7, 1), (8, 1)]), TableMasks()
        found = exact(UniformCount(), UniformMask(), batch, masks)
        expected = [-math.log(float(masks.of(source, 1))) for source in (7, 8)]
        np.testing.assert_allclose(found.nats, expected, rtol=1e-6)
        np.testing.assert_array_equal(found.revealed, 0)

    def test_two_tokens_of_which_one_is_shown(self) -> None:
        """m = .5 and P(t) = .25: ½ (−log .5 − log .5 − log .25 − log 2) = 1.0397 nats per token."""
        batch = table_batch([(7, 2)])
        distribution = InputDistribution(TableMasks(0.5), TableNAT(4, sharpness=0))
        proxy = TargetFirst(Raw(), FixedMask(0.5))
        for found in (
            InputLoss(GivenCount()).exact(TableNAT(), proxy, distribution, batch),
            InputLoss(GivenCount(), draws=2)(TableNAT(), proxy, distribution, [batch]),
        ):
            assert found.nats[0] / 2 == pytest.approx(1.0397, abs=5e-5)

    @pytest.mark.parametrize(
        ("length", "cmlm", "fixed"), [(20, 0.575, 0.424), (27, 0.562, 0.418), (30, 0.558, 0.443)]
    )
    def test_entropy_per_token(self, length: int, cmlm: float, fixed: float) -> None:
        counts = torch.arange(length)
        revealed = torch.arange(length) < counts.unsqueeze(1)  # one set of each size
        log_q = UniformCount()(revealed, torch.ones_like(revealed), torch.zeros(revealed.shape))
        sets = log_choose(torch.full_like(counts, length), counts)
        assert float(-(sets + log_q).exp() @ log_q) / length == pytest.approx(cmlm, abs=5e-4)
        assert float((sets + log_q).exp().sum()) == pytest.approx(1)
        shown = revealed[length // 5 : length // 5 + 1]
        found = GivenCount()(shown, torch.ones_like(shown), torch.zeros(shown.shape))
        assert float(-found) / length == pytest.approx(fixed, abs=5e-4)

    @pytest.mark.parametrize(
        ("law", "length", "masked", "if_bits", "if_nats"),
        [(UniformCount(), 28, 0.5, 0.94, 1.30), (GivenCount(), 26, 0.8, 0.39, 0.53)],
        ids=["cmlm", "fixed"],
    )
    def test_what_the_paper_s_table_could_mean(
        self, law: Law, length: int, masked: float, if_bits: float, if_nats: float
    ) -> None:
        """A constant m, and a vanilla NAT of 2.42 a token, in bits or nats: L_input in nats per token. Of
        the lengths from 20 to 30 those at which both of methods.md 1.8's roundings come out."""
        counts = torch.arange(length) if not law.fixes_count else torch.tensor([length // 5])
        revealed = torch.arange(length) < counts.unsqueeze(1)  # one set of each size
        log_q = law(revealed, torch.ones_like(revealed), torch.zeros(revealed.shape))
        q = (log_choose(torch.full_like(counts, length), counts) + log_q).exp()  # of all sets of that size
        assert float(q.sum()) == pytest.approx(1)
        words = VOCABULARY - CONTENT
        tokens = torch.where(revealed, CONTENT, MASK)
        for loss, expected in ((2.42 * math.log(2), if_bits), (2.42, if_nats)):
            logits = torch.full((VOCABULARY,), -1e4)
            logits[CONTENT:] = math.log(-math.expm1(-loss) / (words - 1))
            logits[CONTENT] = -loss
            vanilla = ConstantNAT(logits)
            src = torch.tensor([[7, EOS]]).expand(len(counts), 2)
            log_p = InputDistribution(TableMasks(masked), vanilla).log_prob(
                src, DecoderInput(tokens, revealed)
            )
            assert float(q @ (log_q - log_p)) / length == pytest.approx(expected, abs=0.00501)

    def test_nothing_is_ever_all_shown(self) -> None:
        revealed = torch.tensor([[True, True, False], [True, True, False]])
        canvas = torch.tensor([[True, True, False], [True, True, True]])
        found = UniformCount()(revealed, canvas, torch.zeros(2, 3))
        assert float(found[0]) == -math.inf
        assert float(found[1]) == pytest.approx(-2 * math.log(3))

    def test_a_vanilla_input(self) -> None:
        found = no_hint(np.array([3, 4]))
        assert "0 by definition" in found.note
        assert found.metrics(Bootstrap(100))["input_loss_bits_per_token"] == 0


def test_draws_differ_from_each_other() -> None:
    """The mean over 64 draws of a sentence of 8 tokens is near the expectation, with no whole count."""
    batch, masks = table_batch([(7, 8)]), TableMasks()
    distribution = InputDistribution(masks, TableNAT(3, seed=3))
    truth = exact(UniformCount(), UniformMask(), batch, masks)
    proxy = TargetFirst(Raw(), UniformMask())
    found = InputLoss(UniformCount(), draws=64)(TableNAT(3), proxy, distribution, [batch])
    assert found.revealed[0] != round(found.revealed[0])
    assert found.revealed[0] == pytest.approx(truth.revealed[0], abs=1)
    assert found.cross_entropy[0] == pytest.approx(truth.cross_entropy[0], rel=0.05)


class ConstantNAT(TableNAT):
    """The same `logits` (V) at every position of every sentence."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def decode(
        self, inputs: DecoderInput, encoder_out: EncoderOutput, reads: torch.Tensor | None = None
    ) -> DecoderOutput:
        return output_of(self.logits.expand(*inputs.tokens.shape, -1))


def by_hand(name: str, batch: Batch, masks: TableMasks, vanilla: TableNAT, nat: TableNAT) -> list[float]:
    """KL of each sentence: sets by itertools, probabilities from the tables."""
    found = []
    for src, tgt in zip(batch.src_tokens.tolist(), batch.tgt_tokens, strict=True):
        target = [int(t) for t in tgt if t]
        length = len(target)
        look = nat.conditionals(src[0], [4] * length)
        words = vanilla.conditionals(src[0], [4] * length)
        m = masks.of(src[0], length).tolist()
        p_ref = [float(look[i, t - 6]) for i, t in enumerate(target)]
        wrong = sum(int(look[i].argmax()) != t - 6 for i, t in enumerate(target))
        loss = 0.0
        for chosen in itertools.chain.from_iterable(
            itertools.combinations(range(length), k) for k in range(length + 1)
        ):
            uniform = 1 / math.comb(length, len(chosen))
            if name == "cmlm":
                q = uniform / length * (len(chosen) < length)
            elif name == "fixed":
                q = uniform * (len(chosen) == length // 2)
            elif name == "glancing":
                q = uniform * (len(chosen) == wrong)
            else:
                weights = p_ref if name == "p_ref" else [1 - p for p in p_ref]
                right = len(chosen) == int(0.7 * wrong)
                q = math.exp(brute_force(weights, set(chosen))) if right else 0.0
            p = math.prod(
                (1 - m[i]) * float(words[i, t - 6]) if i in chosen else m[i] for i, t in enumerate(target)
            )
            loss += q * math.log(q / p) if q else 0.0
        found.append(loss)
    return found


@pytest.mark.parametrize("name", PROXIES)
class TestEstimate:
    def test_exact(self, name: str) -> None:
        batch, masks = table_batch(WHOLE, seed=2), TableMasks()
        proxy_input, law = PROXIES[name]
        expected = by_hand(name, batch, masks, TableNAT(3, seed=3), TableNAT(3))
        found = exact(law, proxy_input, batch, masks)
        np.testing.assert_allclose(found.nats, expected, atol=1e-5)
        assert found.revealed.max() >= 1
        assert found.note == "exact: all Z"

    def test_draws_converge_to_it(self, name: str) -> None:
        batch, masks = table_batch(WHOLE, seed=2), TableMasks()
        proxy_input, law = PROXIES[name]
        proxy = TargetFirst(Raw(), proxy_input)
        distribution = InputDistribution(masks, TableNAT(3, seed=3))
        truth = exact(law, proxy_input, batch, masks)
        copies = 300
        rows = [row for row in range(len(WHOLE)) for _ in range(copies)]
        many = take(batch, rows)
        many = Batch(torch.arange(len(rows)), many.src_tokens, many.tgt_tokens)
        found = InputLoss(law, draws=1).sampled(TableNAT(3), proxy, distribution, many)
        for part in ("nats", "cross_entropy", "entropy", "revealed"):
            got = getattr(found, part).reshape(len(WHOLE), copies)
            error = got.std(1) / math.sqrt(copies)
            assert (np.abs(got.mean(1) - getattr(truth, part)) <= 4.5 * error + 1e-5).all()


@pytest.mark.parametrize("name", PROXIES)
@pytest.mark.parametrize(
    "modes", [(0.5,) * 4, (0.1, 0.2, 0.3, 0.4), (0.0,) * 4], ids=["all", "skewed", "C = 0"]
)
def test_a_sample_of_the_grammar_has_an_interval_that_holds_the_exact_value(
    name: str, modes: tuple[float, ...]
) -> None:
    """One Z of each of 60 pairs, against all Z of them; m and P(t | X) are tables by source and place."""
    pairs = [p for p in Grammar(*modes).sample(300, seed=3) if len(p[1].split()) <= 7][:60]
    lengths = [(6 + i % 9, len(target.split())) for i, (_, target) in enumerate(pairs)]
    numbers = {word: CONTENT + k for k, word in enumerate(sorted({w for _, t in pairs for w in t.split()}))}
    batch = table_batch(lengths, words=1)
    tgt = torch.full_like(batch.tgt_tokens, PAD)
    for row, (_, target) in zip(tgt, pairs, strict=True):
        row[: len(target.split())] = torch.tensor([CONTENT + numbers[w] % 3 for w in target.split()])
    batch = Batch(batch.ids, batch.src_tokens, tgt)
    proxy_input, law = PROXIES[name]
    proxy, distribution = (
        TargetFirst(Raw(), proxy_input),
        InputDistribution(TableMasks(), TableNAT(3, seed=3)),
    )
    bootstrap = Bootstrap(1000, level=0.99)
    exactly = InputLoss(law).exact(TableNAT(3), proxy, distribution, batch).metrics(bootstrap)
    found = InputLoss(law, draws=1).sampled(TableNAT(3), proxy, distribution, batch).metrics(bootstrap)
    low, high = (found[f"input_loss_{end}_bits_per_token"] for end in ("low", "high"))
    assert low < exactly["input_loss_bits_per_token"] < high
    assert high - low < 1


@given(seed=st.integers(0, 1000), length=st.integers(1, 5), name=st.sampled_from(sorted(PROXIES)))
@settings(max_examples=12, deadline=None)
def test_kl_is_never_negative(seed: int, length: int, name: str) -> None:
    proxy_input, law = PROXIES[name]
    found = exact(law, proxy_input, table_batch([(7, length)], seed=seed), TableMasks(seed=seed))
    assert found.nats[0] >= -1e-6


def test_a_predictor_that_is_right_loses_only_what_independence_does() -> None:
    """One of two shown, m = ½, P(t) = 1: KL = −2 log ½ − log 2 = log 2."""
    batch = table_batch([(7, 2)], words=1)
    found = exact(GivenCount(), FixedMask(0.5), batch, TableMasks(0.5), words=1)
    assert found.nats[0] == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.parametrize("name", PROXIES)
def test_batch_and_padding(name: str) -> None:
    model, vanilla, masks = nat(), nat(seed=1), TableMasks()
    proxy_input, law = PROXIES[name]
    proxy = TargetFirst(Raw(), proxy_input)
    distribution = InputDistribution(masks, vanilla)
    batch = random_batch([4, 7, 2], [9, 3, 6])
    for measure in (InputLoss(law, draws=3).sampled, InputLoss(law).exact):
        together = measure(model, proxy, distribution, batch)
        alone = [measure(model, proxy, distribution, take(batch, [row])) for row in range(3)]
        for part in ("nats", "entropy", "revealed", "tokens"):
            expected = np.concatenate([getattr(found, part) for found in alone])
            np.testing.assert_allclose(getattr(together, part), expected, atol=1e-4)


def test_metrics_and_sums() -> None:
    model, batch = nat(), random_batch([4, 7, 2], [5, 3, 6])
    proxy, distribution = TargetFirst(Raw(), UniformMask()), InputDistribution(TableMasks(), nat(seed=1))
    estimate = InputLoss(UniformCount(), draws=2)
    found = estimate(model, proxy, distribution, [take(batch, [0, 1]), take(batch, [2])])
    whole = estimate.sampled(model, proxy, distribution, batch)
    np.testing.assert_allclose(found.nats, whole.nats, atol=1e-4)
    assert found.note == "2 draws of Z per sentence"
    metrics = found.metrics(Bootstrap(100))
    bits = metrics["input_loss_bits_per_token"]
    assert bits == pytest.approx(found.nats.sum() / 14 / math.log(2))
    assert metrics["input_loss_nats_per_token"] == pytest.approx(bits * math.log(2))
    terms = metrics["input_cross_entropy_bits_per_token"] - metrics["input_entropy_bits_per_token"]
    assert terms == pytest.approx(bits)
    assert 0 < metrics["input_revealed_percent"] < 100


def test_refusals() -> None:
    model, batch = nat(), random_batch([4], [13])
    proxy, distribution = TargetFirst(Raw(), UniformMask()), InputDistribution(TableMasks(), nat(seed=1))
    with pytest.raises(UserError, match="at most 12 tokens; got one of 13"):
        InputLoss(UniformCount()).exact(model, proxy, distribution, batch)
    with pytest.raises(UserError, match=r"0 by definition"):
        InputLoss(GivenCount()).exact(model, TargetFirst(Raw(), Blank()), distribution, take(batch, [0]))
    shown = snapshot_of(model, batch)
    target, inputs, shown = proxy(batch, shown)
    with pytest.raises(UserError, match=r"needs proxy=target_first"):
        OneByOne("p_ref").log_weights(target, shown.given(inputs))
    with pytest.raises(UserError, match="at least one batch"):
        InputLoss(UniformCount())(model, proxy, distribution, [])
    with pytest.raises(UserError, match=r"estimator\.draws \(Z per sentence\) must be a whole number"):
        InputLoss(UniformCount(), draws=0)
    with pytest.raises(UserError, match=r"estimator\.seed"):
        InputLoss(UniformCount(), seed=-1)
    with pytest.raises(UserError, match=r"law\.choice must be one of one_minus_p_ref, p_ref; got 'uniform'"):
        OneByOne("uniform")


@pytest.mark.parametrize("law", [UniformCount(), GivenCount(), OneByOne("p_ref")])
def test_is_a_law(law: object) -> None:
    assert isinstance(law, Law)
