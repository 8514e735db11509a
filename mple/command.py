"""What all commands share: how they start and how they end."""

import contextlib
import functools
import math
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, QuotedString, Sweep
from hydra.errors import ConfigCompositionException, MissingConfigException, OverrideParseException
from hydra.types import RunMode

from mple.checks import UserError
from mple.plain import one_line
from mple.settings import choices

_NOT_COMPOSED = (ConfigCompositionException, MissingConfigException, OverrideParseException)
_LAUNCHER_HERE = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
_refused: list[str] = []
"""What was wrong with jobs of the multirun that runs in this process."""

INPUT_PREDICTOR_WORD = "+experiment=input_predictor"
"""The word of `train.py` that chooses a configuration of its own."""


def guarded(main: Any) -> Any:
    """A user's mistake is one line on stderr and exit status 2; a reader that has seen enough and Ctrl-C are
    no
    mistakes; anything else keeps its trace."""

    @functools.wraps(main)
    def run(*arguments: Any) -> Any:
        try:
            return main(*arguments)
        except UserError as error:
            return _refuse(str(error))
        except _NOT_COMPOSED as error:
            return _refuse(complaint(error))
        except hydra.errors.HydraException as error:
            cause = error.__cause__ or error.__context__
            if not isinstance(cause, UserError):
                raise
            return _refuse(str(cause))
        except BrokenPipeError:
            # What is still buffered has no reader: or Python would complain about it when it ends.
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(128 + 13)  # as if ended by SIGPIPE
        except KeyboardInterrupt:
            sys.exit(128 + 2)

    return run


def _refuse(sentence: str) -> float:
    """Says what is wrong and ends the process; of a multirun in this process the other jobs run first."""
    print(f"error: {one_line(sentence)}", file=sys.stderr)
    if HydraConfig.initialized():
        hydra_config = HydraConfig.get()
        if hydra_config.mode == RunMode.MULTIRUN and hydra_config.launcher._target_ == _LAUNCHER_HERE:
            _refused.append(sentence)
            return math.nan
    sys.exit(2)


TEXT_KEYS = (
    *("name", "data.name", "data.src_lang", "data.tgt_lang"),
    *(f"data.source.{path}{side}_lang" for path in ("", "text.") for side in ("src", "tgt")),
)
"""Settings that are text by nature, whatever Hydra would read them as."""


def as_typed(words: Sequence[str]) -> list[str]:
    """The overrides of a command with quotes around what Hydra would not read as text for one of `TEXT_KEYS`:
    `data.tgt_lang=nan` becomes `data.tgt_lang='nan'`. Of a sweep (`data.name=1e3,b`) each value."""
    return [_typed(word) for word in words]


def _typed(word: str) -> str:
    key, equals, value = word.partition("=")
    if key.lstrip("+") not in TEXT_KEYS or not equals or re.search(r"['\"\\$()\[\]{}]", value):
        return word
    return f"{key}={','.join(part if _is_text(key, part) else repr(part) for part in value.split(','))}"


def _is_text(key: str, value: str) -> bool:
    try:
        return isinstance(OverridesParser.create().parse_override(f"{key}={value}").value(), str)
    except hydra.errors.HydraException:
        return False


def begin(main: Callable[[], Any]) -> None:
    """Run a command. A word of it that Hydra cannot use (an unknown choice or key) is one line on stderr,
    with what is accepted, and exit status 2; Hydra would print many. HYDRA_FULL_ERROR=1 shows the trace."""
    sys.argv[1:] = as_typed(sys.argv[1:])
    wants_trace = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # or Hydra ends the process itself
    try:
        main()
    except _NOT_COMPOSED as error:
        if wants_trace:
            raise
        print(f"error: {one_line(complaint(error))}", file=sys.stderr)
        sys.exit(2)
    except ValueError as error:
        is_choice = str(error).startswith("Config group override")
        mistake = no_choice(sys.argv[1:]) if is_choice else None
        if wants_trace or mistake is None:
            raise
        print(f"error: {one_line(mistake)}", file=sys.stderr)
        sys.exit(2)
    if _refused:
        sys.exit(2)


def override(key: str, value: str) -> str:
    """`key=value` as Hydra reads it back, whatever characters the text has."""
    escaped = re.sub(r"(\\*)('|$)", lambda m: 2 * m[1] + ("\\'" if m[2] else ""), value)
    return f"{key}='{escaped}'"


def complaint(error: Exception) -> str:
    """One sentence: what is accepted and what came."""
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        return f"{group} must be one of {', '.join(sorted(error.options))}; got {name!r}"
    lines = [line.strip() for cause in (error, error.__cause__) for line in str(cause or "").splitlines()]
    return "; ".join(dict.fromkeys(line.rstrip(".") for line in lines if line and "full_key" not in line))


def no_choice(words: Sequence[str]) -> str | None:
    """What is wrong with a word that gives a group something that cannot be a choice (null, a number)."""
    for word in words:
        if word.startswith("-"):
            continue
        with contextlib.suppress(hydra.errors.HydraException):
            override = OverridesParser.create().parse_override(word)
            names = choices(override.key_or_group)
            if not names or override.is_delete():
                continue
            value = override.value()
            for each in value.list if isinstance(value, ChoiceSweep) else [value]:
                if not isinstance(each, str | list | dict | Sweep | QuotedString):
                    return f"{override.key_or_group} must be one of {', '.join(names)}; got {word}"
    return None
