"""The door of `train.py`: it makes objects of a configuration and runs the stages.

plan        what exists already, what will run (printed first)
data        raw text -> vocabulary -> Arrow corpora
teachers    each a run of its own (experiment `at`), distilled over train and valid
start       the run whose weights this one starts from (OaXE)
train       resumes from last.ckpt by itself; a finished run does nothing
test        with the mean of the best checkpoints; metrics.json and one table
"""

import contextlib
import functools
import hashlib
import json
import logging
import math
import netrc
import os
import re
import shlex
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import hydra
import pytorch_lightning as pl
import torch
from hydra.errors import MissingConfigException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import WandbLogger
from rich.table import Table
from torch import nn

import mple.resolvers  # noqa: F401  (conf/ uses them)
from mple import checks, start
from mple.bleu import check_tokenizer
from mple.callbacks import Checkpoints, ShowProgress, ValidateAtEnd
from mple.checks import UserError
from mple.data.datamodule import TranslationData
from mple.data.text import SPLITS
from mple.data.vocabulary import Vocabulary
from mple.decoding import Decoding
from mple.decoding.beam import MOST_BEAMS, Beam
from mple.decoding.input_sampling import InputSampling
from mple.distill import distill
from mple.estimator.text import TextScore
from mple.files import write_text, write_whole
from mple.foreign import check_name, check_targets
from mple.language import language
from mple.model.transformer import MOST_POSITIONS, POSITIONS, Size
from mple.modules.update import UpdateModule
from mple.optimizer import MOST_LR, MOST_UPDATES
from mple.plain import PlainConsole
from mple.processes import alone, is_first, several, started_from_outside
from mple.proxy_target import TextTarget
from mple.run import MadeFrom, Run, provenance
from mple.settings import build, check_arguments, composed, described, resolved
from mple.streams import is_terminal
from mple.training.trainer import trainer_of
from mple.types import SPECIAL_TOKENS

log = logging.getLogger(__name__)
console = PlainConsole(
    highlight=False,
    width=None if is_terminal() else 160,
    quiet=not is_first(),  # of several processes one speaks
)

STUDENTS_ALONE = {"proxy": "target_first", "proxy_input": "blank", "vanilla_input": "mask"}
"""Groups that an autoregressive model does not have -> the choice of conf/train.yaml."""

DESCRIBED = (
    *("proxy", "proxy_target", "proxy_input", "vanilla_input", "objective", "decoding", "optimizer"),
    *("module", "module.model", "data.source", "data.vocabulary"),
)
"""Settings of which an object is made."""
PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed")
MOST_TOKENS = 100_000_000
EPOCH = "epoch"
"""`valid_every` of a run that is validated after each pass over its training data, and at its end."""

TEACHERS = ("tiny", "small", "base", "big")
_OTHER_DATA = "give these a name of their own with data.name=NAME, or move that folder away"
DISTILLED_AT_ONCE = 8192
"""Source tokens that a teacher translates at once where training takes fewer: a step of a small model's beam
search takes as long for few sentences as for many."""
_PASSED_ON = (
    "data",
    "budget",
    "sizes",
    "teacher_updates",
    "max_tokens",
    "accumulate",
    "micro_batches",
    "autoregressive",
    "trainer",
    "logger",
    "outputs",
)
"""Overrides that a student's command hands on to the commands of its teachers: not the optimizer, so that
students that sweep it have the same teachers; theirs is the budget's."""
_PASSED_TO_START = (
    *_PASSED_ON,
    *("student_updates", "teacher_seed", "module", "non_autoregressive", "vanilla_input", "seed", "size"),
)
"""Overrides handed on to the run that gives a run its first weights: here too not the optimizer."""


def uses_gpu(accelerator: str) -> bool:
    """Whether `trainer.accelerator` means a GPU here."""
    return accelerator != "cpu" and torch.cuda.is_available()


def hardware_has_bf16(accelerator: str = "auto") -> bool:
    """True where bf16 is computed by units of its own, so that autocast to it is faster than float32."""
    if uses_gpu(accelerator):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        return "avx512_bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False


def precision_of(name: object, accelerator: str = "auto") -> str:
    checks.one_of("trainer.precision", name, PRECISIONS)
    if name != "auto":
        return str(name)
    return "bf16-mixed" if hardware_has_bf16(accelerator) else "32-true"


def processes_of(trainer: Mapping[str, Any]) -> int:
    """Processes that share an update: devices of a node times nodes."""
    return int(trainer["devices"] * (trainer.get("num_nodes") or 1))


def accumulated(micro_batches: object, accumulate: int, trainer: Mapping[str, Any]) -> int:
    """Micro-batches of one process in an update: `accumulate`, or its share of the `micro_batches` of all.

    Raises:
        UserError: both are given, or the processes cannot share `micro_batches` evenly.
    """
    if micro_batches is None:
        return accumulate
    checks.whole("micro_batches", micro_batches, 1, "of all processes in an update", high=100_000)
    assert isinstance(micro_batches, int)
    if accumulate != 1:
        raise UserError(
            f"accumulate must be left out, or micro_batches=null given, since micro_batches={micro_batches} "
            f"sets the micro-batches of all processes; got accumulate={accumulate}"
        )
    processes = processes_of(trainer)
    if micro_batches % processes:
        divisors = [str(n) for n in range(1, micro_batches + 1) if micro_batches % n == 0]
        nodes = " times trainer.num_nodes" if (trainer.get("num_nodes") or 1) > 1 else ""
        raise UserError(
            f"trainer.devices{nodes} must divide micro_batches={micro_batches}, so be "
            f"{', '.join(divisors[:-1])} or {divisors[-1]}; got {processes}"
        )
    return micro_batches // processes


def check_trainer(settings: Any) -> None:
    names = ("accelerator", "devices", "precision", "num_workers")
    checks.mapping("trainer", settings, ", ".join(names))
    if missing := [name for name in names if name not in settings]:
        raise UserError(f"trainer.{missing[0]} must be there; got {', '.join(map(str, settings))}")
    checks.whole("trainer.devices", settings["devices"], 1, high=10_000)
    checks.one_of("trainer.accelerator", settings["accelerator"], ("auto", "cpu", "gpu", "cuda"))
    checks.one_of("trainer.precision", settings["precision"], PRECISIONS)
    checks.whole("trainer.num_workers", settings["num_workers"], 0, "processes", high=1000)


def check_rhythm(updates: object, valid_every: object, log_every: object) -> None:
    """Refuse numbers of updates that do not fit each other."""
    for name, value in (("updates", updates), ("valid_every", valid_every), ("log_every", log_every)):
        checks.whole(name, value, 1, "updates", high=MOST_UPDATES)
    assert isinstance(updates, int)
    assert isinstance(valid_every, int)
    assert isinstance(log_every, int)
    if valid_every % log_every or valid_every > updates:
        raise UserError(
            "valid_every must be a multiple of log_every and at most updates; "
            f"got valid_every={valid_every}, log_every={log_every} and updates={updates}"
        )


def check_settings(cfg: DictConfig) -> dict[str, Any]:
    """Every setting of a training, also those that only its teachers, its start or other sizes read;
    returns them resolved.

    Raises:
        UserError: the first that is of a wrong type or out of range.
    """
    raw: Any = OmegaConf.to_container(cfg, resolve=False)
    # What others are computed from comes first, so that it is named and not they.
    for name in ("data", "optimizer", "sizes", "updates_of", "autoregressive", "non_autoregressive"):
        checks.mapping(name, raw[name], "its keys and their values")
    paper = raw["data"].get("paper")
    if paper is not None:
        checks.mapping("data.paper", paper, "beta, gamma, teacher_updates")
        for name, value in paper.items():
            if name in ("beta", "mple_beta"):
                checks.number(f"data.paper.{name}", value, 0, 1e6)
            elif name == "gamma":
                checks.mapping("data.paper.gamma", value, "tiny: 1.0")
                for each, weight in value.items():
                    checks.one_of("a key of data.paper.gamma", each, (*TEACHERS, "raw"))
                    if weight is not None:
                        checks.number(f"data.paper.gamma.{each}", weight, 0, 1e6)
            elif name == "teacher_updates":
                checks.whole("data.paper.teacher_updates", value, 1, "updates", high=MOST_UPDATES)
    for name in ("student_updates", "teacher_updates"):
        checks.whole(name, OmegaConf.select(cfg, name), 1, "updates", high=MOST_UPDATES)
    checks.positive("fine_tuning_lr", cfg.fine_tuning_lr, MOST_LR)
    for name in ("src_lang", "tgt_lang"):
        if name in raw["data"]:
            value = raw["data"][name]
            if not isinstance(value, str) or not value:
                came = "none" if value is None else repr(value)
                raise UserError(
                    f"data.{name} must name a language, as in the files' names (de, en); got {came}"
                )
    checks.root(raw["data"])
    check_arguments(cfg.optimizer, "optimizer")
    plain: dict[str, Any] = resolved(cfg)
    check_arguments(plain, raw=raw)
    for group in DESCRIBED:
        described(cfg, group)
    loggers = plain.get("logger")
    checks.mapping("logger", {} if loggers is None else loggers, "csv, wandb")
    for name, node in (loggers or {}).items():
        checks.one_of("a key of logger", name, ("csv", "wandb"))
        if not isinstance(node, dict) or node.get("_partial_") is not True:
            raise UserError(f"logger.{name} must describe a logger (_target_, _partial_: true); got {node!r}")
    checks.folder_name("name", plain["name"])
    checks.folder_name("data.name", plain["data"]["name"])
    checks.path("outputs", plain["outputs"])
    for name in plain["sizes"]:
        Size.named(plain["sizes"], name)
    checks.one_of("size", plain["size"], list(plain["sizes"]))
    for name, value in plain["updates_of"].items():
        checks.one_of("a key of updates_of", name, list(plain["sizes"]))
        checks.whole(f"updates_of.{name}", value, 1, "updates", high=MOST_UPDATES)
    for name in ("seed", "teacher_seed"):
        checks.seed(name, plain[name])
    checks.whole("average_best", plain["average_best"], 1, "checkpoints", high=1000)
    checks.whole("max_tokens", plain["max_tokens"], 1, "tokens", high=MOST_TOKENS)
    checks.whole("accumulate", plain["accumulate"], 1, "micro-batches", high=10_000)
    checks.whole("data.max_length", plain["data"]["max_length"], 1, "tokens", high=MOST_POSITIONS)
    check_tokenizer("data.tokenize", plain["data"]["tokenize"])
    checks.of_type("data.dash_splits", plain["data"].get("dash_splits"), bool | None)
    check_trainer(plain["trainer"])
    if plain["valid_every"] == EPOCH:
        for name in ("updates", "log_every"):
            checks.whole(name, plain[name], 1, "updates", high=MOST_UPDATES)
        if plain["log_every"] > plain["updates"]:
            raise UserError(f"log_every must be at most updates={plain['updates']}; got {plain['log_every']}")
    elif isinstance(plain["valid_every"], str):
        raise UserError(
            f"valid_every must be a whole number of updates, or {EPOCH}; got {plain['valid_every']!r}"
        )
    else:
        check_rhythm(plain["updates"], plain["valid_every"], plain["log_every"])
    for name, values in (("positions", POSITIONS), ("spread", ("vocabulary", "others"))):
        if (value := plain["autoregressive"].get(name)) is not None:
            checks.one_of(f"autoregressive.{name}", value, values)
    checks.whole("autoregressive.beam", plain["autoregressive"].get("beam"), 1, high=MOST_BEAMS)
    checks.number("autoregressive.length_penalty", plain["autoregressive"].get("length_penalty"), 0, 100)
    checks.whole(
        "non_autoregressive.max_offset", plain["non_autoregressive"].get("max_offset"), 1, high=10_000
    )
    if (ratio := plain["data"].get("max_ratio")) is not None:
        checks.number("data.max_ratio", ratio, 1, 1e6)
    return plain


def _check_gpu(settings: DictConfig) -> None:
    """Of a job that is to train: a run that was trained elsewhere can be opened without a GPU."""
    if settings.accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise UserError(
            f"trainer.accelerator must be auto or cpu here; got {settings.accelerator} without a GPU"
        )
    if uses_gpu(settings.accelerator) and settings.devices > (found := torch.cuda.device_count()):
        raise UserError(f"trainer.devices must be at most {found}, the GPUs here; got {settings.devices}")


def _check_processes(settings: DictConfig) -> None:
    """Refuse processes that a cluster has started but that would each train a model of their own.

    Raises:
        UserError: there are more or fewer than `trainer.devices`.
    """
    started = started_from_outside()
    if started > 1 and started != settings.devices:
        raise UserError(
            f"trainer.devices must be the number of processes of a run; {started} were started (WORLD_SIZE "
            f"or SLURM_NTASKS), got {settings.devices}: each would train alone and write to the same folder"
        )


class Job:
    """One configuration made into objects. Nothing is read or written before `execute`.

    foreign: the folder that configuration and overrides came with, if they did: then this job, its teachers
    and its start may make only what conf/ names (`mple.foreign`).
    """

    def __init__(self, cfg: DictConfig, overrides: list[str], foreign: Path | None = None) -> None:
        self.cfg = cfg
        self.overrides = overrides
        self.foreign = foreign
        if foreign is not None:
            plain = resolved(cfg)
            check_targets(plain, foreign)
            self.cfg = cfg = OmegaConf.create(plain)  # an interpolation may have another value each time
        self.plain = check_settings(cfg)
        self.accumulate = accumulated(cfg.micro_batches, cfg.accumulate, self.plain["trainer"])
        self.is_student = "proxy" in instantiate_parameters(cfg.module)
        self.size = Size.named(self.plain["sizes"], cfg.size)
        if cfg.data.max_length + 1 > self.size.max_positions:  # with eos
            raise UserError(
                f"data.max_length must be below sizes.{cfg.size}.max_positions={self.size.max_positions}; "
                f"got {cfg.data.max_length} (longer pairs of training are dropped)"
            )
        make = functools.partial(build, cfg)
        self.optimizer = make("optimizer")
        self.objective = make("objective")
        self.decoding = make("decoding")
        self.precision = precision_of(cfg.trainer.precision, cfg.trainer.accelerator)
        self.source = make("data.source")
        self.vocabulary = make("data.vocabulary")
        self.target = make("proxy_target")
        self.proxy = make("proxy")(target=self.target, input=make("proxy_input")) if self.is_student else None
        if not self.is_student and not isinstance(self.target, TextTarget):
            raise UserError(
                "an autoregressive model learns a text that no model chooses, so proxy_target must be raw or "
                f"kd; got {type(self.target).__name__}"
            )
        if self.is_student:  # its model's settings are refused here, not when the teachers are made
            with torch.device("meta"):
                self._model(src_size=len(SPECIAL_TOKENS), tgt_size=len(SPECIAL_TOKENS), is_joint=False)
        self._check_unused()
        self.check_decoding()
        if isinstance(self.decoding, InputSampling):
            raise UserError(
                "decoding=input_sampling needs an input predictor, which is trained for a finished run: "
                "train with another decoding, then python train.py +experiment=input_predictor of=RUN "
                "vanilla=NATRUN, then python evaluate.py run=RUN decoding=input_sampling"
            )
        self._check_start()
        self.run = Run.of(self._identity(), Path(cfg.outputs), cfg.name, cfg.data.name, cfg.seed)

    def _check_unused(self) -> None:
        """An autoregressive model has no proxy input: what chooses one would have no effect."""
        for override in () if self.is_student else self.overrides:
            key, _, value = override.lstrip("+~").partition("=")
            group = key.partition(".")[0]
            if group in STUDENTS_ALONE and (key, value) != (group, STUDENTS_ALONE[group]):
                raise UserError(
                    f"{override} would have no effect: {self.cfg.name} is autoregressive and has no {group}"
                )

    def check_decoding(self) -> None:
        """Refuses a decoding that this kind of model, or its way of training, cannot serve."""
        is_for_student = not isinstance(self.decoding, Beam)
        if is_for_student != self.is_student:
            kind, needed = ("a NAT", "argmax, length_parallel, npd, mask_predict or input_sampling")
            if not self.is_student:
                kind, needed = ("an autoregressive model", "beam")
            raise UserError(f"decoding must be {needed} for {kind}; got {type(self.decoding).__name__}")
        if self.proxy is not None and self.decoding.needs_masks and self.proxy.input.law == "none":
            name = "input_sampling" if isinstance(self.decoding, InputSampling) else "mask_predict"
            raise UserError(
                f"decoding={name} shows the decoder some of its own tokens, which only a model trained "
                f"with a partly revealed Z has learned to read; the Z of {self.cfg.name} reveals nothing"
            )

    def _identity(self) -> dict[str, Any]:
        """The settings that this run depends on; its teachers and its start by their own keys."""
        unused: tuple[str, ...] = () if self.is_student else tuple(STUDENTS_ALONE)
        if not self.is_student and not self.candidates:
            unused += ("proxy_target",)  # the reference, as it always was
        own = {key: value for key, value in self.plain.items() if key not in unused}
        if self.cfg.micro_batches is not None:
            # However many processes share an update, its batches, T, Z and loss are the same; what differs is
            # only which random numbers dropout draws, as between a CPU and a GPU.
            shared = ("devices", "num_nodes")
            own["trainer"] = {key: value for key, value in own["trainer"].items() if key not in shared}
            del own["accumulate"]
        first = self.first_stage()
        if first is not None:
            own["start"] = first.run.key
        teachers = {name: [job.run.key, job.run.seed] for name, job in self.teachers().items()}
        return own | {"size": self.plain["sizes"][self.cfg.size], "teachers": teachers or None}

    def _check_start(self) -> None:
        """All that can be known about `start` before there are data."""
        begin = self.plain["start"]
        if isinstance(begin, str):
            self.check_size(start.read(Path(begin)), Path(begin))  # before the vocabulary is there
        elif begin is not None:
            if (
                not isinstance(begin, dict)
                or set(begin) != {"experiment", "updates"}
                or not isinstance(begin["experiment"], str)
            ):
                raise UserError(
                    f"start must be a file of weights, or an experiment and updates; got {begin!r}"
                )
            check_name("start.experiment", begin["experiment"])
            checks.whole("start.updates", begin["updates"], 1, "updates", high=MOST_UPDATES)
            first = self.first_stage()
            if first is not None and first.is_student != self.is_student:
                kind = "a NAT" if self.is_student else "an autoregressive model"
                raise UserError(f"start.experiment must be {kind}, as this run; got {begin['experiment']}")

    def _check_languages(self) -> None:
        """Of a job that is to train: two languages; a code that no standard has is noted."""
        source = self.plain["data"]["source"]
        src_lang, tgt_lang = (source.get(side) for side in ("src_lang", "tgt_lang"))
        one_column = source.get("src_column") == source.get("tgt_column")
        if src_lang is not None and src_lang == tgt_lang and one_column:
            raise UserError(
                "data.src_lang and data.tgt_lang must differ, or the model learns to copy; "
                f"got {src_lang} for both"
            )
        for code in dict.fromkeys((self.source.src_lang, self.source.tgt_lang)):
            if not language(code).is_known:
                console.print(
                    f"{code} is no language code of ISO 639 or BCP 47: treated as a language with "
                    "spaces between its words, scored with 13a and Moses' English rules"
                )

    def check_size(self, weights: Mapping[str, torch.Tensor], path: Path) -> None:
        """Refuse weights of another model or size, before memory is taken for the model."""
        with torch.device("meta"):
            model = self._model(*start.entries(weights, path), is_joint=False)
        start.check(weights, {f"model.{k}": v for k, v in model.state_dict().items()}, path)

    def _check_data(self, data: TranslationData) -> None:
        """What the data tell before anything is made: whether `start` speaks their vocabulary, and whether
        every sentence of the splits that are evaluated, which are never dropped, can be read."""
        if isinstance(self.plain["start"], str):
            vocabularies = data.src_vocabulary, data.tgt_vocabulary
            start.check_vocabulary(Path(self.plain["start"]), *vocabularies)
        sizes = {job.cfg.size: job.size.max_positions for job in (self, *self.teachers().values())}
        most = min(sizes.values())
        devices = self.cfg.trainer.devices
        for split in ("valid", "test"):
            corpus = data.corpus(split)
            if len(corpus) < devices:
                raise UserError(
                    f"the {split} split must have a sentence for each of trainer.devices={devices}; "
                    f"it has {len(corpus)}"
                )
            for side, lengths in zip(("source", "target"), corpus.lengths(), strict=True):
                if len(lengths) and lengths.max() + 1 > most:
                    row = int(lengths.argmax())
                    longer = [name for name, positions in sizes.items() if positions <= lengths[row]]
                    remedy = " ".join(f"sizes.{name}.max_positions={lengths[row] + 1}" for name in longer)
                    raise UserError(
                        f"the {side} of line {corpus.lines[row] + 1} of the {split} split must have fewer "
                        f"tokens than max_positions={most}, the least of this run's size and its teachers'; "
                        f"it has {lengths[row]}: shorten or remove that line, or give {remedy}"
                    )

    @property
    def dash_splits(self) -> bool:
        """Whether `tokenised_bleu`, which chooses checkpoints, splits hyphens."""
        return bool(self.cfg.data.get("dash_splits"))

    @property
    def candidates(self) -> tuple[str, ...]:
        return self.target.candidates if self.proxy is None else self.proxy.candidates

    @property
    def command(self) -> str:
        return shlex.join(["python", "train.py", *self.overrides])

    def teachers(self) -> dict[str, "Job"]:
        """The jobs whose models distil this one's candidates."""
        names = [name for name in self.candidates if name != "raw"]
        asked = self.decoding.teacher if self.is_student else None
        if asked is not None and asked not in names:
            names.append(asked)
        for name in names:
            checks.one_of("a teacher of proxy_target or decoding", name, TEACHERS)
        own = [o for o in self.overrides if o.lstrip("+~").split("=")[0].split(".")[0] in _PASSED_ON]
        jobs = {}
        for name in names:
            overrides = ["+experiment=at", f"size={name}", f"seed={self.cfg.teacher_seed}", *own]
            cfg = composed("train", overrides)
            if cfg.updates < (cfg.log_every if cfg.valid_every == EPOCH else cfg.valid_every):
                overrides += self._short(cfg.updates, cfg.log_every)
            try:
                jobs[name] = Job(composed("train", overrides), overrides, self.foreign)
            except UserError as error:
                raise UserError(f"teacher {name}: {error}") from error
        return jobs

    @staticmethod
    def _short(updates: int, log_every: int) -> list[str]:
        """Overrides of a run that validates at its end only: one that is shorter than the budget's."""
        return [f"log_every={math.gcd(updates, log_every)}", f"valid_every={updates}"]

    def first_stage(self) -> "Job | None":
        """The job whose last weights this one starts from."""
        begin = self.plain["start"]
        if not isinstance(begin, dict):
            return None
        overrides = [f"+experiment={begin['experiment']}"]
        overrides += [
            o for o in self.overrides if o.lstrip("+~").split("=")[0].split(".")[0] in _PASSED_TO_START
        ]
        if begin["updates"] != self.cfg.student_updates:  # else it is that experiment's own run
            overrides += [f"updates={begin['updates']}", *self._short(begin["updates"], self.cfg.log_every)]
        try:
            cfg = composed("train", overrides)
        except MissingConfigException as error:
            names = ", ".join(error.options or ())
            raise UserError(
                f"start.experiment must be one of {names}; got {begin['experiment']!r}"
            ) from error
        return Job(cfg, overrides, self.foreign)

    def data(
        self,
        seed: int,
        candidates: tuple[str, ...] = (),
        distilled: Any = None,
        max_tokens: int | None = None,
        accumulate: int | None = None,
        vocabularies: tuple[Vocabulary, Vocabulary] | None = None,
    ) -> TranslationData:
        """`max_tokens`, `accumulate`: where they are not the configuration's. `vocabularies`: those that a
        finished run has learned with."""
        cfg = self.cfg
        return TranslationData(
            source=self.source,
            root=Path(cfg.outputs) / "data" / cfg.data.name,
            vocabulary=self.vocabulary,
            max_length=cfg.data.max_length,
            max_tokens=max_tokens or cfg.max_tokens,
            max_ratio=cfg.data.get("max_ratio"),
            accumulate=accumulate or self.accumulate,
            seed=seed,
            candidates=candidates,
            distilled=distilled,
            tokenize=cfg.data.tokenize,
            num_workers=cfg.trainer.num_workers,
            vocabularies=vocabularies,
        )

    def valid_every(self, data: TranslationData) -> int:
        """Updates between validations. Of `epoch` those of an epoch of these data, to the nearest multiple of
        log_every, where the log's averages begin anew: a function of configuration and data."""
        cfg = self.cfg
        if cfg.valid_every != EPOCH:
            return int(cfg.valid_every)
        epoch = data.updates_per_epoch(processes_of(self.plain["trainer"]))
        return int(min(max(1, round(epoch / cfg.log_every)) * cfg.log_every, cfg.updates))

    def distilled_folder(self) -> Path:
        return self.run.folder / "distilled"

    # --- the plan -------------------------------------------------------------------------------------

    def plan(self) -> list[tuple[str, bool, str]]:
        """(stage, whether it is done, the command that makes it) in the order of execution."""
        rows: list[tuple[str, bool, str]] = []
        stages = self.data(0).preparation.stages()
        rows += [(f"data: {name}", stage.is_done(), "") for name, stage in stages.items()]
        for name, job in self.teachers().items():
            rows.append((f"teacher: {name}", job.run.is_finished(), job.command))
            rows.append((f"distilled: {name}", not job.undistilled(), ""))
        first = self.first_stage()
        if first is not None:
            rows.append((f"start: {first.run.experiment}", first.run.is_finished(), first.command))
        rows.append((f"train and test: {self.run.experiment}", self.run.is_finished(), self.command))
        return rows

    def show_plan(self) -> None:
        table = Table(title=str(self.run.folder), title_justify="left")
        for heading in ("stage", "state", "command"):
            table.add_column(heading, overflow="fold")
        for stage, done, command in self.plan():
            state = "done" if done else "to do"
            if not done and stage.startswith("train") and self.run.last.exists():
                state = "resumes"
            table.add_row(stage, state, command)
        console.print(table)

    # --- execution ------------------------------------------------------------------------------------

    def execute(self) -> dict[str, Any]:
        """Do what is missing; returns the run's metrics."""
        self._check_same_data()
        if self.run.is_finished():
            console.print(f"finished already: {self.run.folder}")
            return self.run.metrics()
        _check_gpu(self.cfg.trainer)
        self._check_languages()
        _check_processes(self.cfg.trainer)
        try:
            Path(self.cfg.outputs).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"outputs must be a folder that can be made; got {self.cfg.outputs} ({error.strerror})"
            ) from error
        self.show_plan()
        data = self.data(self.cfg.seed)
        data.setup()  # what is wrong with the data is said before anything is made
        self._check_data(data)
        # A single process holds one run at a time, so that jobs beside it go on as soon as a shared teacher
        # is done. Of several the first takes all before the others start: they do not wait with it.
        held = self._unfinished() if several(self.cfg.trainer.devices) else []
        with alone({job.run.folder: job.run.experiment for job in held}):
            return self._make()

    def _check_same_data(self) -> None:
        """Neither the key nor the folder of a run tells where its data lay, nor what was in the files. Runs
        that differ in nothing but the seed are of the same data, too: a table has their mean."""
        seeds = sorted(path.parent for path in self.run.folder.parent.glob("seed*/metrics.json"))
        folders = [self.run.folder, *seeds] if self.run.is_finished() or self.run.last.exists() else seeds
        for folder in folders:
            if (made := MadeFrom.read(folder)) is not None:  # a finished run does not need its data
                made.check_source(self.source, folder, _OTHER_DATA, may_be_gone=True)

    def _alone(self) -> contextlib.AbstractContextManager[None]:
        return alone({self.run.folder: self.run.experiment})

    def _unfinished(self) -> list["Job"]:
        """This job and those that it needs, as far as they are still to be made."""
        if self.run.is_finished():
            return []
        first = self.first_stage()
        teachers = [job for job in self.teachers().values() if not job.run.is_finished() or job.undistilled()]
        return [self, *teachers, *(first._unfinished() if first is not None else [])]

    def undistilled(self) -> list[str]:
        """The splits that this teacher has still to translate."""
        return [
            s for s in ("train", "valid") if not (self.distilled_folder() / s / "distilled.json").exists()
        ]

    def _make(self) -> dict[str, Any]:
        """What `execute` does, each run while no other job makes it."""
        teachers = self.teachers()
        first = self.first_stage()
        for job in (*teachers.values(), *([first] if first is not None else [])):
            job._check_same_data()
        for name, job in teachers.items():
            if not job.run.is_finished() or job.undistilled():
                with job._alone():
                    job.execute_teacher(name)
        if first is not None and not first.run.is_finished():
            first.show_plan()
            first._make()
        with self._alone():
            if self.run.is_finished():
                console.print(f"finished meanwhile: {self.run.folder}")
                return self.run.metrics()
            data = self.data(
                self.cfg.seed, self.candidates, {n: job.distilled_folder() for n, job in teachers.items()}
            )
            data.setup()
            metrics = self.fit_and_test(data)
        self.show_result(metrics, teachers)
        return metrics

    def execute_teacher(self, name: str) -> None:
        """Train this AT unless it is there, then distil what is missing."""
        if not self.run.is_finished():
            console.print(f"teacher {name}: {self.command}")
            data = self.data(self.cfg.seed)
            data.setup()
            self.fit_and_test(data)
        splits = self.undistilled()
        if not splits:
            return
        data = self.data(0)
        data.setup()
        model = self.trained(data)
        device = "cuda" if uses_gpu(self.cfg.trainer.accelerator) else "cpu"
        dtype = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(self.precision, torch.float32)
        for split in splits:
            folder = self.distilled_folder() / split
            rate = distill(
                model.to(device),  # type: ignore[arg-type]
                data,
                split,
                folder,
                name,
                self.decoding,
                DISTILLED_AT_ONCE,
                dtype,
            )
            if rate is not None:
                console.print(f"distilled {split} with {name}: {rate:,.0f} sentences per second")

    def module(self, data: TranslationData) -> UpdateModule:
        """The LightningModule, its weights a function of the seed."""
        pl.seed_everything(self.cfg.seed, verbose=False)
        src, tgt = data.src_vocabulary, data.tgt_vocabulary
        model = self._model(len(src), len(tgt), is_joint=src is tgt)
        parts: dict[str, Any] = {"model": model, "objective": self.objective, "decoding": self.decoding}
        parts |= {"optimizer": self.optimizer, "seed": self.cfg.seed, "log_every": self.cfg.log_every}
        parts["score"] = TextScore(
            self.source.tgt_lang, getattr(self.source, "grammar", None), self.dash_splits
        )
        if self.is_student:
            parts |= {"proxy": self.proxy, "updates": self.cfg.updates}
            parts["decoding"] = self.prepared_decoding(data)
        else:
            parts["target"] = self.target
        node = OmegaConf.create({k: v for k, v in self.cfg.module.items() if k != "model"})
        module = instantiate(node)(**parts)
        first = self.first_stage()
        if first is not None or isinstance(self.plain["start"], str):
            path = first.run.last if first is not None else Path(self.plain["start"])
            weights = start.read(path)
            start.check(weights, module.state_dict(), path)
            start.check_vocabulary(path, src, tgt)
            module.load_state_dict(weights)
        return module

    def _model(self, src_size: int, tgt_size: int, is_joint: bool) -> nn.Module:
        own = {"says_blank": self.proxy.says_blank} if self.proxy is not None else {}
        make = build(self.cfg, "module.model")
        return make(size=self.size, src_size=src_size, tgt_size=tgt_size, is_joint=is_joint, **own)

    def prepared_decoding(self, data: TranslationData) -> Decoding:
        """The decoding with what no configuration holds: the teacher that it asks, and where words begin."""
        teacher = self.decoding.teacher
        model = None if teacher is None else self.teachers()[teacher].trained(data)
        starts_word = torch.from_numpy(data.tgt_vocabulary.starts_word())
        return self.decoding.prepared(teacher=model, starts_word=starts_word)

    def trained(self, data: TranslationData) -> nn.Module:
        """The model with its final weights."""
        path = self.run.folder / "averaged.pt"
        start.check_vocabulary(path, data.src_vocabulary, data.tgt_vocabulary, "a teacher")
        module = self.module(data)
        module.load_state_dict(self.run.weights())
        return module.model.eval()

    def fit_and_test(self, data: TranslationData) -> dict[str, Any]:
        run, cfg = self.run, self.cfg
        changed: list[str] = []
        if is_first():
            conditions = {"processes": int(cfg.trainer.devices), "precision": self.precision}
            conditions["threads"] = torch.get_num_threads()
            changed = run.start(OmegaConf.to_yaml(cfg, resolve=True), self.command, conditions)
            run.keep_vocabulary(data.preparation.stages()["vocabulary"].folder)
            if run.last.exists() and (made := MadeFrom.read(run.folder)) is not None:
                made.check_prepared(data, run.folder, _OTHER_DATA)
            MadeFrom.of(data).keep(run.folder)
        module = self.module(data)
        checkpoints = Checkpoints(run.folder, "valid/tokenised_bleu", cfg.average_best)
        resume = self._resume_point(data, checkpoints)
        if resume and changed:
            console.print(f"warning: the numbers may differ in their last digits: {'; '.join(changed)}")
        loggers = [self._logger(name, node, resume) for name, node in (cfg.get("logger") or {}).items()]
        callbacks: list[pl.Callback] = [checkpoints, ShowProgress(run.experiment, cfg.updates)]
        if cfg.valid_every == EPOCH:
            callbacks.append(ValidateAtEnd(cfg.updates))
        valid_every = self.valid_every(data)
        trainer = trainer_of(
            cfg.trainer, self.precision, cfg.updates, valid_every, callbacks, loggers, run.folder
        )
        path = str(run.last) if resume else None
        trainer.fit(module, datamodule=data, ckpt_path=path, weights_only=True)
        if not checkpoints.best:
            raise UserError(
                f"no validation happened in {cfg.updates} updates: valid_every={valid_every} is too large"
            )
        if is_first():
            write_whole(checkpoints.average(), run.folder / "averaged.pt")
        trainer.strategy.barrier()
        module.load_state_dict(run.weights())
        trainer.validate(module, datamodule=data, verbose=False)  # of the averaged weights, for sweeps
        if warning := checkpoints.warning(module.results[checkpoints.monitor]):
            console.print(warning)
        trainer.test(module, datamodule=data, verbose=False)
        minutes = module.minutes()
        metrics = self._metrics(module, data, minutes)
        if is_first():
            self._write_results(module, metrics)
        trainer.strategy.barrier()  # then it is finished for all
        for logger in loggers:
            logger.finalize("success")
        if "wandb" in (cfg.get("logger") or {}):
            import wandb

            wandb.finish()  # or the next job of this process would go on writing into this run
        return metrics

    def _resume_point(self, data: TranslationData, checkpoints: Checkpoints) -> int:
        """The update of last.ckpt, 0 without one; refuses one of another vocabulary."""
        found = checkpoints.resume_point()
        if found is None:
            return 0
        key = "model.decoder.embedding.tokens.weight"
        rows = found["state_dict"][key].shape[0] if key in found["state_dict"] else len(data.tgt_vocabulary)
        if rows != len(data.tgt_vocabulary):
            raise UserError(
                f"{self.run.last} must have the vocabulary of the data ({len(data.tgt_vocabulary)} entries); "
                f"got {rows}: move it away to start again"
            )
        console.print(f"resuming {self.run.folder} at update {found['global_step']}")
        return int(found["global_step"])

    def _logger(self, name: str, node: DictConfig, resume: int) -> Any:
        make = instantiate(node)
        if name == "csv":
            return make(folder=self.run.folder, resume_from=resume)
        return make(run=self.run, config=self.plain)

    def _metrics(self, module: UpdateModule, data: TranslationData, minutes: float) -> dict[str, Any]:
        results = module.results
        split = {
            name: {k.split("/")[1]: v for k, v in results.items() if k.startswith(f"{name}/")}
            for name in ("train", "valid", "test")
        }
        scorer = module.score.scorer("test", data.text("test")[2])  # type: ignore[attr-defined]
        selected = {
            k.removeprefix("selected_"): 100 * v for k, v in split["train"].items() if "selected_" in k
        }
        metrics: dict[str, Any] = {
            "experiment": self.run.experiment,
            "data": self.run.data,
            "key": self.run.key,
            "seed": self.run.seed,
            "updates": self.cfg.updates,
            "minutes": minutes,
            "parameters": sum(p.numel() for p in module.parameters()),
            "tokens_per_second": results["speed/tokens_per_second"],
            **provenance(self.command),
            "test": split["test"],
            "valid": split["valid"],
            "train": split["train"],
            "signatures": dict(scorer.signatures),
        }
        if selected:
            metrics["selection_percent"] = selected
        realised = {name: dict(found) for name in SPLITS if (found := data.corpus(name).realised)}
        if realised:  # of synthetic data: what was done to them
            metrics["realised"] = realised
        return metrics

    def _write_results(self, module: UpdateModule, metrics: dict[str, Any]) -> None:
        folder = self.run.folder
        write_text(folder / "hypotheses.test.txt", "".join(f"{output}\n" for output in module.outputs))
        samples = (json.dumps(sample, ensure_ascii=False) + "\n" for sample in module.samples)
        write_text(folder / "samples.jsonl", "".join(samples))
        self.run.finish(metrics)

    def show_result(self, metrics: dict[str, Any], teachers: dict[str, "Job"]) -> None:
        """One table: each teacher and the model itself."""
        table = Table(title=f"{self.run.experiment} on {self.run.data}, test set", title_justify="left")
        names = {"tokenised_bleu": "tokenised BLEU", "sacrebleu": "sacreBLEU"}
        names |= {"valid_rate_percent": "valid %"} if "valid_rate_percent" in metrics["test"] else {}
        for heading in ("model", *names.values(), "chosen %", "parameters", "minutes"):
            table.add_column(heading, justify="left" if heading == "model" else "right")
        selection = metrics.get("selection_percent", {})

        def row(label: str, found: dict[str, Any], chosen: float | None) -> None:
            scores = [f"{found['test'][key]:.2f}" for key in names]
            share = "–" if chosen is None else f"{chosen:.1f}"
            table.add_row(label, *scores, share, f"{found['parameters']:,}", f"{found['minutes']:.1f}")

        for name, job in teachers.items():
            if job.run.is_finished():  # else its folder was deleted meanwhile
                row(f"teacher {name}", job.run.metrics(), selection.get(name))
        if "raw" in selection:
            table.add_row("raw", *["–"] * len(names), f"{selection['raw']:.1f}", "–", "–")
        row(self.run.experiment, metrics, None)
        console.print(table)
        console.print(f"{metrics['tokens_per_second']:,.0f} target tokens per second in training")
        for name, signature in metrics["signatures"].items():
            console.print(f"{names.get(name, name)}: {signature}")
        console.print(f"in {self.run.folder}")


def instantiate_parameters(node: DictConfig) -> set[str]:
    """Names of the constructor parameters of what `node` makes."""
    import inspect

    return set(inspect.signature(hydra.utils.get_class(node["_target_"])).parameters)


def _is_in_netrc() -> bool:
    """Does ~/.netrc know the W&B server?"""
    server = os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"
    try:
        return urlsplit(server).hostname in netrc.netrc(Path.home() / ".netrc").hosts
    except (OSError, netrc.NetrcParseError):
        return False


def wandb_id(run: Run) -> str:
    """The id of a run at W&B, which does not take all characters of a name, nor more than 128 of them."""
    name = f"{run.experiment}-{run.data}-{run.key}-{run.seed}"
    plain = re.sub(r"[^\w.-]", "-", name)
    if plain == name and len(name) <= 128:
        return name
    return f"{plain[:100]}-{hashlib.blake2b(name.encode(), digest_size=8).hexdigest()}"


def wandb_logger(project: str, run: Run, config: dict[str, Any]) -> WandbLogger:
    """Lightning's W&B logger, grouped so that a dashboard compares methods; offline without a key, and where
    W&B cannot be reached or does not take the key: training does not depend on it."""
    import wandb

    run.folder.mkdir(parents=True, exist_ok=True)
    make = functools.partial(
        WandbLogger,
        project=project,
        name=f"{run.experiment} seed {run.seed}",
        group=f"{run.experiment}, {run.data}"[:128],
        job_type="train",
        tags=[run.experiment[:64], run.data[:64]],
        id=wandb_id(run),
        save_dir=str(run.folder),
        config=config,
        resume="allow",
    )
    has_key = bool(os.environ.get("WANDB_API_KEY")) or _is_in_netrc()
    reason = "" if has_key else "no API key"
    if has_key and os.environ.get("WANDB_MODE") != "offline":
        try:
            logger = make(offline=False)
            _ = logger.experiment  # begins the run, which needs the network
            return logger
        except (wandb.Error, OSError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    about = f" ({reason})" if reason else ""
    console.print(f"W&B is offline{about}; later: wandb sync {run.folder}/wandb/offline-run-*")
    return make(offline=True)


def quiet() -> None:
    """Silence what Lightning says about things that are meant to be so."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in (".*LeafSpec.*", ".*set_vital.*", ".*does not have many workers.*", ".*srun.*"):
        warnings.filterwarnings("ignore", message)
    warnings.filterwarnings("ignore", ".*bfloat16.*")
