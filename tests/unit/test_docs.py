"""What the documentation links to is there, and what it shows in HCL would be accepted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from milo.cli.demo import sample
from milo.cli.doctor import hcl
from milo.cli.parser import build_parser
from milo.cli.parsing import commands_of, option_strings
from milo.core.config.options import options_of
from milo.core.config.plugin_options import PluginOptions, Volumes, parse_plugin_options
from milo.core.config.task_options import TaskOptions
from tests.support import pages
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
    """Each ``milo COMMAND`` of a sentence is one that the parser knows."""
    known = commands_of(build_parser())
    for word in re.findall(r"(?<!^- )`milo ([a-z-]+)\b", page.read_text(), re.MULTILINE):
        assert word in known, f"milo {word}"


def shell_lines(page: str) -> list[str]:
    """Return the commands that a page shows."""
    return [line for kind, text in pages.blocks(page) if kind == "sh" for line in text.splitlines()]


def test_the_readmes_commands_are_followed() -> None:
    """They are those of the pages that `tests/acceptance/test_first_steps.py` follows."""
    followed, shown = (
        {line for page in names for line in shell_lines(page)}
        for names in (("start.md", "install.md"), ("../README.md",))
    )
    own = {".venv/bin/milo run app.jar", "sudo dist/milo install /opt/nomad/plugins"}
    assert shown <= followed | own


def test_the_readmes_job_is_the_demos() -> None:
    """Who runs `milo demo` sees there what the README shows."""
    [job] = pages.jobs("../README.md")
    assert job == sample.JOB_FILE.replace("URL", f"http://127.0.0.1:{sample.PORT}")


def test_options_of_the_comparison_with_podman_are_there() -> None:
    """Each that the first table has for `milo run` is one of it."""
    text = (ROOT / "docs/podman.md").read_text()
    table = text.partition("## milo run")[2].partition("What podman has")[0]
    named = {
        word
        for line in table.splitlines()
        if line.startswith("| `-")
        for cells in [line.split("|")]
        for word in re.findall(
            r"`(--?[a-z][a-z-]*)", cells[1] if "the same" in cells[2] else cells[2]
        )
    }
    assert len(named) > 30
    assert named <= {*option_strings(commands_of(build_parser())["run"])}
