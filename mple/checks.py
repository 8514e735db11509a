"""One sentence per mistake: the value's name, what is accepted, and what came instead."""

import contextlib
import errno
import inspect
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin


class UserError(ValueError):
    """A mistake in what the user gave (a setting, a file). Shown as one line, without a stack trace."""


def is_number(value: object) -> bool:
    """Whether a value is a finite number: true and false, nan and infinities are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf


def number(name: str, value: object, low: float | int, high: float | int = math.inf, unit: str = "") -> None:
    """Refuse anything but a finite number in [low, high]."""
    accepted = f"a number of at least {low:g}" if high == math.inf else f"a number from {low:g} to {high:g}"
    unit = f" ({unit})" if unit else ""
    if not is_number(value) or not low <= value <= high:  # type: ignore[operator]
        raise UserError(f"{name}{unit} must be {accepted}; got {value!r}")


def positive(name: str, value: object, high: float | int, unit: str = "") -> None:
    """Refuse anything but a number above 0, up to `high`."""
    if not is_number(value) or not 0 < value <= high:  # type: ignore[operator]
        unit = f" ({unit})" if unit else ""
        raise UserError(f"{name}{unit} must be a number above 0, at most {high:g}; got {value!r}")


def share(name: str, value: object) -> None:
    """Refuse anything but a number from 0 to 1."""
    number(name, value, 0, 1)


def whole(name: str, value: object, low: int, unit: str = "", high: int | None = None) -> None:
    """Refuse anything but a whole number of at least `low` and, where there is a `high`, at most that. Many a
    `high` is there only to stop what cannot be meant, so a sentence has it where it is exceeded."""
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    is_more = is_whole and high is not None and value > high  # type: ignore[operator]
    if not is_whole or value < low or is_more:  # type: ignore[operator]
        unit = f" ({unit})" if unit else ""
        accepted = f"from {low} to {high}" if is_more else f"of at least {low}"
        raise UserError(f"{name}{unit} must be a whole number {accepted}; got {value!r}")


def seed(name: str, value: object) -> None:
    """Refuse anything but a whole number of 32 bits, which is what all generators take."""
    whole(name, value, 0, high=2**32 - 1)


def one_of(name: str, value: object, valid: Collection[str]) -> None:
    """Refuse anything but one of `valid`."""
    if not isinstance(value, str) or value not in valid:
        raise UserError(f"{name} must be one of {', '.join(sorted(valid))}; got {value!r}")


def mapping(name: str, value: object, example: str) -> None:
    """Refuse anything but a mapping, such as `example`."""
    if not isinstance(value, Mapping):
        raise UserError(f"{name} must be a mapping ({example}); got {value!r}")


def one_line(name: str, value: object) -> None:
    """Refuse anything but a text without line breaks and other control characters."""
    if not isinstance(value, str) or not value.isprintable():
        raise UserError(f"{name} must be a text on one line; got {value!r}")


def folder_name(name: str, value: object) -> None:
    """Refuse anything but the name of one folder."""
    if not isinstance(value, str) or value.strip() in ("", ".", "..") or "/" in value or "\\" in value:
        raise UserError(f"{name} must be the name of a folder, without /; got {value!r}")
    one_line(name, value)


def path(name: str, value: object) -> None:
    """Refuse anything but a path."""
    if not isinstance(value, str) or not value:
        hint = f" (a folder of that name is ./{value})" if isinstance(value, int | float) else ""
        raise UserError(f"{name} must be a path; got {value!r}{hint}")
    one_line(name, value)


def root(data: Any) -> None:
    """Refuse anything but settings of data whose `root`, if they have one, is a path."""
    mapping("data", data, "root")
    if data.get("root") is not None:
        path("data.root", data.get("root"))


@contextlib.contextmanager
def writes(name: str, place: object) -> Iterator[None]:
    """What goes wrong with the path that the setting `name` gives, as a sentence.

    Raises:
        UserError: a folder or file of it cannot be made.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"{name} must be a place that can be written; got {place} ({error.strerror})"
        ) from error


# --- types ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Accepted:
    """What a parameter takes, in words and as a test."""

    phrase: str
    fits: Callable[[Any], bool]


_PLAIN = {
    Any: Accepted("anything", lambda _: True),
    inspect.Parameter.empty: Accepted("anything", lambda _: True),
    None: Accepted("null", lambda value: value is None),
    type(None): Accepted("null", lambda value: value is None),
    bool: Accepted("true or false", lambda value: isinstance(value, bool)),
    int: Accepted("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool)),
    float: Accepted("a number", is_number),
    str: Accepted("a text", lambda value: isinstance(value, str)),
    Path: Accepted("a path", lambda value: isinstance(value, str) and bool(value)),
}


def of_type(name: str, value: object, hint: Any) -> None:
    """Refuse a value of a configuration that a parameter with the annotation `hint` does not take."""
    accepted = accepts(hint)
    if not accepted.fits(value):
        raise UserError(f"{name} must be {accepted.phrase}; got {value!r}")


def accepts(hint: Any) -> Accepted:
    """What a value of a configuration must be for a parameter with the annotation `hint`.

    >>> accepts(float | None).phrase
    'a number or null'
    >>> accepts(Mapping[str, int]).fits({"tiny": 1}), accepts(Sequence[int]).fits("12")
    (True, False)
    """
    if hint in _PLAIN:
        return _PLAIN[hint]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        parts = [accepts(each) for each in arguments if each is not int or float not in arguments]
        phrases = dict.fromkeys(part.phrase for part in parts)
        return Accepted(" or ".join(phrases), lambda value: any(part.fits(value) for part in parts))
    if origin is Annotated:
        return accepts(arguments[0])
    if origin is Literal:
        return Accepted(
            f"one of {', '.join(map(str, arguments))}",
            lambda value: any(type(value) is type(each) and value == each for each in arguments),
        )
    kind = origin or hint
    if not isinstance(kind, type):
        return _PLAIN[Any]
    if issubclass(kind, Mapping):
        of = accepts(arguments[1]) if arguments else _PLAIN[Any]
        return Accepted(
            "a mapping" + (f", each value {of.phrase}" if arguments else ""),
            lambda value: (
                isinstance(value, Mapping)
                and all(isinstance(k, str) and of.fits(v) for k, v in value.items())
            ),
        )
    if issubclass(kind, Sequence):
        of = accepts(arguments[0]) if arguments else _PLAIN[Any]
        return Accepted(
            "a list" + (f", each entry {of.phrase}" if arguments else ""),
            lambda value: isinstance(value, list | tuple) and all(map(of.fits, value)),
        )
    return Accepted(
        "a mapping that describes an object (_target_)",
        lambda value: isinstance(value, Mapping) and "_target_" in value,
    )
