"""What watches a training run: checkpoints that survive a kill at any moment, and progress with time left."""

import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.utilities import rank_zero_only
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mple import checks, files
from mple.checks import UserError
from mple.plain import PlainConsole, plain
from mple.training import signals

AT_LEAST = 0.8
"""Least validation BLEU of a checkpoint that is averaged, as a share of the best one's."""


class Checkpoints(pl.Callback):
    """After each validation: the weights if among the `keep` best, and `last.ckpt` to resume from.

    A signal (`mple.training.signals`) is answered between two updates, by all processes between the same two:
    they write `last.ckpt`, and training ends with `Interrupted`.

    `last.ckpt` is written last and renamed into place, so it never speaks of something that is not there;
    what a killed run did after it is done again, with the same result. Ties in `monitor` go to the later one.
    """

    def __init__(self, folder: Path, monitor: str, keep: int = 5) -> None:
        checks.whole("average_best", keep, 1, "checkpoints")
        self.folder, self.monitor, self.keep = Path(folder), monitor, keep
        self.best: list[tuple[float, int]] = []  # (value, update), best first
        self._signals: dist.ProcessGroup | None = None

    @property
    def last(self) -> Path:
        return self.folder / "last.ckpt"

    def path(self, update: int) -> Path:
        return self.folder / "best" / f"update{update:08d}.pt"

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.state.fn != "fit":
            return
        results: dict[str, float] = module.results  # type: ignore[assignment]
        update, value = trainer.global_step, results[self.monitor]
        entries = sorted([*self.best, (value, update)], reverse=True)
        self.best, dropped = entries[: self.keep], entries[self.keep :]
        if trainer.is_global_zero and (value, update) in self.best:
            self.path(update).parent.mkdir(parents=True, exist_ok=True)
            files.write_whole(module.state_dict(), self.path(update))
        self._save_last(trainer)
        if trainer.is_global_zero:
            for _, old in dropped:
                self.path(old).unlink(missing_ok=True)

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        signals.hold()
        if trainer.world_size > 1:
            signals.started(getattr(trainer.strategy.launcher, "procs", []))
            self._signals = dist.new_group(backend="gloo")  # a number of the host, wherever the model is

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, *_: object) -> None:
        number = torch.tensor(signals.received())
        if self._signals is not None:
            dist.all_reduce(number, dist.ReduceOp.MAX, self._signals)
        if number:
            self._save_last(trainer)
            raise signals.Interrupted(int(number), is_agreed=True)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        signals.release()

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, error: BaseException) -> None:
        signals.release(and_raise=False)

    def _save_last(self, trainer: pl.Trainer) -> None:
        if not trainer.is_global_zero:
            trainer.save_checkpoint(self.last)  # all processes take part, the first writes
            return
        with files.whole(self.last) as temporary:
            trainer.save_checkpoint(temporary)
            files.seal(temporary)

    def resume_point(self) -> dict[str, Any] | None:
        """The checkpoint to resume from, None without one; and whether what it refers to is still there: no
        run is to train to its end and fail then.

        Raises:
            UserError: `last.ckpt`, or one of the best checkpoints that it names, is damaged or missing.
        """
        if not self.last.exists():
            return None
        remedy = f"copy it again from where it is whole, or delete {self.last} to train from the start"
        state: Any = files.read_tensors(self.last, "a checkpoint", remedy)
        if not isinstance(state, dict) or not {"global_step", "state_dict", "callbacks"} <= state.keys():
            raise UserError(f"{self.last} must hold a checkpoint; it holds something else: {remedy}")
        for _, update in state["callbacks"].get(self.state_key, {"best": []})["best"]:
            files.check_tensors(self.path(int(update)), "the weights of a validation", remedy)
        return state

    def state_dict(self) -> dict[str, Any]:
        return {"best": [list(entry) for entry in self.best]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = [(float(value), int(update)) for value, update in state["best"]]

    @property
    def averaged(self) -> list[tuple[float, int]]:
        """(value, update) of the checkpoints that are averaged, best first: those of the best that are at
        least `AT_LEAST` times as good as the best one.

        A mean assumes weights that lie near each other. In a long run all of the best do; where validations
        are few, "the best five" are early ones too, and a mean with them is far worse than the best alone.
        """
        best = self.best[0][0]
        return [entry for entry in self.best if entry[0] == best or best <= 0 or entry[0] >= AT_LEAST * best]

    def average(self) -> dict[str, torch.Tensor]:
        """The mean of `averaged`, in float32; what is not floating point comes from the best one.

        Source: App. G of the paper (best 5 by validation BLEU), which has no need to leave any out.
        """
        return average_states([files.read_tensors(self.path(update)) for _, update in self.averaged])

    def warning(self, value: float, margin: float = 1.0) -> str | None:
        """What to say where the mean, with its `value`, is worse than the best one by more than `margin`."""
        best, update = self.best[0]
        if value >= best - margin:
            return None
        updates = ", ".join(f"{one:,}" for one in sorted(one for _, one in self.averaged))
        return (
            f"the mean of the checkpoints of updates {updates} has {self.monitor} {value:.2f}, that of "
            f"update {update:,} alone {best:.2f}: average fewer of them (average_best=1) or train longer"
        )


def average_states(states: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Arithmetic mean of floating-point entries, in float32; other entries come from the first."""
    return {
        key: torch.stack([state[key].float() for state in states]).mean(0).to(value.dtype)
        if value.is_floating_point()
        else value
        for key, value in states[0].items()
    }


class ValidateAtEnd(pl.Callback):
    """Validates after the last update too, where the number of updates is no multiple of those between two
    validations; without it what was learned since the last one would be in no checkpoint."""

    def __init__(self, updates: int) -> None:
        self.updates = updates

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: object) -> None:
        if trainer.global_step >= self.updates:
            trainer.should_stop = True  # Lightning validates before it stops


class ShowProgress(pl.Callback):
    """A bar with the time left on a terminal, a line now and then elsewhere."""

    def __init__(self, label: str, total: int, every_seconds: float = 30.0) -> None:
        self.label, self.total, self.every_seconds = plain(label), total, every_seconds
        self._console = PlainConsole(stderr=True)
        self._bar: Progress | None = None
        self._said = self._began = time.monotonic()
        self._start = 0

    @rank_zero_only
    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._start, self._began = trainer.global_step, time.monotonic()
        if self._console.is_terminal:
            columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
            self._bar = Progress(
                *columns, TimeRemainingColumn(), TextColumn("{task.fields[metrics]}"), console=self._console
            )
            self._bar.add_task(self.label, total=self.total, completed=self._start, metrics="")
            self._bar.start()

    @rank_zero_only
    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: object) -> None:
        done = trainer.global_step
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, metrics=self._metrics(module))
        elif time.monotonic() - self._said > self.every_seconds:
            self._said = time.monotonic()
            left = (self._said - self._began) / max(done - self._start, 1) * (self.total - done)
            self._console.print(
                f"{self.label}: {done}/{self.total} updates, {left / 60:.1f} min left, "
                f"{self._metrics(module)}",
                highlight=False,
                soft_wrap=True,
            )

    @rank_zero_only
    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, error: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _metrics(self, module: pl.LightningModule) -> str:
        results: dict[str, float] = module.results  # type: ignore[assignment]
        shown = {
            "loss": ("train/nats", ".3f"),
            "valid BLEU": ("valid/tokenised_bleu", ".2f"),
            "tokens/s": ("speed/tokens_per_second", ",.0f"),
        }
        return " ".join(
            f"{name} {results[key]:{form}}" for name, (key, form) in shown.items() if key in results
        )
