"""Encodes TaskStatsResponse directly to bytes.

A driver sends this message once a second for each task. betterproto takes about 200 microseconds
to build and encode it; this takes less than 10. A test compares the two.
"""

from __future__ import annotations

import functools

import betterproto

from milo.core.report import CpuUsage, MemoryUsage, TaskUsage
from milo.plugin.wire_format import double, message, number, timestamp, varint
from milo.wire.hashicorp.nomad.plugins.drivers import proto as drivers


def encode(usage: TaskUsage) -> bytes:
    """Return the TaskStatsResponse of a sample of resource use."""
    resources = message(1, _cpu(usage.cpu)) + message(2, _memory(usage.memory))
    stats = (
        message(1, usage.task_id.encode())
        + message(2, timestamp(usage.timestamp_s))
        + message(3, resources)
    )
    return message(1, stats)


def _cpu(cpu: CpuUsage) -> bytes:
    return (
        double(1, cpu.system_percent)
        + double(2, cpu.user_percent)
        + double(3, cpu.total_ticks)
        + _figure(4, cpu.throttled_periods)
        + _figure(5, cpu.throttled_time_ns)
        + double(6, cpu.percent)
        + _measured(7, drivers.CpuUsageFields, cpu.measured)
    )


def _memory(memory: MemoryUsage) -> bytes:
    return (
        _figure(1, memory.rss)
        + _figure(2, memory.cache)
        + _figure(3, memory.max_usage)
        + _figure(4, memory.kernel_usage)
        + _figure(5, memory.kernel_max_usage)
        + _measured(6, drivers.MemoryUsageFields, memory.measured)
        + _figure(7, memory.usage)
        + _figure(8, memory.swap)
    )


@functools.lru_cache(maxsize=64)
def _measured(field: int, fields: type[betterproto.Enum], names: tuple[str, ...]) -> bytes:
    """Nomad's names, such as ``Max Usage``, are those of the wire in another spelling."""
    values = [fields.from_string(name.upper().replace(" ", "_")) for name in names]
    return message(field, b"".join(varint(int(value)) for value in values))


@functools.lru_cache(maxsize=1024)
def _figure(field: int, value: int) -> bytes:
    """A figure of a task: most of most tasks are what they were a second ago."""
    return number(field, value)
