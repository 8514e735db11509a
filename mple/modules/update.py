"""What both LightningModules share: one update, and the evaluation of one split.

An update is a list of micro-batches (`UpdateLoader`), so an optimizer step, a logged step and a step of the
trainer are the same thing. Each minimised loss is a sum over the whole update, over all its micro-batches and
all processes, divided by the count of the whole update: how an update is cut up does not change it.
"""

import contextlib
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.loggers import WandbLogger
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mple.checks import UserError
from mple.modules.outputs import Outputs
from mple.optimizer import Adam
from mple.randomness import mix_numbers
from mple.types import Batch, DecoderInput, Hypotheses, Mean, Target

Chosen = tuple[Target, DecoderInput]
"""T and Z of a micro-batch, as the E-step chose them."""

BITS = 1 / math.log(2)
"""Bits in a nat."""

SAMPLES_KEPT = 100
"""Sentences of a split whose outputs are kept with their sources and references."""

SAMPLES_SHOWN = 50
"""Sentences of a split whose outputs are shown as a table after each evaluation."""

Score = Callable[[str, list[str], list[str], list[str]], dict[str, float]]
"""(split, sources, references, hypotheses) -> metrics of text, keys ending in their unit."""


class UpdateModule(pl.LightningModule):
    """A model that learns by updates. Subclasses say what is minimised (`losses`) and measured (`measure`).

    seed: of dropout (reseeded from seed, update, process and micro-batch, so that a resumed run goes on as
        the uninterrupted one) and of Z.
    log_every: updates between two lines of the log; averages are over the updates between.
    """

    def __init__(self, model: nn.Module, optimizer: Adam, score: Score, seed: int, log_every: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self.adam = optimizer
        self.score = score
        self.seed = seed
        self.log_every = log_every
        self.results: dict[str, float] = {}
        self.samples: list[dict[str, str]] = []
        self.outputs: list[str] = []
        self._window: dict[str, Mean] = {}
        self._since = time.perf_counter()
        self._began = time.perf_counter()
        self._seconds_before = 0.0

    # --- what a subclass says -------------------------------------------------------------------------

    def counts(self, batch: Batch) -> tuple[dict[str, Tensor], Chosen | None]:
        """What each minimised loss of the batch will be divided by, and the T and Z that say so, for `losses`
        to take; None where there are none or where they must be made again with a gradient."""
        raise NotImplementedError

    def losses(self, batch: Batch, chosen: Chosen | None = None) -> tuple[dict[str, Mean], dict[str, Mean]]:
        """(what is minimised, what is logged beside it); log keys end in their unit or are shares."""
        raise NotImplementedError

    def measure(self, batch: Batch) -> dict[str, Mean]:
        """Losses on a held-out batch, in bits or shares; never under autocast."""
        raise NotImplementedError

    def hypotheses(self, batch: Batch) -> Hypotheses:
        raise NotImplementedError

    def first_pass(self, batch: Batch) -> Hypotheses | None:
        """What the model says at first where its decoding goes over that again; shown in the samples."""
        return None

    # --- training -------------------------------------------------------------------------------------

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.adam.build(self.parameters())

    def _seed(self, micro: int) -> None:
        torch.manual_seed(mix_numbers(self.seed, self.global_step, self.global_rank, micro))

    def _update_counts(self, update: list[Batch]) -> tuple[dict[str, Tensor], list[Chosen | None]]:
        """Counts of the whole update: the E-step of every micro-batch, and a sum over processes."""
        total: dict[str, Tensor] = {}
        chosen: list[Chosen | None] = []
        for micro, batch in enumerate(update):
            self._seed(micro)
            with torch.no_grad():
                found, choice = self.counts(batch)
            chosen.append(choice)
            for key, count in found.items():
                total[key] = total.get(key, torch.zeros_like(count)) + count
        return self._summed(total), chosen

    def _summed(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.trainer.world_size == 1 or not values:
            return values
        packed = torch.stack([value.float() for value in values.values()])
        dist.all_reduce(packed)
        return dict(zip(values, packed, strict=True))

    def _gathering(self, is_last: bool) -> contextlib.AbstractContextManager[None]:
        """Processes exchange the gradient of an update once, after its last micro-batch."""
        wrapped = self.trainer.strategy.model
        if is_last or not isinstance(wrapped, DistributedDataParallel):
            return contextlib.nullcontext()
        return wrapped.no_sync()

    def training_step(self, update: list[Batch], index: int) -> None:
        optimizer = self.optimizers()
        rate = self.adam.rate(self.global_step)
        for group in optimizer.param_groups:  # type: ignore[union-attr]
            group["lr"] = rate
        optimizer.zero_grad()  # type: ignore[union-attr]
        # One micro-batch knows its counts when its losses are made; several need the E-step of all first.
        counts, chosen = self._update_counts(update) if len(update) > 1 else (None, [None])
        for micro, (batch, choice) in enumerate(zip(update, chosen, strict=True)):
            # A choice that is kept was made with another dropout; one that is made again must be the same.
            self._seed(micro if choice is None else micro + len(update))
            minimised, logged = self.losses(batch, choice)
            if counts is None:
                counts = self._summed({key: loss.count for key, loss in minimised.items()})
            # DDP averages gradients over processes; the counts already are over all of them.
            loss = (
                self.trainer.world_size
                * torch.stack(
                    [value.total / counts[key].clamp(min=1) for key, value in minimised.items()]
                ).sum()
            )
            with self._gathering(is_last=micro == len(update) - 1):
                self.manual_backward(loss)
            self._remember(minimised | logged)
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)  # of 16-mixed alone
        if scaler is not None:
            scaler.unscale_(optimizer.optimizer)  # type: ignore[union-attr]
        norm = nn.utils.clip_grad_norm_(self.parameters(), self.adam.clip_norm or math.inf)
        if scaler is None or norm.isfinite():  # else the scale was too large: `step` lowers it and skips
            self._remember({"gradient_norm": Mean(norm.detach().float(), torch.ones_like(norm))})
        optimizer.step()  # type: ignore[union-attr]
        if self.global_step % self.log_every == 0:
            self._report(rate)

    def _remember(self, values: dict[str, Mean]) -> None:
        for key, value in values.items():
            old = self._window.get(key)
            self._window[key] = value.detach() if old is None else old + value.detach()

    def _report(self, rate: float) -> None:
        """Averages since the last report go to all loggers."""
        totals = self._summed({key: value.total for key, value in self._window.items()})
        counts = self._summed({key: value.count for key, value in self._window.items()})
        means = {key: float(totals[key]) / max(float(counts[key]), 1e-9) for key in totals if key != "tokens"}
        if not all(math.isfinite(value) for value in means.values()):
            raise UserError(
                f"training diverged at update {self.global_step} (a loss or gradient is not a number): "
                f"a smaller optimizer.lr than {self.adam.lr:g} or a longer optimizer.warmup_steps may help"
            )
        now = time.perf_counter()
        elapsed, self._since = now - self._since, now
        metrics = {f"train/{key}": value for key, value in means.items()}
        metrics["train/learning_rate"] = rate
        metrics["speed/tokens_per_second"] = float(totals["tokens"]) / elapsed
        self._write(metrics)
        self._window = {}

    def _write(self, metrics: dict[str, float]) -> None:
        self.results |= metrics
        for logger in self.loggers:
            logger.log_metrics(metrics, step=self.global_step)

    def on_train_start(self) -> None:
        self._since = self._began = time.perf_counter()
        self._window = {
            key: Mean(value.total.to(self.device), value.count.to(self.device))
            for key, value in self._window.items()
        }

    def minutes(self) -> float:
        """Minutes of training and validation so far; those before an interruption count."""
        return (self._seconds_before + time.perf_counter() - self._began) / 60

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["seconds"] = 60 * self.minutes()
        checkpoint["results"] = dict(self.results)
        # Of each process, and not their sum: so a resumed run adds up the same numbers in the same order.
        own = {key: [value.total.cpu(), value.count.cpu()] for key, value in self._window.items()}
        windows = [own]
        if self.trainer.world_size > 1:
            windows = [{} for _ in range(self.trainer.world_size)]
            dist.all_gather_object(windows, own)
        checkpoint["window"] = windows

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._seconds_before = checkpoint["seconds"]
        # A run that was killed in its test has nothing to train; checkpoints before 7aef87e have no results.
        self.results = dict(checkpoint.get("results", {}))
        windows = checkpoint.get("window") or [{}]  # checkpoints before 0.2 were written at reports alone
        if len(windows) == self.trainer.world_size:
            self._window = {key: Mean(*values) for key, values in windows[self.global_rank].items()}

    # --- evaluation -----------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._measured: dict[str, Mean] = {}
        self._decoded = Outputs()
        self._first: Outputs | None = None

    def _evaluate(self, batch: Batch) -> None:
        # In float32 as estimator=… measures it; what is decoded stays in the type that training has.
        with torch.autocast(batch.ids.device.type, enabled=False):
            measured = self.measure(batch)
        for key, value in measured.items():
            old = self._measured.get(key)
            self._measured[key] = value if old is None else old + value
        found = self.hypotheses(batch)
        self._decoded.add(batch.ids, found.tokens)
        first = self.first_pass(batch)
        if first is not None:
            self._first = self._first or Outputs()
            self._first.add(batch.ids, first.tokens)

    def _finish(self, split: str) -> None:
        """Sums over processes, text metrics over the whole split, in the order of the corpus."""
        totals = self._summed({key: value.total for key, value in self._measured.items()})
        counts = self._summed({key: value.count for key, value in self._measured.items()})
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        lines, sources, references = data.text(split)
        texts = self._texts(self._decoded, lines)
        columns = {"source": sources, "reference": references, "output": texts}
        first = self._texts(self._first or Outputs(), lines[:SAMPLES_KEPT])
        if any(first):
            columns["first_pass"] = first
        rows = zip(*(column[:SAMPLES_KEPT] for column in columns.values()), strict=True)
        self.samples = [dict(zip(columns, row, strict=True)) for row in rows]
        self.outputs = texts
        metrics = {f"{split}/{key}": float(totals[key]) / max(float(counts[key]), 1e-9) for key in totals}
        metrics |= {
            f"{split}/{key}": value for key, value in self.score(split, sources, references, texts).items()
        }
        self._write(metrics)
        self._show_samples(split)
        # Evaluation takes time that is not training's, and must not leave a trace in it.
        self._since = time.perf_counter()

    def _texts(self, decoded: Outputs, lines: np.ndarray) -> list[str]:
        """The texts of all processes' outputs, in the order of `lines`; empty where there is none."""
        if self.trainer.world_size > 1:
            parts: list = [None] * self.trainer.world_size
            dist.all_gather_object(parts, decoded)
            decoded = Outputs.gathered(parts)
        return decoded.texts(lines, self.trainer.datamodule.decode)  # type: ignore[attr-defined]

    def _show_samples(self, split: str) -> None:
        """A table of the first sentences, for loggers that have tables."""
        shown = self.samples[:SAMPLES_SHOWN]
        for logger in self.loggers:
            if shown and isinstance(logger, WandbLogger):
                columns = list(shown[0])
                rows = [[sample[column] for column in columns] for sample in shown]
                logger.log_table(f"{split}/samples", columns, rows, step=self.global_step)

    def on_validation_epoch_start(self) -> None:
        self._begin()

    def validation_step(self, batch: Batch, index: int) -> None:
        self._evaluate(batch)

    def on_validation_epoch_end(self) -> None:
        self._finish("valid")

    def on_test_epoch_start(self) -> None:
        self._begin()

    def test_step(self, batch: Batch, index: int) -> None:
        self._evaluate(batch)

    def on_test_epoch_end(self) -> None:
        self._finish("test")
