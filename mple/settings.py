"""What a command may set: a key that nobody would read, or one that is missing, is refused by its name.

Hydra checks that a plain `key=value` is there. What `+key=value` adds and `~key` takes away is checked here:
below a `_target_` by the constructor's parameters, elsewhere by the configuration without these words.
"""

import functools
import inspect
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from mple.checks import UserError

CONF = Path(__file__).parents[1] / "conf"
_OPEN = ("sizes", "updates_of")
"""Mappings to which a command may add what it likes; who reads them checks what is there."""
_OTHERWISE = ("start",)
"""A mapping, or something else."""
_ADDED = ("experiment", "sweep")
"""Groups of which a command adds a choice, and that leave no key."""
_OPTIONAL = ("logger",)


def choices(group: str) -> list[str]:
    """What `group=` may name; none if it is no group."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml")) if group else []


def parsed(override: str) -> tuple[str, str, str]:
    """(what stands before the key: "", "+", "++" or "~"; key; value) of a word of a command."""
    key, _, value = override.partition("=")
    bare = key.lstrip("+~")
    return key[: len(key) - len(bare)], bare.partition("@")[0], value


def composed(name: str, overrides: Sequence[str]) -> DictConfig:
    """What Hydra makes of a command, read-only; many jobs of a multirun ask for the same."""
    return _composed(str(GlobalHydra.instance().config_loader().get_search_path()), name, *overrides)


@functools.lru_cache(maxsize=64)
def _composed(_search_path: str, name: str, *overrides: str) -> DictConfig:
    cfg = hydra.compose(name, list(overrides))
    OmegaConf.set_readonly(cfg, True)
    return cfg


def check_overrides(name: str, overrides: Sequence[str], cfg: DictConfig, also: Collection[str] = ()) -> None:
    """Refuse what adds a key that nobody reads, takes one away, or replaces a mapping by something else.

    name: the file of conf/ that they change. cfg: what came of them. also: mappings besides to which they may
    add, since who reads these checks what is there.

    Raises:
        UserError: the first override that does.
    """
    files = [o for o in overrides if parsed(o)[0] != "~" and choices(parsed(o)[1])]
    known: Any = OmegaConf.to_container(composed(name, files))
    for override in overrides:
        sign, key, _ = parsed(override)
        if key.startswith("hydra") or (sign != "~" and (key in _ADDED or choices(key))):
            continue
        parts, node, path = key.split("."), known, ""
        for part in parts:
            if path in _OPEN or part in also or not isinstance(node, dict) or "_target_" in node:
                break
            if part not in node:
                raise UserError(f"{_keys(path, node)}; got {override}")
            node, path = node[part], f"{path}.{part}".lstrip(".")
        else:
            if sign == "~" and path not in _OPTIONAL:
                raise UserError(f"{key} must be there; got {override}")
            is_replaced = isinstance(node, dict) and not OmegaConf.is_dict(OmegaConf.select(cfg, key))
            if is_replaced and path not in (*_OPTIONAL, *_OTHERWISE):
                raise UserError(f"{key} must be a mapping ({_names(node)}); got {override}")


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
        try:
            parameters = inspect.signature(hydra.utils.get_object(settings["_target_"])).parameters
        except ImportError:
            continue  # said better by who makes it
        given = [name for name in settings if not str(name).startswith("_")]
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            continue
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
