"""How an update is cut up, into micro-batches or over processes, does not change what it does.

python -m tests.system.test_processes PROCESSES OUT      # the processes of one run; weights go to OUT
"""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn import functional
from torch.utils.data import DataLoader

from mple.decoding.argmax import Argmax
from mple.modules.non_autoregressive import NonAutoregressive
from mple.modules.update import Chosen
from mple.objective.cross_entropy import CrossEntropy
from mple.optimizer import Adam
from mple.proxy.target_first import TargetFirst
from mple.proxy_input import ProxyInput
from mple.proxy_input.blank import Blank
from mple.proxy_input.glancing import Glancing
from mple.proxy_target.raw import Raw
from mple.snapshot import Snapshot
from mple.types import PAD, Batch, DecoderInput, Mean, Target
from tests.fakes import nat, random_batch

ROOT = Path(__file__).parents[2]
UPDATES = 3


def micro_batches() -> list[Batch]:
    """Four of different sizes, widths and token counts, no line id twice."""
    lengths = [([4, 7], [3, 6]), ([2], [2]), ([9, 3, 5], [10, 2, 5]), ([6, 6, 1, 2], [5, 8, 1, 3])]
    batches, first = [], 0
    for src, tgt in lengths:
        batch = random_batch(src_lengths=src, tgt_lengths=tgt, seed=first)
        batches.append(dataclasses.replace(batch, ids=torch.arange(first, first + len(src))))
        first += len(src)
    return batches


def concatenated(batches: list[Batch]) -> Batch:
    def joined(rows: list[Tensor]) -> Tensor:
        width = max(row.shape[1] for row in rows)
        return torch.cat([functional.pad(row, (0, width - row.shape[1]), value=PAD) for row in rows])

    return Batch(
        ids=torch.cat([batch.ids for batch in batches]),
        src_tokens=joined([batch.src_tokens for batch in batches]),
        tgt_tokens=joined([batch.tgt_tokens for batch in batches]),
    )


def module(proxy_input: ProxyInput, clip_norm: float, dropout: float = 0.0) -> NonAutoregressive:
    """Without dropout if not asked for, since it belongs to a process and a micro-batch.

    The large eps keeps Adam from blowing up the rounding errors of gradients that are 0 in exact arithmetic.
    """
    return NonAutoregressive(
        model=nat(dropout=dropout),
        proxy=TargetFirst(target=Raw(), input=proxy_input),
        objective=CrossEntropy(label_smoothing=0.1),
        decoding=Argmax(),
        optimizer=Adam(lr=0.05, schedule="fixed", eps=0.01, clip_norm=clip_norm),
        score=lambda *_: {},
        seed=1,
        updates=UPDATES,
        log_every=1,
    )


def fit(
    learner: NonAutoregressive,
    updates: list[list[Batch]],
    processes: int = 1,
    plugin: MixedPrecision | None = None,
    callbacks: Sequence[pl.Callback] = (),
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """(weights, last report) after training on this process' `updates`."""
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=processes,
        plugins=plugin,
        callbacks=list(callbacks),
        strategy="ddp" if processes > 1 else "auto",
        max_steps=len(updates),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    learner.train()
    trainer.fit(learner, DataLoader(updates, batch_size=None, collate_fn=lambda item: item))  # type: ignore[arg-type]
    report = {key: value for key, value in learner.results.items() if not key.startswith("speed/")}
    return learner.state_dict(), report


class Exchanges(pl.Callback):
    """Counts how often processes exchange gradients, which of a small model is one bucket."""

    count = 0

    def on_train_start(self, trainer: pl.Trainer, _: pl.LightningModule) -> None:
        def exchange(_: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
            self.count += 1
            return allreduce_hook(dist.group.WORLD, bucket)

        trainer.strategy.model.register_comm_hook(None, exchange)  # type: ignore[union-attr, operator]


class HalfPrecision(MixedPrecision):
    """fp16 autocast on the CPU with a real scaler, which Lightning makes for GPUs alone."""

    def __init__(self, scale: float):
        super().__init__("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=scale))  # type: ignore[arg-type]


def test_the_loss_scale_of_fp16_is_taken_out_before_clipping() -> None:
    update = micro_batches()
    plain, scaled = module(Blank(), clip_norm=0.1), module(Blank(), clip_norm=0.1)
    norm = fit(plain, [update])[1]["train/gradient_norm"]
    assert norm > 0.1
    found = fit(scaled, [update], plugin=HalfPrecision(1024.0))[1]["train/gradient_norm"]
    assert found == pytest.approx(norm, rel=0.05)
    for learner in (plain, scaled):
        squares = [(p.grad**2).sum() for p in learner.parameters() if p.grad is not None]
        assert float(torch.stack(squares).sum().sqrt()) == pytest.approx(0.1, rel=1e-3)


def test_an_update_whose_loss_scale_was_too_large_is_skipped() -> None:
    """A scaler looks for the largest scale by trying: an overflow now and then is no divergence."""
    learner = module(Blank(), clip_norm=0.1)
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    precision = HalfPrecision(2.0**40)
    after, report = fit(learner, [micro_batches()], plugin=precision)
    assert "train/gradient_norm" not in report
    assert precision.scaler is not None
    assert precision.scaler.get_scale() < 2.0**40
    for name, value in before.items():
        assert torch.equal(after[name], value), name


@pytest.mark.parametrize("proxy_input", [Blank(), Glancing(start=0.8, stop=0.5)], ids=["vanilla", "glat"])
def test_the_gradient_of_micro_batches_is_that_of_one_batch(proxy_input: ProxyInput) -> None:
    batches = micro_batches()
    gradients, reports = [], []
    for update in ([concatenated(batches)], batches, [concatenated(batches[:3]), batches[3]]):
        learner = module(proxy_input, clip_norm=0)
        reports.append(fit(learner, [update])[1])
        gradients.append({name: p.grad for name, p in learner.named_parameters()})
    if isinstance(proxy_input, Glancing):
        assert 0 < reports[0]["train/revealed"] < 1
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients[0].values())
    assert max(float(g.abs().max()) for g in gradients[0].values() if g is not None) > 1e-2
    for other, report in zip(gradients[1:], reports[1:], strict=True):
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(other[name], gradient, rtol=1e-4, atol=1e-6, msg=name)
        assert report == pytest.approx(reports[0], rel=1e-5)


@dataclasses.dataclass(frozen=True)
class WithWeights:
    """Glancing with a weight of its own that its loss, the weight's square for each sentence, draws to 0."""

    weight: nn.Parameter
    law: ClassVar[str] = "none"

    def __call__(self, batch: Batch, target: Target, snapshot: Snapshot) -> DecoderInput:
        inputs = Glancing()(batch, target, snapshot)
        own = Mean.of((self.weight**2).expand(len(batch)))
        return dataclasses.replace(inputs, losses={"own": own})


@pytest.mark.parametrize("has_weights", [False, True])
def test_what_is_counted_is_what_is_learned(has_weights: bool) -> None:
    """With dropout, so that an E-step made again from other random numbers would choose another Z. It is made
    again only for a Z that is to learn."""
    weight = nn.Parameter(torch.ones(()))
    learner = module(WithWeights(weight) if has_weights else Glancing(), 1.0, dropout=0.4)
    counted: list[float] = []
    learned: list[float] = []
    calls = 0
    proxy, losses, update_counts = learner.proxy, learner.losses, learner._update_counts

    def counting(batch: Batch, snapshot: Snapshot) -> tuple[Target, DecoderInput, Snapshot]:
        nonlocal calls
        calls += 1
        return proxy(batch, snapshot)

    def noting(batch: Batch, chosen: Chosen | None) -> tuple[dict[str, Mean], dict[str, Mean]]:
        minimised, logged = losses(batch, chosen)
        learned[-1] += float(minimised["nats"].count)
        return minimised, logged

    def beginning(update: list[Batch]) -> tuple[dict[str, Tensor], list[Chosen | None]]:
        counts, chosen = update_counts(update)
        counted.append(float(counts["nats"]))
        learned.append(0.0)
        return counts, chosen

    learner.proxy, learner.losses, learner._update_counts = counting, noting, beginning  # type: ignore[method-assign, assignment]
    update = micro_batches()
    fit(learner, [update] * UPDATES)
    assert counted == learned
    assert len(set(counted)) > 1, "Z does not depend on dropout"
    assert calls == UPDATES * len(update) * (2 if has_weights else 1)
    if has_weights:  # no optimizer has it, so its gradients add up
        assert float(weight.grad) == pytest.approx(2 * UPDATES)


def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    batches = micro_batches()
    weights, report = fit(module(Glancing(), 1.0), [batches] * UPDATES)
    one_batch, _ = fit(module(Glancing(), 1.0), [[concatenated(batches)]] * UPDATES)
    assert report["train/gradient_norm"] > 1, "clipping has nothing to do"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.system.test_processes", "2", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    start = module(Glancing(), 1.0).state_dict()
    assert any((weights[name] - start[name]).abs().max() > 1e-2 for name in start)
    for name, weight in weights.items():
        torch.testing.assert_close(one_batch[name], weight, rtol=0, atol=1e-6, msg=name)
        torch.testing.assert_close(found[0]["weights"][name], weight, rtol=0, atol=1e-6, msg=name)
        assert torch.equal(found[1]["weights"][name], found[0]["weights"][name])
    assert [process["exchanges"] for process in found] == [UPDATES, UPDATES], "once an update"
    assert found[0]["report"] == pytest.approx(report, rel=1e-4)


def main(processes: int, out: Path) -> None:
    """Each process has its share of the micro-batches; Lightning starts the others with the same command."""
    rank, batches = int(os.environ.get("LOCAL_RANK", "0")), micro_batches()
    share = len(batches) // processes
    update = batches[rank * share : (rank + 1) * share]
    exchanges = Exchanges()
    weights, report = fit(module(Glancing(), 1.0), [update] * UPDATES, processes, callbacks=[exchanges])
    found = {"weights": weights, "report": report, "exchanges": exchanges.count}
    torch.save(found, out / f"{rank}.pt")


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
