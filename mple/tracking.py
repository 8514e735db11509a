"""The run's own log: `metrics.jsonl`, a line per report, and `metrics.csv` made of it at the end.

Lightning's CSV logger starts an empty file when a run resumes; this one keeps what the run has said up to the
checkpoint that it resumes from, so that the log of an interrupted run is the log of an uninterrupted one.
"""

import csv
import io
import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only

from mple.files import disk_may_fill, write_text


class RunLog(Logger):
    """Appends `{"step": …, metric: value, …}` to `folder/metrics.jsonl`.

    resume_from: the update of the checkpoint that the run resumes from; later lines are dropped, as what they
        speak of will be done again.
    """

    def __init__(self, folder: str | Path, resume_from: int = 0) -> None:
        super().__init__()
        self.folder = Path(folder)
        self._forget_after(resume_from)

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    @property
    def path(self) -> Path:
        return self.folder / "metrics.jsonl"

    @rank_zero_only
    def _forget_after(self, step: int) -> None:
        kept: list[dict[str, float | int]] = []
        for line in self.read():
            if line["step"] > step or not step:
                break
            kept.append(line)
            if line["step"] == step and any(key.startswith("valid/") for key in line):
                break  # the checkpoint was written then; what follows is done again
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))

    def read(self) -> list[dict[str, float | int]]:
        """All whole lines; a line that a killed process left half-written is passed over."""
        found = []
        for line in self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []:
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return found

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        with disk_may_fill(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step} | metrics) + "\n")

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The configuration is in config.yaml already."""

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if status != "success":  # the lines are there already, and what stopped the run may be a full disk
            return
        lines = self.read()
        columns = list(dict.fromkeys(key for line in lines for key in line))
        table = io.StringIO()
        writer = csv.DictWriter(table, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
        write_text(self.folder / "metrics.csv", table.getvalue())
