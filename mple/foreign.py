"""What a folder from elsewhere may do: a run or an export can come from anyone; nothing in it is executed.

    config = read_config(folder / "config.yaml")        # plain values: no aliases, no interpolations
    check_targets(config, folder / "config.yaml")       # every `_target_` is one that conf/ has at that key
    words = stored_overrides(command, folder / "run.json")    # which choose files of conf/ only

To make an object of a configuration is to call what its `_target_` names. On the command line that may be
anything: it is the user's own code. In a configuration that came with a folder each key may name only what
the files of conf/ name at that key, so that a new file there is all that a new strategy needs. Strategies
from outside the package need the user's consent, in every command that opens such a folder:

    MPLE_ALLOW=my_methods python evaluate.py run=RUN    # and any class defined in the package my_methods
"""

import functools
import importlib
import os
import re
import shlex
import shutil
import stat
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mple.checks import UserError
from mple.files import read_yaml
from mple.settings import CONF

ALLOW = "MPLE_ALLOW"
"""The variable of the environment with the user's own packages, separated by commas."""

MOST_BYTES, MOST_LEVELS = 1 << 18, 50
"""Of a configuration; those of runs have some 4,000 bytes and 6 levels."""

_PLAIN_NAME = re.compile(r"\w[\w.-]*")
_PLAIN_KEY = re.compile(r"\w+(/\w+)*(@[\w.]+)?|\w+(\.[\w-]+)*")
_SAME = re.compile(r"\$\{([\w.]+)\}")
_PACKAGE = re.compile(r"# @package (\S+)")


# --- which key may name what ---------------------------------------------------------------------------


@functools.cache
def slots() -> Mapping[str, Mapping[str, bool]]:
    """Key of a configuration -> what the files of conf/ name there, and whether as a partial."""
    found: dict[str, dict[str, bool]] = defaultdict(dict)
    same: dict[str, str] = {}
    for path in sorted(CONF.rglob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        package = _PACKAGE.match(text)
        key = ".".join(path.relative_to(CONF).parent.parts)
        if package is not None:
            key = package[1].replace("_global_", "")
        node = yaml.safe_load(text) or {}
        _collect(node, key, found, same)
        for item in node.get("defaults", ()):  # the file of another group, in this one's place
            if isinstance(item, str) and item.endswith("@_here_"):
                other = CONF / f"{item.removesuffix('@_here_').lstrip('/')}.yaml"
                _collect(yaml.safe_load(other.read_text(encoding="utf-8")), key, found, same)
    for key, alias in same.items():
        for name in [name for name in found if f"{name}.".startswith(f"{alias}.")]:
            found[key + name.removeprefix(alias)] |= found[name]
    return found


def _collect(node: Any, key: str, found: dict[str, dict[str, bool]], same: dict[str, str]) -> None:
    if isinstance(node, str) and (reference := _SAME.fullmatch(node)):
        same[key] = reference[1]
    if not isinstance(node, Mapping):
        return
    if "_target_" in node:
        found[key][str(node["_target_"])] = bool(node.get("_partial_", False))
    for name, value in node.items():
        _collect(value, f"{key}.{name}".lstrip("."), found, same)


def check_targets(config: Any, where: object, key: str = "") -> None:
    """Look at everything that a resolved configuration would make. `where`: the file, for the message; `key`:
    of `config` in the whole.

    Raises:
        UserError: a `_target_` that conf/ does not have at this key, an interpolation, or another word of
            Hydra's that changes what is made.
    """
    if isinstance(config, str) and "${" in config:
        raise UserError(f"{key} of {where} must be a value; got the interpolation {config!r}")
    if isinstance(config, Mapping):
        if "_target_" in config:
            _check_target(config["_target_"], bool(config.get("_partial_", False)), where, key)
        for name, value in config.items():
            below = f"{key}.{name}".lstrip(".")
            if isinstance(name, str) and name.startswith("_") and name not in ("_target_", "_partial_"):
                raise UserError(f"{key} of {where} must not have the key {name}")
            check_targets(value, where, below)
    elif isinstance(config, list | tuple):
        for place, value in enumerate(config):
            check_targets(value, where, f"{key}[{place}]")


def _check_target(target: object, is_partial: bool, where: object, key: str) -> None:
    known = slots().get(key, {})
    if known.get(str(target)) == is_partial or _is_allowed(str(target)):
        return
    if target in known:
        raise UserError(f"{key}._partial_ of {where} must be {known[str(target)]}; got {is_partial}")
    accepted = f"name one of {', '.join(sorted(known))}" if known else "describe no object"
    raise UserError(
        f"{key} of {where} must {accepted}, or a class of a package in the variable {ALLOW}; got {target!r}"
    )


def _is_allowed(target: str) -> bool:
    """Whether this is a class of the user's own packages. It must be defined in the module that its path
    names: a module's imports lead anywhere (`my_methods.os.system`)."""
    module, _, name = target.rpartition(".")
    if not module or module.partition(".")[0] not in re.split(r"[,\s]+", os.environ.get(ALLOW, "")):
        return False
    try:
        made = getattr(importlib.import_module(module), name, None)
    except ImportError:
        return False
    return isinstance(made, type) and made.__module__ == module


# --- files of such a folder ----------------------------------------------------------------------------


def read_config(path: Path) -> dict[str, Any]:
    """The mapping in a configuration file.

    Raises:
        UserError: it is no YAML file or holds no mapping, it is larger than any configuration, or it has
            aliases, which a few lines of expand to more than any memory holds.
    """
    if not path.is_file():
        raise UserError(f"{path} must be a YAML file; it is not a file")
    if path.stat().st_size > MOST_BYTES:
        raise UserError(f"{path} must be the configuration of a run; it has more than {MOST_BYTES:,} bytes")
    text = read_yaml(path)
    try:
        depth = 0
        for event in yaml.parse(text, yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise UserError(f"{path} must be a YAML file without aliases (*name), which no run's has")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MOST_LEVELS:
                raise UserError(
                    f"{path} must be the configuration of a run; it has over {MOST_LEVELS} levels"
                )
        config = OmegaConf.to_container(OmegaConf.create(text), resolve=False) if text.strip() else None
    except UserError:
        raise
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, RecursionError) as error:
        raise UserError(f"{path} must be a YAML file; got: {str(error).splitlines()[0]}") from error
    if not isinstance(config, dict) or not config:
        raise UserError(f"{path} must be the configuration of a run; it is that of something else")
    return {str(key): value for key, value in config.items()}


def copy_folder(source: Path, to: Path) -> Path:
    """A copy of a folder of plain files.

    Raises:
        UserError: it holds a link, which would copy what it points to, or something that is no file.
    """
    for path in sorted(source.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise UserError(f"{source} must hold plain files; {path} is none (a link, a pipe or a device)")
    copy = Path(shutil.copytree(source, to))
    for path in (copy, *copy.rglob("*")):
        path.chmod(path.stat().st_mode | stat.S_IWUSR)  # a copy of what is read-only can be moved and deleted
    return copy


# --- its command ---------------------------------------------------------------------------------------


def stored_overrides(command: object, where: object) -> list[str]:
    """The overrides of a run's command, `python train.py …`.

    Raises:
        UserError: it is no such command, or has an override that `check_overrides` refuses.
    """
    try:
        words = shlex.split(command)[2:] if isinstance(command, str) else None
    except ValueError:
        words = None
    if words is None:
        raise UserError(f"command of {where} must be that of a run (python train.py ...); got {command!r}")
    check_overrides(words, where)
    return words


def check_overrides(words: Sequence[str], where: object) -> None:
    """Look at the overrides of a stored command before anything is composed from them.

    Raises:
        UserError: one that sets Hydra itself, or chooses a file that is not in conf/ or in the user's own
            search path.
    """
    for word in words:
        try:
            override = OverridesParser.create().parse_override(word)
            values = list(_strings(override.value())) if not override.is_delete() else []
        except (HydraException, RecursionError) as error:
            raise UserError(f"a word of the command of {where} must be key=value; got {word!r}") from error
        key = override.key_or_group + (f"@{override.package}" if override.package else "")
        if re.search(r"(^|@)hydra", key) or not _PLAIN_KEY.fullmatch(key):
            raise UserError(f"the command of {where} must set keys of conf/; got {word!r}")
        if (CONF / override.key_or_group).is_dir():
            for value in values:
                check_name(f"{override.key_or_group} of the command of {where}", value)


def _strings(value: Any) -> Iterator[str]:
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, str) or hasattr(one, "text"):  # quoted
            yield str(getattr(one, "text", one))


def check_name(name: str, value: object) -> None:
    """Refuse anything but the plain name of a file of conf/, without a folder.

    Raises:
        UserError: it is none.
    """
    if not isinstance(value, str) or not _PLAIN_NAME.fullmatch(value) or ".." in value:
        raise UserError(f"{name} must be the name of a choice in conf/, without a folder; got {value!r}")
