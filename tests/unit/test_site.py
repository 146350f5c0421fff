"""The site as it is built: what a browser would load, and what a reader without pictures gets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.support.site import build
from tools import site_figures

ELSEWHERE = re.compile(r"(?:https?:)?//", re.IGNORECASE)
LOADED = {"src", "srcset", "data", "poster", "action"}
"""Attributes whose address a browser loads, or sends something to."""


class Page(HTMLParser):
    """What is wanted to be known of one page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.headings: list[int] = []
        self.ids: list[str] = []
        self.unnamed: list[str] = []
        """Pictures without words for who cannot see them."""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what a tag loads, and what it is."""
        found = {name: value or "" for name, value in attrs}
        self.loaded += [found[name] for name in LOADED & found.keys()]
        if tag == "link" and found.get("rel") not in ("canonical", "prev", "next"):
            self.loaded.append(found.get("href", ""))
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if "id" in found:
            self.ids.append(found["id"])
        if tag == "img" and not found.get("alt"):
            self.unnamed.append(str(found))
        if tag == "svg" and found.get("role") == "img" and not found.get("aria-label"):
            self.unnamed.append(str(found))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    return build(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Page]:
    """Each page by its path."""
    return {
        str(path.relative_to(site)): Page(path.read_text())
        for path in site.rglob("*.html")
        if path.name != "404.html"
    }


def test_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[str, Page]) -> None:
    """No page, style sheet or drawing names another host's file to load."""
    for name, page in pages.items():
        assert [url for url in page.loaded if ELSEWHERE.match(url)] == [], name
    for path in (*site.rglob("*.css"), *site.rglob("*.svg")):
        assert list(addresses(path.read_text())) == [], path


def addresses(text: str) -> Iterator[str]:
    """Yield the addresses elsewhere that a style sheet or a drawing loads."""
    yield from re.findall(r"url\(\s*['\"]?((?:https?:)?//[^)]*)", text)
    yield from re.findall(r"@import\s+['\"]((?:https?:)?//[^'\"]*)", text)
    yield from re.findall(r"<(?:image|use|script)[^>]*href=['\"]((?:https?:)?//[^'\"]*)", text)


def test_headings_are_in_order(pages: dict[str, Page]) -> None:
    """A page has one title, and no level is left out on the way down."""
    for name, page in pages.items():
        assert page.headings.count(1) == 1 and page.headings[0] == 1, name
        steps = zip(page.headings, page.headings[1:], strict=False)
        assert [(upper, lower) for upper, lower in steps if lower > upper + 1] == [], name


def test_pictures_have_words(pages: dict[str, Page]) -> None:
    """Whoever cannot see a picture is told what it shows, and no id is there twice."""
    for name, page in pages.items():
        assert page.unnamed == [], name
        assert len(page.ids) == len(set(page.ids)), name


def test_the_first_page_has_its_figures(site: Path) -> None:
    """Its charts, a recorded terminal and the drawing of the processes are in the page itself.

    Three charts compare with Nomad's drivers; one of first and second starts is there if those
    were measured.
    """
    text = (site / "index.html").read_text()
    measured = bool(site_figures.starts(site_figures.SOURCE.read_text()))
    assert text.count('<svg class="bars"') == 3 + measured
    assert text.count('id="first-and-second-starts"') == measured
    for name in ("milo-run", "processes"):
        assert text.count(f'<div class="figure {name}"><svg role="img"') == 1
    assert "<p><div" not in text
    assert "figures/" not in re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL)


def test_names_of_tests_can_be_broken(site: Path) -> None:
    """A table with such a name is as narrow as its other words permit."""
    assert "<code>test_<wbr>state_<wbr>dir</code>" in (site / "production.html").read_text()
