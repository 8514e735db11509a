"""A real headless browser for pages that a program writes.

def test_page(browser: Browser, tmp_path: Path) -> None:
    seen = browser.look(tmp_path / "page.html", width=390)
    assert seen.overflow == 0

It needs playwright (among the test dependencies) and a Chromium of the system: apt-get install chromium.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


@dataclass(frozen=True)
class Seen:
    """What a page looks like at a width. overflow: pixels that it is wider than the window. broken: pictures
    that did not load. messages: errors of its console. requests: addresses that it asked for."""

    overflow: int
    broken: int
    messages: tuple[str, ...]
    requests: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Browser:
    chromium: Any

    def look(self, path: Path, width: int, height: int = 900) -> Seen:
        page = self.chromium.new_page(viewport={"width": width, "height": height})
        messages: list[str] = []
        requests: list[str] = []
        page.on("console", lambda message: messages.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        overflow = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        broken = page.evaluate("[...document.images].filter(i => !i.complete || !i.naturalWidth).length")
        text = page.inner_text("body")
        page.close()
        return Seen(max(0, overflow), broken, tuple(messages), tuple(requests), text)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install playwright)")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("needs a Chromium of the system (apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield Browser(made)
        made.close()
