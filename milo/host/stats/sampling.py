"""Samples a task's cgroup: CPU and memory as the kernel counts them, in Nomad's terms.

Reading a cgroup's files waits for no device and takes some 30 microseconds a task (measured on
v1), so these are plain functions that a Trio task may call.

What a file holds is said by the kernel's Documentation/admin-guide: cgroup-v2.rst, and for v1
cgroup-v1/{cpuacct,memory}.rst.
"""

from __future__ import annotations

import os
import time
from contextlib import closing
from typing import Any, Final

import attrs

from milo import cgroup_files
from milo.cgroup_files import parse_number as number
from milo.core.cgroup import Hierarchy, Mode
from milo.core.report import CpuUsage, MemoryUsage
from milo.host.stats.cgroup_reader import CgroupFiles, field

NS_PER_US: Final = 1000
NS_PER_TICK: Final = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


@attrs.frozen
class Source:
    """Where one container's figures are: a directory for each controller."""

    mode: Mode
    cpu: str = ""
    cpuacct: str = ""
    memory: str = ""


@attrs.frozen
class Sample:
    """The kernel's counters at one moment; None is what this kernel does not tell."""

    taken_ns: int
    """time.monotonic_ns()."""
    cpu_ns: int | None = None
    user_ns: int | None = None
    system_ns: int | None = None
    throttled_periods: int | None = None
    throttled_ns: int | None = None
    memory: dict[str, int | None] = attrs.field(factory=dict)
    """Fields of `MemoryUsage` to bytes."""


def locate(cgroup_path: str) -> Source:
    """Return where the container's figures are; ``cgroup_path`` as crun was given it."""
    return source(cgroup_files.detect(), cgroup_path)


def source(hierarchy: Hierarchy, cgroup_path: str) -> Source:
    """Return where the figures of ``cgroup_path`` are in ``hierarchy``."""
    return Source(
        mode=hierarchy.mode,
        cpu=hierarchy.directory("cpu", cgroup_path) or "",
        cpuacct=hierarchy.directory("cpuacct", cgroup_path) or "",
        memory=hierarchy.directory("memory", cgroup_path) or "",
    )


_FILES_V2: Final = (
    "memory.current",
    "memory.peak",  # Linux 5.19
    "memory.swap.current",
)
_FILES_V1: Final = (
    "memory.usage_in_bytes",
    "memory.max_usage_in_bytes",
    "memory.kmem.usage_in_bytes",
    "memory.kmem.max_usage_in_bytes",
)


class Meter:
    """Reads the counters of one cgroup, whose files it keeps open until `close`.

    Files that are not there, or the whole group gone, are no error: the sample says less.
    """

    def __init__(self, where: Source) -> None:
        self._is_v2 = where.mode is Mode.V2
        paths = [f"{where.cpu}/cpu.stat", f"{where.memory}/memory.stat"]
        if not self._is_v2:
            # The second is in clock ticks. usage_user and usage_sys are in nanoseconds, but wrong
            # before Linux 5.17 (its change dd02d4234c9a says why); Nomad too reads this one.
            paths += [f"{where.cpuacct}/cpuacct.usage", f"{where.cpuacct}/cpuacct.stat"]
        names = _FILES_V2 if self._is_v2 else _FILES_V1
        self._files = CgroupFiles(paths + [f"{where.memory}/{name}" for name in names])

    def sample(self) -> Sample:
        """Read the counters."""
        taken_ns = time.monotonic_ns()
        texts = self._files.read()
        return (_sample_v2 if self._is_v2 else _sample_v1)(taken_ns, *texts)

    def close(self) -> None:
        """Let the files go."""
        self._files.close()


def _sample_v2(
    taken_ns: int, cpu: bytes, stat: bytes, usage: bytes, peak: bytes, swap: bytes
) -> Sample:
    cpu, stat = b"\n" + cpu, b"\n" + stat
    return Sample(
        taken_ns,
        _times(field(cpu, b"\nusage_usec "), NS_PER_US),
        _times(field(cpu, b"\nuser_usec "), NS_PER_US),
        _times(field(cpu, b"\nsystem_usec "), NS_PER_US),
        field(cpu, b"\nnr_throttled "),
        _times(field(cpu, b"\nthrottled_usec "), NS_PER_US),
        {
            "rss": field(stat, b"\nanon "),
            "cache": field(stat, b"\nfile "),
            "swap": number(swap),
            "usage": number(usage),
            "max_usage": number(peak),
            "kernel_usage": field(stat, b"\nkernel "),  # Linux 5.18
        },
    )


def _sample_v1(
    taken_ns: int,
    cpu: bytes,
    stat: bytes,
    total: bytes,
    split: bytes,
    usage: bytes,
    peak: bytes,
    kernel: bytes,
    kernel_peak: bytes,
) -> Sample:
    cpu, stat, split = b"\n" + cpu, b"\n" + stat, b"\n" + split
    return Sample(
        taken_ns,
        number(total),
        _times(field(split, b"\nuser "), NS_PER_TICK),
        _times(field(split, b"\nsystem "), NS_PER_TICK),
        field(cpu, b"\nnr_throttled "),
        field(cpu, b"\nthrottled_time "),
        {
            "rss": field(stat, b"\ntotal_rss "),
            "cache": field(stat, b"\ntotal_cache "),
            "swap": field(stat, b"\ntotal_swap "),
            "usage": number(usage),
            "max_usage": number(peak),
            "kernel_usage": number(kernel),
            "kernel_max_usage": number(kernel_peak),
        },
    )


def sample(where: Source) -> Sample:
    """Read the counters once."""
    with closing(Meter(where)) as meter:
        return meter.sample()


def usage(
    previous: Sample | None, current: Sample, core_mhz: float
) -> tuple[CpuUsage, MemoryUsage]:
    """Return what was used between two samples, as Nomad's own drivers compute it.

    Percentages are of one core, so two busy cores are 200; without a previous sample they are
    0. Ticks are percent of ``core_mhz`` (`milo.proc.core_mhz`). Throttling is counted since the
    container's start.
    """
    figures: dict[str, Any] = {}
    measured: tuple[str, ...] = ()
    if current.user_ns is not None and current.system_ns is not None:
        figures["user_percent"] = _percent(previous, current, "user_ns")
        figures["system_percent"] = _percent(previous, current, "system_ns")
        measured += ("System Mode", "User Mode")
    if current.cpu_ns is not None:
        figures["percent"] = percent = _percent(previous, current, "cpu_ns")
        figures["total_ticks"] = percent / 100 * core_mhz
        measured += ("Percent", "Total Ticks")
    if current.throttled_periods is not None and current.throttled_ns is not None:
        figures["throttled_periods"] = current.throttled_periods
        figures["throttled_time_ns"] = current.throttled_ns
        measured += ("Throttled Periods", "Throttled Time")
    memory = {name: value for name, value in current.memory.items() if value is not None}
    return (
        CpuUsage(**figures, measured=measured),
        MemoryUsage(**memory, measured=tuple(MEMORY_NAMES[name] for name in memory)),
    )


MEMORY_NAMES: Final = {
    "rss": "RSS",
    "cache": "Cache",
    "swap": "Swap",
    "usage": "Usage",
    "max_usage": "Max Usage",
    "kernel_usage": "Kernel Usage",
    "kernel_max_usage": "Kernel Max Usage",
}
"""Fields of `MemoryUsage` to Nomad's names of what is measured."""


def _percent(previous: Sample | None, current: Sample, field: str) -> float:
    before = getattr(previous, field, None)
    if previous is None or before is None:
        return 0.0
    elapsed_ns = current.taken_ns - previous.taken_ns
    used_ns = getattr(current, field) - before
    return used_ns / elapsed_ns * 100 if elapsed_ns > 0 and used_ns > 0 else 0.0


def _times(number: int | None, factor: int) -> int | None:
    return None if number is None else number * factor
