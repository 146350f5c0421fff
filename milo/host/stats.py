"""Samples a task's cgroup: CPU and memory as the kernel counts them, in Nomad's terms.

Reading a cgroup's files waits for no device and takes some 30 microseconds a task (measured on
v1), so these are plain functions that a Trio task may call.

What a file holds is said by the kernel's Documentation/admin-guide: cgroup-v2.rst, and for v1
cgroup-v1/{cpuacct,memory}.rst.
"""

from __future__ import annotations

import os
import re
import time
from contextlib import closing
from typing import Any, Final

import attrs

from milo.core import cgroup
from milo.core.cgroup import Hierarchy, Mode
from milo.core.report import CpuUsage, MemoryUsage
from milo.host.cgroup_files import CgroupFile, field

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
    memory: dict[str, int] = attrs.field(factory=dict)
    """Fields of `MemoryUsage` to bytes."""


def locate(cgroup_path: str) -> Source:
    """Return where the container's figures are; ``cgroup_path`` as crun was given it."""
    return source(cgroup.parse_mountinfo(_read("/proc/self/mountinfo")), cgroup_path)


def source(hierarchy: Hierarchy, cgroup_path: str) -> Source:
    """Return where the figures of ``cgroup_path`` are in ``hierarchy``."""
    return Source(
        mode=hierarchy.mode,
        cpu=hierarchy.directory("cpu", cgroup_path) or "",
        cpuacct=hierarchy.directory("cpuacct", cgroup_path) or "",
        memory=hierarchy.directory("memory", cgroup_path) or "",
    )


class Meter:
    """Reads the counters of one cgroup, whose files it keeps open until `close`.

    Files that are not there, or the whole group gone, are no error: the sample says less.
    """

    def __init__(self, where: Source) -> None:
        self._is_v2 = where.mode is Mode.V2
        self._files: list[CgroupFile] = []
        self._cpu_stat = self._file(where.cpu, "cpu.stat")
        self._memory_stat = self._file(where.memory, "memory.stat")
        if self._is_v2:
            self._usage = self._file(where.memory, "memory.current")
            self._peak = self._file(where.memory, "memory.peak")  # Linux 5.19
            self._swap = self._file(where.memory, "memory.swap.current")
            return
        self._usage = self._file(where.memory, "memory.usage_in_bytes")
        self._peak = self._file(where.memory, "memory.max_usage_in_bytes")
        self._kernel = self._file(where.memory, "memory.kmem.usage_in_bytes")
        self._kernel_peak = self._file(where.memory, "memory.kmem.max_usage_in_bytes")
        self._cpu_usage = self._file(where.cpuacct, "cpuacct.usage")
        # In clock ticks. There are usage_user and usage_sys in nanoseconds too, but wrong ones
        # before Linux 5.17 (its change dd02d4234c9a says why); Nomad reads this file as well.
        self._cpu_split = self._file(where.cpuacct, "cpuacct.stat")

    def sample(self) -> Sample:
        """Read the counters."""
        taken_ns = time.monotonic_ns()
        return self._sample_v2(taken_ns) if self._is_v2 else self._sample_v1(taken_ns)

    def close(self) -> None:
        """Let the files go."""
        for file in self._files:
            file.close()

    def _file(self, directory: str, name: str) -> CgroupFile:
        self._files.append(CgroupFile(f"{directory}/{name}"))
        return self._files[-1]

    def _sample_v2(self, taken_ns: int) -> Sample:
        cpu, stat = self._cpu_stat.read(), self._memory_stat.read()
        return Sample(
            taken_ns=taken_ns,
            cpu_ns=_times(field(cpu, b"usage_usec"), NS_PER_US),
            user_ns=_times(field(cpu, b"user_usec"), NS_PER_US),
            system_ns=_times(field(cpu, b"system_usec"), NS_PER_US),
            throttled_periods=field(cpu, b"nr_throttled"),
            throttled_ns=_times(field(cpu, b"throttled_usec"), NS_PER_US),
            memory=_known(
                {
                    "rss": field(stat, b"anon"),
                    "cache": field(stat, b"file"),
                    "swap": self._swap.value(),
                    "usage": self._usage.value(),
                    "max_usage": self._peak.value(),
                    "kernel_usage": field(stat, b"kernel"),  # Linux 5.18
                }
            ),
        )

    def _sample_v1(self, taken_ns: int) -> Sample:
        cpu_ns, split = self._cpu_usage.value(), self._cpu_split.read()
        cpu, stat = self._cpu_stat.read(), self._memory_stat.read()
        return Sample(
            taken_ns=taken_ns,
            cpu_ns=cpu_ns,
            user_ns=_times(field(split, b"user"), NS_PER_TICK),
            system_ns=_times(field(split, b"system"), NS_PER_TICK),
            throttled_periods=field(cpu, b"nr_throttled"),
            throttled_ns=field(cpu, b"throttled_time"),
            memory=_known(
                {
                    "rss": field(stat, b"total_rss"),
                    "cache": field(stat, b"total_cache"),
                    "swap": field(stat, b"total_swap"),
                    "usage": self._usage.value(),
                    "max_usage": self._peak.value(),
                    "kernel_usage": self._kernel.value(),
                    "kernel_max_usage": self._kernel_peak.value(),
                }
            ),
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
    0. Ticks are percent of ``core_mhz`` (`core_mhz()`). Throttling is counted since the
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
    return (
        CpuUsage(**figures, measured=measured),
        MemoryUsage(**current.memory, measured=tuple(MEMORY_NAMES[k] for k in current.memory)),
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


def core_mhz(sysfs: str = "/sys/devices/system/cpu", cpuinfo: str = "/proc/cpuinfo") -> float:
    """Return the speed of one core, averaged over all, in MHz; 0 when nothing tells.

    Nomad takes base_frequency, else cpuinfo_max_freq (client/lib/numalib), both in kHz; virtual
    machines have neither, and then /proc/cpuinfo says how fast a core was just now.
    """
    speeds = []
    for name in _list(sysfs):
        if re.fullmatch(r"cpu\d+", name):
            for file in ("base_frequency", "cpuinfo_max_freq"):
                khz = cgroup.parse_value(_read(f"{sysfs}/{name}/cpufreq/{file}"))
                if khz:
                    speeds.append(khz / 1000)
                    break
    if not speeds:
        found = re.findall(r"^cpu MHz\s*:\s*([\d.]+)$", _read(cpuinfo), re.MULTILINE)
        speeds = [float(speed) for speed in found]
    return sum(speeds) / len(speeds) if speeds else 0.0


def _percent(previous: Sample | None, current: Sample, field: str) -> float:
    before = getattr(previous, field, None)
    if previous is None or before is None:
        return 0.0
    elapsed_ns = current.taken_ns - previous.taken_ns
    used_ns = getattr(current, field) - before
    return used_ns / elapsed_ns * 100 if elapsed_ns > 0 and used_ns > 0 else 0.0


def _times(number: int | None, factor: int) -> int | None:
    return None if number is None else number * factor


def _known(memory: dict[str, int | None]) -> dict[str, int]:
    return {name: value for name, value in memory.items() if value is not None}


def _list(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return file.read().decode(errors="replace")
    except OSError:
        return ""
