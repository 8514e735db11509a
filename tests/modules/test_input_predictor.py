"""The input predictor learns the shares of masks that Q has, and nothing else changes."""

import io
import math
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from mple.decoding.argmax import Argmax
from mple.decoding.input_sampling import InputSampling
from mple.model.input_predictor import InputDistribution, MaskPredictor
from mple.modules.input_predictor import InputPredictor
from mple.optimizer import Adam
from mple.proxy import Proxy
from mple.proxy.target_first import TargetFirst
from mple.proxy_input.glancing import Glancing
from mple.proxy_target.kd import KD
from mple.proxy_target.raw import Raw
from mple.types import Batch
from tests.fakes import nat, random_batch, take

HALF = Glancing(0.5, 0.5)


def learner(proxy: Proxy | None = None, dropout: float = 0.0, **changes: Any) -> InputPredictor:
    finished = nat(dropout=dropout)
    parts: dict[str, Any] = {
        "model": MaskPredictor(finished),
        "proxy": proxy or TargetFirst(Raw(), HALF),
        "nat": finished,
        "vanilla": nat(seed=1),
        "decoding": InputSampling(),
        "optimizer": Adam(lr=0.01, warmup_steps=10, weight_decay=0.0),
        "score": lambda *_: {},
        "seed": 1,
        "log_every": 1,
    }
    return InputPredictor(**(parts | changes))


def fit(module: InputPredictor, updates: list[list[Batch]]) -> InputPredictor:
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=len(updates), logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, barebones=False,
    )  # fmt: skip
    trainer.fit(module, DataLoader(updates, batch_size=None))  # type: ignore[arg-type]
    return module


def weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in module.state_dict().items()}


@torch.no_grad()
def test_loss_by_hand() -> None:
    module, batch = learner().eval(), random_batch([4, 6, 2], [5, 3, 8])
    torch.nn.init.normal_(module.model.classes.weight)
    target, inputs = module._drawn(batch)
    logits = module.model(batch.src_tokens, batch.tgt_lengths).detach()
    expected = 0.0
    for row, length in enumerate((5, 3, 8)):
        for i in range(length):
            m = float(logits[row, i].sigmoid())
            expected -= math.log(1 - m if inputs.revealed[row, i] else m)
    loss, logged = module.losses(batch)
    assert float(loss["nats"].total.detach()) == pytest.approx(expected, rel=1e-5)
    assert float(loss["nats"].count) == float(module.counts(batch)[0]["nats"]) == 16
    measured = module.measure(batch)
    assert measured["mask_nll_bits_per_token"].value() == pytest.approx(expected / 16 / math.log(2), rel=1e-5)
    assert logged["masked"].value() == pytest.approx(1 - float(inputs.revealed.sum()) / 16)
    assert 0 < logged["masked"].value() < 1
    distribution = InputDistribution(module.model, nat(seed=1))
    whole = -distribution.log_prob(batch.src_tokens, inputs).sum() / 16 / math.log(2)
    assert measured["input_cross_entropy_bits_per_token"].value() == pytest.approx(float(whole), rel=1e-5)
    assert torch.equal(target.tokens, batch.tgt_tokens)


def test_it_learns_the_share_of_masks() -> None:
    """Q masks the same shares of a sentence every time, so m_i goes to 1 − l/L of each sentence."""
    batch = random_batch([4, 6, 2, 7], [8, 8, 8, 8])
    module = learner(optimizer=Adam(lr=0.03, warmup_steps=5, weight_decay=0.0))
    with torch.no_grad():
        before = module.measure(batch)["mask_nll_bits_per_token"].value()
    assert before == pytest.approx(1)
    fit(module.train(), [[batch]] * 40)
    module.eval()
    with torch.no_grad():
        _, inputs = module._drawn(batch)
        m = module.model(batch.src_tokens, batch.tgt_lengths).sigmoid().mean(1)
        expected = 1 - inputs.revealed.float().mean(1)
        torch.testing.assert_close(m, expected, atol=0.12, rtol=0)
        assert module.measure(batch)["mask_nll_bits_per_token"].value() < before - 0.03


def test_the_finished_models_stay_and_are_not_saved() -> None:
    module = learner(dropout=0.3)
    finished = [weights(model) for model in module._finished]
    names = set(module.state_dict())
    assert all(name.startswith("model.") for name in names)
    assert len(list(module.parameters())) == len(list(module.model.parameters()))
    start = weights(module)
    fit(module.train(), [[random_batch([4, 6], [5, 3])]] * 3)
    assert not any(model.training for model in module._finished)
    for model, before in zip(module._finished, finished, strict=True):
        assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert not torch.equal(module.state_dict()["model.classes.bias"], start["model.classes.bias"])
    stream = io.BytesIO()
    torch.save(module.state_dict(), stream)
    size = sum(weight.numel() * weight.element_size() for weight in module.model.nat.state_dict().values())
    assert len(stream.getvalue()) < 2 * size


def test_one_update_is_the_same_however_it_is_cut() -> None:
    batch = random_batch([4, 6, 2, 7], [5, 3, 8, 2])
    # Of a large eps, so that the size of the gradient shows in the update.
    adam = Adam(lr=0.05, schedule="fixed", eps=0.01, clip_norm=0, weight_decay=0.0)
    whole = fit(learner(optimizer=adam).train(), [[batch]])
    cut = fit(learner(optimizer=adam).train(), [[take(batch, [0]), take(batch, [1, 2, 3])]])
    for name, weight in whole.state_dict().items():
        torch.testing.assert_close(cut.state_dict()[name], weight, atol=2e-4, rtol=1e-3)
    assert not torch.equal(whole.state_dict()["model.classes.bias"], torch.zeros(1))


def test_z_is_drawn_anew_in_training_and_always_the_same_in_validation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module, batch = learner(), random_batch([4, 6, 2, 7], [8, 8, 8, 8])
    drawn = []
    for step in (0, 1, 1):
        monkeypatch.setattr(InputPredictor, "global_step", step)
        training = module.train()._drawn(batch)[1].revealed
        drawn.append((training, module.eval()._drawn(batch)[1].revealed))
    assert not torch.equal(drawn[0][0], drawn[1][0])
    assert torch.equal(drawn[1][0], drawn[2][0])
    assert torch.equal(drawn[0][1], drawn[1][1])


def test_hypotheses_are_input_sampling_s() -> None:
    module, batch = learner().eval(), random_batch([4, 6], [5, 3])
    generator = torch.Generator().manual_seed(2)
    torch.nn.init.normal_(module.model.classes.weight, std=0.2, generator=generator)
    expected = InputSampling().prepared(distribution=InputDistribution(module.model, nat(seed=1)))
    found = module.hypotheses(batch)
    assert torch.equal(found.tokens, expected(nat(), batch.src_tokens).tokens)
    assert found.passes == 3
    first_pass = module.first_pass(batch).tokens
    assert torch.equal(first_pass, Argmax()(nat(), batch.src_tokens).tokens)
    assert not torch.equal(found.tokens, first_pass)


def test_a_split_without_candidates_is_decoded_only() -> None:
    module = learner(TargetFirst(KD("base"), HALF)).eval()
    assert module.measure(random_batch([4, 6], [5, 3])) == {}
    batch = random_batch([4, 6], [5, 3], [[6], [2]], ["base"])
    assert module.measure(batch)["mask_nll_bits_per_token"].count == 8


def test_a_checkpoint_resumes(tmp_path: Path) -> None:
    batch = random_batch([4, 6, 2], [5, 3, 8])
    whole = fit(learner(dropout=0.2).train(), [[batch]] * 6)
    first = learner(dropout=0.2).train()
    settings: dict[str, Any] = {
        "accelerator": "cpu", "logger": False, "enable_checkpointing": False,
        "enable_progress_bar": False, "enable_model_summary": False,
    }  # fmt: skip
    trainer = pl.Trainer(max_steps=3, **settings)
    trainer.fit(first, DataLoader([[batch]] * 3, batch_size=None))  # type: ignore[arg-type]
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    second = learner(dropout=0.2).train()
    data: Any = DataLoader([[batch]] * 3, batch_size=None)  # type: ignore[arg-type]
    pl.Trainer(max_steps=6, **settings).fit(second, data, ckpt_path=str(tmp_path / "last.ckpt"))
    for name, weight in whole.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], weight, atol=1e-6, rtol=1e-5)
