"""The section of docs/benchmarks.md about first and second starts: the targets first."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from tests.bench.report import COMPARISON, STARTS, Target, table

WAYS = ("plain", "first", "second")
BYTE, READY = 0, 1
"""The places of both figures in a start."""
AIMS = {"17": 10, "21": 10, "25": 25}
"""By how many per cent a second start is to be faster than ``java -jar``."""
BUSY_SHARE = 0.1
MIB = 1 << 20
NAMED = 3
"""How many are named of those that were not measured for one reason."""
DRIVER_TEXT = """\
### Beside Nomad's java driver

How it was measured: both drivers in turns on one agent, seconds since the client has received the
task, as its event says: with the task's directories, the java driver's chroot (a JDK and a shell)
and an artifact from this machine. The first byte is that in Nomad's log file, which Nomad writes
each tenth of a second; an application that ends prints itself when it was ready.
"""


def median(row: dict[str, Any], way: str, what: int) -> float:
    """Return the median of one figure, in seconds."""
    return float(statistics.median(start[what] for start in row[way]))


def targets(results: dict[str, Any]) -> Iterator[Target]:
    """Yield a target for each application and JDK that were measured."""
    for row in results["starts"]:
        change = _change(row, READY)
        aim = AIMS.get(row["release"])
        if aim is not None:
            what = f"{row['app']}, Java {row['release']}: second start until ready"
            # The page's own rounding decides nothing: what is shown as -25 % may be a miss.
            met = change <= -aim
            yield Target(what, f"<= -{aim} %", f"{change:+.1f} %", met)


def section(results: dict[str, Any]) -> str:
    """Return the whole section, with its heading."""
    parts = [STARTS, _state(results)]
    parts += _not_measured(results["notes"])
    if found := list(targets(results)):
        met = sum(target.met for target in found)
        parts.append(
            "A second start is to be faster than `java -jar` on the host, the container's own cost "
            f"included: by 25 % on Java 25, and by 10 % on 17 and 21. {met} of {len(found)} are "
            "met.\n"
        )
        parts.append(
            table(
                ("", "target", "measured", ""),
                [(t.what, t.wanted, t.measured, "met" if t.met else "**not met**") for t in found],
            )
        )
        parts.append(_starts(results["starts"]))
    if results["driver"]:
        parts.append(_driver(results["driver"]))
    if results["memory"]:
        parts.append(_memory(results["memory"]))
    return "\n".join(parts)


def put(page: str, text: str) -> str:
    """Return the page with the section ``text`` in the place of its own, or before its last one."""
    before = page.partition(STARTS)[0].partition(COMPARISON)[0]
    _, found, last = page.partition(COMPARISON)
    return f"{before.rstrip()}\n{text.rstrip()}\n{found}{last}"


def short(row: dict[str, Any]) -> str:
    """Return one row of figures as a line for a terminal."""
    ways = (way for way in (*WAYS, "off") if way in row)
    figures = (
        f"{way} {median(row, way, BYTE):.2f}/{median(row, way, READY):.2f} s" for way in ways
    )
    return (
        f"{row['app']}, Java {row['release']}: {', '.join(figures)}, {_change(row, READY):+.0f} %"
    )


def _state(results: dict[str, Any]) -> str:
    machine = results["machine"]
    usual, worst = statistics.median(results["others"]), max(results["others"])
    quiet = "The machine was quiet"
    if usual > BUSY_SHARE:
        quiet = "**The machine was not quiet, and the figures mean little**"
    javas = "; ".join(f"{release}: {version}" for release, version in results["javas"].items())
    return (
        f"Load average before: {results['load']:.2f}, after: {results['load_after']:.2f}. {quiet}: "
        f"others used {usual:.0%} of the processors (median; at most {worst:.0%}), looked at "
        "before each application.\n\n"
        f"Written by `nox -s bench -- startup`: {machine['Date']}, {machine['Processors']}, "
        f"cgroups {machine['cgroups']}, Milo {machine['Milo']}, crun {machine['crun']}. "
        f"Java {javas}. All with `-XX:+UseSerialGC -Xmx512m`, tasks with 1024 MiB.\n"
    )


def _starts(rows: Sequence[dict[str, Any]]) -> str:
    text = """\
### Against `java -jar` on the host

How it was measured: seconds from the exec or from StartTask's call, medians, in turns; a first
start is one that records. Spring Boot is unpacked, Quarkus a fast-jar, in every column. An
application with one row prints a line and ends; the others are ready when an HTTP request has been
answered, for which they are asked every 5 ms.
"""
    lines = []
    for row in rows:
        figures = [(READY, "ready")] if row["ends"] else [(BYTE, "first byte"), (READY, "ready")]
        for what, name in figures:
            lines.append(
                (
                    *(row["app"], row["release"], name),
                    *(f"{median(row, way, what):.2f} s" for way in WAYS),
                    f"{_change(row, what):+.1f} %",
                    str(len(row["second"])),
                )
            )
    head = ("application", "Java", "until", "`java -jar`", "first start", "second start")
    return f"{text}\n{table((*head, 'second, against `java -jar`', 'starts each'), lines)}"


def _driver(rows: Sequence[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        for what, name in ((BYTE, "first byte"), (READY, "ready")):
            java, milo = (median(row, driver, what) for driver in ("java", "milo"))
            change = f"{100 * (milo / java - 1):+.1f} %"
            starts = str(len(row["java"]))
            lines.append(
                (row["app"], row["release"], name, f"{java:.2f} s", f"{milo:.2f} s", change, starts)
            )
    head = ("application", "Java", "until", "`java`", "`milo`, second start", "", "starts each")
    return f"{DRIVER_TEXT}\n{table(head, lines)}"


def _not_measured(notes: Sequence[str]) -> Iterator[str]:
    """Yield a sentence for each reason, which may be that of many starts."""
    by_reason: dict[str, list[str]] = {}
    for note in notes:
        what, _, reason = " ".join(note.split()).partition(": ")
        by_reason.setdefault(reason, []).append(what)
    for reason, named in by_reason.items():
        what = ", ".join(named[:NAMED])
        if (more := len(named) - NAMED) > 0:
            what += f" and {more} more"
        yield f"Not measured: {what}{': ' if reason else ''}{reason}\n"


def _memory(rows: Sequence[dict[str, Any]]) -> str:
    count, app = rows[0]["instances"], rows[0]["app"]
    text = f"""\
### Memory with an archive

How it was measured: {count} instances of {app} that have answered a request; proportional memory
(PSS) of all their JVMs together, as the kernel counts it. "Not moved" is
`-XX:+UnlockDiagnosticVMOptions -XX:ArchiveRelocationMode=0`.
"""
    javas = list(dict.fromkeys(row["release"] for row in rows))
    ways = list(dict.fromkeys(row["way"] for row in rows))
    found = {(row["release"], row["way"]): f"{row['jvms_pss'] / MIB:.0f} MiB" for row in rows}
    lines = [(java, *(found.get((java, way), "") for way in ways)) for java in javas]
    return f"{text}\n{table(('Java', *ways), lines)}"


def _change(row: dict[str, Any], what: int) -> float:
    """Return by how many per cent a second start differs from ``java -jar``."""
    return 100 * (median(row, "second", what) / median(row, "plain", what) - 1)


def read(page: str) -> list[dict[str, str]]:
    """Return the rows of the table of starts, by its columns' names; none without the section."""
    _, _, text = page.partition("\n### Against `java -jar` on the host\n")
    lines = re.findall(r"^\| .*\|$", text.partition("\n### ")[0].partition("\n## ")[0], re.M)
    rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]
