"""The trainer loads no checkpoint that was not named, and there is one place that makes it."""

import re
import signal
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.environments import SLURMEnvironment

from mple.training.trainer import Trainer

ROOT = Path(__file__).parents[2]
SLURM = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1", "SLURM_JOB_NAME": "job"}
SLURM |= {"SLURM_NODEID": "0", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODELIST": "localhost"}


class Counts(pl.LightningModule):
    """One weight, which an update raises by 1."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[float] = []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        return -self.weight

    def validation_step(self, batch: torch.Tensor, index: int) -> None:
        self.seen.append(float(self.weight))

    def test_step(self, batch: torch.Tensor, index: int) -> None:
        self.seen.append(float(self.weight))

    def train_dataloader(self) -> torch.utils.data.DataLoader:
        return torch.utils.data.DataLoader(torch.zeros(3, 1))  # type: ignore[arg-type]

    val_dataloader = test_dataloader = train_dataloader


def trainer(folder: Path) -> Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return Trainer(
        folder, max_steps=3, accelerator="cpu", devices=1, logger=False, num_sanity_val_steps=0, **quiet
    )


@pytest.fixture
def in_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    assert SLURMEnvironment.detect()


@pytest.mark.usefixtures("in_slurm")
@pytest.mark.filterwarnings("ignore")
def test_foreign_hpc_checkpoints_are_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Lightning on SIGUSR1 in another run leaves them: in the working directory, and in the run's
    folder."""
    work, run = tmp_path / "work", tmp_path / "run"
    work.mkdir()
    run.mkdir()
    monkeypatch.chdir(work)
    other, module = Counts(), Counts()
    other.weight.data.fill_(50.0)
    first = trainer(tmp_path)
    first.fit(other)
    for folder in (work, run):
        first.save_checkpoint(folder / "hpc_ckpt_1.ckpt")
    second = trainer(run)
    second.fit(module)
    second.validate(module, verbose=False)
    second.test(module, verbose=False)
    assert float(module.weight) == 3.0
    assert set(module.seen) == {3.0}


@pytest.mark.usefixtures("in_slurm")
@pytest.mark.filterwarnings("ignore")
def test_signal_handlers_stay_as_they_are(tmp_path: Path) -> None:
    handlers: list[object] = []

    class Looks(pl.Callback):
        def on_train_start(self, *_: object) -> None:
            handlers.append([signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGTERM)])

    before = [signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGTERM)]
    one = trainer(tmp_path)
    one.callbacks.append(Looks())  # type: ignore[attr-defined]
    one.fit(Counts())
    assert handlers == [before]


def test_no_other_module_makes_a_trainer() -> None:
    places = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "mple").rglob("*.py"))
        if re.search(r"(pl\.|lightning\.)Trainer\(", re.sub(r'""".*?"""', "", path.read_text(), flags=re.S))
    ]
    assert places == []
    (place,) = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "mple").rglob("*.py"))
        if re.search(r"class \w+\(pl\.Trainer\)", path.read_text())
    ]
    assert place == "mple/training/trainer.py"
