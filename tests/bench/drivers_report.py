"""The section of docs/benchmarks.md that has Milo beside Nomad's java and raw_exec drivers."""

from __future__ import annotations

import re
import statistics
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from tests.bench import quiet
from tests.bench.drivers_runs import (
    BULKS,
    DRIVERS,
    JVM_OPTIONS,
    LINE,
    MEMORY_MB,
    PACED_S,
    PACES,
    SMALL_JVM,
    TASKS,
)
from tests.bench.report import COMPARISON, SCRAPES, put, table

MIB = 1 << 20
MEASURED = "measured"
"""The head of the first column of the first table, which other pages have rows of."""
SMALL, DEFAULT = "`java`, small `chroot_env`", "`java`, default `chroot_env`"
COLUMNS = ("`java`", "`raw_exec`", "`milo`")
WORDS = re.compile(r"^The default `chroot_env`: .*$", re.MULTILINE)
"""When and how the column of the default was measured."""
SIZES = {LINE: "120 B", 8192: "8 KiB", 65536: "64 KiB"}


def section(results: dict[str, Any], page: str) -> str:
    """Return the whole section, with its heading.

    ``page`` is the text of the page so far: the column of the default ``chroot_env`` is kept from
    there unless ``results`` have it.
    """
    parts = (_head, _start, _restart, _memory, _throughput, _latency)
    return "\n".join(
        [f"{COMPARISON.strip()}\n", _state(results, page), *(p(results) for p in parts)]
    )


def on_page(page: str, text: str) -> str:
    """Return the page with the section ``text`` in the place of its own."""
    return put(page, COMPARISON, text, before=SCRAPES)


def first_table(page: str) -> dict[str, list[str]]:
    """Return the cells of the section's first table by the name of their row; its head too."""
    _, _, text = page.partition(COMPARISON)
    found = re.search(r"(?:^\|.*\|\n)+", text.partition("\n## ")[0], re.MULTILINE)
    lines = found[0].splitlines() if found else []
    rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]
    return {row[0]: row[1:] for row in rows if row[0].strip("-:")}


def spread(text: str, page: str) -> str:
    """Return ``text`` with the rows that it has of the page's first table as they are there."""
    rows = {name: f"| {' | '.join([name, *cells])} |" for name, cells in first_table(page).items()}
    lines, inside = [], False
    for line in text.split("\n"):
        name = line[1:-1].split("|")[0].strip() if line.startswith("|") else None
        inside = name is not None and (inside or name == MEASURED)
        lines.append(rows.get(name or "", line) if inside else line)
    return "\n".join(lines)


def _state(results: dict[str, Any], page: str) -> str:
    machine, loaded = results["machine"], quiet.warning(results["loaded"])
    default = results["default"]
    words = WORDS.search(page)
    told = "The default `chroot_env`: not measured."
    if default:
        told = f"The default `chroot_env`: {machine['Date']}, load {results['load']:.2f}."
    elif words:
        told = words[0]
    before = f"Load average before: {results['load']:.2f}, after: {results['load_after']:.2f}."
    return (
        _filled(
            f"""\
{before}{f" **{loaded}**" if loaded else ""}

Written by `nox -s bench -- drivers`, kept by `nox -s bench`: {machine["Date"]},
{machine["Processors"]}, {machine["Memory"]}, {machine["System"]}, cgroups {machine["cgroups"]},
Milo {machine["Milo"]}, crun {machine["crun"]}, Nomad {results["nomad"]}, Java {results["java"]}.
All drivers in turns on one agent with the same JDK, the same JAR from this machine, tasks of
{MEMORY_MB} MiB, and `{" ".join(JVM_OPTIONS)}` unless it is said otherwise. The `java` driver has a
small `chroot_env`: the JDK and a shell. `raw_exec` runs the JDK's `java -jar` on the host as the
agent's own user, root, and isolates nothing: what is slower than that is the price of a container.
Nomad's podman driver is not here: neither Debian nor PyPI or npm has a package of it. Tables have
medians, and "max" is the slowest.

### Overview

How it was measured: the sections below say it. The disk is what was below the allocation's
directory while the task ran; the largest heap is `Runtime.maxMemory()` of a JVM that was told no
size: a quarter of the memory that it sees, which is the host's in the `java` driver's chroot and
may be the task's under `raw_exec`, and with Milo what fits into the task. The default `chroot_env`
takes in all of the host's `/usr`, here by hard links; the option
`--default-chroot` measures it again.

"""
        )
        + f"{told}\n"
    )


def _head(results: dict[str, Any]) -> str:
    found = {DEFAULT: results["default"] or {}} | {
        name: {
            "main_s": _median(results, driver, "main_s"),
            "restart_s": _median(results, driver, "restart_s"),
            "heap_bytes": results["heap"][driver],
            **{key: _median(results, driver, key) for key in ("disk_bytes", "own_bytes", "files")},
            **results["ten"][driver],
            "bytes_per_s": _bulk(results, driver, 8192, "bytes_per_s"),
            "p99_s": percentile(results["delays"][driver], 99),
        }
        for name, driver in zip((SMALL, *COLUMNS[1:]), DRIVERS, strict=True)
    }
    rows: list[tuple[str, str, Callable[[float], str]]] = [
        ("Start: task received to `main`", "main_s", _seconds),
        ("Restart: asked for to the next `main`", "restart_s", _seconds),
        ("Disk: size of the task's directories", "disk_bytes", _mib),
        ("of which no hard links to the host's files", "own_bytes", _mib),
        ("Files and directories in it", "files", lambda count: f"{count:,.0f}"),
        (
            f"Largest heap in a task of {MEMORY_MB} MiB",
            "heap_bytes",
            lambda b: f"{b / MIB:,.0f} MiB",
        ),
        ("Memory of the driver's processes, a task (PSS)", "task_pss", _mib),
        (
            "Output of writes of 8 KiB into the log file",
            "bytes_per_s",
            lambda b: f"{b / 1e6:.0f} MB/s",
        ),
        ("A line's way into the log file, p99", "p99_s", lambda s: f"{s * 1e3:.0f} ms"),
    ]
    kept = results["kept"]
    lines = []
    for name, key, words in rows:
        cells = [words(row[key]) if key in row else "" for row in found.values()]
        if not results["default"]:
            cells[0] = kept.get(name, "")
        lines.append((name, *cells))
    return _table((MEASURED, *found), lines)


def kept_column(page: str) -> dict[str, str]:
    """Return the column of the default ``chroot_env`` by the names of the rows."""
    rows = first_table(page)
    names = rows.get(MEASURED, [])
    if DEFAULT not in names:
        return {}
    place = names.index(DEFAULT)
    return {name: cells[place] for name, cells in rows.items() if name != MEASURED}


def _start(results: dict[str, Any]) -> str:
    count = len(results["tasks"]["milo"])
    text = f"""\
### Start with each driver

How it was measured: seconds from Nomad's event Received, {_times(count)} each. In them Nomad makes
the task's directories, the `java` driver's chroot among them, and fetches the JAR. `main` prints
the time at which it began; the first byte is looked for each millisecond in Nomad's log file, which
Nomad's log collector writes each 100 ms, whatever the driver.
"""
    rows = {"main_s": "to `main`", "byte_s": "to the first byte in Nomad's log file"}
    return _filled(text) + _pairs(results, rows)


def _restart(results: dict[str, Any]) -> str:
    agents = results["agents"]
    ready = statistics.median(one["ready_s"] for one in agents)
    text = f"""\
### Restart and stop with each driver

How it was measured: in the same runs, seconds from the API's call: a restart of the allocation
until the next `main`, and a stop of the job until Nomad's event Killed, the application ending at
its signal; "of it" is from Nomad's event Killing on. An agent is stopped under a task of each
driver at once, as a service manager does, and started again ({_times(len(agents))}): seconds from
its exec, of which its own start until its node was ready is {ready:.2f} s, until it tells of the
task's use again; and whether the same JVM runs.
"""
    rows = {
        "restart_s": "`alloc restart` to the next `main`",
        "stop_s": "stop of the job to the task's end",
        "kill_s": "of it, since Nomad's event Killing",
    }
    told = []
    for driver in DRIVERS:
        times = [one[driver]["told_s"] for one in agents]
        same = sum(one[driver]["same"] for one in agents)
        kept = (
            "the same JVM"
            if same == len(agents)
            else f"the same JVM {same} of {_times(len(agents))}"
        )
        told += [_seconds(statistics.median(times)) + f", {kept}", _seconds(max(times))]
    more = [("restart of the agent to the task's use", *told)]
    return _filled(text) + _pairs(results, rows, more)


def _pairs(
    results: dict[str, Any], rows: dict[str, str], more: Sequence[tuple[str, ...]] = ()
) -> str:
    head = ["", *(cell for column in COLUMNS for cell in (column, "max"))]
    lines = []
    for key, name in rows.items():
        cells = [name]
        for driver in DRIVERS:
            times = [one[key] for one in results["tasks"][driver]]
            cells += [_seconds(statistics.median(times)), _seconds(max(times))]
        lines.append(tuple(cells))
    return _table(head, [*lines, *more])


def _memory(results: dict[str, Any]) -> str:
    text = f"""\
### Memory with each driver

How it was measured: {TASKS} tasks with a small JVM each (`{" ".join(SMALL_JVM)}`) that waits;
proportional memory (PSS), which counts what processes share in equal parts, as the kernel has it
(/proc/PID/smaps_rollup). Beside a JVM there is Nomad's executor, or Milo's task process and pause
process. For a node there is Milo's driver and its spawner; Nomad's two drivers are in the agent.
Nomad's log collector runs for each task whatever the driver, and is in no other row.
"""
    ten = results["ten"]
    cells: list[tuple[str, ...]] = [
        ("driver's processes, a task", *(_mib(ten[driver]["task_pss"]) for driver in DRIVERS)),
        (
            "of it the executor, or Milo's task process",
            *(_mib(ten[driver]["parent_pss"]) for driver in DRIVERS),
        ),
        (
            "once a node",
            *("in the agent" if one != "milo" else _mib(ten[one]["node_pss"]) for one in DRIVERS),
        ),
        (
            f"all of it with {TASKS} tasks",
            *(
                _mib(TASKS * ten[one]["task_pss"] + (ten[one]["node_pss"] if one == "milo" else 0))
                for one in DRIVERS
            ),
        ),
        ("Nomad's log collector, a task", *(_mib(ten[one]["logmon_pss"]) for one in DRIVERS)),
    ]
    return _filled(text) + _table(("memory (PSS)", *COLUMNS), cells)


def _throughput(results: dict[str, Any]) -> str:
    rounds = len(results["output"]["milo"])
    sizes = ", ".join(
        f"{lines * LINE / 1e6:.0f} MB by writes of {SIZES[size]}" for size, lines in BULKS.items()
    )
    text = f"""\
### Throughput with each driver

How it was measured: an application prints lines of {LINE} bytes as fast as it can through a buffer:
{sizes}; {_times(rounds)} each. MB/s, of 10^6 bytes, are from the first write until all is in
Nomad's log file, which was compared byte for byte. Nomad's log collector reads all of it. The JVM
of Nomad's drivers writes to the collector itself; Milo's task process is between. Processor seconds
are for a GB of output: of the executor, or of Milo's task process; and of the collector. The
executor passes no output on, and its time is that of its statistics.
"""
    head = ["write", *COLUMNS]
    head += [f"CPU s/GB {column}" for column in COLUMNS]
    head += [f"of the collector, {column}" for column in COLUMNS]
    lines = [
        (
            SIZES[size],
            *(
                f"{_bulk(results, driver, size, 'bytes_per_s') / 1e6:.0f} MB/s"
                for driver in DRIVERS
            ),
            *(f"{_bulk(results, driver, size, 'driver_cpu'):.2f}" for driver in DRIVERS),
            *(f"{_bulk(results, driver, size, 'logmon_cpu'):.2f}" for driver in DRIVERS),
        )
        for size in BULKS
    ]
    return _filled(text) + _table(head, lines)


def _latency(results: dict[str, Any]) -> str:
    one, ten = PACES[1], PACES[TASKS]
    text = f"""\
### Latency with each driver

How it was measured: milliseconds from just before a line's write, whose time is in the line, until
it was in Nomad's log file, which was read each half millisecond; all lines came, in order. Each
task prints for {PACED_S} s. Nomad's log collector writes what it has each 100 ms: that is what is
seen with every driver, 50 ms in the mean. What Milo's own part takes is [above](#latency).
"""
    lines = []
    for tasks, pace, delays in (
        (1, one, results["delays"]),
        (TASKS, ten, {driver: results["ten"][driver]["delays_s"] for driver in DRIVERS}),
    ):
        for name, percent in (("p50", 50), ("p99", 99), ("max", 100)):
            cells = (f"{percentile(delays[driver], percent) * 1e3:.1f}" for driver in DRIVERS)
            lines.append((str(tasks), f"{pace:,}", name, *cells))
    return _filled(text) + _table(("tasks", "lines/s each", "ms", *COLUMNS), lines)


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the least value that at least so many per cent of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100).__int__() - 1)]


def _bulk(results: dict[str, Any], driver: str, size: int, key: str) -> float:
    return float(statistics.median(one[str(size)][key] for one in results["output"][driver]))


def _median(results: dict[str, Any], driver: str, key: str) -> float:
    return float(statistics.median(one[key] for one in results["tasks"][driver]))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    first, _, rest = table(head, rows).partition("\n")
    _, _, body = rest.partition("\n")
    return f"{first}\n| --- |{' ---: |' * (len(head) - 1)}\n{body}"


def _filled(text: str) -> str:
    """Return paragraphs with lines that are as long as those of other pages may be."""
    parts = text.strip().split("\n\n")
    lines = (textwrap.fill(part, 100, break_on_hyphens=False) for part in parts)
    return "\n\n".join(lines) + "\n\n"


def _times(count: int) -> str:
    return "1 time" if count == 1 else f"{count} times"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s"


def _mib(size: float) -> str:
    return f"{size / MIB:,.0f} MiB" if size >= 100 * MIB else f"{size / MIB:.2f} MiB"
