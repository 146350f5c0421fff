"""How long things take to start: the plugin's handshake, and a task up to its first output.

Side by side, in turns, with the least that could be: an interpreter that imports nothing, and
the same JVM started without a driver or a container.
"""

from __future__ import annotations

import os
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench.plugin_host import PluginHost, start_plugin

JVM_OPTIONS = ("-XX:+UseSerialGC", "-Xmx64m")
"""Given to both, since a JVM chooses its collector by the memory and processors it sees."""
PARTS = (
    "rpc",
    "client",
    "look",
    "fork",
    "boot",
    "prepare",
    "inspect",
    "bundle",
    "create",
    "start",
    "jvm",
)
WARM_UPS = 2


def quantile(values: Sequence[float], part: float) -> float:
    """Return the smallest value that at least ``part`` of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(int(part * len(ordered)), len(ordered) - 1)]


def handshake(launcher: Path, base: Path, *, times: int) -> dict[str, float]:
    """Start the plugin ``times`` times; seconds from exec to the handshake line.

    Returns median_s, p99_s, cpu_s (median of the processor time in it), and interpreter_s: the
    median of ``python -I -c pass``.
    """
    start_plugin(launcher, base).end()
    took, cpu, bare = [], [], []
    for _ in range(times):
        process = start_plugin(launcher, base)
        took.append(process.handshake_s)
        cpu.append(process.cpu_s)
        process.end()
        began = time.perf_counter()
        subprocess.run([sys.executable, "-I", "-c", "pass"], check=True)
        bare.append(time.perf_counter() - began)
    return {
        "times": times,
        "median_s": statistics.median(took),
        "p99_s": quantile(took, 0.99),
        "cpu_s": statistics.median(cpu),
        "interpreter_s": statistics.median(bare),
    }


async def starts(host: PluginHost, jar: Path, java: str, *, times: int) -> dict[str, Any]:
    """Start a task ``times`` times, one after the other, and each time the JVM alone.

    Returns for ``start_task`` (the call), ``first_byte`` (call until stdout's FIFO has a byte),
    ``jvm_alone`` (exec until its stdout has a byte) and each of `PARTS` the median_s and p99_s;
    ``client`` is what this process works meanwhile, and a part of ``rpc``.
    """
    values: dict[str, list[float]] = {}
    for number in range(WARM_UPS + times):
        sample = await _start_once(host, jar)
        sample["jvm_alone"] = _jvm_alone(java, jar)
        if number >= WARM_UPS:
            for key, value in sample.items():
                values.setdefault(key, []).append(value)
    return {
        "times": times,
        **{
            key: {"median_s": statistics.median(found), "p99_s": quantile(found, 0.99)}
            for key, found in values.items()
        },
    }


async def _start_once(host: PluginHost, jar: Path) -> dict[str, float]:
    task = host.lay_out(jar, jvm_options=JVM_OPTIONS, memory_mb=256)
    worked, began = time.thread_time(), time.perf_counter()
    await host.start(task, stats=False)
    answered = time.perf_counter()
    worked = time.thread_time() - worked
    first = await task.first_byte()
    parts = host.start_parts()
    await host.end(task, force=False)
    return {
        "start_task": answered - began,
        "first_byte": first - began,
        "rpc": answered - began - sum(parts.values()),
        "client": worked,
        **parts,
        "jvm": first - answered,
    }


def _jvm_alone(java: str, jar: Path) -> float:
    command = [f"{java}/bin/java", *JVM_OPTIONS, "-jar", str(jar)]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout is not None
    select.select([process.stdout], [], [])
    took = time.perf_counter() - began
    output, _ = process.communicate()
    assert output and process.returncode == 0, os.fspath(jar)
    return took
