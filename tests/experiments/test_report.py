"""The report: one page that stands alone, is well formed, and says what the runs say."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from experiments import report, reproduce
from experiments.paper_items import ITEMS, claims, table2
from experiments.paper_items.item import paper_table
from experiments.paper_items.runs import Library, Study
from tests.experiments import fake

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Elements with their ancestors; complains of what is closed and was not open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None], tuple[str, ...]]] = []
        self.classes: list[str] = []
        self.tables_outside = 0
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), tuple(self.open)))
        if tag in ("table", "svg") and "scroll" not in self.classes:
            self.tables_outside += 1
        if tag not in VOID:
            self.open.append(tag)
            self.classes.append(dict(attrs).get("class") or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), tuple(self.open)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, tag
        assert self.open.pop() == tag
        self.classes.pop()

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    tmp_path = tmp_path_factory.mktemp("report")
    fake.make_all(tmp_path)
    fake.make_all(tmp_path, seed=2)
    return report.write(Study(tmp_path), tmp_path / "to" / "report.html").read_text(encoding="utf-8")


def test_the_page_stands_alone_and_is_well_formed(page: str) -> None:
    found = Page(page)
    assert found.open == []
    names = [tag for tag, _, _ in found.elements]
    assert not {"script", "link", "img", "iframe"} & set(names)
    assert "@import" not in page
    assert not re.search(r'(?:src|href)="(?!#)', re.sub(r'xmlns(:\w+)?="[^"]*"', "", page))
    ids = [attributes["id"] for _, attributes, _ in found.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes, _ in found.elements:
        for name in ("href", "xlink:href"):
            target = attributes.get(name)
            if target:
                assert target.removeprefix("#") in ids
    used = set(re.findall(r"url\(#([^)]+)\)", page))
    assert used <= set(ids)


def test_it_fits_light_dark_and_narrow_pages(page: str) -> None:
    found = Page(page)
    assert "prefers-color-scheme: dark" in page
    assert any(tag == "meta" and a.get("name") == "viewport" for tag, a, _ in found.elements)
    assert found.tables_outside == 0  # each scrolls in a container of its own
    assert "#2b2b2b" not in page  # the ink of the pictures is the page's
    assert "currentColor" in page


def test_everything_is_on_it(page: str) -> None:
    found = Page(page)
    sections = [attributes.get("id") for tag, attributes, _ in found.elements if tag == "section"]
    assert sections == ["claims", *(name for name in ITEMS if name not in ("table7", "table8"))]
    assert page.count('<div class="verdict">') == len(claims.CLAIMS)
    text = " ".join(found.text)
    for row in paper_table("table2"):
        assert row["bleu"] in text
    assert "± " in text
    assert "(n=2)" in text


def test_verdicts_say_their_outcome_and_numbers(page: str) -> None:
    for outcome in re.findall(r'<span class="badge \w+">. ([^<]+)</span>', page):
        assert outcome in ("holds", "does not hold", "cannot tell")
    assert "over 2 seeds" in page


def test_what_comes_from_runs_is_escaped(tmp_path: Path) -> None:
    import json

    run = fake.make_run(tmp_path, "vanilla_kd")
    record = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps(record | {"machine": "<b>x</b> & y"}))
    text = report.item_html(table2.make(Library(Study(tmp_path))))
    assert "<b>" not in text
    assert "&lt;b&gt;x&lt;/b&gt; &amp; y" in text


def test_missing_commands_are_listed(tmp_path: Path) -> None:
    fake.make_run(tmp_path, "vanilla_kd")
    text = report.write(Study(tmp_path), tmp_path / "report.html").read_text()
    assert (
        f"python train.py +experiment=axe_tau5 data=grammar budget=minutes outputs={tmp_path} seed=1" in text
    )


def test_what_only_the_claims_lack_is_listed_and_counted(tmp_path: Path) -> None:
    """The claim on likelihood needs an interval that no table shows."""
    fake.make_all(tmp_path)
    for path in tmp_path.rglob("likelihood-*.json"):
        path.unlink()
    study = Study(tmp_path)
    page = report.write(study, tmp_path / "paper" / "report.html")
    claims = page.read_text().partition('id="claims"')[2].partition("</section>")[0]
    assert "2 commands are missing" in claims
    assert claims.count("python -m experiments.paper_items.likelihood ") == 2
    total = len(reproduce.missing(study))
    assert f"\n{total} commands are still to be given" in page.with_name("report_grammar.md").read_text()


def test_the_markdown_says_what_the_page_says(tmp_path: Path) -> None:
    fake.make_all(tmp_path)
    page = Page(report.write(Study(tmp_path), tmp_path / "to" / "report.html").read_text(encoding="utf-8"))
    text = (tmp_path / "to" / "report_grammar.md").read_text(encoding="utf-8")
    assert str(tmp_path) not in text  # it is made for a repository: no folder of this machine
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert headings[0].startswith("The paper's claims at this scale: ")
    said = " ".join(page.text)
    assert len(headings) > 10
    assert all(heading in said for heading in headings)
    for verdict in re.findall(
        r"^- . \*\*(?:holds|does not hold|cannot tell)\*\*: (.+)\.$", text, re.MULTILINE
    ):
        assert verdict in said
    numbers = [
        cell.strip()
        for line in text.splitlines()
        if line.startswith("| ")
        for cell in re.split(r"(?<!\\)\|", line)[2:-1]
    ]
    assert sum(cell[:1].isdigit() for cell in numbers) > 50
    assert all(cell in said for cell in numbers if cell[:1].isdigit())
    for picture in re.findall(r"\]\((\w+)\.svg\)", text):
        assert picture.partition("_")[0] in ITEMS


def test_without_runs_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main(["--outputs", str(tmp_path), "--to", str(tmp_path / "to")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: no finished run of data 'grammar'")
    assert not (tmp_path / "to").exists()
