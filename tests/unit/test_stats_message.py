"""TaskStatsResponse written directly, against betterproto's own encoding of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TypeVar

import attrs
import betterproto
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milo.core.report import CpuUsage, MemoryUsage, TaskUsage
from milo.plugin import stats_message
from milo.wire.hashicorp.nomad.plugins.drivers import proto as drivers

Fields = TypeVar("Fields", bound=betterproto.Enum)

CPU_NAMES = [
    "System Mode",
    "User Mode",
    "Total Ticks",
    "Throttled Periods",
    "Throttled Time",
    "Percent",
]
MEMORY_NAMES = [
    "RSS",
    "Cache",
    "Max Usage",
    "Kernel Usage",
    "Kernel Max Usage",
    "Usage",
    "Swap",
]

numbers = st.integers(0, 2**64 - 1)
figures = st.floats(0, allow_nan=False)
samples = st.builds(
    TaskUsage,
    task_id=st.text(),
    timestamp_s=st.integers(0, 2**31 * 1_000_000).map(
        lambda microseconds: microseconds / 1_000_000
    ),
    cpu=st.builds(
        CpuUsage,
        system_percent=figures,
        user_percent=figures,
        percent=figures,
        total_ticks=figures,
        throttled_periods=numbers,
        throttled_time_ns=numbers,
        measured=st.lists(st.sampled_from(CPU_NAMES), unique=True).map(tuple),
    ),
    memory=st.builds(
        MemoryUsage,
        rss=numbers,
        cache=numbers,
        swap=numbers,
        usage=numbers,
        max_usage=numbers,
        kernel_usage=numbers,
        kernel_max_usage=numbers,
        measured=st.lists(st.sampled_from(MEMORY_NAMES), unique=True).map(tuple),
    ),
)


def names(fields: type[Fields], words: tuple[str, ...]) -> list[Fields]:
    """Return the wire's fields of Nomad's names."""
    return [fields.from_string(word.upper().replace(" ", "_")) for word in words]


def by_betterproto(usage: TaskUsage) -> drivers.TaskStatsResponse:
    """Return the message that a sample is, field by field."""
    cpu, memory = usage.cpu, usage.memory
    return drivers.TaskStatsResponse(
        stats=drivers.TaskStats(
            id=usage.task_id,
            timestamp=datetime.fromtimestamp(usage.timestamp_s, UTC),
            agg_resource_usage=drivers.TaskResourceUsage(
                cpu=drivers.CpuUsage(
                    system_mode=cpu.system_percent,
                    user_mode=cpu.user_percent,
                    total_ticks=cpu.total_ticks,
                    throttled_periods=cpu.throttled_periods,
                    throttled_time=cpu.throttled_time_ns,
                    percent=cpu.percent,
                    measured_fields=names(drivers.CpuUsageFields, cpu.measured),
                ),
                memory=drivers.MemoryUsage(
                    rss=memory.rss,
                    cache=memory.cache,
                    swap=memory.swap,
                    usage=memory.usage,
                    max_usage=memory.max_usage,
                    kernel_usage=memory.kernel_usage,
                    kernel_max_usage=memory.kernel_max_usage,
                    measured_fields=names(drivers.MemoryUsageFields, memory.measured),
                ),
            ),
        )
    )


@given(samples)
def test_it_is_the_message_that_betterproto_writes(usage: TaskUsage) -> None:
    """It decodes to the message that betterproto's own encoder makes, to the microsecond."""
    message = by_betterproto(usage)
    encoded = stats_message.encode(usage)
    assert drivers.TaskStatsResponse().parse(encoded) == drivers.TaskStatsResponse().parse(
        bytes(message)
    )
    assert drivers.TaskStatsResponse().parse(encoded).to_dict() == message.to_dict()


def test_stats_carry_a_timestamp_and_what_was_measured() -> None:
    """Every figure arrives with its unit, and measured fields by Nomad's names."""
    usage = TaskUsage(
        "x",
        1_700_000_000.5,
        CpuUsage(1.5, 2.5, 4.0, 100.0, 3, 4000, ("Percent", "Total Ticks")),
        MemoryUsage(1, 2, 3, 4, 5, 6, 7, ("RSS", "Max Usage", "Kernel Max Usage")),
    )
    wire = drivers.TaskStatsResponse().parse(stats_message.encode(usage)).stats
    assert (wire.id, wire.timestamp.timestamp()) == ("x", 1_700_000_000.5)
    cpu, memory = wire.agg_resource_usage.cpu, wire.agg_resource_usage.memory
    assert (cpu.system_mode, cpu.user_mode, cpu.percent, cpu.total_ticks) == (1.5, 2.5, 4.0, 100.0)
    assert (cpu.throttled_periods, cpu.throttled_time) == (3, 4000)
    assert [field.name for field in cpu.measured_fields] == ["PERCENT", "TOTAL_TICKS"]
    assert (memory.rss, memory.cache, memory.swap, memory.usage) == (1, 2, 3, 4)
    assert (memory.max_usage, memory.kernel_usage, memory.kernel_max_usage) == (5, 6, 7)
    measured = [field.name for field in memory.measured_fields]
    assert measured == ["RSS", "MAX_USAGE", "KERNEL_MAX_USAGE"]


def test_little_is_remembered_of_the_samples_that_were_sent() -> None:
    """Of the time nothing, as it never comes again; of all figures some 200 KiB at most."""
    usage = TaskUsage("x", 1_700_000_000.5, memory=MemoryUsage(rss=1 << 20))
    stats_message.encode(usage)
    known = stats_message._figure.cache_info().currsize
    for second in range(100):
        stats_message.encode(attrs.evolve(usage, timestamp_s=1_700_000_001.25 + second))
    assert stats_message._figure.cache_info().currsize == known
    assert stats_message._figure.cache_info().maxsize == 1024


def test_an_empty_sample_has_its_time_and_both_figures() -> None:
    """Nothing that Nomad looks into is left out because all of it is zero."""
    [stats] = betterproto.parse_fields(stats_message.encode(TaskUsage("", 0.0)))
    parts = {field.number: field.value for field in betterproto.parse_fields(stats.value)}
    assert set(parts) == {1, 2, 3}  # id, timestamp, agg_resource_usage
    assert {field.number for field in betterproto.parse_fields(parts[3])} == {1, 2}


@pytest.mark.parametrize("fields", [drivers.CpuUsageFields, drivers.MemoryUsageFields])
def test_every_field_of_the_wire_has_a_name(fields: type[betterproto.Enum]) -> None:
    """The names that samples use for what was measured cover those of the protocol."""
    words = CPU_NAMES if fields is drivers.CpuUsageFields else MEMORY_NAMES
    assert sorted(names(fields, tuple(words))) == sorted(fields)
