"""Text from elsewhere is shown, not obeyed."""

import io

import pytest

from mple.plain import PlainConsole, code, markdown, one_line, pipes, plain, sheet


def test_control_characters_are_removed_and_letters_kept() -> None:
    assert plain("\x1b[31mrot\x1b[0m\x07\x9b2J\r\x00\x7f") == "[31mrot[0m2J"
    assert plain("a\u202egnp.exe\u2028b") == "agnp.exeb"
    kept = "für\tdie\n猫，日本語 \u200d\u00ad▁é"
    assert plain(kept) == kept
    assert one_line("a\nb\x1bc") == "a bc"


def test_markdown_has_no_html_and_no_further_cell() -> None:
    assert markdown("a|b<img src=x>&\n") == "a\\|b&lt;img src=x&gt;&amp; "
    assert markdown("a\\|<b>") == "a\\|&lt;b&gt;"
    assert markdown("glat_dynkd 30.1 ± 0.2") == "glat_dynkd 30.1 ± 0.2"
    assert pipes(code("a\\\\|b")) == "`a\\|b`"


def test_code_does_not_end_early() -> None:
    assert code("a`<script>\x1b") == "`a'<script>`"


@pytest.mark.parametrize(
    "text", ['=HYPERLINK("http://x")', "+1+cmd", "-x", "@SUM(A1)", "\x00=1", " =1", "\t=1"]
)
def test_formula_becomes_text_in_a_sheet(text: str) -> None:
    assert str(sheet(text)).startswith("'")


@pytest.mark.parametrize("value", ["-7.25", "+1e-3", "glat_kd", "", -1.5, None, "–"])
def test_number_and_word_stay_as_they_are_in_a_sheet(value: object) -> None:
    assert sheet(value) == value


def test_console_prints_text_as_it_is() -> None:
    file = io.StringIO()
    console = PlainConsole(file=file, force_terminal=True, color_system=None, highlight=False)
    console.print("[red]x[/red] [/y] :smile: \x1b[2J")
    assert file.getvalue() == "[red]x[/red] [/y] :smile: [2J\n"
