"""The report in a real browser, at desktop and at phone width."""

from pathlib import Path

import pytest

from experiments import report
from experiments.paper_items import ITEMS
from experiments.paper_items.runs import Study
from tests.browser import Browser
from tests.experiments import fake


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tmp_path = tmp_path_factory.mktemp("report")
    fake.make_all(tmp_path)
    return report.write(Study(tmp_path), tmp_path / "to" / "report.html")


@pytest.mark.parametrize("width", [1280, 390])
def test_the_report_opens(width: int, page: Path, browser: Browser) -> None:
    seen = browser.look(page, width)
    assert seen.overflow == 0
    assert seen.broken == 0
    assert seen.messages == ()
    assert seen.requests == (page.as_uri(),)
    assert "The paper's claims at this scale" in seen.text
    assert "Table 1: conditional total correlation" in seen.text
    assert len(ITEMS) > 10
