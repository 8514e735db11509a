"""A run's folder: a function of the configuration, not of the clock.

outputs/<experiment>/<data>/<key>/seed<k>/
    config.yaml      what was asked for            metrics.jsonl   a line per report
    run.json         commit, versions, machine     metrics.json    the results: the run is finished
    last.ckpt        to resume from                best/           weights of the best validations
    averaged.pt      the final weights             hypotheses.test.txt, samples.jsonl
    vocabulary/      of source and target: with config.yaml and averaged.pt all that translating needs
    data.json        which data these are, by content
"""

import contextlib
import datetime
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mple import files
from mple.checks import UserError
from mple.data.datamodule import TranslationData
from mple.data.stage import MANIFEST
from mple.data.text import SPLITS, Source, changed
from mple.data.vocabulary import load_vocabularies
from mple.files import disk_may_fill, read_json, write_json, write_yaml
from mple.foreign import copy_folder

DATA = "data.json"

NOT_IDENTITY = (
    *("outputs", "logger", "seed", "name", "hydra"),
    *("teacher_seed", "teacher_updates", "student_updates", "updates_of", "fine_tuning_lr", "sizes"),
    *("autoregressive", "non_autoregressive"),
)
"""Settings that do not change what a run learns, that have a folder level of their own, or that others are
made of (a run's own size and number of updates are told apart from the budget they come from)."""


def key_of(config: Mapping[str, object]) -> str:
    """Eight hex digits of the settings that make the run what it is. Where data lie is not among them, nor is
    what is null."""

    def identity(value: object) -> object:
        if isinstance(value, Mapping):
            skipped = ("root", "path", "num_workers", "mple_beta")  # the last is of measuring alone
            return {k: identity(v) for k, v in value.items() if k not in skipped and v is not None}
        return value

    own = identity({k: v for k, v in config.items() if k not in NOT_IDENTITY})
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Run:
    """One run of one seed. `folder` is made by `start`."""

    folder: Path
    experiment: str
    data: str
    key: str
    seed: int

    @staticmethod
    def of(config: Mapping[str, object], outputs: Path, experiment: str, data: str, seed: int) -> "Run":
        key = key_of(config)
        return Run(outputs / experiment / data / key / f"seed{seed}", experiment, data, key, seed)

    @property
    def last(self) -> Path:
        return self.folder / "last.ckpt"

    @property
    def vocabulary(self) -> Path:
        return self.folder / "vocabulary"

    @property
    def metrics_file(self) -> Path:
        return self.folder / "metrics.json"

    def is_finished(self) -> bool:
        """
        Raises:
            UserError: the results are there, but damaged.
        """
        return self.metrics_file.exists() and bool(self.metrics())

    def metrics(self) -> dict[str, Any]:
        remedy = "delete it, and the command of the run makes the results again, from last.ckpt"
        return read_json(self.metrics_file, "experiment", "key", "seed", "test", remedy=remedy)

    def weights(self) -> dict[str, Tensor]:
        """The final weights, by their names in the LightningModule.

        Raises:
            UserError: there are none, or damaged ones.
        """
        return read_weights(
            self.folder / "averaged.pt",
            f"delete it and {self.metrics_file}, and the command of the run makes both again, from last.ckpt",
        )

    def start(
        self, config_yaml: str, command: str, conditions: Mapping[str, object] | None = None
    ) -> list[str]:
        """Make the folder; write what runs, where, and of which commit.

        conditions: on which the numbers depend in their last digits (processes, precision, threads). Returns
        those that differ from the ones with which the run was begun, for example "threads=2, before 1".
        """
        conditions = dict(conditions or {})
        before: Any = {}
        with contextlib.suppress(UserError):  # there is none, or it is damaged and written anew
            before = read_json(self.folder / "run.json")
        changed = [
            f"{name}={value}, before {before[name]}"
            for name, value in conditions.items()
            if name in before and before[name] != value
        ]
        with disk_may_fill(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        write_yaml(self.folder / "config.yaml", config_yaml)
        ran = provenance(command) | conditions | {"folder": str(Path.cwd())}  # of relative paths
        write_json(self.folder / "run.json", ran)
        return changed

    def keep_vocabulary(self, prepared: Path) -> None:
        """Copy the finished stage folder `prepared` to `vocabulary/`: whole or not at all, and only once.

        Raises:
            UserError: the run was begun with another vocabulary, which its last checkpoint speaks.
        """
        if self.vocabulary.exists():
            own, new = load_vocabularies(self.vocabulary), load_vocabularies(prepared)
            if all(one.fingerprint == other.fingerprint for one, other in zip(own, new, strict=True)):
                return
            if self.last.exists():
                raise UserError(
                    f"{self.folder} must go on with the vocabulary that it began with, but the data have "
                    "another one now: move the folder away to start again"
                )
        with (
            disk_may_fill(self.vocabulary),
            tempfile.TemporaryDirectory(dir=self.folder, prefix=".vocabulary.") as temporary,
        ):
            copy = copy_folder(prepared, Path(temporary) / "new")
            if self.vocabulary.exists():
                self.vocabulary.rename(Path(temporary) / "old")
            try:
                copy.rename(self.vocabulary)
            except OSError:  # another process of the same run was faster
                if not self.vocabulary.exists():
                    raise

    def finish(self, metrics: Mapping[str, object]) -> None:
        write_json(self.metrics_file, metrics)


@dataclass(frozen=True)
class MadeFrom:
    """What the data of a run were, by content; `data.json` holds it.

    inputs: hashes of the raw data by role (`Source.inputs`). vocabularies: fingerprints of source and target;
    corpora: those of the prepared splits; targets: those of what teachers made of them ("valid base"). All
    but `inputs` are empty for a run of version 0.1, where the manifest of the vocabulary has these.
    """

    inputs: Mapping[str, str]
    vocabularies: Sequence[str] = ()
    corpora: Mapping[str, str] = field(default_factory=dict)
    targets: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def of(data: TranslationData) -> "MadeFrom":
        """Prepared data."""
        vocabularies = [data.src_vocabulary.fingerprint, data.tgt_vocabulary.fingerprint]
        corpora = {split: data.corpus(split).fingerprint for split in SPLITS}
        targets = {
            f"{split} {name}": fingerprint
            for split in SPLITS
            if (candidates := data.candidates(split)) is not None
            for name, fingerprint in candidates.fingerprints.items()
        }
        return MadeFrom(dict(data.preparation.inputs), vocabularies, corpora, targets)

    @staticmethod
    def read(folder: Path) -> "MadeFrom | None":
        """What a run's folder tells; None where the run has not come as far."""
        if (folder / DATA).exists():
            recorded = read_json(folder / DATA, *(each.name for each in fields(MadeFrom)))
            return MadeFrom(**{each.name: recorded[each.name] for each in fields(MadeFrom)})
        manifest = folder / "vocabulary" / MANIFEST
        return MadeFrom(read_json(manifest, "inputs")["inputs"]) if manifest.exists() else None

    def keep(self, folder: Path) -> None:
        """Write `data.json`."""
        write_json(folder / DATA, vars(self))

    def check_source(self, source: Source, folder: Path, remedy: str, may_be_gone: bool = False) -> None:
        """
        Raises:
            UserError: the raw data are not those that the run in `folder` was made from, with the `remedy`;
                or they are gone, unless they `may_be_gone`.
        """
        try:
            other = changed(source, self.inputs)
        except UserError:
            if may_be_gone:
                return
            raise
        if other:
            named = ", ".join(other[:5]) + ", …" * (len(other) > 5)
            raise UserError(f"{folder} was made from other data ({named}): {remedy}")

    def check_prepared(self, data: TranslationData, folder: Path, remedy: str) -> None:
        """
        Raises:
            UserError: the prepared data are not those that the run in `folder` was made from; with the
                `remedy`.
        """
        now = MadeFrom.of(data)
        if self.vocabularies and list(self.vocabularies) != list(now.vocabularies):
            raise UserError(f"{folder} was made with other vocabularies than those of the data: {remedy}")
        other = [split for split, made in self.corpora.items() if made != now.corpora.get(split)]
        if other:
            named = ", ".join(str(data.corpus(split).folder) for split in other)
            raise UserError(
                f"{folder} was made from other sentences ({', '.join(other)}) than {named}: {remedy}"
            )
        other = [name for name, made in self.targets.items() if now.targets.get(name, made) != made]
        if other:
            raise UserError(
                f"{folder} was made from other distilled targets than there are now "
                f"({', '.join(other)}): {remedy}"
            )


def read_weights(path: Path, remedy: str = files.COPY_AGAIN) -> dict[str, Tensor]:
    """The weights in a checkpoint or in a file of weights; nothing in it is ever executed.

    Raises:
        UserError: there is no such file, it is damaged, or it holds something else; with the `remedy`.
    """
    value = files.read_tensors(path, remedy=remedy)
    weights = value.get("state_dict", value) if isinstance(value, dict) else None
    if not weights or not all(isinstance(each, Tensor) for each in weights.values()):
        raise UserError(f"{path} must hold weights; it holds none: {remedy}")
    return weights


def commit() -> str:
    """The code's commit, "+" appended when tracked files differ from it; "unknown" outside a checkout."""

    def git(*arguments: str) -> str:
        here = Path(__file__).parent
        found = subprocess.run(
            ["git", "-C", str(here), *arguments], capture_output=True, text=True, check=True
        )
        return found.stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def machine() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return f"{os.cpu_count()} CPU cores, {_processor()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def provenance(command: str) -> dict[str, str]:
    return {
        "command": command,
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(),
        "python": sys.version.split()[0],
        "torch": torch.__version__,
    }
