"""Text from anywhere (a vocabulary, the names of a run) as a terminal, a table or a spreadsheet may show it.

plain("\\x1b[31mred")         # "[31mred": no control characters, so that a terminal obeys nothing
markdown("a|<b>")            # "a\\\\|&lt;b&gt;": a cell of a table, and no HTML
sheet("=1+1")                # "'=1+1": a text to a spreadsheet, no formula
console = PlainConsole()     # of rich: what is printed is plain and has no markup
"""

import html
import re
from typing import Any

from rich.console import Console
from rich.text import Text

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""All but tab and line feed; with those of Unicode that end a line or turn the order of what follows."""
_FORMULA = re.compile(r"\s*[=+\-@]")


def plain(text: str) -> str:
    """The text without control characters but tab and line feed."""
    return _CONTROL.sub("", text)


def one_line(text: str) -> str:
    """The same on one line."""
    return plain(text.replace("\n", " "))


def markdown(text: str) -> str:
    """Text in Markdown, in a table or outside."""
    return pipes(html.escape(one_line(text), quote=False))


def pipes(text: str) -> str:
    """A cell of a table in Markdown that is Markdown already: a pipe would end it, and code with it."""
    return re.sub(r"\\*\|", r"\\|", text)


def code(text: str) -> str:
    """Code in a line of Markdown, which ends at its first backtick."""
    return f"`{one_line(text).replace('`', chr(39))}`"


def sheet(value: object) -> object:
    """A cell of a CSV file: a spreadsheet would compute a text that begins like a formula."""
    if not isinstance(value, str):
        return value
    text = one_line(value)
    return f"'{text}" if _FORMULA.match(text) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


class PlainConsole(Console):
    """A console that prints each text as it is: no markup, no emoji, no control characters."""

    def render_str(self, text: str, **options: Any) -> Text:
        options |= {"markup": False, "emoji": False}
        return super().render_str(plain(text), **options)
