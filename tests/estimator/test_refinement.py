"""C_i against its definition on tables: entropies summed over all sentences and all seen tokens."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from mple.checks import UserError
from mple.estimator.refinement import Refinement
from mple.estimator.statistics import Bootstrap
from mple.estimator.total_correlation import TotalCorrelation
from mple.types import MASK, Batch
from tests.fakes import CONTENT, count_decodes, nat, random_batch, take
from tests.table_models import TableNAT

FAST = TotalCorrelation(Bootstrap(100))
WORDS, LENGTH, SOURCE = 3, 4, 9


def entropy(p: Tensor) -> float:
    return float(-torch.special.xlogy(p, p).sum())


def correlation(model: TableNAT, seen: int) -> float:
    """Σ_k H(y_k | X, Z) − H(Y | X, Z) in nats, Z with `seen` tokens of Y at uniformly drawn places."""
    joint, total, sets = model.joint(SOURCE, LENGTH), 0.0, list(itertools.combinations(range(LENGTH), seen))
    for chosen in sets:
        hidden = [k for k in range(LENGTH) if k not in chosen]
        h_seen = entropy(joint.sum(hidden)) if hidden else entropy(joint)
        alone = 0.0
        for k in hidden:
            others = [j for j in hidden if j != k]
            alone += entropy(joint.sum(others) if others else joint) - h_seen
        total += (alone - (entropy(joint) - h_seen)) / len(sets)
    return total


def sample(model: TableNAT, copies: int) -> Batch:
    """Sentences drawn from the table."""
    generator = torch.Generator().manual_seed(0)
    flat = model.joint(SOURCE, LENGTH).flatten()
    drawn = torch.multinomial(flat, copies, replacement=True, generator=generator)
    digits = [(drawn // WORDS ** (LENGTH - 1 - k)) % WORDS for k in range(LENGTH)]
    src = torch.tensor([[SOURCE, 2]]).expand(copies, -1)
    return Batch(torch.arange(copies), src, torch.stack(digits, 1) + CONTENT)


def test_against_enumeration() -> None:
    """Mask-predict with T = 4 on 4 tokens sees 0, 1, 2, 3 of them; with 3 seen nothing is lost."""
    model = TableNAT(WORDS, seed=5, sharpness=1.0)
    batch = sample(model, 500)
    estimate = Refinement(iterations=4)
    exact = [correlation(model, seen) for seen in range(4)]
    assert exact[0] > exact[1] > exact[2] > exact[3] - 1e-9
    assert exact[3] == pytest.approx(0, abs=1e-9)
    for step, expected in enumerate(exact, 1):
        at_once, one_by_one = estimate.losses(model, batch, step).numpy()
        difference = at_once - one_by_one
        error = difference.std() / math.sqrt(len(difference))
        assert abs(difference.mean() - expected) <= 4 * error + 1e-5
        assert step == 4 or error < expected / 2  # close enough to tell


def test_one_by_one_is_the_chain_rule_in_any_order() -> None:
    """At step 1 nothing is seen: −log P(Y | X) of the table itself, and the marginals."""
    model = TableNAT(WORDS, seed=5)
    batch = sample(model, 30)
    joint = model.joint(SOURCE, LENGTH)
    marginals = model.conditionals(SOURCE, [MASK] * LENGTH)
    found = [Refinement(seed=seed).losses(model, batch, 1) for seed in (0, 1)]
    for row, tokens in enumerate((batch.tgt_tokens - CONTENT).tolist()):
        expected = [-sum(math.log(marginals[k, t]) for k, t in enumerate(tokens)), -math.log(joint[*tokens])]
        for losses in found:
            assert losses[:, row].tolist() == pytest.approx(expected, abs=1e-4)


def test_seen_tokens_are_true_ones_at_random_places() -> None:
    model, batch = nat(), random_batch([4] * 40, [6] * 40)
    shown: list[Tensor] = []
    decode = model.decode

    def noted(inputs, encoder_out):  # type: ignore[no-untyped-def]
        assert torch.equal(inputs.tokens[inputs.revealed], batch.tgt_tokens[inputs.revealed])
        assert (inputs.tokens[~inputs.revealed] == MASK).all()
        shown.append(inputs.revealed)
        return decode(inputs, encoder_out)

    model.decode = noted  # type: ignore[method-assign]
    Refinement(iterations=3).losses(model, batch, 2)  # hides 4 of 6, then shows one after the other
    assert [int(s.sum()) for s in shown] == [2 * 40, 3 * 40, 4 * 40, 5 * 40]
    assert all((later >= earlier).all() for earlier, later in itertools.pairwise(shown))
    assert (shown[0].float().mean(0) - 1 / 3).abs().max() < 0.3


def test_batch_and_padding_and_passes() -> None:
    model, batch = nat(), random_batch([4, 6, 2], [5, 3, 8])
    estimate = Refinement(iterations=4, draws=2)
    for step in (1, 2, 4):
        together = estimate.losses(model, batch, step)
        alone = torch.cat([estimate.losses(model, take(batch, [row]), step) for row in range(3)], 1)
        torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
    calls = count_decodes(model)
    Refinement(iterations=4).losses(model, batch, 1)
    assert calls.rows == [3, 3, 3, 2, 2, 1, 1, 1]  # a finished sentence is not decoded again


def test_a_step_that_hides_one_token_or_none_has_no_correlation() -> None:
    model, batch = nat(), random_batch([4, 6], [4, 1])
    last = Refinement(iterations=4).losses(model, batch, 4)
    torch.testing.assert_close(last[0], last[1])
    assert (last > 0).all()
    none = Refinement(iterations=4, schedule="fairseq").losses(model, batch, 4)
    assert none[:, 0].ne(0).all()
    assert none[:, 1].eq(0).all()


def test_metrics() -> None:
    model, batches = nat(), [random_batch([4, 6], [5, 3]), random_batch([3], [7], seed=4)]
    found = Refinement(iterations=2, correlation=FAST)(model, batches)
    losses = torch.cat([Refinement(iterations=2).losses(model, batch, 2) for batch in batches], 1)
    bits = losses.sum(1) / 15 / math.log(2)
    assert found["step2_nat_loss_bits_per_token"] == pytest.approx(float(bits[0]), rel=1e-6)
    assert found["step2_at_loss_bits_per_token"] == pytest.approx(float(bits[1]), rel=1e-6)
    correlation = found["step2_total_correlation_bits_per_token"]
    assert correlation == pytest.approx(float(bits[0] - bits[1]), abs=1e-6)
    assert {key.split("_")[0] for key in found} == {"step1", "step2"}
    assert np.isfinite(list(found.values())).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"iterations": 0}, r"estimator\.iterations \(steps\) must be a whole number of at least 1; got 0"),
        ({"schedule": "linear"}, r"estimator\.schedule must be one of fairseq, original; got 'linear'"),
        ({"draws": 0}, r"estimator\.draws"),
        ({"seed": -1}, r"estimator\.seed"),
    ],
)
def test_settings(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Refinement(**settings)


def test_no_batch() -> None:
    with pytest.raises(UserError, match="at least one batch"):
        Refinement()(nat(), [])
