"""Dynamic KD's choice: a worked example, its limits, and that it belongs to the sentence."""

import dataclasses

import pytest
import torch

from mple.checks import UserError
from mple.objective.cross_entropy import CrossEntropy
from mple.proxy_target import ProxyTarget
from mple.proxy_target.dynamic_kd import DynamicKD
from mple.proxy_target.kd import KD
from mple.types import PAD, Batch
from tests.fakes import count_decodes, nat, pad_right, random_batch, snapshot_of, take

NAMES = ("c0", "c1", "c2")
GAMMA = {"c0": 1.0, "c1": 1.5, "c2": 2.0}


def example(seed: int = 0) -> Batch:
    lengths = [[3, 5, 3], [6, 2, 4], [1, 7, 7], [4, 4, 4], [2, 5, 8]]
    return random_batch([4, 2, 6, 5, 3], [5, 2, 7, 4, 6], lengths, seed=seed)


def choices(dynamic: DynamicKD, batch: Batch) -> list[int]:
    """Which candidate became T, from T's tokens."""
    target = dynamic(batch, snapshot_of(nat(), batch))
    assert batch.tgt_candidates is not None
    width = batch.tgt_candidates.shape[-1]
    tokens = pad_right(target.tokens, width - target.tokens.shape[1]).unsqueeze(1)
    is_chosen = (batch.tgt_candidates == tokens).all(-1)
    assert (is_chosen.sum(1) == 1).all()
    return is_chosen.int().argmax(1).tolist()


@pytest.mark.parametrize(
    ("nll", "normalize_gamma", "distortion", "totals", "choice"),
    [
        ("sum", False, [-20.0, -24.0, -28.0], [-10.0, -8.0, -6.0], 0),
        ("mean", False, [-20.0, -24.0, -28.0], [-19.0, -22.4, -25.8], 2),
        ("mean", True, [-5.0, -6.0, -7.0], [-4.0, -4.4, -4.8], 2),
    ],
)
def test_worked_example(
    nll: str, normalize_gamma: bool, distortion: list[float], totals: list[float], choice: int
) -> None:
    scores = torch.tensor([[[100.0, 40, 30], [40, 100, 50], [30, 50, 100]]])
    dynamic = DynamicKD({"c0": 1.0, "c1": 1.0, "c2": 2.0}, 0.1, nll, normalize_gamma)
    found = dynamic.distortion(scores)
    torch.testing.assert_close(found, torch.tensor([distortion]))
    total = found + dynamic.cost(torch.tensor([[10.0, 16, 22]]), torch.full((1, 3), 10))
    torch.testing.assert_close(total, torch.tensor([totals]))
    assert int(total.argmin()) == choice


@pytest.mark.parametrize("nll", ["mean", "sum"])
@pytest.mark.parametrize("normalize_gamma", [False, True])
def test_choice_log_and_margin_against_a_loop(nll: str, normalize_gamma: bool) -> None:
    """Scores are not symmetric here: candidate k is the hypothesis, candidate i the reference."""
    batch, dynamic = example(), DynamicKD(GAMMA, 0.02, nll, normalize_gamma)
    assert batch.tgt_candidates is not None
    assert batch.candidate_scores is not None
    summed = snapshot_of(nat(), batch).candidate_nll(batch.tgt_candidates)
    weight = sum(GAMMA.values()) if normalize_gamma else 1.0
    ease, agreement, chosen, margins = [], [], [], []
    for b in range(5):
        cost, distortion = [], []
        for k in range(3):
            length = int((batch.tgt_candidates[b, k] != PAD).sum())
            cost.append(float(summed[b, k]) / (length if nll == "mean" else 1))
            terms = [GAMMA[NAMES[i]] / weight * float(batch.candidate_scores[b, i, k]) for i in range(3)]
            distortion.append(-0.02 * sum(terms))
        totals = [x + y for x, y in zip(cost, distortion, strict=True)]
        chosen.append(totals.index(min(totals)))
        ease.append(cost.index(min(cost)))
        agreement.append(distortion.index(min(distortion)))
        margins.append(sorted(totals)[1] - min(totals))
    assert choices(dynamic, batch) == chosen
    log = dynamic(batch, snapshot_of(nat(), batch)).log
    for k, name in enumerate(NAMES):
        assert log[f"selected_{name}"].value() == pytest.approx(chosen.count(k) / 5)
    same_ease = sum(x == y for x, y in zip(chosen, ease, strict=True))
    same_agreement = sum(x == y for x, y in zip(chosen, agreement, strict=True))
    assert log["nll_alone"].value() == pytest.approx(same_ease / 5)
    assert log["agreement_alone"].value() == pytest.approx(same_agreement / 5)
    assert log["margin_nats"].value() == pytest.approx(sum(margins) / 5, abs=1e-4)


@pytest.mark.parametrize("nll", ["mean", "sum"])
def test_without_the_regulariser_the_easiest(nll: str) -> None:
    batch = example()
    assert batch.tgt_candidates is not None
    cost = snapshot_of(nat(), batch).candidate_nll(batch.tgt_candidates)
    if nll == "mean":
        cost = cost / (batch.tgt_candidates != PAD).sum(-1)
    assert choices(DynamicKD(GAMMA, 0.0, nll), batch) == cost.argmin(1).tolist()


def test_with_a_large_beta_the_consensus() -> None:
    batch = example()
    assert batch.candidate_scores is not None
    weighted = torch.tensor([1.0, 1.5, 2.0]).view(1, 3, 1) * batch.candidate_scores
    expected = weighted.sum(1).argmax(1).tolist()
    assert choices(DynamicKD(GAMMA, 1e4), batch) == expected
    assert (
        choices(DynamicKD({"c0": 1e6, "c1": 0.0, "c2": 0.0}, 1e4), batch) == [0] * 5
    )  # agrees with itself by 100


def test_one_candidate_is_plain_distillation() -> None:
    batch = random_batch([4, 2], [5, 2], [[3], [6]], names=("base",))
    found = DynamicKD({"base": 1.0})(batch, snapshot_of(nat(), batch))
    plain = KD("base")(batch, snapshot_of(nat(), batch))
    assert torch.equal(found.tokens, plain.tokens)
    assert torch.equal(found.counts, plain.counts)
    assert torch.equal(found.reference, plain.reference)
    assert set(found.log) == {"selected_base", "nll_alone", "agreement_alone"}


def test_identical_candidates() -> None:
    batch = example()
    assert batch.tgt_candidates is not None
    same = batch.tgt_candidates[:, :1].expand(-1, 3, -1)
    scores = torch.full((5, 3, 3), 100.0)
    batch = dataclasses.replace(batch, tgt_candidates=same, candidate_scores=scores)
    model = nat()
    calls = count_decodes(model)
    losses = []
    for beta in (0.0, 0.2, 10.0):
        look = snapshot_of(model, batch)
        target = DynamicKD(GAMMA, beta)(batch, look)
        assert torch.equal(target.tokens, same[:, 0, : target.tokens.shape[1]])
        assert target.log["selected_c0"].value() == 1  # the candidate named first
        assert target.log["margin_nats"].value() == 0
        inputs = look.on(target.lengths).inputs
        losses.append(CrossEntropy()(look.decode(inputs), target, inputs)["nats"].detach().value())
    assert len(set(losses)) == 1
    assert calls.rows == [5, 5] * 3  # scoring (one canvas a sentence), training


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_choice_does_not_depend_on_the_batch(seed: int) -> None:
    batch, dynamic = example(seed), DynamicKD(GAMMA, 0.02)
    together = choices(dynamic, batch)
    assert [choices(dynamic, take(batch, [row]))[0] for row in range(5)] == together
    assert choices(dynamic, take(batch, [4, 2, 0])) == [together[row] for row in (4, 2, 0)]
    assert batch.tgt_candidates is not None
    wider = dataclasses.replace(
        batch,
        src_tokens=pad_right(batch.src_tokens, 3),
        tgt_tokens=pad_right(batch.tgt_tokens, 2),
        tgt_candidates=pad_right(batch.tgt_candidates, 4),
    )
    assert choices(dynamic, wider) == together


def test_inputs_stay_and_no_gradient_flows() -> None:
    batch, dynamic = example(), DynamicKD(GAMMA)
    assert batch.tgt_candidates is not None
    assert isinstance(dynamic, ProxyTarget)
    assert dynamic.candidates == NAMES
    before = batch.tgt_candidates.clone()
    target = dynamic(batch, snapshot_of(nat(), batch))
    assert torch.equal(batch.tgt_candidates, before)
    assert not any(mean.total.requires_grad for mean in target.log.values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gamma": {}}, r"proxy_target\.gamma must weigh at least one candidate"),
        ({"gamma": {"base": -1.0}}, r"proxy_target\.gamma\.base.*from 0 to 1e\+06; got -1\.0"),
        ({"gamma": {"base": 0.0, "raw": 0.0}}, r"proxy_target\.gamma must not be all 0"),
        ({"gamma": {"base": 1.0}, "beta": -0.2}, r"proxy_target\.beta.*got -0\.2"),
        ({"gamma": {"base": 1.0}, "beta": float("nan")}, r"proxy_target\.beta"),
        (
            {"gamma": {"base": 1.0}, "nll": "median"},
            r"proxy_target\.nll must be one of mean, sum; got 'median'",
        ),
    ],
)
def test_refusals_name_the_key(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        DynamicKD(**settings)


def test_all_zero_gamma_may_stay_when_it_is_not_normalised() -> None:
    batch = example()
    zero = DynamicKD(dict.fromkeys(NAMES, 0.0), normalize_gamma=False)
    assert choices(zero, batch) == choices(DynamicKD(GAMMA, 0.0), batch)


def test_autocast_does_not_round_the_distortion() -> None:
    """BLEU scores up to 100 in bf16 would be wrong by a quarter, the choice's margins by 0.1 nats."""
    scores = 100 * torch.rand(50, 3, 3, generator=torch.Generator().manual_seed(0))
    dynamic = DynamicKD(gamma={"a": 1, "b": 2.5, "raw": 1}, beta=0.2)
    gamma = torch.tensor([1, 2.5, 1], dtype=torch.float64) / 4.5
    expected = -0.2 * torch.einsum("i,bik->bk", gamma, scores.double())
    with torch.autocast("cpu", torch.bfloat16):
        found = dynamic.distortion(scores)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)


def test_margin_of_two_candidates_is_the_difference_of_their_totals() -> None:
    """Logged from two candidates on; with a single one there is nothing to compare."""
    model, batch = nat(), random_batch([4, 6], [5, 3], [[4, 5], [3, 3]], names=("base", "raw"))
    chooser = DynamicKD({"base": 1.0, "raw": 2.0}, 0.02)
    found = chooser(batch, snapshot_of(model, batch)).log["margin_nats"]
    nll = snapshot_of(model, batch).candidate_nll(batch.tgt_candidates)  # type: ignore[arg-type]
    total = nll / torch.tensor([[4, 5], [3, 3]]) + chooser.distortion(batch.candidate_scores)  # type: ignore[arg-type]
    assert found.value() == pytest.approx(float((total[:, 0] - total[:, 1]).abs().mean()), rel=1e-4)
    single = random_batch([4], [5], [[4]], names=("base",))
    assert "margin_nats" not in DynamicKD({"base": 1.0})(single, snapshot_of(model, single)).log
