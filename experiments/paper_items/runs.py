"""Finished runs below a folder: what an item asks for, and the command of what it does not find.

    library = Library(Study(outputs=Path("outputs"), data="grammar"))
    runs = library.runs(Training("vanilla_kd"))              # one a seed; none is noted as missing
    library.measured(runs, Evaluation("mple"))               # [(run, {"similarity": …})]
    library.missing                                          # commands, in the order of asking

A run is known by its `metrics.json` alone: the experiment's name, the data, and the overrides of its command.
A run whose command changes a setting that the item does not ask for (`proxy_target.beta=1`) is another one;
one whose command only spells out what is so anyway, as a sweep does, is not.
"""

import gzip
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from experiments.collect import Run
from experiments.paper_items.numbers import Number
from mple.checks import UserError
from mple.data.corpus import Corpus
from mple.estimator.paired_bleu import counts
from mple.estimator.target_distortion import BETA
from mple.files import finished_below, read_json

CONF = Path(__file__).parents[2] / "conf"
NEUTRAL = ("experiment", "sweep", "name", "seed", "teacher_seed", "data", "budget", "outputs", "logger")
NEUTRAL_DATA = ("data.root", "data.src_lang", "data.tgt_lang", "data.name")
NEUTRAL_PARTS = ("logger.", "trainer.", "hydra.", "hydra/")
"""Overrides that do not make another row of a table: where and on what machine, and what the name tells."""


@dataclass(frozen=True)
class Training:
    """One row's run: `+experiment=` and what it changes; `name` is its folder below outputs/."""

    experiment: str
    overrides: tuple[str, ...] = ()
    rename: str | None = None

    @property
    def name(self) -> str:
        if self.rename:
            return self.rename
        sizes = [value.removeprefix("size=") for value in self.overrides if value.startswith("size=")]
        size = sizes[0] if sizes else "base"
        return {"at": f"at_{size}", "at_kd": f"at_{size}_kd"}.get(self.experiment, self.experiment)


VANILLA = Training("vanilla_kd")
"""Also P(t | X) of the input predictors."""


def at(size: str, text: str = "raw") -> Training:
    """The autoregressive model of a size: baseline (base), teachers, and the NAT's equal (student).

    text: what it learns, "raw" or "kd".
    """
    return Training("at" if text == "raw" else f"at_{text}", (f"size={size}",))


def student_of(experiment: str, teacher: str) -> Training:
    """`vanilla_kd` or `glat_kd` on another teacher's text; on the reference's it is vanilla_raw, glat_raw."""
    if teacher == "raw":
        return Training(experiment.replace("_kd", "_raw"))
    if teacher == "base":
        return Training(experiment)
    return Training(experiment, (f"proxy_target.teacher={teacher}",), f"{experiment}_{teacher}")


@dataclass(frozen=True)
class Evaluation:
    """A measurement of a finished run: `evaluate.py run=RUN estimator=NAME OVERRIDES`.

    accepts: is it this one, by the `settings` of its file? Files of another name never are.
    """

    name: str
    overrides: tuple[str, ...] = ()
    accepts: Callable[[Mapping[str, Any]], bool] = field(default=lambda settings: True, compare=False)


def _is_of(settings: Mapping[str, Any], split: str) -> bool:
    """Was this split measured? (Where it is not said, it is the evaluation's own.)"""
    return settings.get("estimator", {}).get("split", split) == split


def names(path: str, folder: Path | str) -> bool:
    """Is `path` the run's `folder` (…/<experiment>/<data>/<key>/seed<k>) or one above it? Whatever the folder
    of all runs is: a recorded run lies elsewhere than where it was made."""
    identity, named = Path(folder).parts[-4:], Path(path).parts
    return any(named[-depth:] == identity[:depth] for depth in range(1, 5))


def total_correlation(other: Path | str, text: str = "raw") -> Evaluation:
    """C of a text ("raw" or "kd"), with the autoregressive run in the folder `other`."""
    split = () if text == "raw" else ("estimator.split=valid",)

    def accepts(settings: Mapping[str, Any]) -> bool:
        named = settings["estimator"].get("at")
        is_of = _is_of(settings, "test" if text == "raw" else "valid")
        return is_of and named is not None and names(named, other)

    return Evaluation("total_correlation", (f"estimator.at={other}", *split), accepts)


def latency(other: Path | str) -> Evaluation:
    """Speed beside the autoregressive run in the folder `other`, one sentence at a time; 200 sentences."""

    def accepts(settings: Mapping[str, Any]) -> bool:
        asked = settings["estimator"]
        named, sentences = asked.get("at"), asked.get("sentences")
        is_enough = (sentences is None or sentences >= 200) and 1 in asked.get("batch_sizes", ())
        is_of = is_enough and _is_of(settings, "test")
        return is_of and named is not None and names(named, other)

    few = ("estimator.batch_sizes=[1]", "estimator.sentences=200")
    return Evaluation("latency", (f"estimator.at={other}", *few), accepts)


def _reranked(settings: Mapping[str, Any]) -> bool:
    decoding = settings.get("decoding") or {}
    beam = (decoding.get("lengths") or {}).get("beam")
    is_so = (beam, decoding.get("deduplicate")) == (3, "token") and "OnePass" in str(decoding.get("fill"))
    return is_so and _is_of(settings, "test")


MPLE = Evaluation("mple")
"""With the references that the data know; `Library.mple` adds the study's β and Multi30k's descriptions."""
CONFIDENCE = Evaluation("confidence", accepts=lambda settings: _is_of(settings, "test"))
LIKELIHOOD = Evaluation("likelihood")
COUNTS = "bleu_counts.test.csv.gz"
"""Of a recorded run: its outputs themselves are not recorded."""
OWN = ("likelihood",)
"""Evaluations that are modules of this package and not of evaluate.py."""
LPD = Evaluation(
    "text", ("decoding=length_parallel", "decoding.lengths.beam=3", "decoding.deduplicate=token"), _reranked
)


@dataclass(frozen=True)
class Finished:
    """One finished run, read from its files.

    recorded: what a record kept of it (`experiments.record`), beside `folder` or the same.
    """

    folder: Path
    record: Mapping[str, Any]
    recorded: Path | None = None

    @property
    def has_weights(self) -> bool:
        """A record has none."""
        return (self.folder / "averaged.pt").exists()

    def files(self, pattern: str) -> list[Path]:
        """Its own files and the recorded ones."""
        folders = {self.folder, self.recorded or self.folder}
        return [path for folder in sorted(folders) for path in sorted(folder.glob(pattern))]

    @property
    def seed(self) -> int:
        return self.record["seed"]

    @property
    def data(self) -> str:
        return self.record["data"]

    @cached_property
    def overrides(self) -> tuple[str, ...]:
        return tuple(shlex.split(self.record.get("command", ""))[2:])  # python train.py ...

    def override(self, key: str) -> str | None:
        """The value that the run's command gives to `key`."""
        found = [value.partition("=")[2] for value in self.overrides if value.partition("=")[0] == key]
        return found[-1] if found else None

    @property
    def budget(self) -> str:
        return self.override("budget") or default_budget(self.override("data") or "grammar")

    def report(self, wanted: Evaluation) -> dict[str, Any] | None:
        """The `settings` and `metrics` of an evaluation of this run; of the latest file where there are
        several, None where there is none.

        Raises:
            UserError: a file that is not one of evaluate.py.
        """
        found = []
        for path in self.files(f"evaluations/{wanted.name}-*.json"):
            try:
                report = read_json(path, "settings", "metrics")
                if wanted.accepts(report["settings"]):
                    kept = {name: report[name] for name in ("settings", "metrics")}
                    found.append((report.get("date", ""), path.stat().st_mtime, kept))
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{path} must be a report of evaluate.py; got {error!r}") from error
        return max(found, key=lambda entry: entry[:2])[2] if found else None

    def measured(self, wanted: Evaluation) -> dict[str, float] | None:
        """The metrics of that report.

        Raises:
            UserError: a file that is not one of evaluate.py.
        """
        report = self.report(wanted)
        return None if report is None else report["metrics"]


@dataclass(frozen=True)
class Study:
    """Which runs, and how missing ones would be made.

    outputs: folder of the runs. data: the data's name, as below a run's folder. seeds: 1 … seeds are wanted;
    other seeds are used too. budget: only runs of it; None takes any. root: `data.root` of commands.
    records: folder of recorded runs, which count as made; None is none. degrees: also the grammar at other
    probabilities of its modes (Tables 1 and 5). beta: of L_target, bits per BLEU point.
    """

    outputs: Path = Path("outputs")
    data: str = "grammar"
    seeds: int = 1
    budget: str | None = None
    root: str | None = None
    records: Path | None = None
    degrees: bool = False
    beta: float = BETA


def default_budget(data_file: str) -> str:
    """The budget that conf/data/NAME.yaml chooses."""
    path = CONF / "data" / f"{data_file}.yaml"
    texts = [
        path.read_text(encoding="utf-8") if path.exists() else "",
        (CONF / "train.yaml").read_text(encoding="utf-8"),
    ]
    for text in texts:
        if found := re.search(r"^ +- (?:override /)?budget: (\w+)", text, re.MULTILINE):
            return found[1]
    return "mini"


@cache
def hides(experiment: str) -> bool:
    """Has the method a proxy input that hides and shows parts of T? Then L_input needs an input predictor."""
    path = CONF / "experiment" / f"{experiment}.yaml"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    chosen = re.search(r"^ +- override /proxy_input: (\w+)", text, re.MULTILINE)
    return chosen is not None and chosen[1] != "blank"


@cache
def configuration(overrides: tuple[str, ...]) -> str | None:
    """What train.py makes of them; None where it does not take them (any more)."""
    import hydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    import mple.resolvers  # noqa: F401  (conf/ uses them)

    try:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            return OmegaConf.to_yaml(hydra.compose("train", list(overrides)), resolve=True)
    except (HydraException, OmegaConfBaseException):
        return None


NO_ROOT = "data.root=FOLDER"
"""In a command of data whose folder is not known."""
LANGUAGES = {"multi30k": ("de", "en"), "tatoeba": ("en", "de")}
MODES = ("order", "formality", "tense", "separable")


def data_options(data: str) -> tuple[str, ...]:
    """The overrides of train.py that give a data set of this name.

    Raises:
        UserError: no such data set.
    """
    if found := re.fullmatch(r"grammar_p(\d\d)", data):
        modes = (f"data.modes.{mode}=0.{found[1]}" for mode in MODES)
        return ("data=grammar", f"data.name={data}", *modes)
    if found := re.fullmatch(r"(multi30k|tatoeba|text)_([a-z]+)-([a-z]+)", data):
        base, *pair = found.groups()
        chosen = (
            () if LANGUAGES.get(base) == tuple(pair) else zip(("src_lang", "tgt_lang"), pair, strict=True)
        )
        return (f"data={base}", *(f"data.{side}={language}" for side, language in chosen))
    if found := re.fullmatch(r"(synthetic_[ab])_(\w+)", data):
        return (f"data={found[1]}", *(() if found[2] == "en" else (f"data.tgt_lang={found[2]}",)))
    if (CONF / "data" / f"{data}.yaml").exists():
        return (f"data={data}",)
    raise UserError(f"--data must be the name of a data set, as below a run's folder; got {data!r}")


TRAIN, PREDICT, EVALUATE = range(3)
"""Stages of the missing commands; each needs what those before it make."""


@dataclass(frozen=True)
class Missing:
    """A command and its stage: a training, an input predictor of a finished run, or a measurement of one."""

    command: tuple[str, ...]
    stage: int

    @property
    def is_ready(self) -> bool:
        """Are the runs there that it needs?"""
        return not any("$(" in word for word in self.command)

    def __str__(self) -> str:
        # A folder that does not exist yet is named by the shell, when it does.
        return " ".join(word if "$(" in word else shlex.quote(word) for word in self.command)


def _by_identity(outputs: Path) -> dict[tuple[str, str, str, int], Path]:
    """Experiment, data, key and seed of every finished run below a folder -> its folder."""
    found: dict[tuple[str, str, str, int], Path] = {}
    for path in finished_below(outputs):
        run = Run.read(path)  # complains of a broken file
        identity = (run.experiment, run.data, run.key, run.seed)
        if identity in found:
            raise UserError(
                f"{path} and {found[identity] / path.name} are the same run; only one may be kept"
            )
        found[identity] = path.parent
    return found


def _read(folder: Path) -> dict[str, Any]:
    return read_json(folder / "metrics.json")


def is_same(record: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Are both of one run? A record does not say where the run's data lay."""
    return all(record.get(name) == other.get(name) for name in {*record, *other} - {"command"})


class Library:
    """The finished runs of a study; `missing` collects what was asked for and is not there.

    Raises:
        UserError: a broken metrics.json, or two folders with the same run.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self._home = study.data
        self.missing: list[Missing] = []
        self.notes: list[str] = []
        self._runs: dict[tuple[str, str], list[Finished]] = {}
        self._budgets: dict[str, str] = {}
        own = _by_identity(study.outputs)
        recorded = {} if study.records is None else _by_identity(study.records)
        for identity in dict.fromkeys((*own, *recorded)):
            folder, kept = own.get(identity) or recorded[identity], recorded.get(identity)
            record = _read(folder)
            if kept is not None and not is_same(_read(kept), record):
                kept = None  # made again: what was recorded speaks of other weights
            self._runs.setdefault(identity[:2], []).append(Finished(folder, record, kept))

    def on(self, data: str) -> "Library":
        """The same runs' folder, another data set; what is missing there is noted here."""
        return self._with(data=data)

    def at_beta(self, beta: float) -> "Library":
        """The same with another β: the paper chose one for each language pair."""
        return self._with(beta=beta)

    def _with(self, **changes: Any) -> "Library":
        other = object.__new__(Library)
        other.__dict__ = self.__dict__ | {"study": replace(self.study, **changes)}
        return other

    def all(self) -> list[Finished]:
        """Every finished run, of any data."""
        return [run for runs in self._runs.values() for run in runs]

    def has(self, data: str) -> bool:
        """Is there any finished run on a data set?"""
        return any(name == data for _, name in self._runs)

    def runs(self, training: Training, note: bool = True) -> list[Finished]:
        """The runs of a row, by seed; wanted seeds that are missing are noted."""
        groups: dict[str, list[Finished]] = {}
        for run in self._runs.get((training.name, self.study.data), []):
            if self.study.budget in (None, run.budget) and self._is_plain(run, training):
                groups.setdefault(run.record["key"], []).append(run)
        runs = max(groups.values(), key=lambda g: (len(g), g[-1].record.get("date", "")), default=[])
        if len(groups) > 1:
            used = runs[0].record["key"]
            self._note(f"{training.name} has several configurations ({', '.join(groups)}); {used} is shown")
        if runs:
            self._budgets.setdefault(runs[0].budget, training.name)
            if len(self._budgets) > 1:
                found = ", ".join(f"{name} of {budget}" for budget, name in self._budgets.items())
                self._note(f"runs of several budgets stand beside each other ({found}); --budget chooses one")
        if note:
            have = {run.seed for run in runs}
            for seed in range(1, self.study.seeds + 1):
                if seed not in have and (self.study.seeds > 1 or not have):
                    self.miss(Missing(self.train_command(training, seed), TRAIN))
        return sorted(runs, key=lambda run: run.seed)

    def partner(self, training: Training, seed: int) -> Finished | None:
        """The run that stands beside another one of `seed`: of the same seed, or the first where there is
        none and none is wanted."""
        runs = {run.seed: run for run in self.runs(training)}
        is_wanted = self.study.seeds > 1 and seed <= self.study.seeds
        return runs.get(seed) or (None if is_wanted else next(iter(runs.values()), None))

    def measured(
        self, training: Training, wanted: Evaluation, note: bool = True
    ) -> list[tuple[Finished, dict[str, float]]]:
        """The runs of a row that were measured so; those that were not are noted, with their command."""
        if note and wanted in (MPLE, CONFIDENCE) and hides(training.experiment):
            self.predictor(training)
        wanted = self.mple() if wanted == MPLE else wanted
        runs = self.runs(training, note)
        found = []
        for run in runs:
            metrics = run.measured(wanted)
            if metrics is not None:
                found.append((run, metrics))
            elif note:
                self.miss_evaluation(self.folder(training, run), wanted)
        if note and not runs:
            for seed in range(1, self.study.seeds + 1):
                self.miss_evaluation(self.future(training, seed), wanted)
        return found

    def mple(self) -> Evaluation:
        """`MPLE` as it is asked for of the study's data and β. Multi30k gets its five descriptions of an
        image for references: not translations, but a single target would be the raw target itself. One of the
        1,014 sources is also in training."""
        beta = self.study.beta
        overrides = [f"estimator.beta={beta:g}"]  # the item's, whatever the data set's is
        is_multi30k = self.study.data.startswith("multi30k")
        own_is_among_them = is_multi30k and self.study.data.endswith("-en")
        if is_multi30k:
            (option,) = self._root("multi30k")
            language = self.study.data.rpartition("-")[2]
            root = option.removeprefix("data.root=")
            paths = ",".join(f"{root}/descriptions.val.{k}.{language}.gz" for k in range(1, 6))
            references = {"paths": f"[{paths}]", "label": "descriptions", "allow_leak": "true"}
            if own_is_among_them:  # every English target is a description; 3 of 1,014 German ones equal one
                references["own_is_among_them"] = "true"
            overrides.append("estimator/references=files")
            overrides += [f"estimator.references.{name}={value}" for name, value in references.items()]

        def accepts(settings: Mapping[str, Any]) -> bool:
            asked = settings["estimator"]
            references = asked.get("references") or {}
            # A report from before the switch has no key for it.
            is_own = references.get("own_is_among_them", own_is_among_them) == own_is_among_them
            is_so = asked.get("beta", beta) == beta and _is_of(settings, "valid")
            return is_so and ((bool(references.get("paths")) and is_own) or not is_multi30k)

        return Evaluation("mple", tuple(overrides), accepts)

    def folder(self, training: Training, run: Finished) -> str:
        """Where the weights of a run are. Where only its record is left, its training is noted as missing."""
        return self.place(training, run.seed, run)

    def place(self, training: Training, seed: int, run: Finished | None = None) -> str:
        """Where the weights of a row's run of `seed` are or will be. Without a run, or where only its record
        is left, its training is noted as missing."""
        if run is not None and run.has_weights:
            return str(run.folder)
        self.miss(Missing(self.train_command(training, seed), TRAIN))
        return self.future(training, seed)

    def future(self, training: Training, seed: int) -> str:
        """The folder of a run that does not exist yet, in words of the shell that finds it when it does."""
        return f"$(echo {self.study.outputs}/{training.name}/{self.study.data}/*/seed{seed})"

    def miss_evaluation(self, folder: str, wanted: Evaluation) -> None:
        """Note that an evaluation of the run in `folder` is missing."""
        self.miss(Missing(self.evaluate_command(folder, wanted), EVALUATE))

    def predictor(self, training: Training) -> None:
        """Note the input predictors that the runs of a row lack: L_input and input sampling need one."""
        runs = {run.seed: run for run in self.runs(training)}
        for seed in runs or range(1, self.study.seeds + 1):
            if seed in runs and self._is_predicted(runs[seed]):
                continue
            folder = self.folder(training, runs[seed]) if seed in runs else self.future(training, seed)
            other = self.partner(VANILLA, seed)
            vanilla = self.folder(VANILLA, other) if other else self.future(VANILLA, seed)
            words = ("+experiment=input_predictor", f"of={folder}", f"vanilla={vanilla}")
            self.miss(Missing(("python", "train.py", *words), PREDICT))

    def _is_predicted(self, run: Finished) -> bool:
        """Has the run an input predictor, or everything that one is for?"""
        found = any(run.folder.glob("input_predictor/*/input_predictor.json")) and run.has_weights
        return found or all(run.measured(wanted) is not None for wanted in (self.mple(), CONFIDENCE))

    def train_command(self, training: Training, seed: int) -> tuple[str, ...]:
        options = data_options(self.study.data)
        return (
            *("python", "train.py", f"+experiment={training.experiment}", *training.overrides),
            *([f"name={training.rename}"] if training.rename else []),
            *(*options, *self._root(options[0].removeprefix("data="))),
            *(f"budget={self.budget}", f"outputs={self.study.outputs}", f"seed={seed}"),
        )

    @staticmethod
    def evaluate_command(folder: str, wanted: Evaluation) -> tuple[str, ...]:
        if wanted.name in OWN:
            return ("python", "-m", f"experiments.paper_items.{wanted.name}", folder)
        estimator = () if wanted.name == "text" else (f"estimator={wanted.name}",)
        return ("python", "evaluate.py", f"run={folder}", *estimator, *wanted.overrides)

    def _is_plain(self, run: Finished, training: Training) -> bool:
        """Does the run's command change nothing that the row does not ask for?"""
        is_named = run.override("data.name") == self.study.data  # then the name tells the grammar's modes
        parts = (*NEUTRAL_PARTS, "data.modes.") if is_named else NEUTRAL_PARTS
        known = {*NEUTRAL, *NEUTRAL_DATA, *(word.partition("=")[0] for word in training.overrides)}
        more = [
            word
            for word in run.overrides
            if (key := word.lstrip("+").partition("=")[0]) not in known and not key.startswith(parts)
        ]
        if not more:
            return True
        command = self._with(budget=run.budget).train_command(training, run.seed)
        asked = tuple(word for word in command[2:] if "$(" not in word)
        plain = configuration(asked)
        return plain is not None and configuration((*asked, *more)) == plain

    @property
    def budget(self) -> str:
        """Of new runs: the study's, else that of finished runs of the same data, else that of the data that
        the study is of: C is comparable between data sets only for models of one size (App. B)."""
        if self.study.budget is not None:
            return self.study.budget
        for data in (self.study.data, self._home):
            for run in self.all():
                if run.data == data:
                    return run.budget
        return default_budget(data_options(self._home)[0].removeprefix("data="))

    def _root(self, base: str) -> tuple[str, ...]:
        """`data.root` where the data need it: as given, or as in a finished run's command."""
        if base not in ("multi30k", "tatoeba", "text", "synthetic_a", "synthetic_b"):
            has_none = self.study.root is None or base.startswith("grammar")
            return () if has_none else (f"data.root={self.study.root}",)
        files = (base,) if base in ("tatoeba", "text") else ("multi30k", "synthetic_a", "synthetic_b")
        of_runs = [run.override("data.root") for run in self.all() if run.override("data") in files]
        known = self.study.root or next(filter(None, of_runs), None)
        return (NO_ROOT if known is None else f"data.root={known}",)

    def miss(self, missing: Missing) -> None:
        """Note a command."""
        if missing not in self.missing:
            self.missing.append(missing)

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)


def sentence_counts(run: Finished) -> np.ndarray | None:
    """What corpus BLEU of the run's test sums up, (sentences, 10): see `paired_bleu.counts`. Recorded, or
    counted from its outputs and the prepared data beside it; None where neither is there.

    Words are those of the run's own sacreBLEU, by the tokeniser in its signature. `run.folder` is
    OUTPUTS/<experiment>/<data>/<key>/seed<k>, the data are OUTPUTS/data/<data>/test-<hash>.
    """
    tokenize = sacrebleu_tokenizer(run)
    for path in run.files(COUNTS):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            if file.readline().startswith(f"# {tokenize}\n") or tokenize == "13a":
                return np.loadtxt(path, np.int64, delimiter=",", ndmin=2)
    path = run.folder / "hypotheses.test.txt"
    if not path.exists():
        return None
    outputs = path.read_text(encoding="utf-8").splitlines()
    for folder in sorted(run.folder.parents[3].glob(f"data/{run.data}/test-*")):
        if (folder / "corpus.json").exists():
            _, references = Corpus.open(folder).text()
            if len(references) == len(outputs):
                return counts(outputs, references, tokenize)
    return None


def write_sentence_counts(path: Path, run: Finished) -> None:
    """Record `sentence_counts` where they are to be had; the first line names a tokeniser other than 13a."""
    if (rows := sentence_counts(run)) is not None:
        tokenize = sacrebleu_tokenizer(run)
        np.savetxt(path, rows, fmt="%d", delimiter=",", header="" if tokenize == "13a" else tokenize)


def sacrebleu_tokenizer(run: Finished) -> str:
    """The tokeniser of the run's sacreBLEU; 13a in records without signatures."""
    signature = (run.record.get("signatures") or {}).get("sacrebleu", "")
    named = re.search(r"\|tok:((?:ja|ko)-mecab|[^|]+)", signature)  # MeCab's is followed by its version
    return named[1] if named else "13a"


def of_test(runs: Sequence[Finished], name: str) -> Number | None:
    """A number of the runs' own test."""
    return _number({run.seed: run.record["test"].get(name) for run in runs})


def of_record(runs: Sequence[Finished], name: str) -> Number | None:
    """A number of the runs' record itself, such as `parameters`."""
    return _number({run.seed: run.record.get(name) for run in runs})


def of_valid(runs: Sequence[Finished], *names: str) -> Number | None:
    """The first of `names` that the validation at the end of a run has."""
    found: dict[int, float | None] = {}
    for run in runs:
        valid = run.record.get("valid") or {}
        found[run.seed] = next((valid[name] for name in names if valid.get(name) is not None), None)
    return _number(found)


def of_metrics(
    measured: Sequence[tuple[Finished, Mapping[str, float]]], name: str, unit: str = ""
) -> Number | None:
    """`NAME_UNIT` of evaluations, with `NAME_low_UNIT` and `NAME_high_UNIT` where they have them."""
    unit = f"_{unit}" if unit else ""
    values = {run.seed: metrics.get(f"{name}{unit}") for run, metrics in measured}
    ends = {
        run.seed: (metrics[f"{name}_low{unit}"], metrics[f"{name}_high{unit}"])
        for run, metrics in measured
        if metrics.get(f"{name}_low{unit}") is not None and metrics.get(f"{name}_high{unit}") is not None
    }
    number = _number(values)
    return number and Number(
        number.values, {seed: end for seed, end in ends.items() if seed in number.values}
    )


def _number(values: Mapping[int, float | None]) -> Number | None:
    kept = {seed: float(value) for seed, value in values.items() if value is not None}
    return Number(kept) if kept else None
