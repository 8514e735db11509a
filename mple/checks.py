"""One sentence per mistake: the value's name, what is accepted, and what came instead."""

import math
from collections.abc import Collection


class UserError(ValueError):
    """A mistake in what the user gave (a setting, a file). Shown as one line, without a stack trace."""


def number(name: str, value: object, low: float | int, high: float | int = math.inf, unit: str = "") -> None:
    """Refuse anything but a number in [low, high]."""
    accepted = f"a number of at least {low:g}" if high == math.inf else f"a number from {low:g} to {high:g}"
    unit = f" ({unit})" if unit else ""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise UserError(f"{name}{unit} must be {accepted}; got {value!r}")


def share(name: str, value: object) -> None:
    """Refuse anything but a number from 0 to 1."""
    number(name, value, 0, 1)


def whole(name: str, value: object, low: int, unit: str = "", high: int | None = None) -> None:
    """Refuse anything but a whole number of at least `low` and, where there is a `high`, at most that."""
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if not is_whole or not low <= value <= (math.inf if high is None else high):  # type: ignore[operator]
        unit = f" ({unit})" if unit else ""
        accepted = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise UserError(f"{name}{unit} must be a whole number {accepted}; got {value!r}")


def seed(name: str, value: object) -> None:
    """Refuse anything but a whole number of 32 bits, which is what all generators take."""
    whole(name, value, 0, high=2**32 - 1)


def one_of(name: str, value: object, valid: Collection[str]) -> None:
    """Refuse anything but one of `valid`."""
    if value not in valid:
        raise UserError(f"{name} must be one of {', '.join(sorted(valid))}; got {value!r}")


def folder_name(name: str, value: object) -> None:
    """Refuse anything but the name of one folder."""
    if not isinstance(value, str) or value in ("", ".", "..") or "/" in value or "\\" in value:
        raise UserError(f"{name} must be the name of a folder, without /; got {value!r}")


def path(name: str, value: object) -> None:
    """Refuse anything but a path."""
    if not isinstance(value, str) or not value:
        hint = f" (a folder of that name is ./{value})" if isinstance(value, int | float) else ""
        raise UserError(f"{name} must be a path; got {value!r}{hint}")
