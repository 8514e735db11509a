"""The AT's losses: eos is predicted, and the denominator is content tokens."""

import math

import pytest
import torch

from mple.decoding.beam import Beam
from mple.modules.autoregressive import AutoregressiveModule
from mple.objective.cross_entropy import CrossEntropy
from mple.optimizer import Adam
from mple.proxy_target.kd import KD
from mple.proxy_target.raw import Raw
from mple.types import EOS
from tests.fakes import autoregressive, random_batch


@torch.no_grad()
def test_loss_per_content_token_includes_eos_in_the_sum_alone() -> None:
    model, batch = autoregressive(), random_batch([4], [3])
    module = AutoregressiveModule(
        model, CrossEntropy(0.1), Beam(beam=1), Raw(), Adam(), lambda *_: {}, seed=1, log_every=1
    )
    text = batch.tgt_tokens
    labels = torch.cat([text, torch.tensor([[EOS]])], 1)
    output = model.decode(model.prefixes(text), model.encode(batch.src_tokens))
    nll = -float(output.logits.log_softmax(-1).gather(2, labels.unsqueeze(2)).sum())
    found = module.measure(batch)
    assert set(found) == {"at_loss_raw_bits_per_token"}
    mean = found["at_loss_raw_bits_per_token"]
    assert float(mean.count) == 3
    assert mean.value() == pytest.approx(nll / 3 / math.log(2), rel=1e-5)
    minimised, logged = module.losses(batch)
    assert float(minimised["nats"].count) == float(module.counts(batch)[0]["nats"]) == 4  # eos is trained on
    assert float(logged["tokens"].total) == 3


@torch.no_grad()
@pytest.mark.parametrize(("spread", "of_others"), [(None, 0.1 / 20), ("others", 0.1 / 19)])
def test_label_smoothing_spreads_over_what_the_objective_names(spread: str | None, of_others: float) -> None:
    """Each other token of V = 20 weighs ε/V, or ε/(V − 1) as in fairseq's criterion."""
    model, batch = autoregressive(), random_batch([4], [3])
    objective = CrossEntropy(0.1, spread)
    module = AutoregressiveModule(
        model, objective, Beam(beam=1), Raw(), Adam(), lambda *_: {}, seed=1, log_every=1
    )
    labels = torch.cat([batch.tgt_tokens, torch.tensor([[EOS]])], 1)
    output = model.decode(model.prefixes(batch.tgt_tokens), model.encode(batch.src_tokens))
    log_probs = output.logits.double().log_softmax(-1)
    own = log_probs.gather(2, labels.unsqueeze(2)).sum()
    expected = -(1 - 19 * of_others) * own - of_others * (log_probs.sum() - own)
    minimised, logged = module.losses(batch)
    assert float(minimised["nats"].total) == pytest.approx(float(expected), rel=1e-5)
    assert float(logged["at_loss_bits_per_token"].total) == pytest.approx(-float(own) / math.log(2), rel=1e-5)


@torch.no_grad()
def test_loss_of_a_teachers_text_has_a_key_of_its_own() -> None:
    batch = random_batch([4, 2], [3, 5], [[2, 3], [4, 5]], names=("base", "raw"))
    module = AutoregressiveModule(
        autoregressive(), CrossEntropy(), Beam(beam=1), KD("base"), Adam(), lambda *_: {}, seed=1, log_every=1
    )
    found = module.measure(batch)
    assert float(found["at_loss_raw_bits_per_token"].count) == 8
    assert float(found["at_loss_proxy_bits_per_token"].count) == 6
