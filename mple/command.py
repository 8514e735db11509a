"""What all commands share: how they start and how they end."""

import contextlib
import errno
import functools
import math
import os
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
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
from mple.streams import prepare, told

_NOT_COMPOSED = (ConfigCompositionException, MissingConfigException, OverrideParseException)
_LAUNCHER_HERE = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
_refused: list[str] = []
"""What was wrong with jobs of the multirun that runs in this process."""
_begun: list[str] = []
"""Commands of Hydra's whose own part has begun in this process."""
OUT_OF_MEMORY = (
    "there is not enough memory; a smaller max_tokens needs less (with accumulate larger by as much, an "
    "update stays as large), and so does a smaller model or beam"
)

INPUT_PREDICTOR_WORD = "+experiment=input_predictor"
"""The word of `train.py` that chooses a configuration of its own."""


def guarded(main: Any) -> Any:
    """A user's mistake is one line on stderr and exit status 2; so is a lack of memory; a reader that has
    seen enough and Ctrl-C are no mistakes; anything else keeps its trace."""

    main = told(main)

    @functools.wraps(main)
    def run(*arguments: Any) -> Any:
        _begun.append(main.__name__)
        try:
            return main(*arguments)
        except UserError as error:
            return _refuse(str(error))
        except MemoryError:
            return _refuse(OUT_OF_MEMORY)
        except _NOT_COMPOSED as error:
            return _refuse(complaint(error))
        except hydra.errors.HydraException as error:
            cause = error.__cause__ or error.__context__
            if cause is not None and is_out_of_memory(cause):
                return _refuse(OUT_OF_MEMORY)
            if not isinstance(cause, UserError):
                raise
            return _refuse(str(cause))
        except (RuntimeError, OSError) as error:
            if isinstance(error, BrokenPipeError):
                return _end_unread()
            if not is_out_of_memory(error):
                raise
            return _refuse(OUT_OF_MEMORY)
        except KeyboardInterrupt:
            sys.exit(128 + 2)

    return run


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: PyTorch has a class for it on a GPU only."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    words = ("not enough memory", "annot allocate memory", "out of memory")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def _end_unread() -> None:
    """What is still buffered has no reader: or Python would complain about it when it ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(128 + 13)  # as if ended by SIGPIPE


def answered(main: Callable[..., int]) -> Callable[..., int]:
    """For commands that return their exit status: a user's mistake, or a file that cannot be read or
    written, is one line on stderr and status 2."""
    main = told(main)

    @functools.wraps(main)
    def run(*arguments: Any) -> int:
        try:
            return main(*arguments)
        except (UserError, OSError) as error:
            if isinstance(error, BrokenPipeError):
                raise
            print(f"error: {one_line(str(error))}", file=sys.stderr)
            return 2

    return run


def key_values(
    arguments: Sequence[str], defaults: Mapping[str, Any], more: str = ""
) -> tuple[dict[str, Any], list[str]]:
    """The `key=value` arguments of a command without Hydra, and the other arguments, of which there are none
    unless `more` names them: text such as "x=5 is true" is no `key=value`. The type of a value is that of its
    default: true or false, a whole number, text.

    Raises:
        UserError: an unknown key, one given twice, or a value of another type.
    """
    given: dict[str, str] = {}
    others = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        is_text = not (equals and key.isidentifier()) or (key not in defaults and " " in argument)
        if more and is_text:
            others.append(argument)
            continue
        if not equals or key not in defaults:
            keys = ", ".join(f"{name}=" for name in defaults)
            raise UserError(f"an argument must be {more and f'{more} or '}one of {keys}; got {argument!r}")
        if key in given:
            raise UserError(f"{key} must be given once; got {key}={given[key]} and {argument}")
        given[key] = value
    return {key: _of_type(key, given.get(key), default) for key, default in defaults.items()}, others


def _of_type(key: str, value: str | None, default: Any) -> Any:
    if value is None:
        return default
    if isinstance(default, bool):
        if value.lower() not in ("true", "false"):
            raise UserError(f"{key} must be true or false; got {value!r}")
        return value.lower() == "true"
    if isinstance(default, int):
        if not value.isdecimal():
            raise UserError(f"{key} must be a whole number; got {value!r}")
        return int(value)
    if not value or not value.isprintable():
        raise UserError(f"{key} must be a text on one line; got {value!r}")
    return value


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


def begin(main: Callable[[], Any], of_the_run: Collection[str] = ()) -> None:
    """Run a command. A word of it that Hydra cannot use (an unknown choice or key) is one line on stderr,
    with what is accepted, and exit status 2; Hydra would print many. HYDRA_FULL_ERROR=1 shows the trace.

    of_the_run: groups that a finished run has already; their settings need no +, and change the run's.
    """
    prepare()
    wants_trace = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # or Hydra ends the process itself
    sys.argv[1:] = added(as_typed(readable(sys.argv[1:])), of_the_run)
    try:
        main()
    except _NOT_COMPOSED as error:
        if wants_trace:
            raise
        print(f"error: {one_line(complaint(error))}", file=sys.stderr)
        sys.exit(2)
    except ValueError as error:
        is_choice = str(error).startswith("Config group override")
        if wants_trace or not is_choice:
            raise
        print(f"error: {one_line(no_choice(sys.argv[1:]) or str(error))}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if wants_trace or _begun:
            raise
        print(
            f"error: hydra.run.dir and hydra.sweep.dir must be places that can be written; got "
            f"{error.filename} ({error.strerror})",
            file=sys.stderr,
        )
        sys.exit(2)
    if _refused:
        sys.exit(2)


_UNQUOTED = re.compile(r"(\+{0,2}[\w./@]+)=([^\[{'\"$].*)", re.DOTALL)


def readable(words: Sequence[str]) -> list[str]:
    """The overrides of a command with quotes around a value that Hydra's grammar does not have, such as a
    path with a parenthesis or an umlaut. `~/` begins a path in the home folder: a shell expands it only at
    the beginning of a word."""
    return [_readable(word) for word in words]


def _readable(word: str) -> str:
    parts = _UNQUOTED.fullmatch(word)
    if parts is None:
        return word
    key, value = parts.groups()
    if value == "~" or value.startswith("~/"):
        return override(key, os.path.expanduser(value))
    try:
        OverridesParser.create().parse_override(word)
    except hydra.errors.HydraException:
        # What has a comma may be a sweep or a call that is wrong.
        return word if "," in value else override(key, value)
    return word


def override(key: str, value: str) -> str:
    """`key=value` as Hydra reads it back, whatever characters the text has."""
    escaped = re.sub(r"(\\*)('|$)", lambda m: 2 * m[1] + ("\\'" if m[2] else ""), value)
    return f"{key}='{escaped}'"


def added(words: Sequence[str], groups: Collection[str]) -> list[str]:
    """Overrides with ++ (add it or change it) before the settings of `groups`, which may be those of a file
    that the command chooses, or changes of what a finished run has.

    >>> added(["run=x", "decoding.beam=3", "+decoding.min_length=2"], ["decoding"])
    ['run=x', '++decoding.beam=3', '++decoding.min_length=2']
    """
    settings = tuple(f"{group}." for group in groups)
    return [f"++{bare}" if (bare := word.lstrip("+")).startswith(settings) else word for word in words]


def complaint(error: Exception) -> str:
    """One sentence: what is accepted and what came."""
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        return f"{group} must be one of {', '.join(sorted(error.options))}; got {name!r}"
    hint = (
        "; a value with such characters must be in quotes: \"KEY='VALUE'\""
        if isinstance(error, OverrideParseException)
        else ""
    )
    lines = [line.strip() for cause in (error, error.__cause__) for line in str(cause or "").splitlines()]
    return (
        "; ".join(dict.fromkeys(line.rstrip(".") for line in lines if line and "full_key" not in line)) + hint
    )


def no_choice(words: Sequence[str]) -> str | None:
    """What is wrong with a word that gives a group something that cannot be a choice (null, a number)."""
    for word in words:
        if word.startswith("-"):
            continue
        with contextlib.suppress(hydra.errors.HydraException):
            override = OverridesParser.create().parse_override(word)
            if not override.key_or_group:
                return f"an override must be KEY=VALUE; got {word}"
            names = choices(override.key_or_group)
            if not names or override.is_delete():
                continue
            value = override.value()
            for each in value.list if isinstance(value, ChoiceSweep) else [value]:
                if not isinstance(each, str | list | dict | Sweep | QuotedString):
                    return f"{override.key_or_group} must be one of {', '.join(names)}; got {word}"
    return None
