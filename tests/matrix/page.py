"""docs/compatibility.md, made of docs/compatibility.json."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.matrix.limits import LIMITS, is_lost
from tests.matrix.parts import DIMENSIONS
from tests.matrix.results import Cell, Key, load
from tests.matrix.table import Dimension
from tests.vm import results as vm
from tests.vm.kernel import IN_USER_MODE

WITH_SYSTEMD = "with systemd"
REASON_CHARS = 160
AGAIN = "†"
"""Marks what was last run at a commit that the history has no more."""

FILE = Path(__file__).parents[2] / "docs/compatibility.md"
HEAD = """\
# Compatibility

Milo runs on Linux alone. Nomad's agent runs as root; `milo run` needs neither root nor Nomad.

| part | supported | tried |
| --- | --- | --- |
| Nomad | 1.6 to 2.0 | {nomad} |
| Java | 8 to 25, a JDK or a JRE | {java} |
| crun | 1.8.1 and later ([versions](reference/crun.md)) | {crun} |
| Linux | 5.12 and later; from 4.13 on with the limits that `milo doctor` names; `userns` needs 6.3 | 6.18; Debian's {kernel} in a virtual machine |
| distribution | any with glibc 2.28 or later | {distributions} |
| cgroups | v1 or v2; crun 1.8 refuses a host that mounts both (hybrid) | v1, v2 in a virtual machine |
| Python | 3.11 to 3.14, on the agent's PATH | {python} |
| processor | x86-64; the single file is built for ARM64 too | x86-64 |

Nomad 2.0.5 itself fails with `mode = "none"` in a `network` block; [a way around
it](network.md#no-network-at-all).

The tables below are written by `./dev matrix` from what it has run. A cell is green when tests ran
and all passed, red when one failed, skipped when no test applies, and otherwise "not run". The
command tries the parts that it finds on the machine and leaves the other cells as they are.

{again}: last run at a commit that the history has no more, as commits were joined into one since.
Nobody can look at what was tried there, so it is to be run again.
"""  # noqa: E501 - the rows of a table

MACHINE = {
    "crun": {"1.8.1"},
    "distributions": {"Debian 12"},
    "kernel": {"6.1"},
    "python": {"3.11"},
}
"""What the tests of the other dimensions ran with."""


def write() -> None:
    """Write the page."""
    FILE.write_text(text(load()))


def text(cells: dict[Key, Cell]) -> str:
    """Return the page for these cells."""
    head = HEAD.format(again=AGAIN, **{one.name: _tried(one.name, cells) for one in DIMENSIONS})
    lines = [head]
    for one in DIMENSIONS:
        lines += _table(one, cells)
        if one.name == "kernel":
            lines += _machines()
    return "\n".join(lines)


def _tried(dimension: str, cells: dict[Key, Cell]) -> str:
    """Return what a cell is green of and none is red, with what the others were run with."""
    found = [(_version(part), cell) for (name, part, _), cell in cells.items() if name == dimension]
    red = {version for version, cell in found if cell.red}
    green = {version for version, cell in found if cell.green}
    sure = {version for version, cell in found if cell.green and not is_lost(cell.commit)}
    sure |= MACHINE.get(dimension, set())
    shown = sorted((green | sure) - red, key=_natural)
    return ", ".join(one if one in sure else f"{one} {AGAIN}" for one in shown)


def _version(part: str) -> str:
    """Return 25 of "25 jlinked", and Debian 12 of "Debian 12, /usr unmerged"."""
    return part.split()[0] if part[0].isdigit() else part.partition(",")[0]


def _table(dimension: Dimension, cells: dict[Key, Cell]) -> Iterator[str]:
    tried = [part for name, part, _ in cells if name == dimension.name]
    parts = sorted({*dimension.wanted, *tried}, key=_natural)
    features = dimension.features
    yield f"## {dimension.title}\n"
    yield f"{dimension.means}\n"
    yield from _cells(dimension, parts, cells)
    yield ""
    yield from (f"- {feature.name}: {feature.means}" for feature in features)
    yield ""
    if dimension.not_here:
        yield f"{dimension.not_here}\n"
    known = [
        (part, feature.name, cells[key])
        for part in parts
        for feature in features
        if (key := (dimension.name, part, feature.name)) in cells
    ]
    red = [(part, name, cell) for part, name, cell in known if cell.red]
    if red:
        yield "Red, and what follows:\n"
        for part, name, cell in red:
            limit = LIMITS.get((dimension.name, part, name), "A fault that is not yet understood.")
            yield f"- {part}, {name}: {limit} ({cell.reason})"
        yield ""
    if known:
        yield "<details markdown>\n<summary>Every run, with its date and commit</summary>\n"
        yield "| part | tried | passed | failed | skipped | seconds | date | commit | remark |"
        yield "| --- |" + " --- |" * 8
        for part, name, cell in known:
            counts = f"{cell.passed} | {cell.failed} | {cell.skipped}"
            mark = f" {AGAIN}" if is_lost(cell.commit) else ""
            when = f"{cell.seconds} | {cell.date} | {cell.commit}{mark}"
            yield f"| {part} | {name} | {counts} | {when} | {'' if cell.red else cell.reason} |"
        yield "\n</details>\n"


def _machines() -> Iterator[str]:
    """Yield how far the full form of the virtual machine has come with each kernel."""
    of_all = vm.counts()
    found = {kernel: tests for kernel, tests in vm.load().items() if WITH_SYSTEMD not in kernel}
    if not found:
        return
    yield "How far all tests have come, each as it last ended (`tests/vm/results.json`). What ended"
    yield "because a busy machine gave it no time counts as not run.\n"
    if all(kernel.endswith(IN_USER_MODE) for kernel in found):
        yield "On an emulated processor the whole form has not been run: it has the tests with an"
        yield "agent and those that need cpusets, besides.\n"
    yield f"| kernel | tests | passed | failed | skipped | not run | {AGAIN} | commits |"
    yield "| --- |" + " --- |" * 7
    for kernel, tests in sorted(found.items()):
        ended = Counter(one.outcome for one in tests.values())
        passed, skipped = ended["passed"], ended["skipped"]
        failed = len(tests) - passed - skipped
        of = of_all.get(kernel)
        rest = ("unknown", "unknown") if of is None else (str(of), str(max(0, of - len(tests))))
        again = sum(is_lost(one.commit) for one in tests.values())
        at = ", ".join(sorted({one.commit for one in tests.values()}))
        counts = f"{passed} | {failed} | {skipped} | {rest[1]} | {again}"
        yield f"| {kernel} | {rest[0]} | {counts} | {at} |"
    yield ""
    bad = [
        f"- {kernel}: `{test}`: {_plain(one.reason)}"
        for kernel, tests in sorted(found.items())
        for test, one in sorted(tests.items())
        if one.outcome not in ("passed", "skipped")
    ]
    if bad:
        yield "Those that failed:\n"
        yield from bad
        yield ""


def _plain(reason: str) -> str:
    """Return the start of a failure's message, as text that cannot spoil a page."""
    return reason[:REASON_CHARS].replace("|", "/").replace("<", "&lt;").replace("`", "'")


def _cells(dimension: Dimension, parts: list[str], cells: dict[Key, Cell]) -> Iterator[str]:
    """Yield the rows of the table; what there is less of are the columns, so that it is narrow."""
    names = [feature.name for feature in dimension.features]
    upright = len(parts) <= len(names)
    rows, columns = (names, parts) if upright else (parts, names)
    yield f"| tried | {' | '.join(columns)} |"
    yield "| --- |" + " --- |" * len(columns)
    for row in rows:
        keys = [(column, row) if upright else (row, column) for column in columns]
        shown = [_word(cells.get((dimension.name, *key))) for key in keys]
        yield f"| {row} | {' | '.join(shown)} |"


def _word(cell: Cell | None) -> str:
    if cell is None:
        return "not run"
    word = "green" if cell.green else "**red**" if cell.red else "skipped"
    return f"{word} {AGAIN}" if is_lost(cell.commit) else word


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a key by which 1.10.5 follows 1.8.4."""
    words = re.findall(r"\d+|\D+", name)
    return [(int(word), "") if word.isdigit() else (-1, word) for word in words]
