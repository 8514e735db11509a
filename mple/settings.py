"""What a command may set: a key that nobody would read, or one that is missing, is refused by its name.

Hydra checks that a plain `key=value` is there. What `+key=value` adds and `~key` takes away is checked here:
below a `_target_` by the constructor's parameters, elsewhere by what the command's choices of files make.
"""

import functools
import inspect
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from mple.checks import UserError

CONF = Path(__file__).parents[1] / "conf"
_ADDED = ("experiment", "sweep")
"""Groups of conf/ of which a command adds a choice."""
_OPEN = ("sizes", "updates_of", "start", "data.paper")
"""Mappings whose keys are checked by who reads them."""
_OTHERWISE = ("start", "data.paper")
"""Of these, what need not be a mapping."""


def choices(group: str) -> list[str]:
    """What `group=` may name of conf/; none if it is no group there."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml")) if group else []


def composed(name: str, overrides: Sequence[str]) -> DictConfig:
    """What Hydra makes of a command, read-only; many jobs of a multirun ask for the same. Where a command
    says `hydra.searchpath`, files are sought there too."""
    given = HydraConfig.get().overrides.hydra if HydraConfig.initialized() else ()
    words = [word for word in given if word.lstrip("+").startswith("hydra.searchpath")]
    return _composed(str(GlobalHydra.instance().config_loader().get_search_path()), name, *words, *overrides)


@functools.lru_cache(maxsize=64)
def _composed(_search_path: str, name: str, *overrides: str) -> DictConfig:
    cfg = hydra.compose(name, list(overrides))
    OmegaConf.set_readonly(cfg, True)
    return cfg


def check_command(cfg: DictConfig, also: Collection[str] = ()) -> None:
    """Refuse words of the command that runs which add a key that nobody reads, take one away, or replace a
    mapping by something else.

    cfg: what came of them. also: mappings besides to which they may add.

    Raises:
        UserError: the first word that does.
    """
    hydra_config = HydraConfig.get()
    groups = list(hydra_config.runtime.choices)
    check_overrides(str(hydra_config.job.config_name), hydra_config.overrides.task, cfg, groups, also)


def check_overrides(
    name: str, overrides: Sequence[str], cfg: DictConfig, groups: Collection[str], also: Collection[str] = ()
) -> None:
    """`check_command` for any words of file `name`. groups: those of which a file is chosen."""
    words = list(zip(overrides, OverridesParser.create().parse_overrides(list(overrides)), strict=True))
    files = [word for word, o in words if _is_file(o, groups)]
    known: Any = OmegaConf.to_container(composed(name, files))
    for word, override in words:
        group = override.key_or_group
        if override.is_delete() and choices(group):
            raise UserError(f"{group} must be there; got {word}")
        if word in files:
            is_ours = "/" not in group and bool(choices(group)) and group not in _ADDED
            if override.is_add() and is_ours:
                raise UserError(f"{group} must be a group of this command; got {word}")
            continue
        value = None if override.is_delete() else override.value()
        for parts in _leaves(group.split("."), value):
            _check(parts, word, override.is_delete(), known, also)
        node = _at(known, group.split("."))
        is_replaced = isinstance(node, dict) and not OmegaConf.is_dict(OmegaConf.select(cfg, group))
        if is_replaced and group not in _OTHERWISE and not override.is_delete():
            raise UserError(f"{group} must be a mapping; got {word}")


def _is_file(override: Any, groups: Collection[str]) -> bool:
    """Whether a word chooses a file, or some, of a group."""
    key = override.get_key_element().lstrip("+")
    is_group = key in groups or bool(choices(key))  # of a group with a list of files the first does not tell
    return is_group and not override.is_delete() and isinstance(override.value(), str | list)


def _leaves(parts: list[str], value: Any) -> Iterator[list[str]]:
    """The keys that a value sets: those of a mapping one by one."""
    if isinstance(value, dict) and value:
        for key, below in value.items():
            yield from _leaves([*parts, str(key)], below)
    else:
        yield parts


def _at(node: Any, parts: Iterable[str]) -> Any:
    """The part of the configuration that has a `_target_` nowhere above it; None without one."""
    for part in parts:
        if not isinstance(node, dict) or "_target_" in node:
            return None
        node = node.get(part)
    return node


def _check(parts: list[str], word: str, is_delete: bool, node: Any, also: Collection[str]) -> None:
    path, is_argument, whole = "", False, ".".join(parts)
    if is_delete and whole in _OPEN and whole != "data.paper":
        raise UserError(f"{whole} must be there; got {word}")
    for part in parts:
        below = f"{path}.{part}".lstrip(".")
        if below in (*_OPEN, *also) or not isinstance(node, dict):
            return
        if part not in node:
            if "_target_" not in node:
                raise UserError(f"{_keys(path, node)}; got {word}")
            if not part.startswith("_"):
                _check_argument(path, node, part, word)
            return
        is_argument = is_argument or "_target_" in node
        node, path = node[part], below
    is_needed = parts[-1] == "_target_" or not is_argument  # arguments: `check_arguments` says which
    if is_delete and is_needed and parts[0] != "logger":
        raise UserError(f"{path} must be there; got {word}")


def _check_argument(path: str, node: Mapping[str, Any], part: str, word: str) -> None:
    """Of what the code completes (`_partial_`), arguments without a default are the code's."""
    parameters = _parameters(node)
    if parameters is None:
        return
    free = [
        name
        for name, parameter in parameters.items()
        if not node.get("_partial_") or parameter.default is not parameter.empty or name in node
    ]
    if part not in free:
        raise UserError(f"{_keys(path, free)}; got {word}")


def _parameters(node: Mapping[str, Any]) -> Mapping[str, inspect.Parameter] | None:
    """What the constructor takes; None where that cannot be said."""
    try:
        found = inspect.signature(hydra.utils.get_object(str(node["_target_"]))).parameters
    except (ImportError, ValueError):
        return None  # said better by who makes it
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in found.values())
    return None if takes_all else found


def _keys(path: str, keys: Iterable[Any]) -> str:
    where = f"a key of {path}" if path else "a setting"
    return f"{where} must be one of {names}" if (names := _names(keys)) else f"{path} has no settings"


def _names(keys: Iterable[Any]) -> str:
    return ", ".join(sorted(str(key) for key in keys if not str(key).startswith("_")))


def check_arguments(node: Any, key: str = "") -> None:
    """Refuse arguments that what a `_target_` names does not take, or lacks, anywhere in a resolved `node`,
    and what is neither true nor false where it must be.

    Raises:
        UserError: such a key.
    """
    for where, settings in _described(node, key):
        if (parameters := _parameters(settings)) is None:
            continue
        given = [name for name in settings if not str(name).startswith("_")]
        for name in given:
            if name not in parameters:
                raise UserError(f"{_keys(where, parameters)}; got {name}={settings[name]}")
            if isinstance(parameters[name].default, bool) and not isinstance(settings[name], bool):
                raise UserError(f"{where}.{name} must be true or false; got {settings[name]!r}")
        if settings.get("_partial_"):
            continue  # the rest comes from the code
        for name, parameter in parameters.items():
            if parameter.default is parameter.empty and name not in given:
                raise UserError(f"{where}.{name} must be there; got {_names(given) or 'no key'}")


def _described(node: Any, key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every mapping that says what to make, with its key."""
    if not isinstance(node, Mapping):
        return
    if "_target_" in node:
        yield key, node
    for name, value in node.items():
        yield from _described(value, f"{key}.{name}".lstrip("."))
