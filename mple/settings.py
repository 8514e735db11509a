"""What a command may set: a key that nobody would read, or one that is missing, is refused by its name.

Hydra checks that a plain `key=value` is there. What `+key=value` adds and `~key` takes away is checked here:
below a `_target_` by the constructor's parameters, elsewhere by what the command's choices of files make.
Values are checked by the annotations of those parameters; their bounds by the constructors (`mple.checks`).
"""

import functools
import inspect
import pkgutil
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mple.checks import UserError, of_type

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
    if hydra_config.job.chdir:
        raise UserError(
            "hydra.job.chdir must be false: paths are those of the folder of the command; got true"
        )
    groups = list(hydra_config.runtime.choices)
    check_overrides(str(hydra_config.job.config_name), hydra_config.overrides.task, cfg, groups, also)


def check_overrides(
    name: str, overrides: Sequence[str], cfg: DictConfig, groups: Collection[str], also: Collection[str] = ()
) -> None:
    """`check_command` for any words of file `name`. groups: those of which a file is chosen."""
    words = list(zip(overrides, OverridesParser.create().parse_overrides(list(overrides)), strict=True))
    _check_once(words, groups)
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
        if value == {} and _at_all(known, group.split(".")):
            raise UserError(f"{word} would have no effect: a mapping adds to the keys that are there")
        is_replaced = isinstance(node, dict) and not OmegaConf.is_dict(OmegaConf.select(cfg, group))
        if is_replaced and group not in _OTHERWISE and not override.is_delete():
            raise UserError(f"{group} must be a mapping; got {word}")


def _check_once(words: Sequence[tuple[str, Any]], groups: Collection[str]) -> None:
    """Refuse a key that two overrides give, or one twice: the last would count, silently."""
    given: dict[str, str] = {}
    for word, override in words:
        key, value = override.get_key_element().lstrip("+~"), None
        keys = [key]
        if _is_file(override, groups):
            value = override.value()
            if isinstance(value, list) and len({str(each) for each in value}) < len(value):
                raise UserError(f"{key} must have each choice once; got {word}")
        elif not override.is_delete():
            value = override.value()
            keys = [".".join(parts) for parts in _leaves(key.split("."), value)]
        for each in keys:
            if each in given:
                raise UserError(f"{each} must be given once; got {given[each]} and {word}")
            given[each] = word


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
    parameters = _parameters(node, path)
    if parameters is None:
        return
    free = [
        name
        for name, parameter in parameters.items()
        if not node.get("_partial_") or parameter.default is not parameter.empty or name in node
    ]
    if part not in free:
        raise UserError(f"{_keys(path, free)}; got {word}")


def _parameters(node: Mapping[str, Any], where: str) -> Mapping[str, inspect.Parameter] | None:
    """What the constructor takes; None where that cannot be told.

    Raises:
        UserError: there is none.
    """
    target = node["_target_"]
    try:
        made = pkgutil.resolve_name(target if isinstance(target, str) else "")
    except (ImportError, ValueError, AttributeError) as error:
        raise UserError(
            f"{where}._target_ must name a class or function that can be imported; got {target!r}"
        ) from error
    if not callable(made):
        raise UserError(f"{where}._target_ must name a class or function; got {target!r}")
    try:
        parameters = inspect.signature(made, eval_str=True).parameters
    except (ValueError, TypeError):
        return None
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return None if takes_all else parameters


def _keys(path: str, keys: Iterable[Any]) -> str:
    where = f"a key of {path}" if path else "a setting"
    return f"{where} must be one of {names}" if (names := _names(keys)) else f"{path} has no settings"


def _names(keys: Iterable[Any]) -> str:
    return ", ".join(sorted(str(key) for key in keys if not str(key).startswith("_")))


def check_arguments(cfg: Any, key: str = "", raw: Any = None) -> None:
    """Refuse arguments that what a `_target_` names does not take, or lacks, and values that are not of the
    type that its parameter has, anywhere in a configuration; a value that another setting gives
    (`${data.root}`) by the key of that. raw: the same before interpolation, where `cfg` is resolved.

    Raises:
        UserError: such a key.
    """
    raw = cfg if raw is None else raw
    if isinstance(cfg, DictConfig):
        raw, cfg = OmegaConf.to_container(cfg, resolve=False), resolved(cfg)
    for where, settings, own in _described(cfg, raw, key, raw):
        is_partial = settings.get("_partial_", False)
        if not isinstance(is_partial, bool):
            raise UserError(f"{where}._partial_ must be true or false; got {is_partial!r}")
        if (parameters := _parameters(settings, where)) is None:
            continue
        given = [name for name in settings if not str(name).startswith("_")]
        for name in given:
            if name not in parameters:
                raise UserError(f"{_keys(where, parameters)}; got {name}={settings[name]}")
            named = alias(own.get(name), f"{where}.{name}".lstrip("."))
            of_type(named, settings[name], parameters[name].annotation)
        if is_partial:
            continue  # the rest comes from the code
        for name, parameter in parameters.items():
            if parameter.default is parameter.empty and name not in given:
                raise UserError(f"{where}.{name} must be there; got {_names(given) or 'no key'}")


def check_values(make: Callable[..., Any], values: Mapping[str, Any]) -> None:
    """Refuse settings that are not of the type of the parameter of that name."""
    parameters = inspect.signature(make, eval_str=True).parameters
    for name, value in values.items():
        of_type(name, value, parameters[name].annotation)


def described(cfg: DictConfig, key: str) -> None:
    """Refuse a setting that must describe an object and does not."""
    node = OmegaConf.select(cfg, key)
    if not OmegaConf.is_dict(node) or "_target_" not in node:
        raise UserError(f"{key} must be a mapping that describes an object (_target_); got {node!r}")


def resolved(cfg: DictConfig) -> Any:
    """A configuration as plain mappings and lists, its interpolations computed.

    Raises:
        UserError: one that cannot be, by its key.
    """
    try:
        return OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        key = error.full_key or "a setting"
        raise UserError(f"{key} cannot be computed: {str(error).splitlines()[0]}") from error


def decoding_of(cfg: DictConfig, own: Mapping[str, Any]) -> dict[str, Any] | None:
    """The decoding that a command about a finished run asks for: a whole one (`decoding=NAME`), or some
    settings that change the run's `own`; None where it asks for none.

    Raises:
        UserError: a key or value that its parts do not take.
    """
    asked: Any = resolved(cfg).get("decoding")
    if asked is None or asked == {}:
        return None
    if not isinstance(asked, dict):
        raise UserError(f"decoding must be one of {', '.join(choices('decoding'))}; got {asked!r}")
    node: Any = asked if "_target_" in asked else OmegaConf.to_container(OmegaConf.merge(own, asked))
    check_arguments(node, "decoding")
    return {str(key): value for key, value in node.items()}


def build(cfg: DictConfig, key: str, **code: Any) -> Any:
    """The object that the setting `key` describes. `code`: arguments that no configuration holds.

    Raises:
        UserError: a value that its constructor refuses, by the key that was set; `check_arguments` is the
            caller's.
    """
    try:
        return hydra.utils.instantiate(OmegaConf.select(cfg, key), _convert_="all", **code)
    except hydra.errors.InstantiationException as error:
        cause = error.__cause__ or error.__context__
        if not isinstance(cause, UserError):
            raise
        where = re.search(r"full_key: (\S+)", str(error))
        raise UserError(_renamed(str(cause), cfg, where[1] if where else key)) from error


def _renamed(sentence: str, cfg: DictConfig, where: str) -> str:
    """A constructor's sentence with the key that was set in place of the one that it knows: a strategy
    inside another has a longer one, and an alias leads to where its value is."""
    known, _, rest = sentence.partition(" ")
    name = known.rpartition(".")[2]
    node = OmegaConf.select(cfg, where)
    if "." not in known or not OmegaConf.is_dict(node) or name not in node:
        return sentence
    own = OmegaConf.to_container(node, resolve=False)
    return f"{alias(own.get(name), f'{where}.{name}')} {rest}"  # type: ignore[union-attr]


def alias(raw: Any, key: str) -> str:
    """The key of the value that `key` has: another one where the raw value is only `${another.one}`."""
    match = re.fullmatch(r"\$\{([\w.]+)\}", raw) if isinstance(raw, str) else None
    return match[1] if match else key


def _described(node: Any, raw: Any, key: str, root: Any) -> Iterator[tuple[str, Mapping[str, Any], Any]]:
    """Every mapping that says what to make, with its key and its values before interpolation."""
    if not isinstance(node, Mapping):
        return
    if (other := alias(raw, key)) != key:
        key, raw = other, _at_all(root, other.split("."))
    raw = raw if isinstance(raw, Mapping) else {}
    if "_target_" in node:
        yield key, node, raw
    for name, value in node.items():
        yield from _described(value, raw.get(name), f"{key}.{name}".lstrip("."), root)


def _at_all(node: Any, parts: Iterable[str]) -> Any:
    for part in parts:
        node = node.get(part) if isinstance(node, Mapping) else None
    return node
