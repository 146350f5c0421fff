"""The site in headless Chromium, as wide as a laptop's screen and as a telephone's."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.chrome.webdriver import WebDriver

from tests.support import artifacts, browser
from tests.support.site import build
from tests.support.waiting import wait_for

WIDTHS = (390, 1366)
LEAST_TEXT_PX = 10
"""How large letters in drawings have to be."""
FACTS = """
const letters = [...document.querySelectorAll('.figure text, svg.bars text')].map(text => {
  const svg = text.ownerSVGElement;
  const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
  return scale * parseFloat(getComputedStyle(text).fontSize);
});
return {
  screen: window.innerWidth,
  moving: document.getAnimations().some(one => one.playState === 'running'),
  wide: document.documentElement.scrollWidth,
  loaded: performance.getEntriesByType('resource').map(entry => entry.name),
  letters: letters.length ? Math.min(...letters) : null,
};
"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[WebDriver]:
    """A browser with nothing open."""
    if reason := browser.missing():
        pytest.skip(reason)
    with browser.open_browser("about:blank") as driver:
        yield driver


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    return build(tmp_path_factory.mktemp("site"))


OUTPUT = """
return [...document.querySelectorAll('pre')].filter(block => block.querySelector('button'))
  .map(block => block.innerText.trim());
"""
BROKEN = """
const words = [];
for (const code of document.querySelectorAll('p code, li code, td code')) {
  const nodes = document.createTreeWalker(code, NodeFilter.SHOW_TEXT);
  while (nodes.nextNode()) {
    for (const found of nodes.currentNode.data.matchAll(/(?<![^\\s])--?[a-z][a-z-]*/gi)) {
      const range = document.createRange();
      range.setStart(nodes.currentNode, found.index);
      range.setEnd(nodes.currentNode, found.index + found[0].length);
      if (range.getClientRects().length > 1) words.push(found[0]);
    }
  }
}
return words;
"""
"""Options that go on in another line: a reader takes the dashes for those of a broken word."""


def facts_at(chromium: WebDriver, width: int) -> dict[str, Any] | None:
    """Return what the page is like, or None while it is still becoming as wide as that."""
    facts: dict[str, Any] = chromium.execute_script(FACTS)
    return facts if facts["screen"] == width and not facts["moving"] else None


def test_every_page(site: Path, chromium: WebDriver) -> None:
    """It asks no other host for anything, is no wider than the screen, and drawings can be read."""
    pages = sorted(path.relative_to(site) for path in site.rglob("*.html"))
    assert len(pages) > 20
    with artifacts.serve(site) as url:
        for page in pages:
            chromium.get(f"{url}/{page}")
            for width in WIDTHS:
                metrics = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": False}
                chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
                facts = wait_for(f"{width} pixels", partial(facts_at, chromium, width))
                assert facts["wide"] <= width, page
                assert [one for one in facts["loaded"] if not one.startswith(url)] == [], page
                assert facts["letters"] is None or facts["letters"] >= LEAST_TEXT_PX, page


def test_what_can_be_copied_can_be_run(site: Path, chromium: WebDriver) -> None:
    """What a command prints has no button to copy it."""
    with artifacts.serve(site) as url:
        chromium.get(f"{url}/start.html")
        copied = wait_for("the buttons", lambda: chromium.execute_script(OUTPUT))
    assert {"./dev demo", "milo demo", "nomad logs -f -job hello"} <= set(copied)
    assert not [text for text in copied if "^C" in text or "…" in text], copied


@pytest.mark.parametrize("page", ["podman.html", "howto/kafka.html", "reference/commands.html"])
def test_options_are_words(site: Path, chromium: WebDriver, page: str) -> None:
    """None is broken after a dash of its own, also on a narrow screen."""
    metrics = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": False}
    with artifacts.serve(site) as url:
        chromium.get(f"{url}/{page}")
        chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        wait_for("390 pixels", partial(facts_at, chromium, 390))
        assert chromium.execute_script(BROKEN) == []
