"""What the documentation links to is there, and what it shows in HCL would be accepted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from milo.cli.doctor import hcl
from milo.cli.parser import build_parser
from milo.core.config.options import options_of
from milo.core.config.plugin_options import PluginOptions, Volumes, parse_plugin_options
from milo.core.config.task_options import TaskOptions
from tests.support.configs import accepted

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
SITE = (ROOT / "mkdocs.yml").read_text()
PERMISSIVE = PluginOptions(
    allow_caps=("all",),
    allow_caps_with_host_namespaces=("all",),
    allow_host_namespaces=True,
    allow_host_ipc=True,
    volumes=Volumes(enabled=True, paths=("/srv/data",)),
    allow_seccomp_profiles=("/etc/milo/profile.json", "/etc/milo/strict.json"),
)


def name_of(path: Path) -> str:
    """Return a page's path in the project."""
    return str(path.relative_to(ROOT))


def anchors(path: Path) -> set[str]:
    """Return the fragments that a page's headings have."""
    titles = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    """Each relative link names a file that is there, and a heading in it."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, fragment = target.partition("#")
        found = (page.parent / path) if path else page
        assert found.exists(), target
        if fragment:
            assert fragment in anchors(found), target


def test_every_page_is_in_the_navigation() -> None:
    """No page was forgotten in mkdocs.yml."""
    named = set(re.findall(r": (\S+\.md)$", SITE, re.MULTILINE))
    there = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert there == named


def snippets(page: Path) -> list[str]:
    """Return the page's blocks of HCL."""
    found = re.findall(r"^```hcl\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [text for text in found if "{ … }" not in text]


def configs(body: hcl.Body, plugin: bool = False) -> Iterator[tuple[bool, dict[str, Any]]]:
    """Yield each ``config`` block, and whether it is the plugin's."""
    for keys, value in body.items:
        if not isinstance(value, hcl.Body):
            continue
        if keys[-1] == "config":
            yield plugin, plain(value)
        else:
            yield from configs(value, plugin or keys == ("plugin", "milo"))


def plain(body: hcl.Body) -> dict[str, Any]:
    """Return a block as Nomad would send it."""
    return {
        keys[-1]: plain(value) if isinstance(value, hcl.Body) else value
        for keys, value in body.items
    }


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_what_is_shown_would_be_accepted(page: Path) -> None:
    """Every ``config`` block in a page is valid, and so are the keys that stand alone."""
    for text in snippets(page):
        body = hcl.parse(text)
        for plugin, config in configs(body):
            if plugin:
                parse_plugin_options(config)
            else:
                accepted(config, PERMISSIVE)
        if page.parent.name == "reference" and page.stem in ("task", "plugin"):
            kind = TaskOptions if page.stem == "task" else PluginOptions
            known = {*options_of(kind), "plugin"}
            assert {keys[0] for keys, _ in body.items} <= known, text


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_that_are_shown_exist(page: Path) -> None:
    """Each ``milo COMMAND`` of a page is one that the parser knows."""
    usage = build_parser().format_help()
    shown = r"(?:^(?:[#$] (?:sudo )?|sudo )(?:\.venv/bin/)?|(?<!^- )`)milo ([a-z]+)\b"
    for word in re.findall(shown, page.read_text(), re.MULTILINE):
        assert re.search(rf"^    {word}\b", usage, re.MULTILINE), f"milo {word}"
