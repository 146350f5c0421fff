"""Whom the kernel has killed for memory, told by when it did."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from milo import cgroup_files, proc
from milo.core.describe import exit_sentence, kills_sentence
from milo.core.java.heap import MIB
from milo.core.records import ExitRecord, MemoryPeak, ProcessId
from milo.host.managed import exit_result
from milo.host.task_state import Ended
from milo.process_signals import is_ending
from milo.task.oci import oom_kills
from milo.task.oci.oom_kills import QUIET_S, RETRY_S, OomKills

GROUP = "/nomad/a1.web/milo-1"


class Kernel:
    """Kills at command, and gives notice of it."""

    def __init__(self) -> None:
        self.count = 0
        self.notices = -1
        self.counting: list[int] = []
        """What it says the next times, before it says `count`."""

    def open_notices(self, path: str) -> int:
        assert path == GROUP
        self.notices = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        return os.dup(self.notices)

    def kill(self, number: int = 1) -> None:
        self.count += number
        self.notice()

    def notice(self) -> None:
        os.eventfd_write(self.notices, 1)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    """A kernel whose counts and notices are the test's."""
    made = Kernel()
    monkeypatch.setattr(cgroup_files, "oom_kills", lambda path: made.count)
    monkeypatch.setattr(cgroup_files, "open_oom_notices", made.open_notices)
    yield made
    if made.notices >= 0:
        os.close(made.notices)


class Watched:
    """A container's kills, watched while the test goes on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.dying = False
        self.told: list[int] = []
        monkeypatch.setattr(oom_kills, "is_ending", lambda process: self.dying)
        self.kills = OomKills(GROUP, ProcessId(2**22, 1))

    def log(self, level: str, text: str) -> None:
        raise AssertionError(text)


@pytest.fixture
async def watched(kernel: Kernel, monkeypatch: pytest.MonkeyPatch, nursery: Any) -> Watched:
    made = Watched(monkeypatch)
    nursery.start_soon(made.kills.watch, made.told.append, made.log)
    await trio.testing.wait_all_tasks_blocked()
    return made


async def test_a_helpers_kill_is_told_and_is_not_the_applications(
    kernel: Kernel, watched: Watched, autojump_clock: MockClock
) -> None:
    """After a kill that it lived through, the application's SIGKILL is somebody else's."""
    kernel.kill()
    await trio.sleep(5)
    assert watched.told == [1]
    assert not watched.kills.is_applications_own(signal.SIGKILL, count=1)
    assert watched.kills.is_applications_own(signal.SIGKILL, count=2)
    assert not watched.kills.is_applications_own(signal.SIGTERM, count=2)


async def test_the_applications_kill_is_its_own(
    kernel: Kernel, watched: Watched, autojump_clock: MockClock
) -> None:
    """A kill after which the application is dying is not told while it runs, but its end."""
    watched.dying = True
    kernel.kill()
    await trio.sleep(5)
    assert watched.told == []
    assert watched.kills.is_applications_own(signal.SIGKILL, count=1)


async def test_a_kill_that_is_counted_a_moment_before(
    kernel: Kernel, watched: Watched, autojump_clock: MockClock
) -> None:
    """The kernel counts first and kills then: what is counted has to be lived through."""
    kernel.kill()
    await trio.sleep(0.7)  # it has been counted, and the look whether the application lives is due
    watched.dying = True
    await trio.sleep(5)
    assert watched.told == [] and watched.kills.is_applications_own(signal.SIGKILL, count=1)


async def test_a_notice_without_a_kill_says_nothing(
    kernel: Kernel, watched: Watched, autojump_clock: MockClock
) -> None:
    """v2 gives notice each time that a group reaches its limit."""
    for _ in range(10):
        kernel.notice()
        await trio.sleep(1)
    assert watched.told == []


async def test_many_kills_are_few_events(
    kernel: Kernel, watched: Watched, autojump_clock: MockClock
) -> None:
    """Nomad keeps ten events of a task: kills in a row are told together, the first at once."""
    for _ in range(3 * int(QUIET_S)):
        kernel.kill()
        await trio.sleep(1)
    assert watched.told[0] == 1 and 3 <= len(watched.told) <= 4
    assert sum(watched.told) <= kernel.count
    assert not watched.kills.is_applications_own(signal.SIGKILL, count=kernel.count - 2)


async def test_notices_that_were_used_up_are_had_later(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock, nursery: Any
) -> None:
    """Of inotify instances root has 128 by default: it is said once, and tried again."""
    free = False

    def open_notices(path: str) -> int:
        if not free:
            raise OSError(errno.EMFILE, "Too many open files")
        return kernel.open_notices(path)

    monkeypatch.setattr(cgroup_files, "open_oom_notices", open_notices)
    monkeypatch.setattr(oom_kills, "is_ending", lambda process: False)
    kills = OomKills(GROUP, ProcessId(2**22, 1))
    told: list[int] = []
    said: list[str] = []
    nursery.start_soon(kills.watch, told.append, lambda level, text: said.append(text))
    await trio.sleep(10 * RETRY_S)
    assert len(said) == 1 and "sysctl fs.inotify.max_user_instances" in said[0]
    kernel.count = 1
    free = True
    await trio.sleep(2 * RETRY_S)
    assert told == [1], "a kill before the notices is told, too"
    kernel.kill()
    await trio.sleep(QUIET_S)
    assert not kills.is_applications_own(signal.SIGKILL, count=2)


async def test_without_notices_the_end_tells(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the kernel gives none, the count at the end is all there is."""

    def refuse(path: str) -> int:
        raise OSError

    monkeypatch.setattr(cgroup_files, "open_oom_notices", refuse)
    kills = OomKills(GROUP, ProcessId(2**22, 1))
    await kills.watch(lambda count: None, lambda level, text: None)
    assert kills.is_applications_own(signal.SIGKILL, count=1)


def test_a_successor_takes_earlier_kills_for_others(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was counted before, and the application lives, has not ended it."""
    kernel.count = 3
    kills = OomKills(GROUP, proc.this_process())
    assert not kills.is_applications_own(signal.SIGKILL, count=3)
    assert kills.is_applications_own(signal.SIGKILL, count=4)
    assert OomKills(GROUP, ProcessId(2**22, 1)).is_applications_own(signal.SIGKILL, count=3)
    assert OomKills("", proc.this_process()).count() == 0


def test_a_process_is_ending_from_its_sigkill_on() -> None:
    """A process that cannot act on its SIGKILL yet is as good as dead, and a free number too."""
    child = subprocess.Popen(["/bin/sleep", "1000"])
    identity = proc.identify(child.pid)
    assert identity is not None and not is_ending(identity)
    assert is_ending(ProcessId(child.pid, identity.start_ticks + 1))
    child.kill()
    assert is_ending(identity)
    child.wait()
    assert is_ending(identity)


@pytest.mark.parametrize(
    ("record", "reported", "words"),
    [
        (ExitRecord(0), False, "completed successfully"),
        (ExitRecord(0, 9, oom_killed=True), True, "killed by the kernel"),
        (ExitRecord(0, 9, oom_killed=True, oom_kills=1), True, "(OOM)"),
        (
            ExitRecord(0, 9, oom_killed=True, oom_kills=3),
            True,
            "(OOM); the kernel killed 2 other processes of the task for memory",
        ),
        (
            ExitRecord(137, oom_kills=1),
            True,
            "exit code 137; the kernel killed another process of the task for memory",
        ),
        (
            ExitRecord(0, 9, oom_kills=1, stop_killed=True),
            False,
            "by SIGKILL (signal 9); the kernel killed another process of the task for memory",
        ),
        (ExitRecord(0, 9, oom_kills=1), True, "unexpectedly by SIGKILL"),
    ],
)
def test_kills_in_words_and_for_nomad(record: ExitRecord, reported: bool, words: str) -> None:
    """Any kill is reported, as by Nomad's drivers, but a stop's SIGKILL is never the kernel's."""
    assert exit_result(Ended(record, None, None)).oom_killed is reported
    assert words in exit_sentence(record)
    assert ("killed by the kernel because" in exit_sentence(record)) is record.oom_killed


def test_the_event_of_a_kill() -> None:
    """It tells how many, and the limit where that is known."""
    assert kills_sentence(1, 64 * MIB) == (
        "The kernel killed a process of the task for memory (limit 64 MiB)"
    )
    assert kills_sentence(3, 0) == "The kernel killed 3 processes of the task for memory"
    memory = MemoryPeak(64 * MIB, 64 * MIB)
    assert "64 MiB" in exit_sentence(ExitRecord(0, 9, oom_killed=True, memory=memory))
