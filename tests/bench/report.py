"""The benchmarks as a page of Markdown: the targets first, then every figure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import attrs

from tests.bench import crowd_bench, quiet

MIB = 1 << 20
WAYS = {
    "none": "no pump",
    "pump": "Milo's pump",
    "loop": "read and write, Trio",
    "c loop": "read and write, C",
    "c splice": "poll and splice, C",
    "splice": "wait and splice, Trio",
}
STEPS = {
    "rpc": "gRPC both ways (also of this bench, in Python), conversion",
    "client": "of that: what this bench's client works itself, in Python",
    "look": "driver: earlier instances, crun, Java",
    "fork": "driver: launch file, control socket, the spawner",
    "boot": "task process: first steps; messages",
    "prepare": "the preparer's hand-over, while the task process gets ready",
    "inspect": "preparer: options, JAR, Java, JVM options",
    "bundle": "preparer: cgroup, root directory, config.json",
    "create": "log FIFOs, pipes, crun create, the pause process's place",
    "start": "crun start",
    "jvm": "after StartTask's answer: JVM to first byte in the FIFO",
}

TITLE = "# Benchmarks"
RPC_PHASES = {
    "start": "while {} tasks start at once",
    "rest": "while {} tasks run",
    "stop": "while {} tasks stop at once",
}

HEAD = """\
Written by `nox -s bench`. All was measured in one run, what is compared in turns, so that the
ratios hold where the figures themselves depend on the machine. A target that is missed stays
here as missed.
"""

MAX_GROWTH = 1.1
"""How much more memory a task process may have than the page says, which was measured before."""
TASK_PSS = "a task PSS"
LATENCY_MS = {1: 0.15, 10: 0.5}
"""The most that the p99 of a line may be, by the number of tasks."""
MEMORY_MB = {10: 5.0, 100: 4.5}
"""The most, of 10^6 bytes, that a task may take beside its JVM, by the number of tasks."""
LINEAR = 1.05
"""Up to this power of the number of tasks a figure counts as linear: 3 % in doubling is noise."""
KEPT_PACE = 0.98
"""The share of the lines asked for that counts as all of them."""

STARTS = "\n## First and second starts\n"
"""What begins the section that `tests.bench.startup_bench` measures on its own."""
COMPARISON = "\n## Beside Nomad's java and raw_exec drivers\n"
"""What begins the section that `tests.bench.drivers_bench` measures on its own."""
SCRAPES = "\n## Figures for Prometheus\n"
"""What begins the last section, which `tests.bench.scrape_bench` measures on its own."""


@attrs.frozen
class Target:
    """One figure that the project has promised."""

    what: str
    wanted: str
    measured: str
    met: bool


def targets(results: dict[str, Any]) -> Iterator[Target]:
    """Yield each target whose figure has been measured."""
    rows = {(row["write_bytes"], row["way"]): row for row in results.get("pump", ())}
    if rows:
        for size, wanted in ((65536, 0.95), (4096, 0.8), (120, 1.0)):
            if row := rows.get((size, "pump")):
                what = f"Throughput of writes of {_size(size)}, of no pump"
                part = row["of_none"]
                yield Target(what, f">= {wanted}", f"{part:.2f}", part >= wanted)
        cpu = rows[120, "pump"]["cpu_of_loop"]
        yield Target(
            "CPU of 120-byte writes, of a read/write loop's", "< 0.5", f"{cpu:.2f}", cpu < 0.5
        )
    yield from _latency_targets(results.get("latency", ()))
    if "handshake" in results:
        took = results["handshake"]["median_s"]
        what = f"Exec to handshake line, median of {results['handshake']['times']}"
        yield Target(what, "<= 170 ms", _ms(took) + " ms", took <= 0.17)
    if "start" in results:
        took = results["start"]["start_task"]["median_s"]
        what = f"StartTask, median of {results['start']['times']}"
        yield Target(what, "<= 45 ms", _ms(took) + " ms", took <= 0.045)
    for phase, words in RPC_PHASES.items() if "rpc" in results else ():
        took = results["rpc"][phase]["p99_s"]
        what = f"InspectTask p99, {words.format(results['rpc']['tasks'])}"
        yield Target(what, "< 50 ms", _ms(took) + " ms", took < 0.05)
    for row in results.get("memory", ()):
        if row["tasks"] == 0:
            size = row["driver_rss"] / MIB
            what = f"Driver, resident, no task, Python {row['python']}"
            yield Target(what, "<= 50 MB", f"{size:.1f} MiB", row["driver_rss"] <= 50e6)
        if row["tasks"] in MEMORY_MB:
            worse, most = max(row["task_pss"], row["marginal_pss"]), MEMORY_MB[row["tasks"]]
            yield Target(
                f"Proportional memory a task beyond its JVM, {row['tasks']} tasks, Python"
                f" {row['python']}",
                f"<= {most:g} MB",
                f"{worse / MIB:.1f} MiB",
                worse <= most * 1e6,
            )
    if "crowd" in results:
        yield from _crowd_targets(results["crowd"])


def _latency_targets(rows: Sequence[dict[str, Any]]) -> Iterator[Target]:
    without = {row["pumps"]: row["p99_ms"] for row in rows if row["way"] == "none"}
    for row in rows:
        if row["way"] != "pump" or row["pumps"] not in LATENCY_MS:
            continue
        words = f"{_count(row['pumps'], 'task')}, 1,000 lines/s each"
        took, most = row["p99_ms"], LATENCY_MS[row["pumps"]]
        yield Target(f"Latency p99, {words}", f"< {most:g} ms", f"{took:.2f} ms", took < most)
        times = took / without[row["pumps"]]
        yield Target(f"Latency p99 of no pump's, {words}", "<= 2.5", f"{times:.1f}", times <= 2.5)
        if row["pumps"] == 1:
            cpu = row["cpu_share"]
            yield Target(f"CPU of a pump, {words}", "< 3%", f"{cpu:.1%}", cpu < 0.03)


def _crowd_targets(rows: Sequence[dict[str, Any]]) -> Iterator[Target]:
    last = rows[-1]
    took_s = last["recover_s"]
    what = f"Taking over {last['tasks']:,} tasks, from the plugin's exec"
    yield Target(what, "<= 5 s", f"{took_s:.1f} s", took_s <= 5)
    for name, power in crowd_bench.growth(rows).items():
        what = f"Growth with the number of tasks: {crowd_bench.TOTALS[name]}"
        yield Target(what, "<= 1, linear", f"{power:.2f}", power <= LINEAR)


def target_lines(results: dict[str, Any]) -> list[str]:
    """Return the targets as lines for a terminal."""
    return [
        f"{'met' if target.met else 'NOT MET':8}{target.what}: {target.measured} ({target.wanted})"
        for target in targets(results)
    ]


def growth(results: dict[str, Any], page: str) -> list[str]:
    """Return a sentence for each number of tasks at which a task process has grown since ``page``.

    Proportional memory does not depend on what else the machine does.
    """
    before = _task_pss(page)
    return [
        f"At {_count(row['tasks'], 'task')} with Python {row['python']} a task process has "
        f"{_mib(row['task_pss'])} of proportional memory, and had {before[_key(row)]:.1f} MiB. "
        f"More than {MAX_GROWTH - 1:.0%} is too much: python -m tools.task_memory says where it is."
        for row in results.get("memory", ())
        if row["task_pss"] / MIB > MAX_GROWTH * before.get(_key(row), float("inf"))
    ]


def _key(row: dict[str, Any]) -> tuple[str, int]:
    return row["python"], row["tasks"]


def _task_pss(page: str) -> dict[tuple[str, int], float]:
    """Return the MiB of a task process that a page has for each Python and number of tasks."""
    found: dict[tuple[str, int], float] = {}
    column = None
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if TASK_PSS in cells:
            column = cells.index(TASK_PSS)
        elif not line.startswith("|"):
            column = None
        elif column is not None and cells[1].isdecimal() and cells[column]:
            found[cells[0], int(cells[1])] = float(cells[column].removesuffix(" MiB"))
    return found


def render(results: dict[str, Any]) -> str:
    """Return the whole page."""
    loaded = quiet.warning(results["loaded"])
    parts = [f"{TITLE} of a LOADED machine\n\n**{loaded}**\n" if loaded else f"{TITLE}\n", HEAD]
    if results["quick"]:
        parts.append("**A quick run: short, few repetitions. Its figures mean little.**\n")
    parts.append(_machine(results))
    parts.append("## Targets\n")
    parts.append(
        table(
            ("", "target", "measured", ""),
            [
                (t.what, t.wanted, t.measured, "met" if t.met else "**not met**")
                for t in targets(results)
            ],
        )
    )
    sections: dict[str, Callable[[Any], str]] = {
        "pump": _pump,
        "latency": _latency,
        "handshake": _handshake,
        "start": _start,
        "rpc": _rpc,
        "memory": _memory,
        "crowd": lambda rows: "\n".join(crowd_bench.lines(rows)),
    }
    parts += [section(results[name]) for name, section in sections.items() if name in results]
    return "\n".join(parts)


def kept(page: str) -> str:
    """Return the sections of a page that other benches have measured, which are its last ones."""
    headings = (STARTS, COMPARISON, SCRAPES)
    found = [place for heading in headings if (place := page.find(heading)) >= 0]
    return page[min(found) :] if found else ""


def put(page: str, heading: str, text: str, before: str = "") -> str:
    """Return a page with the section ``text`` in the place of its own.

    ``heading`` is what begins the section, and ``text`` with it. Where there is none yet it comes
    before the section that begins with ``before``, or at the end.
    """
    start = page.find(heading)
    if start >= 0:
        end = page.find("\n## ", start + len(heading) - 1)
    else:
        start = end = page.find(before) if before else -1
    head, tail = (page[:start], page[end:] if end >= 0 else "") if start >= 0 else (page, "")
    return f"{head.rstrip()}\n\n{text.strip()}\n{tail}"


def _machine(results: dict[str, Any]) -> str:
    rows = [*results["machine"].items(), ("Load average before", f"{results['load']:.2f}")]
    if took := results["took_s"]:
        parts = ", ".join(f"{part} {_minutes(seconds)}" for part, seconds in took.items())
        rows.append(("Minutes taken", f"{_minutes(sum(took.values()))}: {parts}"))
    return table(("", ""), rows)


def _pump(rows: Sequence[dict[str, Any]]) -> str:
    text = """\
## Throughput of the pump

How it was measured: one writer for a given time as fast as it can and one reader, in C, both pipes
of 1 MiB; each way in turns, medians. MB/s are of 10^6 bytes as the reader got them, from its first
byte to its last. "CPU s/GiB" is all the processor time of the process between the two, its start
included. Poll(2) and splice(2) in C are the least that moves bytes without copying them: what that
falls short of no pump is the price of a third process, and of pages that are not used again.
"""
    return f"{text}\n" + table(
        ("write", "way", "MB/s", "of no pump", "CPU s/GiB", "of the Trio loop"),
        [
            (
                _size(row["write_bytes"]),
                WAYS[row["way"]],
                f"{row['bytes_per_s'] / 1e6:.0f}",
                f"{row['of_none']:.2f}",
                "" if row["way"] == "none" else f"{row['cpu_s_per_gib']:.2f}",
                f"{row['cpu_of_loop']:.2f}" if "cpu_of_loop" in row else "",
            )
            for row in rows
        ],
    )


def _latency(rows: Sequence[dict[str, Any]]) -> str:
    text = """\
## Latency

How it was measured: from just before a line's write until the reader is told of it at the FIFO,
in milliseconds; medians of several runs of equal length, with and without the pump in turns. One
process writes to all streams and one reads them all, on the same processors as the pumps. Where
they cannot keep the pace, the lines that each stream really got are in brackets. "CPU" is what all
pumps together used of one processor, divided by the time from the first line sent to the last one
read; their start is not in it. Where the time goes is seen from two ways that are no pump: poll(2)
and splice(2) in C are the least that moves a line, and what the same takes in Trio is the wake-up
of a task.
"""
    found: dict[tuple[int, int], float] = {
        (row["pumps"], row["lines_per_s"]): row["p99_ms"] for row in rows if row["way"] == "none"
    }
    return f"{text}\n" + table(
        ("tasks", "lines/s each", "way", "p50", "p99", "p99.9", "max", "p99 of no pump", "CPU"),
        [
            (
                str(row["pumps"]),
                _pace(row),
                WAYS[row["way"]],
                *(f"{row[key]:.3f}" for key in ("p50_ms", "p99_ms", "p999_ms", "max_ms")),
                f"{row['p99_ms'] / found[row['pumps'], row['lines_per_s']]:.1f}",
                "" if row["way"] == "none" else f"{row['cpu_share']:.1%}",
            )
            for row in rows
        ],
    )


def _pace(row: dict[str, Any]) -> str:
    asked, sent = row["lines_per_s"], row["sent_per_s"]
    return f"{asked:,}" if sent >= KEPT_PACE * asked else f"{asked:,} (got {sent:,.0f})"


def _handshake(found: dict[str, float]) -> str:
    text = f"""\
## Start of the plugin

How it was measured: the launcher that `milo install` writes, from just before its fork and exec
until the handshake line was read, {found["times"]} starts after one that was not counted, each
followed by the interpreter alone. "On a processor" is the kernel's account of the plugin process at
that moment (/proc/PID/schedstat).
"""
    return f"{text}\n" + table(
        ("", "ms"),
        [
            ("median", _ms(found["median_s"])),
            ("p99", _ms(found["p99_s"])),
            ("of it on a processor, median", _ms(found["cpu_s"])),
            ("an interpreter that imports nothing, median", _ms(found["interpreter_s"])),
            ("ratio to that", f"{found['median_s'] / found['interpreter_s']:.1f}"),
        ],
    )


def _start(found: dict[str, Any]) -> str:
    text = f"""\
## Start of a task

How it was measured: a real plugin process, asked over gRPC, {found["times"]} tasks one after the
other, after two that were not counted; the clock is the bench's, the steps' times are the plugin's
own. The application prints a line at once. "The JVM alone" is the same JVM and JAR, started on the
host by a fork and exec. The steps' medians need not add up to the median of the whole.
"""
    rows = [
        ("**StartTask**", found["start_task"]),
        *((f"— {STEPS[key]}", found[key]) for key in STEPS if key != "jvm"),
        (STEPS["jvm"], found["jvm"]),
        ("**StartTask to the first byte of output**", found["first_byte"]),
        ("The JVM alone, exec to first byte", found["jvm_alone"]),
    ]
    ratio = found["first_byte"]["median_s"] / found["jvm_alone"]["median_s"]
    return (
        f"{text}\n"
        + table(
            ("", "median ms", "p99 ms"),
            [(name, _ms(item["median_s"]), _ms(item["p99_s"])) for name, item in rows],
        )
        + f"\nFirst byte, ratio to the JVM alone: {ratio:.1f}\n"
    )


def _rpc(found: dict[str, Any]) -> str:
    text = f"""\
## RPCs under load

How it was measured: {found["tasks"]} tasks with a program that does nothing are started at once
over gRPC, and later stopped and destroyed at once, their WaitTask and TaskStats pending. Plugin and
task processes are in one control group, as on a client. A process outside of it, with priority,
asks for one task after the other by InspectTask, with pauses of 5 ms: milliseconds from the
question to the answer. "Driver's work" is the processor time of the driver during a call, whatever
it worked. Of the slowest hundredth of the calls it is told how much of their time the driver had no
processor. "Longest step" is the processor time of the longest step of its event loop, in which
nothing else is answered.
"""
    names = {key: words.format(found["tasks"]) for key, words in RPC_PHASES.items()}
    return f"{text}\n" + table(
        (
            *("", "seconds", "calls", "p50", "p99", "max", "driver's work p99", "max"),
            *("of the slowest: no processor", "longest step"),
        ),
        [
            (
                names[key],
                f"{row['seconds']:.1f}",
                str(row["calls"]),
                *(_ms(row[part]) for part in ("p50_s", "p99_s", "max_s")),
                *(_ms(row[part]) for part in ("worked_p99_s", "worked_max_s")),
                f"{row['driver_waited']:.0%}",
                _ms(row["longest_step"]["cpu_s"]) if row["longest_step"] else "< 5",
            )
            for key, row in ((key, found[key]) for key in names)
        ],
    )


def _memory(rows: Sequence[dict[str, Any]]) -> str:
    text = f"""\
## Memory

How it was measured: idle tasks with a small JVM each; for every one an agent's WaitTask is pending
and its TaskStats come once a second. Memory is the kernel's (/proc/PID/smaps_rollup) at one moment.
"a task" is the mean of the task processes' proportional memory, "beyond the JVM" what all of Milo's
processes together gained since there was no task, divided by the tasks. CPU is what a process used
of one processor in {rows[0]["idle_s"]:g} s, in clock ticks of 10 ms, while nothing is printed; "a
task's" is the mean of all. A task process shares what it only reads with its spawner. Before 3.12
CPython writes to what it reads, too, since it counts the references to an object in the object.
"""
    return f"{text}\n" + table(
        (
            *(
                "Python",
                "tasks",
                "driver RSS",
                "driver PSS",
                "spawner PSS",
                TASK_PSS,
                "beyond the JVM",
            ),
            *("a JVM PSS", "driver CPU", "a task's CPU"),
        ),
        [
            (
                row["python"],
                str(row["tasks"]),
                *(_mib(row[key]) for key in ("driver_rss", "driver_pss", "spawner_pss")),
                *(
                    _mib(row[key]) if row["tasks"] else ""
                    for key in ("task_pss", "marginal_pss", "jvm_pss")
                ),
                f"{row['driver_cpu']:.1%}",
                f"{row['task_cpu']:.2%}" if row["tasks"] else "",
            )
            for row in rows
        ],
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f}"


def _minutes(seconds: float) -> str:
    return f"{seconds // 60:.0f}:{seconds % 60:02.0f}"


def _mib(size: float) -> str:
    return f"{size / MIB:.1f} MiB"


def _size(count: int) -> str:
    return f"{count // 1024} KiB" if count % 1024 == 0 else f"{count} B"


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
