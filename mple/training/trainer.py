"""The one place that makes a `pl.Trainer`: it loads no checkpoint that this code did not name, and leaves
signals
alone.

Under SLURM, Lightning resumes from any `hpc_ckpt_*.ckpt` in its working directory when it is given no
checkpoint, in `fit`, `validate` and `test`, and on SIGUSR1 it writes such a file and requeues the job.
Several runs that share a working directory would then continue from each other's weights.
`mple.training.signals` does what is wanted of a signal, so both are switched off here.
"""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.trainer.connectors.checkpoint_connector import _CheckpointConnector
from pytorch_lightning.trainer.connectors.signal_connector import _SignalConnector


class _NamedCheckpoints(_CheckpointConnector):
    @property
    def _hpc_resume_path(self) -> None:
        return None


class _NoSignals(_SignalConnector):
    def register_signal_handlers(self) -> None:
        self.received_sigterm = False


class Trainer(pl.Trainer):
    """Lightning's, for checkpoints that are named and signals that are handled elsewhere.

    folder: where Lightning would write files of its own; the run's.
    """

    def __init__(self, folder: Path, **settings: Any) -> None:
        super().__init__(default_root_dir=str(folder), **settings)
        self._checkpoint_connector = _NamedCheckpoints(self)
        self._signal_connector = _NoSignals(self)


def trainer_of(
    settings: Any,
    precision: str,
    updates: int,
    valid_every: int,
    callbacks: list[pl.Callback],
    loggers: list[Any],
    folder: Path,
) -> Trainer:
    """A trainer for a number of updates. `settings`: `accelerator` and `devices`. `folder`: the run's."""
    return Trainer(
        folder,
        accelerator=settings.accelerator,
        devices=settings.devices,
        precision=precision,
        max_steps=updates,
        max_epochs=-1,
        val_check_interval=valid_every,
        num_sanity_val_steps=0,
        callbacks=callbacks,
        logger=loggers,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        log_every_n_steps=1,
    )
