"""Every key of every file of conf/ with values of a wrong type or size: one sentence that names the key, or a
value that its type allows; no other exception, and nothing else is accepted.

What is legitimate is read from the annotations of the constructors (`mple.checks.accepts`), and for
settings that no constructor takes from `SETTINGS`. No number may be −1 or a billion, but for a seed.
"""

import contextlib
import functools
import inspect
import itertools
import math
import pkgutil
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from mple.checks import UserError, accepts
from mple.command import complaint
from mple.evaluate import evaluation_of
from mple.evaluation.finished import Finished
from mple.input_predictor import settings_of
from mple.launch import Job
from mple.model.transformer import Size
from mple.settings import build, decoding_of
from mple.trained import device_of
from tests.runs import random_run
from translate import translator

CONF = Path(__file__).parents[1] / "conf"
WRONG: Mapping[str, Any] = {
    "null": None,
    "text": "none of these",
    "list": [[]],
    "mapping": {"a_key": 1},
    "nan": math.nan,
    "inf": math.inf,
    "minus_one": -1,
    "billion": 10**9,
    "true": True,
}
SETTINGS: Mapping[str, Any] = {
    **dict.fromkeys(("name", "outputs", "data.name", "data.src_lang", "data.tgt_lang", "of", "vanilla"), str),
    **dict.fromkeys(("start", "data.root", "run", "teacher", "device"), str | None),
    **dict.fromkeys(("data.paper", "logger", "decoding"), Mapping[str, Any] | None),
    **dict.fromkeys(("autoregressive.positions", "autoregressive.spread"), str | None),
    "micro_batches": int | None,
    "data.dash_splits": bool | None,
    "data.max_ratio": float | None,
    **dict.fromkeys(("n_best", "max_length"), int | None),
}
"""Types of settings that no constructor takes, where they may be a text or null; the others are numbers."""
NEEDS = {
    "proxy_target/reference": ["proxy_target=axe"],
    **{f"decoding/{part}": ["decoding=length_parallel"] for part in ("lengths", "fill", "choice")},
    "estimator/references": ["estimator=mple"],
    "estimator/search": ["estimator=gamma"],
    "module": ["decoding=beam"],
}
"""Groups inside a choice of another group, or that need one."""
PREDICTOR = "input_predictor", ("of=RUN", "vanilla=RUN")
FILES = {str(path.relative_to(CONF).with_suffix("")): path for path in sorted(CONF.rglob("*.yaml"))}


def command_of(path: Path) -> tuple[str, tuple[str, ...]]:
    """The configuration and the overrides that have every key of a file."""
    group, stem = str(path.relative_to(CONF).parent), path.stem
    if stem == "input_predictor" and group in (".", "module"):
        return PREDICTOR
    if group == ".":
        return stem, ()
    if group in ("experiment", "sweep"):
        return "train", (f"+{group}={stem}", "data=grammar")
    top = group.partition("/")[0]
    needs = [] if stem == "non_autoregressive" else NEEDS.get(group, [])
    words = [*needs, f"{group}=[{stem}]" if group == "logger" else f"{group}={stem}"]
    if top in ("estimator", "decoding"):
        return "evaluate", tuple(words)
    if group != "data":
        words.append("data=grammar")
    elif stem == "text":
        words += ["data.src_lang=en", "data.tgt_lang=de"]
    return "train", tuple(words)


def package(path: Path) -> str:
    """Where the keys of a file go in the configuration; "" for the whole."""
    first = path.read_text().partition("\n")[0]
    group = str(path.relative_to(CONF).parent).replace("/", ".")
    if first.startswith("# @package "):
        group = first.removeprefix("# @package ").replace("_global_", ".")
    return group.strip(".")


def keys_below(node: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Every key below a node, of mappings too."""
    for key, value in node.items():
        below = f"{path}.{key}".lstrip(".")
        if key not in ("defaults", "hydra"):
            yield below
            if isinstance(value, Mapping):
                yield from keys_below(value, below)


@functools.cache
def composed(name: str, words: tuple[str, ...]) -> DictConfig:
    cfg = hydra.compose(name, list(words))
    OmegaConf.set_struct(cfg, False)
    return cfg


def base(path: Path) -> DictConfig:
    """The configuration that has every key of a file."""
    return composed(*command_of(path))


@contextlib.contextmanager
def changed(cfg: DictConfig, key: str, value: Any) -> Iterator[None]:
    """With another value, for a while: a copy of the whole would take as long as its check."""
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(cfg, parent) if parent else cfg
    old: Any = OmegaConf.to_container(node, resolve=False)
    OmegaConf.update(cfg, key, value, merge=False)
    try:
        yield
    finally:
        OmegaConf.update(cfg, key, old[name], merge=False)


def keys(path: Path) -> list[str]:
    where = package(path)
    own = OmegaConf.select(base(path), where) if where else OmegaConf.load(path)
    node: Any = OmegaConf.to_container(own, resolve=False)
    return list(keys_below(node, where))


@pytest.fixture(scope="module", autouse=True)
def configuration(run: Path) -> Iterator[None]:
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        yield
    composed.cache_clear()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_run(tmp_path_factory.mktemp("run"), "+experiment=vanilla_raw")


def make(path: Path, cfg: DictConfig, key: str, run: Path) -> None:
    """All objects that the command makes before it reads data."""
    name, words = command_of(path)
    if name == "translate":
        if key != "run":
            cfg.run = str(run)
        list(translator(cfg).stream([], cfg.bucket))
    elif key in ("run", "of", "vanilla"):
        Finished.open(cfg[key], None, key)
    elif name == "train":
        Job(cfg, list(words)).data(0)
    elif name == "evaluate":
        evaluation_of(cfg)
        device_of(cfg.device)
        decoding_of(cfg, {})
    else:
        own = composed("train", ("data=grammar",))
        settings_of(cfg, own, dict.fromkeys(("experiment", "data", "key", "seed")), lambda: 100)
        build(cfg, "decoding")


def refusal(path: Path, key: str, value: Any, run: Path) -> str | None:
    """The sentence about a setting of a file; None where the value is accepted."""
    cfg = base(path)
    try:
        with changed(cfg, key, value):
            make(path, cfg, key, run)
    except UserError as error:
        return str(error)
    except HydraException as error:
        return complaint(error)
    return None


def type_of(path: Path, key: str) -> Any:
    """The annotation of a setting, or of the values of the mapping that it is in."""
    if key.endswith("._partial_"):
        return bool
    cfg = base(path)
    if command_of(path) == PREDICTOR and key not in ("seed", *SETTINGS):  # null: as in the run
        return float | None
    for n in range(key.count("."), 0, -1):
        parts = key.split(".")
        node = OmegaConf.select(cfg, ".".join(parts[:n]))
        if "_target_" in node and not parts[-1].startswith("_"):
            parameters = inspect.signature(pkgutil.resolve_name(node["_target_"]), eval_str=True).parameters
            hint = parameters[parts[n]].annotation
            return hint if n == len(parts) - 1 else get_args(hint)[1]
    if of_size := re.fullmatch(r"sizes\.\w+\.(\w+)", key):
        return inspect.signature(Size, eval_str=True).parameters[of_size[1]].annotation
    if key.startswith("data.paper.gamma."):
        return float | None
    return SETTINGS.get(key, float)


def fault(path: Path, key: str, what: str, run: Path) -> str | None:
    """What is wrong with the answer to a wrong value; None if nothing is."""
    value = WRONG[what]
    try:
        sentence = refusal(path, key, value, run)
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    if sentence is None:
        is_nonsense = what == "minus_one" or (what == "billion" and not key.endswith("seed"))
        fits = accepts(type_of(path, key)).fits(value)
        return None if fits and not is_nonsense else "accepted"
    parts = key.split(".")
    named = any(".".join(parts[:n]) in sentence for n in range(1, len(parts) + 1))
    return None if named and "\n" not in sentence else f"key not named, or several lines: {sentence[:200]}"


def cases(names: Collection[str]) -> Iterator[tuple[str, str]]:
    """(file, key) of each key, but once where several files of a command, or sizes, have it."""
    seen: set[tuple[str, str]] = set()
    for name in names:
        for key in keys(FILES[name]):
            case = (command_of(FILES[name])[0], re.sub(r"^sizes\.\w+", "sizes.ANY", key))
            if case not in seen:
                seen.add(case)
                yield name, key


def test_every_key_refuses_a_wrong_value(run: Path) -> None:
    """One wrong value for each key, the next one for the next key; `slow` tries all."""
    tried = list(zip(cases(FILES), itertools.cycle(WRONG)))
    assert len(tried) > 200
    check([(name, key, what) for (name, key), what in tried], run)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", FILES)
def test_every_key_refuses_every_wrong_value(name: str, run: Path) -> None:
    check([(name, key, what) for key in keys(FILES[name]) for what in WRONG], run)


def check(tried: Sequence[tuple[str, str, str]], run: Path) -> None:
    answers = {case: fault(FILES[case[0]], *case[1:], run) for case in tried}
    lines = [f"{name}: {key}={what}: {answer}" for (name, key, what), answer in answers.items() if answer]
    assert not lines, "\n".join(lines)
