"""The NAT's training step: how often it encodes, its dropout and schedules; float32 losses in evaluation."""

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from mple.decoding.argmax import Argmax
from mple.modules.non_autoregressive import NonAutoregressive
from mple.objective.cross_entropy import CrossEntropy
from mple.optimizer import Adam
from mple.proxy import Proxy
from mple.proxy.target_first import TargetFirst
from mple.proxy_input.blank import Blank
from mple.proxy_input.glancing import Glancing
from mple.proxy_input.uniform_mask import UniformMask
from mple.proxy_target.dynamic_kd import DynamicKD
from mple.proxy_target.kd import KD
from mple.proxy_target.raw import Raw
from mple.types import Batch, Mean
from tests.fakes import nat, random_batch

NAMES = ("base", "raw")


def learner(proxy: Proxy, dropout: float = 0.0, updates: int = 100) -> NonAutoregressive:
    return NonAutoregressive(
        nat(dropout=dropout),
        proxy,
        CrossEntropy(0.0),
        Argmax(),
        Adam(lr=0.01, warmup_steps=1, eps=1.0, weight_decay=0.0),  # nearly plain gradient descent
        lambda *_: {},
        seed=1,
        updates=updates,
        log_every=1000,
    )


def batches(count: int) -> list[Batch]:
    return [
        random_batch([4, 6], [5, 3], [[4, 5], [3, 3]], names=NAMES, seed=20 * seed) for seed in range(count)
    ]


def trainer(updates: int) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu", max_steps=updates, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip


def fit(module: NonAutoregressive, updates: list[list[Batch]]) -> None:
    trainer(len(updates)).fit(module.train(), DataLoader(updates, batch_size=None))  # type: ignore[arg-type]


def weights(module: NonAutoregressive) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in module.state_dict().items()}


@pytest.mark.parametrize(
    ("proxy", "encodings"),
    [
        (TargetFirst(Raw(), Blank()), 2),
        (TargetFirst(KD("base"), UniformMask()), 2),
        (TargetFirst(Raw(), Glancing()), 4),  # the look-ahead of each micro-batch has dropout of its own
        (TargetFirst(DynamicKD({"base": 1.0, "raw": 1.0}), Blank()), 4),
    ],
    ids=["vanilla", "cmlm", "glat", "dynkd"],
)
def test_micro_batches_are_encoded_again_only_for_a_look_ahead(proxy: Proxy, encodings: int) -> None:
    module = learner(proxy)
    calls: list[int] = []
    module.model.encoder.register_forward_hook(lambda *_: calls.append(1))  # type: ignore[arg-type]
    fit(module, [batches(2)])
    assert len(calls) == encodings


@pytest.mark.parametrize("proxy_input", [UniformMask(), Glancing()], ids=["cmlm", "glat"])
def test_micro_batches_learn_what_one_batch_learns(proxy_input: Any) -> None:
    whole = random_batch([4, 4, 4, 4], [5, 5, 5, 5])
    rows = [slice(0, 2), slice(2, 4)]
    cut = [Batch(whole.ids[r], whole.src_tokens[r], whole.tgt_tokens[r]) for r in rows]
    found = []
    for update in ([whole], cut):
        module = learner(TargetFirst(Raw(), proxy_input))
        fit(module, [update])
        found.append(weights(module))
    for name, weight in found[0].items():
        torch.testing.assert_close(weight, found[1][name], atol=1e-6, rtol=1e-5)


def test_look_ahead_and_training_pass_have_dropout_masks_of_their_own() -> None:
    """Of every micro-batch: the E-step's features of the blank Z differ from the M-step's of the same Z."""
    seen: list[Tensor] = []

    class Look(Blank):
        def __call__(self, batch: Any, target: Any, snapshot: Any) -> Any:
            seen.append(snapshot.output.features.detach())
            return super().__call__(batch, target, snapshot)

    module = learner(TargetFirst(Raw(), Look()), dropout=0.3)
    module.model.decoder.register_forward_hook(lambda _, __, features: seen.append(features.detach()))
    # Of one sentence each: several masked canvases share dropout without gradient.
    fit(module, [[random_batch([4], [5], seed=seed) for seed in (0, 20)]])
    looked, trained = [seen[1], seen[3]], seen[4:]
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[2], seen[3])
    assert len(trained) == 2
    for before, after in zip(looked, trained, strict=True):
        assert before.shape == after.shape
        assert not torch.allclose(before, after)


def test_schedules_are_at_their_end_outside_training() -> None:
    module, (batch,) = learner(TargetFirst(Raw(), Glancing())), batches(1)
    module._trainer = type("At", (), {"global_step": 10})()  # type: ignore[assignment]
    encoder_out = module.model.encode(batch.src_tokens)
    assert module.train().snapshot(batch, encoder_out).step == 10
    look = module.eval().snapshot(batch, encoder_out)
    assert (look.step, look.total) == (100, 100)


def test_losses_of_evaluation_are_float32_under_autocast() -> None:
    """`valid/…` and `test/…` are measured as estimator=… measures; decoding keeps the type of training."""
    module = learner(TargetFirst(Raw(), UniformMask())).eval()
    types: list[bool] = []
    decode = module.hypotheses

    def hypotheses(batch: Batch) -> Any:
        types.append(torch.is_autocast_enabled("cpu"))
        return decode(batch)

    module.hypotheses = hypotheses  # type: ignore[method-assign]
    module._begin()
    with torch.no_grad():
        for batch in batches(3):
            with torch.autocast("cpu", torch.bfloat16):
                module._evaluate(batch)
        expected: dict[str, Mean] = {}
        rounded: dict[str, Mean] = {}
        for batch in batches(3):
            for key, value in module.measure(batch).items():
                expected[key] = expected[key] + value if key in expected else value
            with torch.autocast("cpu", torch.bfloat16):
                for key, value in module.measure(batch).items():
                    rounded[key] = rounded[key] + value if key in rounded else value
    assert types == [True] * 3
    key = "nat_loss_raw_bits_per_token"
    for name, value in expected.items():
        assert module._measured[name].value() == pytest.approx(value.value(), rel=1e-7), name
    assert abs(rounded[key].value() - expected[key].value()) > 1e-6
