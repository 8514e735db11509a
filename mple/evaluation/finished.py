"""A finished run, opened again: its model with the final weights, its data, its decoding."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from mple import start
from mple.checks import UserError
from mple.command import override
from mple.data.datamodule import TranslationData
from mple.data.text import Source
from mple.decoding.input_sampling import InputSampling
from mple.estimator.target_distortion import BETA
from mple.files import finished_below, read_json
from mple.foreign import read_config, stored_overrides
from mple.launch import Job, console
from mple.model.input_predictor import InputDistribution
from mple.modules.outputs import Outputs
from mple.modules.update import UpdateModule
from mple.run import MadeFrom, read_weights
from mple.settings import composed
from mple.trained import (
    VOCABULARY,
    device_of,
    find_input_predictor,
    load_input_distribution,
    vocabularies,
)
from mple.types import Batch

NEEDED = ("config.yaml", "run.json", "metrics.json", "averaged.pt")
_REMEDY = "it can be measured only on those (data.root=FOLDER names the place of files that were moved)"

_WHOLE = ("sizes", "module", "objective")
"""Groups in which a setting that a run's own configuration lacks is off: its version did not have it."""


class Finished:
    """`run.module`, `run.data` and `run.job` of a run's folder; each is made when first asked for.

    Its configuration is the run's own; settings that came later have the values of today's conf/. It may come
    from anybody, so what it names is looked at before anything is made (`mple.foreign`).

    Raises:
        UserError: the folder holds no finished run, or several.
    """

    def __init__(
        self, folder: Path, device: str | None = None, key: str = "run", root: str | None = None
    ) -> None:
        self.folder, self.root = folder, root
        missing = [name for name in NEEDED if not (folder / name).exists()]
        if missing:
            raise UserError(
                f"{key} must be the folder of a finished run; {folder} lacks {', '.join(missing)}"
            )
        self.device = device_of(device)
        self.metrics = read_json(folder / "metrics.json", "experiment", "key", "seed")
        self.notes: list[str] = []

    @staticmethod
    def open(
        path: object, device: str | None = None, key: str = "run", root: str | None = None
    ) -> "Finished":
        """The run in `path`, or the only finished one below it.

        key: the setting that errors name. root: where its raw data are now; None: where they were.
        """
        if not isinstance(path, str | Path):
            came = "none" if path is None else repr(path)
            raise UserError(f"{key} must be the folder of a finished run ({key}=outputs/...); got {came}")
        path = Path(path)
        if not path.is_dir():
            raise UserError(f"{key} must be the folder of a finished run; there is no folder {path}")
        if (path / "config.yaml").exists():
            return Finished(path, device, key, root)
        runs = [file.parent for file in finished_below(path)]
        if len(runs) != 1:
            names = ": " + ", ".join(map(str, runs[:5])) if runs else ""
            raise UserError(f"{key} must be the folder of one finished run; {path} holds {len(runs)}{names}")
        return Finished(runs[0], device, key, root)

    @cached_property
    def job(self) -> Job:
        own = read_config(self.folder / "config.yaml")
        outputs = self._outputs(own)
        overrides = stored_overrides(self._ran["command"], self.folder / "run.json")
        overrides = [o for o in overrides if not o.startswith("outputs=")] + [override("outputs", outputs)]
        today: Any = OmegaConf.to_container(composed("train", overrides), resolve=False)
        if isinstance(own.get("data"), dict) and own["data"].get("vocabulary") is not None:
            today["data"]["vocabulary"] = {}  # as it was learned: what the run's own does not set was not set
        for key in _WHOLE:
            if isinstance(own.get(key), dict):
                today[key] = {}
        today["micro_batches"] = own.get("micro_batches")
        cfg = OmegaConf.merge(today, own)
        assert isinstance(cfg, DictConfig)
        cfg.outputs = outputs
        cfg.start = None  # the run's own weights take the place of those that it started from
        self._find_raw_data(cfg)
        return Job(cfg, overrides, foreign=self.folder)

    @cached_property
    def _ran(self) -> dict[str, Any]:
        return read_json(self.folder / "run.json", "command")

    def _outputs(self, own: dict[str, Any]) -> str:
        """The folder of data and teachers: that which holds the run, wherever it has been moved. For a run
        whose own folder was renamed one that holds prepared data of this name: above the run, or where its
        configuration names it. Else the default: a folder from elsewhere must not choose where folders are
        made.
        """
        for folder in (self.folder.resolve(), self.folder.absolute()):
            if (folder.parent.name, folder.name) == (self.metrics["key"], f"seed{self.metrics['seed']}"):
                return str(folder.parents[3])
        data, named = own.get("data"), own.get("outputs")
        name = data.get("name") if isinstance(data, dict) else None
        places = list(self.folder.resolve().parents)
        places += [Path(self._place(named))] if isinstance(named, str) else []
        return next((str(place) for place in places if (place / "data" / str(name)).is_dir()), "outputs")

    def _place(self, path: str) -> str:
        """A path of the run's command: a relative one is tried where the command was run."""
        there = Path(str(self._ran.get("folder", "."))) / path
        return str(there) if there.exists() else path

    def _find_raw_data(self, cfg: DictConfig) -> None:
        """Let the source of `cfg` read where the raw data are now."""
        was = OmegaConf.select(cfg, "data.root")
        if was is None:
            if self.root is not None:
                raise UserError(
                    f"data.root must be null for {self.name}, whose data are in no folder; got {self.root}"
                )
            return
        cfg.data.root = self._place(str(was)) if self.root is None else self.root
        todo = [cfg.data.source]
        while todo:
            node = todo.pop()
            for key, value in node.items():
                if isinstance(value, DictConfig):
                    todo.append(value)
                elif key in ("root", "path") and value == was:
                    node[key] = cfg.data.root

    def note(self, text: str) -> None:
        """Say what a number does not, such as its references; the report of an evaluation keeps it."""
        self.notes.append(text)
        console.print(text)

    @property
    def name(self) -> str:
        return f"{self.metrics['experiment']} seed {self.metrics['seed']}"

    @property
    def beta(self) -> float:
        """β of L̂_target for this data set, in bits per BLEU point (`data.paper.mple_beta`)."""
        return float(OmegaConf.select(self.job.cfg, "data.paper.mple_beta", default=BETA))

    @cached_property
    def data(self) -> TranslationData:
        return self.prepared()

    @property
    def source(self) -> Source:
        """The run's raw data, once they have been compared with what it was made from."""
        return self.data.preparation.source

    def prepared(
        self, seed: int = 0, max_tokens: int | None = None, accumulate: int | None = None
    ) -> TranslationData:
        """The run's data in its own vocabularies.

        seed: of the order of training. max_tokens: of a batch; accumulate: batches of an update; None takes
            the run's.

        Raises:
            UserError: the data are not those that the run was made from.
        """
        job = self.job
        self.check_raw_data()
        distilled = {name: teacher.distilled_folder() for name, teacher in job.teachers().items()}
        ready = all((folder / "valid" / "distilled.json").exists() for folder in distilled.values())
        own = vocabularies(self.folder)[:2] if (self.folder / VOCABULARY).exists() else None
        candidates = job.candidates if ready else ()
        data = job.data(seed, candidates, distilled if ready else None, max_tokens, accumulate, own)
        data.setup()
        if (made := MadeFrom.read(self.folder)) is not None:
            made.check_prepared(data, self.folder, _REMEDY)
        return data

    def check_raw_data(self, may_be_gone: bool = False) -> None:
        """
        Raises:
            UserError: the raw data are not those that the run was made from.
        """
        if (made := MadeFrom.read(self.folder)) is not None:
            made.check_source(self.job.source, self.folder, _REMEDY, may_be_gone)

    def other(self, path: str | Path | None, key: str) -> "Finished":
        """Another run that a measure takes too, on the same device; its raw data are where this run's are."""
        return Finished.open(path, str(self.device), key, self.root)

    @cached_property
    def module(self) -> UpdateModule:
        path = self.folder / "averaged.pt"
        weights = read_weights(path)
        self.job.check_size(weights, path)
        module = self.job.module(self.data)
        start.check(weights, module.state_dict(), path)
        module.load_state_dict(weights)
        return module.eval().to(self.device)

    def decode_with(self, decoding: Any) -> None:
        """Another decoding than the run was trained with.

        Raises:
            UserError: it is not one for this kind of model, or for the way that this model was trained.
        """
        job = self.job
        job.decoding = decoding
        job.check_decoding()
        if isinstance(decoding, InputSampling):
            job.decoding = decoding.prepared(distribution=self.input_distribution(decoding.input_predictor))
        module: Any = self.module
        module.decoding = job.prepared_decoding(self.data) if job.is_student else decoding

    def batches(self, split: str) -> Iterator[Batch]:
        """The split's sentences on the run's device, in batches of similar length."""
        for batch in self.data.batches(split):
            yield batch.to(self.device)  # type: ignore[misc]

    def batches_with_candidates(self, split: str) -> Iterator[Batch]:
        """The same with all that T is made of.

        Raises:
            UserError: the split lacks candidates that the run's proxy target asks for.
        """
        missing = set(self.job.candidates) - {"raw"}
        if missing and self.data.candidates(split) is None:
            reason = (
                "only valid has" if split == "test" else "distilled texts are gone: train the run again for"
            )
            raise UserError(
                f"estimator.split must be one with the targets that {self.name} learned from "
                f"({reason} those of {', '.join(sorted(missing))}); got {split!r}"
            )
        loader = self.data.val_dataloader() if split == "valid" else self.data.test_dataloader()
        for batch in loader:
            yield batch.to(self.device)  # type: ignore[misc]

    def input_distribution(self, name: str | None = None) -> InputDistribution:
        """P(Z | X), from an input predictor that was trained for this run; `name` when there are several.

        Raises:
            UserError: there is none, none of that name, or several and no name.
        """
        folder = find_input_predictor(self.folder, name)
        data, module = self.data, self.module
        src, tgt = data.src_vocabulary, data.tgt_vocabulary
        found = load_input_distribution(folder, module.model, len(src), len(tgt), src is tgt)  # type: ignore[arg-type]
        return found.to(self.device)

    @torch.no_grad()
    def translate(self, split: str, decode: Any) -> list[str]:
        """The split's outputs in its order; `decode(model, src_tokens)` returns `Hypotheses`."""
        outputs = Outputs()
        for batch in self.batches(split):
            outputs.add(batch.ids, decode(self.module.model, batch.src_tokens).tokens)
        return outputs.texts(self.data.corpus(split).lines, self.data.decode)
