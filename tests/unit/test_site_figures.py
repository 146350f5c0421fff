"""The site's figures are drawn of what was measured, and pages that name a figure agree."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from mkdocs.exceptions import PluginError

from tests.bench import startup_report
from tools import record_terminal, site_figures

ROOT = Path(__file__).parents[2]
BENCHMARKS = (ROOT / "docs/benchmarks.md").read_text()


PAGE = """\
# Benchmarks

## Beside Nomad's java and raw_exec drivers

### Overview

| measured | `java`, default | `java`, small | `raw_exec` | `milo` |
| --- | ---: | ---: | ---: | ---: |
| Start: task received to `main` | 17.5 s | 0.81 s | 0.30 s | 0.42 s |
| Restart: asked for to the next `main` |  | 0.81 s | 0.30 s | 0.42 s |
| Disk: size of the task's directories | 6,027 MiB | 289 MiB | 0.07 MiB | 0.07 MiB |
| Largest heap in a task of 512 MiB | 6,028 MiB | 6,028 MiB | 6,028 MiB | 344 MiB |

### Start with each driver

| seconds | `java` |
| --- | ---: |
| Start: another one | 1.00 s |
"""


def rectangles(page: str) -> list[tuple[str | None, float]]:
    """Return the kind and the width of each bar that is drawn of a page."""
    found = []
    for one in site_figures.comparisons(page):
        tree = ElementTree.fromstring(site_figures.bars(one))
        found += [(bar.get("class"), float(bar.get("width", 0))) for bar in tree.iter("rect")]
    return found


def test_bars_follow_the_table() -> None:
    """The longest of each figure fills the width, and another table has other bars."""
    before = rectangles(PAGE)
    assert [kind for kind, _ in before] == ["other", "other", "other", "milo"] * 3
    assert [max(before[start : start + 4])[1] for start in (0, 4, 8)] == [340.0] * 3
    after = rectangles(PAGE.replace("| 17.5 s | 0.81 s |", "| 1.68 s | 0.84 s |"))
    assert after[:2] == [("other", 340.0), ("other", 170.0)]
    assert after[3:] == [("milo", 85.0), *before[4:]]
    assert len(rectangles(BENCHMARKS)) == len(before)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("## Beside Nomad's java and raw_exec drivers", "## Others"), "no heading"),
        (("|", "-"), "no table follows"),
        (("| Disk:", "| Space:"), "0 rows of its table begin with 'Disk'"),
        (("| 17.5 s |", "| soon |"), "Start: task received to `main`"),
        (("| 17.5 s |", "| 17,500 ms |"), "one unit"),
        (("| 17.5 s |", "|"), "Start: task received to `main`"),
    ],
)
def test_a_table_that_cannot_be_read_ends_the_build(change: tuple[str, str], words: str) -> None:
    """And the message says what was wrong with it."""
    with pytest.raises(PluginError, match=re.escape(words)):
        site_figures.comparisons(PAGE.replace(*change))


STARTS = """
## First and second starts

### Against `java -jar` on the host

| application | Java | until | `java -jar` | first start | second start |
| --- | --- | --- | --- | --- | --- |
| hello | 17 | ready | 0.05 s | 0.10 s | 0.10 s |
| shop | 17 | first byte | 1.00 s | 2.00 s | 3.00 s |
| hello | 25 | ready | 0.04 s | 0.08 s | 0.02 s |
| shop | 25 | first byte | 9.00 s | 9.00 s | 9.00 s |
| shop | 25 | ready | 2.00 s | 4.00 s | 1.00 s |

### Beside Nomad's java driver

| application |
| --- |
"""


def test_starts_are_drawn_of_the_newest_java_until_ready() -> None:
    """One chart with bars of one scale, three for each application; its words tell the same."""
    found = site_figures.starts(STARTS)
    tree = ElementTree.fromstring(site_figures.starts_chart(found))
    drawn = list(tree.iter("rect"))
    assert [bar.get("class") for bar in drawn] == ["other", "first", "milo"] * 2
    widths = [float(bar.get("width", 0)) for bar in drawn]
    room = max(widths)
    assert widths[2] == site_figures.LEAST_WIDTH
    shares = (0.01, 0.02, 0.5, 1, 0.25)
    expected = [room * share for share in shares]
    assert [*widths[:2], *widths[3:]] == pytest.approx(expected, abs=0.1)
    label = tree.get("aria-label", "")
    assert label.startswith("Seconds until ready, Java 25. hello: java -jar 0.04 s, first start")
    assert label.endswith("shop: java -jar 2.00 s, first start 4.00 s, second start 1.00 s")


def test_the_java_driver_is_named_where_starts_beside_it_were_measured() -> None:
    """The landing page promises no figures that the page of benchmarks does not have."""
    with_it = site_figures._starts_section(STARTS)
    without = site_figures._starts_section(STARTS.partition("### Beside")[0])
    assert with_it.endswith("has other JDKs, and starts beside Nomad's `java` driver.\n")
    assert without.endswith("has other JDKs.\n")
    assert site_figures.STARTS_DRIVER_HEADING in startup_report.DRIVER_TEXT


def test_starts_that_were_not_measured_are_not_drawn() -> None:
    """The first page then has nothing in their place; another table ends the build."""
    assert site_figures.starts("# Benchmarks\n") == []
    for change in (("4.00 s", "4,000 ms"), ("| until |", "| to |"), ("| ready |", "| then |")):
        with pytest.raises(PluginError, match="is another one"):
            site_figures.starts(STARTS.replace(*change))


def table_rows(page: str) -> list[str]:
    """Return the rows of a page's tables."""
    return re.findall(r"^\| .*\|$", page, re.MULTILINE)


@pytest.mark.parametrize("name", ["README.md", "docs/migrate-from-java.md"])
def test_figures_are_the_same_everywhere(name: str) -> None:
    """A page that compares with other drivers has rows of docs/benchmarks.md, word for word."""
    cells = site_figures.table_rows(BENCHMARKS)
    head, _, *rows = (f"| {' | '.join(row)} |" for row in cells)
    measured = {row.split("|")[1]: row for row in rows}
    page = table_rows((ROOT / name).read_text())
    shown = [row for row in page if row.split("|")[1] in measured]
    assert head in page
    for start in site_figures.DRAWN:
        assert any(row.startswith(f"| {start}") for row in shown), start
    assert shown == [measured[row.split("|")[1]] for row in shown]


def test_a_recording_is_drawn_as_the_terminal_showed_it() -> None:
    """Each line with its own letters; one that is too long goes on in the next one."""
    wide = "x" * record_terminal.COLUMNS
    picture = record_terminal.drawn(f"$ milo run a.jar\r\n{wide}y\r\n")
    texts = [
        text.text for text in ElementTree.fromstring(picture).iter() if text.tag.endswith("}text")
    ]
    lines = [text.replace("\xa0", " ") for text in texts if text and text.strip()]
    assert lines == ["$ milo run a.jar", wide, "y"]


def test_the_recording_is_of_what_is_typed() -> None:
    """The picture in docs/figures/ has the lines of the tool, which nobody has changed since."""
    picture = record_terminal.TARGET.read_text().replace("&#160;", " ")
    for line in record_terminal.TYPED:
        shown = f">{record_terminal.PROMPT}{line}<" in picture
        assert shown == (line not in record_terminal.UNSEEN), line
