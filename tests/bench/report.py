"""The benchmarks as a page of Markdown: the targets first, then every figure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import attrs

MIB = 1 << 20
WAYS = {
    "none": "no pump",
    "pump": "Milo's pump",
    "loop": "read and write, Trio",
    "c loop": "read and write, C",
}
STEPS = {
    "rpc": "gRPC both ways (also of this bench, in Python), conversion",
    "look": "driver: earlier instances, crun, Java",
    "fork": "driver: launch file, control socket, the spawner's fork",
    "boot": "task process: its nursery and control socket; messages",
    "prepare": "task process: the preparer's hand-over, log FIFOs, pipes",
    "inspect": "preparer: options, JAR, Java, JVM options",
    "bundle": "preparer: cgroup, root directory, config.json",
    "create": "crun create",
    "start": "crun start",
    "jvm": "after StartTask's answer: JVM to first byte in the FIFO",
}

HEAD = """\
# Benchmarks

Written by `nox -s bench`. All was measured in one run, what is compared in turns, so that the
ratios hold where the figures themselves depend on the machine. A target that is missed stays
here as missed.
"""


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
        large, small = rows[65536, "pump"]["of_none"], rows[120, "pump"]["of_none"]
        cpu = rows[120, "pump"]["cpu_of_loop"]
        yield Target(
            "Throughput of 64 KiB writes, of no pump", ">= 0.85", f"{large:.2f}", large >= 0.85
        )
        yield Target(
            "Throughput of 120-byte writes, of no pump", ">= 1.0", f"{small:.2f}", small >= 1.0
        )
        yield Target(
            "CPU of 120-byte writes, of a read/write loop's", "< 0.5", f"{cpu:.2f}", cpu < 0.5
        )
    for row in results.get("latency", ()):
        if row["way"] == "pump" and row["pumps"] in (1, 10):
            what = f"Latency p99, {_count(row['pumps'], 'task')}, 1,000 lines/s each"
            yield Target(what, "< 1 ms", f"{row['p99_ms']:.2f} ms", row["p99_ms"] < 1)
    if "handshake" in results:
        took = results["handshake"]["median_s"]
        what = f"Exec to handshake line, median of {results['handshake']['times']}"
        yield Target(what, "<= 300 ms", _ms(took) + " ms", took <= 0.3)
    if "start" in results:
        took = results["start"]["start_task"]["median_s"]
        what = f"StartTask, median of {results['start']['times']}"
        yield Target(what, "< 100 ms", _ms(took) + " ms", took < 0.1)
    for row in results.get("memory", ()):
        if row["tasks"] == 0:
            size = row["driver_rss"] / MIB
            what = "Driver, resident, no task"
            yield Target(what, "<= 50 MB", f"{size:.1f} MiB", row["driver_rss"] <= 50e6)
        if row["tasks"] == 10:
            worse = max(row["task_pss"], row["marginal_pss"])
            yield Target(
                "Proportional memory a task beyond its JVM, 10 tasks",
                "<= 5 MB",
                f"{worse / MIB:.1f} MiB",
                worse <= 5e6,
            )


def target_lines(results: dict[str, Any]) -> list[str]:
    """Return the targets as lines for a terminal."""
    return [
        f"{'met' if target.met else 'NOT MET':8}{target.what}: {target.measured} ({target.wanted})"
        for target in targets(results)
    ]


def render(results: dict[str, Any]) -> str:
    """Return the whole page."""
    parts = [HEAD]
    if results["quick"]:
        parts.append("**A quick run: short, few repetitions. Its figures mean little.**\n")
    parts.append(_machine(results))
    parts.append("## Targets\n")
    parts.append(
        _table(
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
        "memory": _memory,
    }
    parts += [section(results[name]) for name, section in sections.items() if name in results]
    return "\n".join(parts)


def _machine(results: dict[str, Any]) -> str:
    rows = [*results["machine"].items(), ("Load average before", f"{results['load']:.2f}")]
    return _table(("", ""), rows)


def _pump(rows: Sequence[dict[str, Any]]) -> str:
    text = """\
## Throughput of the pump

One writer as fast as it can, one reader; medians. "CPU" is the pump process's own; both pipes
hold 1 MiB.
"""
    return f"{text}\n" + _table(
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

From a line's write until it is readable at the FIFO, in milliseconds; medians of several runs.
One process writes to all streams and one reads them all, on the same processors as the pumps:
at 100 times 1,000 lines a second they are a large part of the load. "CPU" is that of all pumps,
of one processor.
"""
    found: dict[tuple[int, int], float] = {
        (row["pumps"], row["lines_per_s"]): row["p99_ms"] for row in rows if row["way"] == "none"
    }
    return f"{text}\n" + _table(
        ("tasks", "lines/s each", "way", "p50", "p99", "p99.9", "max", "p99 of no pump", "CPU"),
        [
            (
                str(row["pumps"]),
                f"{row['lines_per_s']:,}",
                WAYS[row["way"]],
                *(f"{row[key]:.3f}" for key in ("p50_ms", "p99_ms", "p999_ms", "max_ms")),
                f"{row['p99_ms'] / found[row['pumps'], row['lines_per_s']]:.1f}",
                f"{row['cpu_share']:.0%}" if row["way"] == "pump" else "",
            )
            for row in rows
        ],
    )


def _handshake(found: dict[str, float]) -> str:
    text = f"""\
## Start of the plugin

The launcher that `milo install` writes, from exec to the handshake line,
{found["times"]} starts after one that was not counted.
"""
    return f"{text}\n" + _table(
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

A real plugin process, asked over gRPC, {found["times"]} tasks one after the other. The
application prints a line at once. "The JVM alone" is the same JVM and JAR, started on the host
by a fork and exec. The steps' medians need not add up to the median of the whole.
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
        + _table(
            ("", "median ms", "p99 ms"),
            [(name, _ms(item["median_s"]), _ms(item["p99_s"])) for name, item in rows],
        )
        + f"\nFirst byte, ratio to the JVM alone: {ratio:.1f}\n"
    )


def _memory(rows: Sequence[dict[str, Any]]) -> str:
    text = """\
## Memory

Idle tasks with a small JVM each; for every one an agent's WaitTask is pending and its TaskStats
come once a second. "a task" is the mean of the task processes' proportional memory, "beyond the
JVM" what all of Milo's processes together gained since there was no task, divided by the tasks.
CPU, of one processor, while nothing is printed. A task process shares what it only reads with its
spawner; what it holds itself are mostly pages that CPython wrote to by counting references.
"""
    return f"{text}\n" + _table(
        (
            *("tasks", "driver RSS", "driver PSS", "spawner PSS", "a task PSS", "beyond the JVM"),
            *("a JVM PSS", "driver CPU", "a task's CPU"),
        ),
        [
            (
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


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f}"


def _mib(size: float) -> str:
    return f"{size / MIB:.1f} MiB"


def _size(count: int) -> str:
    return f"{count // 1024} KiB" if count % 1024 == 0 else f"{count} B"


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
