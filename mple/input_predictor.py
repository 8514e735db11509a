"""Training the input predictor of a finished run, without touching the run.

    python train.py +experiment=input_predictor of=RUN vanilla=NATRUN

RUN/input_predictor/<key>/
    settings.yaml          what was asked for          metrics.jsonl, metrics.csv   a line per report
    vanilla.yaml, .pt      NATRUN's P(t | X), copied   last.ckpt, best/             to resume from
    mask_predictor.pt      m_i, of the best validation by the masks' negative log-likelihood
    input_predictor.json   the results: it is finished

RUN is enough to use it (`mple.trained.load_input_distribution`): NATRUN may go.
"""

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from mple import checks
from mple.callbacks import Checkpoints, ShowProgress
from mple.checks import UserError
from mple.command import INPUT_PREDICTOR_WORD
from mple.data.text import file_sha256
from mple.data.vocabulary import load_vocabularies
from mple.evaluation.finished import Finished
from mple.files import disk_may_fill, read_json, write_json, write_whole, write_yaml
from mple.launch import EPOCH, MOST_TOKENS, accumulated, check_rhythm, check_trainer, console, precision_of
from mple.model.nat import NAT
from mple.modules.input_predictor import InputPredictor
from mple.modules.non_autoregressive import NonAutoregressive
from mple.optimizer import MOST_UPDATES, Adam
from mple.processes import alone, is_first
from mple.proxy_target import AlignedTarget
from mple.run import key_of, provenance, read_weights
from mple.settings import build, check_arguments, described, resolved
from mple.tracking import RunLog
from mple.trained import (
    INPUT_PREDICTOR,
    INPUT_PREDICTOR_RESULTS,
    MASK_PREDICTOR_WEIGHTS,
    OF_WEIGHTS,
    VANILLA_CONFIG,
    VANILLA_WEIGHTS,
    find_input_predictor,
    load,
)
from mple.training.trainer import trainer_of


def settings_of(
    cfg: DictConfig, own: DictConfig, vanilla: Mapping[str, Any], valid_every_of_run: Callable[[], int]
) -> dict[str, Any]:
    """All that the result depends on. own: the run's configuration; vanilla: the results of P(t|X)'s run.

    Raises:
        UserError: a setting is of a wrong type or out of range.
    """
    asked: Any = resolved(cfg)
    checks.root(asked["data"])
    check_arguments(cfg)
    for group in ("module", "module.model", "decoding"):
        described(cfg, group)
    for name in ("optimizer", "trainer"):
        checks.mapping(name, asked[name], "its keys and their values")
    for key in asked["trainer"]:
        checks.one_of("a key of trainer", key, [str(each) for each in own.trainer])

    def merged(name: str) -> dict[str, Any]:
        given = {key: value for key, value in asked[name].items() if value is not None}
        return dict(OmegaConf.to_container(own[name], resolve=True) | given)  # type: ignore[operator]

    updates = asked["updates"]
    if updates is None:
        updates = max(1, round(own.student_updates / 3))
    checks.whole("updates", updates, 1, "updates", high=MOST_UPDATES)
    log_every = min(own.log_every, updates) if asked["log_every"] is None else asked["log_every"]
    checks.whole("log_every", log_every, 1, "updates", high=MOST_UPDATES)
    valid_every = asked["valid_every"]
    if valid_every is None:
        valid_every = max(1, min(valid_every_of_run(), updates) // log_every) * log_every
    check_rhythm(updates, valid_every, log_every)
    max_tokens = own.max_tokens if asked["max_tokens"] is None else asked["max_tokens"]
    checks.whole("max_tokens", max_tokens, 1, "tokens", high=MOST_TOKENS)
    checks.seed("seed", asked["seed"])
    settings = {
        "vanilla": [vanilla[key] for key in ("experiment", "data", "key", "seed")],
        "seed": asked["seed"],
        "updates": updates,
        "valid_every": valid_every,
        "log_every": log_every,
        "max_tokens": max_tokens,
        "optimizer": merged("optimizer"),
        "trainer": merged("trainer"),
        "module": asked["module"],
        "decoding": asked["decoding"],
    }
    check_arguments(settings)
    check_trainer(settings["trainer"])
    build(OmegaConf.create(settings), "optimizer")
    return settings


class PredictorJob:
    """conf/input_predictor.yaml made into objects. What is null there is as in the run; nothing is written
    before `execute`.

    Raises:
        UserError: `of` or `vanilla` is not finished; `of` is no NAT, or its proxy input hints nothing;
            `vanilla` is no vanilla NAT, or one of other vocabularies; a setting is out of range.
    """

    def __init__(self, cfg: DictConfig, overrides: list[str]) -> None:
        self.cfg = cfg
        self.command = shlex.join(["python", "train.py", INPUT_PREDICTOR_WORD, *overrides])
        for key in ("of", "vanilla"):
            if OmegaConf.is_missing(cfg, key):
                raise UserError(f"{key} must be the folder of a finished run; got none: {self.command}")
        self.run = Finished.open(cfg.of, "cpu", "of", cfg.data.root)
        self.vanilla = Finished.open(cfg.vanilla, "cpu", "vanilla")
        self._check_runs()
        self.settings = settings_of(cfg, self.run.job.cfg, self.vanilla.metrics, self._valid_every)
        self.decoding = build(cfg, "decoding")
        trainer = self.settings["trainer"]
        self.precision = precision_of(trainer["precision"], trainer["accelerator"])
        self.optimizer: Adam = build(OmegaConf.create(self.settings), "optimizer")
        self.folder = self.run.folder / INPUT_PREDICTOR / key_of({INPUT_PREDICTOR: self.settings})

    def _check_runs(self) -> None:
        run, vanilla = self.run, self.vanilla
        proxy = run.job.proxy
        if proxy is None or proxy.input.law == "none":
            kind = (
                "is autoregressive" if proxy is None else "has a blank one, whose L_input is 0 by definition"
            )
            raise UserError(
                f"of must be a run whose proxy input hints something (CMLM, GLAT); {run.name} {kind}"
            )
        said = vanilla.job.proxy
        if said is None or said.input.law != "none" or isinstance(said.target, AlignedTarget):
            raise UserError(
                "vanilla must be a vanilla NAT (vanilla_kd, vanilla_raw): no hints, no aligned targets; "
                f"got {vanilla.name}"
            )
        wanted, came = (
            [vocabulary.fingerprint for vocabulary in load_vocabularies(each.folder / "vocabulary")]
            for each in (run, vanilla)
        )
        if wanted != came:
            raise UserError(
                f"vanilla must be a run with the vocabularies of {run.name} in {run.folder}; "
                f"got {vanilla.name} in {vanilla.folder}"
            )

    def _valid_every(self) -> int:
        """Updates between the validations of the run."""
        own = self.run.job.cfg.valid_every
        return self.run.job.valid_every(self.run.data) if own == EPOCH else int(own)

    # --- execution ------------------------------------------------------------------------------------

    @property
    def results(self) -> Path:
        return self.folder / INPUT_PREDICTOR_RESULTS

    def execute(self) -> dict[str, Any]:
        """Train it unless it is there; returns its results."""
        if self.results.exists():
            self.run.check_raw_data(may_be_gone=True)
            find_input_predictor(self.run.folder, self.folder.name)
            console.print(f"finished already: {self.folder}")
            return read_json(self.results, "valid", remedy=f"delete {self.folder} to train it again")
        data = self.data()  # what is wrong with it is said before anything is made
        with alone({self.folder: f"the input predictor of {self.run.name}"}):
            return self._make(data)

    def _make(self, data: Any) -> dict[str, Any]:
        if self.results.exists():
            console.print(f"finished meanwhile: {self.folder}")
            return read_json(self.results, "valid", remedy=f"delete {self.folder} to train it again")
        run, updates = self.run, self.settings["updates"]
        console.print(f"input predictor of {run.name}, P(t|X) of {self.vanilla.name}, {updates:,} updates")
        module = self.module()
        if is_first():
            self._keep()
        checkpoints = Checkpoints(self.folder, "valid/mask_log_prob_bits_per_token", keep=1)
        resume = self._resume_point(checkpoints)
        logger = RunLog(self.folder, resume_from=resume)
        callbacks = [checkpoints, ShowProgress(f"input predictor of {run.metrics['experiment']}", updates)]
        trainer = trainer_of(
            OmegaConf.create(self.settings["trainer"]),
            self.precision,
            updates,
            self.settings["valid_every"],
            callbacks,
            [logger],
            self.folder,
        )
        path = str(checkpoints.last) if resume else None
        trainer.fit(module, datamodule=data, ckpt_path=path, weights_only=True)
        best = checkpoints.average()
        module.load_state_dict(best)
        trainer.validate(module, datamodule=data, verbose=False)
        results = self._results(module, checkpoints.best[0][1])
        if trainer.is_global_zero:
            write_whole(best, self.folder / MASK_PREDICTOR_WEIGHTS)
            write_json(self.results, results)
        trainer.strategy.barrier()
        logger.finalize("success")
        nll = results["valid"]["mask_nll_bits_per_token"]
        console.print(f"masks: {nll:.3f} bits per token on valid; in {self.folder}")
        return results

    def data(self) -> Any:
        """The run's data with its candidates, in an order of this job's own."""
        job = self.run.job
        teachers = job.teachers()
        for name, teacher in teachers.items():
            if name not in job.candidates:
                continue
            for split in ("train", "valid"):
                if not (teacher.distilled_folder() / split / "distilled.json").exists():
                    raise UserError(
                        f"of must be a run whose targets are still there; {self.run.name} lacks those of "
                        f"{name} in {teacher.distilled_folder() / split}"
                    )
        accumulate = accumulated(job.cfg.micro_batches, job.cfg.accumulate, self.settings["trainer"])
        return self.run.prepared(self.settings["seed"], self.settings["max_tokens"], accumulate)

    def module(self) -> InputPredictor:
        """What learns, beside the two finished models; a function of the seed."""
        finished = self.run.module
        assert isinstance(finished, NonAutoregressive)
        nat, vanilla = finished.model, load(self.vanilla.folder).model
        assert isinstance(vanilla, NAT)
        pl.seed_everything(self.settings["seed"], verbose=False)
        node = self.settings["module"]
        masks = instantiate(node["model"])(nat).train()  # a copy of what is in eval mode
        own = OmegaConf.create({key: value for key, value in node.items() if key != "model"})
        return instantiate(own)(
            model=masks,
            proxy=finished.proxy,
            nat=nat,
            vanilla=vanilla,
            decoding=self.decoding,
            optimizer=self.optimizer,
            score=finished.score,
            seed=self.settings["seed"],
            log_every=self.settings["log_every"],
        )

    def _keep(self) -> None:
        """The folder, the settings, and the vanilla NAT, so that it need not be found again."""
        with disk_may_fill(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        write_yaml(self.folder / "settings.yaml", OmegaConf.to_yaml(OmegaConf.create(self.settings)))
        config = OmegaConf.to_yaml(self.vanilla.job.cfg, resolve=True)
        write_yaml(self.folder / VANILLA_CONFIG, config)
        write_whole(read_weights(self.vanilla.folder / "averaged.pt"), self.folder / VANILLA_WEIGHTS)

    def _resume_point(self, checkpoints: Checkpoints) -> int:
        """The update of last.ckpt, 0 without one."""
        found = checkpoints.resume_point()
        if found is None:
            return 0
        console.print(f"resuming {self.folder} at update {found['global_step']}")
        return int(found["global_step"])

    def _results(self, module: InputPredictor, best: int) -> dict[str, Any]:
        valid = {k.removeprefix("valid/"): v for k, v in module.results.items() if k.startswith("valid/")}
        return {
            "of": str(self.run.folder),
            "vanilla": str(self.vanilla.folder),
            "key": self.folder.name,
            "seed": self.settings["seed"],
            "updates": self.settings["updates"],
            "best_update": best,
            OF_WEIGHTS: file_sha256(self.run.folder / "averaged.pt"),
            "minutes": module.minutes(),
            **provenance(self.command),
            "valid": valid,
        }
