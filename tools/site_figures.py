"""Figures of the site: a hook of MkDocs, which calls it while ``./dev docs`` builds.

``<!-- bars -->`` in a page becomes bars of what docs/benchmarks.md compares with other drivers,
and ``<!-- starts -->`` a section with one chart of the first and second starts there, if there are.
The image of a drawing in docs/figures/ becomes the drawing itself, whose colours follow the page's.
"""

from __future__ import annotations

import re
from html import escape
from pathlib import Path
from typing import Any

import attrs
from mkdocs.exceptions import PluginError

DOCS = Path(__file__).parents[1] / "docs"
SOURCE = DOCS / "benchmarks.md"
HEADING = "## Beside Nomad's java and raw_exec drivers"
DRAWN = ("Start", "Disk", "Largest heap")
"""How the rows begin that are drawn."""
BARS = "<!-- bars -->"
STARTS = "<!-- starts -->"
STARTS_HEADING = "### Against `java -jar` on the host"
STARTS_WAYS = {
    "`java -jar`": ("java -jar", "other"),
    "first start": ("first start", "first"),
    "second start": ("second start", "milo"),
}
"""By the column of the table: what stands beside a bar, and its class."""
STARTS_TEXT = """\
## First and second starts

{chart}

Medians, in turns: `java -jar` on the host, and Milo's container, which records an
[archive for the next start](howto/startup.md) at the first one.
[Benchmarks](benchmarks.md#first-and-second-starts) has other JDKs{more}.
"""
STARTS_DRIVER_HEADING = "### Beside Nomad's java driver"
"""Where the page of benchmarks has it, the starts were measured beside that driver too."""
STARTS_DRIVER_TEXT = ", and starts beside Nomad's `java` driver"
IMAGE = re.compile(r'<p><img alt="([^"]*)" src="[^"]*figures/([\w-]+)\.svg" ?/?></p>')
"""An image that stands alone."""
TEST = re.compile(r"<code>(test_\w+(?:\.py)?)</code>")
"""Long words, which made the columns beside them narrow."""
CODE = re.compile(r"<code>([^<\n]*)</code>")
"""Code within a sentence."""
OPTION = re.compile(r"(?<!\S)--?[A-Za-z][\w-]*")
"""The dashes of these are no places to break a line at."""
WHOLE = r'<span class="option">\g<0></span>'
OUTPUT = '<div class="language-text highlight'
"""A block of what a command prints: the theme has no button for it that would copy it."""
WIDTH = 340
BAR_HEIGHT = 12
STEP = 44
"""From one bar to the next."""
TOP = 34
NAMES_WIDTH, VALUES_WIDTH = 85, 52
"""Of the words before and after the bars of the starts."""
LINE, GROUP = 18, 30
"""From one bar of the starts to the next, and what the name of an application adds."""
LEAST_WIDTH = 2.0
"""Of a bar that would be too short to see."""


@attrs.frozen
class Comparison:
    """One figure, measured of each driver."""

    what: str
    cells: dict[str, str]
    """By the driver's name: the figure with its unit."""
    sizes: dict[str, float]
    """The same without the unit, which all have in common."""


def comparisons(page: str) -> list[Comparison]:
    """Return the figures to draw.

    Args:
        page: the text of docs/benchmarks.md.

    Raises:
        PluginError: the table is not as it should be; MkDocs ends the build with the words.
    """
    rows = table_rows(page)
    if len(rows) < 3:
        raise _unreadable(f"no table follows the heading '{HEADING}'")
    (_, *names), _, *figures = rows
    return [_comparison(start, names, figures) for start in DRAWN]


def table_rows(page: str) -> list[list[str]]:
    """Return the cells of the first table below the heading, its head and the line below included.

    Raises PluginError where there is no such heading.
    """
    _, found, section = page.partition(f"\n{HEADING}\n")
    if not found:
        raise _unreadable(f"it has no heading '{HEADING}'")
    table = re.search(r"(?:^\|.*\|\n)+", section.partition("\n## ")[0], re.MULTILINE)
    lines = table[0].splitlines() if table else []
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]


def _comparison(start: str, names: list[str], rows: list[list[str]]) -> Comparison:
    fitting = [row for row in rows if row[0].startswith(start)]
    if len(fitting) != 1:
        raise _unreadable(f"{len(fitting)} rows of its table begin with '{start}' instead of one")
    [(what, *cells)] = fitting
    parts = [re.fullmatch(r"([\d,]+(?:\.\d+)?) (\w+)", cell) for cell in cells]
    sizes = [float(part[1].replace(",", "")) for part in parts if part]
    if len(sizes) != len(names) or len({part[2] for part in parts if part}) != 1 or not max(sizes):
        raise _unreadable(
            f"the row '{what}' has the cells {cells}, expected {len(names)} numbers with one unit, "
            "such as '6,027 MiB'"
        )
    plain = [name.replace("`", "") for name in names]
    return Comparison(
        what.replace("`", ""),
        dict(zip(plain, cells, strict=True)),
        dict(zip(plain, sizes, strict=True)),
    )


def _unreadable(problem: str) -> PluginError:
    return PluginError(
        f"docs/benchmarks.md cannot be drawn: {problem}. Mend the table, or {Path(__file__).name}."
    )


def bars(one: Comparison) -> str:
    """Return the bars of one figure as SVG."""
    words = "; ".join(f"{name}: {cell}" for name, cell in one.cells.items())
    largest = max(one.sizes.values())
    lines = [
        f'<svg class="bars" viewBox="0 0 {WIDTH} {TOP + STEP * len(one.cells)}" role="img" '
        f'aria-label="{escape(f"{one.what}. {words}")}">',
        f'<text class="title" y="16">{escape(one.what)}</text>',
    ]
    for index, (name, cell) in enumerate(one.cells.items()):
        y = TOP + STEP * index
        width = max(LEAST_WIDTH, WIDTH * one.sizes[name] / largest)
        kind = "milo" if name == "milo" else "other"
        lines += [
            f'<text y="{y + 12}">{escape(name)}</text>',
            f'<text class="value" x="{WIDTH}" y="{y + 12}">{escape(cell)}</text>',
            f'<rect class="{kind}" y="{y + 19}" width="{width:.1f}" height="{BAR_HEIGHT}"/>',
        ]
    return "\n".join([*lines, "</svg>"])


@attrs.frozen
class Starts:
    """The starts of one application on one Java, until it is ready."""

    name: str
    java: int
    seconds: dict[str, float]
    """By the column of the table, see `STARTS_WAYS`."""


def starts(page: str) -> list[Starts]:
    """Return what is drawn of starts: those of the newest Java; nothing where none is measured.

    Args:
        page: the text of docs/benchmarks.md.

    Raises:
        PluginError: the table is not as it should be; MkDocs ends the build with the words.
    """
    _, found, section = page.partition(f"\n{STARTS_HEADING}\n")
    if not found:
        return []
    lines = re.findall(r"^\| .*\|$", re.split(r"\n##", section)[0], re.MULTILINE)
    rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]
    try:
        named = [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]
        every = [_starts(row) for row in named if row["until"] == "ready"]
        newest = max(one.java for one in every)
    except (IndexError, KeyError, ValueError) as exc:
        raise _unreadable(f"the table below '{STARTS_HEADING}' is another one ({exc!r})") from exc
    return [one for one in every if one.java == newest]


def _starts(row: dict[str, str]) -> Starts:
    seconds = {column: float(row[column].removesuffix(" s")) for column in STARTS_WAYS}
    return Starts(row["application"], int(row["Java"]), seconds)


def starts_chart(found: list[Starts]) -> str:
    """Return one chart of all of them as SVG, with bars of one scale."""
    title = f"Seconds until ready, Java {found[0].java}"
    largest = max(max(one.seconds.values()) for one in found)
    room = WIDTH - NAMES_WIDTH - VALUES_WIDTH
    lines, words, y = [f'<text class="title" y="16">{escape(title)}</text>'], [], 20
    for one in found:
        y += GROUP
        lines.append(f'<text class="title" y="{y - 8}">{escape(one.name)}</text>')
        told = []
        for column, (name, kind) in STARTS_WAYS.items():
            took = one.seconds[column]
            width = max(LEAST_WIDTH, room * took / largest)
            lines += [
                f'<text y="{y + 11}">{escape(name)}</text>',
                f'<rect class="{kind}" x="{NAMES_WIDTH}" y="{y}" width="{width:.1f}" '
                f'height="{BAR_HEIGHT}"/>',
                f'<text class="value" x="{WIDTH}" y="{y + 11}">{took:.2f} s</text>',
            ]
            told.append(f"{name} {took:.2f} s")
            y += LINE
        words.append(f"{one.name}: {', '.join(told)}")
    label = escape(f"{title}. {'; '.join(words)}")
    head = f'<svg class="bars" viewBox="0 0 {WIDTH} {y}" role="img" aria-label="{label}">'
    return "\n".join([head, *lines, "</svg>"])


def _starts_section(page: str) -> str:
    found = starts(page)
    if not found:
        return ""
    more = STARTS_DRIVER_TEXT if f"\n{STARTS_DRIVER_HEADING}\n" in page else ""
    return STARTS_TEXT.format(chart=f'<div class="bars">\n{starts_chart(found)}\n</div>', more=more)


def drawing(name: str, words: str) -> str:
    """Return a drawing of docs/figures/ for a page, with ``words`` for who cannot see it."""
    text = (DOCS / "figures" / f"{name}.svg").read_text(encoding="utf-8")
    _, tag, rest = text.partition("<svg ")
    label = " ".join(words.split())
    return f'<div class="figure {name}">{tag}role="img" aria-label="{label}" {rest}</div>'


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Draw the bars, and the chart of the starts."""
    if BARS in markdown:
        drawn = "\n".join(map(bars, comparisons(SOURCE.read_text(encoding="utf-8"))))
        markdown = markdown.replace(BARS, f'<div class="bars">\n{drawn}\n</div>')
    if STARTS in markdown:
        page = SOURCE.read_text(encoding="utf-8")
        markdown = markdown.replace(STARTS, _starts_section(page))
    return markdown


def on_page_content(html: str, **_: Any) -> str:
    """Put drawings in the place of their images, and break lines where words end.

    Names of tests, though, may go on in a next line. No button copies what is no command.
    """
    html = html.replace(OUTPUT, f"{OUTPUT} no-copy")
    html = CODE.sub(lambda code: f"<code>{OPTION.sub(WHOLE, code[1])}</code>", html)
    html = TEST.sub(lambda name: f"<code>{name[1].replace('_', '_<wbr>')}</code>", html)
    return IMAGE.sub(lambda image: drawing(image[2], image[1]), html)
