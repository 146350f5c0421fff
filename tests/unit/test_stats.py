"""Sampling a cgroup's files and computing use from two samples."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from milo.core.cgroup import Hierarchy, Mode
from milo.host.stats import sampling
from milo.host.stats.cgroup_reader import CgroupFiles
from milo.host.stats.sampling import Sample, Source
from milo.host.stats.usage import MIN_INTERVAL_S, Ticks
from tests.support.log_rig import descriptors


def write(directory: Path, files: dict[str, str]) -> None:
    """Make a directory with files of text."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name).write_text(text)


@pytest.fixture
def v1(tmp_path: Path) -> Source:
    """A v1 container's directories."""
    write(tmp_path / "cpu", {"cpu.stat": "nr_periods 9\nnr_throttled 3\nthrottled_time 5000\n"})
    write(
        tmp_path / "cpuacct",
        {
            "cpuacct.usage": "3000\n",
            "cpuacct.stat": "user 50\nsystem 20\n",
        },
    )
    write(
        tmp_path / "memory",
        {
            "memory.stat": "cache 1\nrss 2\nswap 3\ntotal_cache 10\ntotal_rss 20\ntotal_swap 0\n",
            "memory.usage_in_bytes": "35\n",
            "memory.max_usage_in_bytes": "50\n",
            "memory.kmem.usage_in_bytes": "5\n",
            "memory.kmem.max_usage_in_bytes": "6\n",
        },
    )
    return Source(
        Mode.V1, str(tmp_path / "cpu"), str(tmp_path / "cpuacct"), str(tmp_path / "memory")
    )


@pytest.fixture
def v2(tmp_path: Path) -> Source:
    """A v2 container's directory."""
    write(
        tmp_path,
        {
            "cpu.stat": "usage_usec 30\nuser_usec 20\nsystem_usec 10\n"
            "nr_throttled 3\nthrottled_usec 7\n",
            "memory.stat": "anon 20\nfile 10\nkernel 5\n",
            "memory.current": "35\n",
            "memory.peak": "50\n",
            "memory.swap.current": "0\n",
        },
    )
    return Source(Mode.V2, str(tmp_path), str(tmp_path), str(tmp_path))


def test_v1_files_are_read(v1: Source) -> None:
    """On v1 each figure comes from its controller, with the groups below included.

    User and system time come in clock ticks, of which there are 100 a second.
    """
    sample = sampling.sample(v1)
    assert (sample.cpu_ns, sample.user_ns, sample.system_ns) == (3000, 500_000_000, 200_000_000)
    assert (sample.throttled_periods, sample.throttled_ns) == (3, 5000)
    assert sample.memory == {
        "rss": 20,
        "cache": 10,
        "swap": 0,
        "usage": 35,
        "max_usage": 50,
        "kernel_usage": 5,
        "kernel_max_usage": 6,
    }


def test_v2_files_are_read(v2: Source) -> None:
    """On v2 microseconds become nanoseconds."""
    sample = sampling.sample(v2)
    assert (sample.cpu_ns, sample.user_ns, sample.system_ns) == (30_000, 20_000, 10_000)
    assert (sample.throttled_periods, sample.throttled_ns) == (3, 7000)
    assert sample.memory == {
        "rss": 20,
        "cache": 10,
        "swap": 0,
        "usage": 35,
        "max_usage": 50,
        "kernel_usage": 5,
    }


def test_what_a_kernel_lacks_is_not_measured(v2: Source) -> None:
    """A file that is missing leaves its figure out of what is reported as measured."""
    Path(v2.memory, "memory.peak").unlink()
    Path(v2.memory, "memory.swap.current").unlink()
    _, memory = sampling.usage(None, sampling.sample(v2), core_mhz=1000)
    assert set(memory.measured) == {"RSS", "Cache", "Usage", "Kernel Usage"}
    assert memory.max_usage == 0


@pytest.mark.parametrize("mode", [Mode.V1, Mode.V2, Mode.NONE])
def test_a_group_that_is_gone_measures_nothing(mode: Mode) -> None:
    """A container that has ended is no error, only an empty sample."""
    cpu, memory = sampling.usage(None, sampling.sample(Source(mode, "/no", "/no", "/no")), 1000)
    assert cpu.measured == ()
    assert memory.measured == ()


def test_percent_is_of_one_core() -> None:
    """Two cores busy for a second are 200 percent, and as many MHz as two cores have."""
    second = 1_000_000_000
    before = Sample(0, cpu_ns=5, user_ns=5, system_ns=0)
    after = Sample(
        second, cpu_ns=2 * second + 5, user_ns=second + 5, system_ns=second, throttled_periods=1,
        throttled_ns=9,
    )  # fmt: skip
    cpu, _ = sampling.usage(before, after, core_mhz=2500)
    assert cpu.percent == pytest.approx(200)
    assert cpu.user_percent == pytest.approx(100)
    assert cpu.system_percent == pytest.approx(100)
    assert cpu.total_ticks == pytest.approx(5000)
    assert (cpu.throttled_periods, cpu.throttled_time_ns) == (1, 9)
    assert set(cpu.measured) == {
        "System Mode",
        "User Mode",
        "Percent",
        "Total Ticks",
        "Throttled Periods",
        "Throttled Time",
    }


def test_the_first_sample_has_no_percent() -> None:
    """Without a sample before it, or with one that ran backwards, use is 0."""
    first = Sample(100, cpu_ns=50, user_ns=25, system_ns=25)
    assert sampling.usage(None, first, 1000)[0].percent == 0
    assert sampling.usage(first, Sample(200, cpu_ns=10), 1000)[0].percent == 0
    assert sampling.usage(first, Sample(100, cpu_ns=90), 1000)[0].percent == 0


def test_source_follows_the_hierarchy() -> None:
    """A controller that is not mounted has no directory."""
    hierarchy = Hierarchy(Mode.V1, {"memory": "/m", "cpu": "/c"})
    assert sampling.source(hierarchy, "/a/b") == Source(Mode.V1, "/c/a/b", "", "/m/a/b")


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    """What is kept open says what the file says now; one that is missing is not looked for."""
    write(tmp_path, {"a": "1\n"})
    files = CgroupFiles([str(tmp_path / "a"), str(tmp_path / "b")])
    assert files.read() == [b"1\n", b""]
    write(tmp_path, {"a": "22\n", "b": "3\n"})
    assert files.read() == [b"22\n", b""]
    files.close()
    assert files.read() == [b"22\n", b"3\n"]
    files.close()


def test_few_descriptors_are_left_to_others(tmp_path: Path) -> None:
    """In the upper half of the descriptors that a process may have, no file is kept open."""
    write(tmp_path, {"a": "1\n"})
    files = CgroupFiles([str(tmp_path / "a")])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = descriptors()
    os.close(free := os.dup(0))  # the lowest one, which the kernel will give out next
    resource.setrlimit(resource.RLIMIT_NOFILE, (2 * free, hard))
    try:
        assert files.read() == [b"1\n"]
        assert files.read() == [b"1\n"]
        assert descriptors() == before
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert files.read() == [b"1\n"]
    assert len(descriptors()) == len(before) + 1
    files.close()
    assert descriptors() == before


async def test_all_wake_up_at_once(autojump_clock: MockClock) -> None:
    """Whoever waits for samples with one interval goes on with all others, at a steady pace."""
    ticks = Ticks()
    woken: list[float] = []

    async def follow(start_s: float) -> None:
        await trio.sleep(start_s)
        for _ in range(2):
            await ticks.wait_next(10.0)
            woken.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        for start_s in (0.0, 1.0, 4.0, 6.0):
            nursery.start_soon(follow, start_s)
    assert woken == [10, 10, 10, 20, 20, 20, 20, 30]


async def test_the_one_that_sleeps_may_go(autojump_clock: MockClock) -> None:
    """When the stream whose sleep the others wait for is cancelled, they wake up in time."""
    ticks = Ticks()
    woken: list[float] = []

    async def follow() -> None:
        await ticks.wait_next(10.0)
        woken.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        with trio.move_on_after(1):
            async with trio.open_nursery() as doomed:
                doomed.start_soon(follow)
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(follow)
                nursery.start_soon(follow)
                await trio.sleep_forever()
    assert woken == [10, 10]


async def test_no_interval_is_no_endless_loop(autojump_clock: MockClock) -> None:
    """An interval of nothing, or less, is the shortest that there is."""
    ticks = Ticks()
    for interval_s in (0.0, -1.0):
        begun_s = trio.current_time()
        await ticks.wait_next(interval_s)
        assert trio.current_time() - begun_s >= MIN_INTERVAL_S / 2
