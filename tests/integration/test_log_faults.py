"""What a log collector, a file system and a task can do to the log path of a real task."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from milo.core.config.plugin_options import PluginOptions
from milo.core.report import ExitResult, TaskState
from milo.proc import start_ticks
from tests.support.collector import Collector
from tests.support.driver_rig import DriverRig, Task, open_rig
from tests.support.waiting import fail_after, move_on_after, scaled

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")

MIB = 1 << 20


class Logged:
    """A task whose FIFOs are read by collectors in the test's hands."""

    def __init__(self, rig: DriverRig, jar: Path, args: list[str], **config: Any) -> None:
        self.rig = rig
        self.task: Task = rig.task(jar, args=args, readers=False, **config)
        self.out = Collector(self.task.request.stdout_path)
        self.err = Collector(self.task.request.stderr_path)

    async def counter(self, name: str) -> float:
        """Return one of InspectTask's counters, e.g. ``stdout.bytes_moved``."""
        while True:
            attributes = (await self.rig.registry.inspect(self.task.id)).attributes
            if name in attributes and "status_age_seconds" not in attributes:
                return float(attributes[name])
            await trio.sleep(0.02)

    async def until(self, condition: Callable[[], bool], what: str, timeout_s: float = 20) -> None:
        """Return once ``condition`` holds."""
        with move_on_after(timeout_s):
            while not condition():  # noqa: ASYNC110
                await trio.sleep(0.02)
        assert condition(), f"{what}; events: {self.rig.texts(self.task)}"

    async def until_event(self, text: str) -> None:
        """Return once an event of the task holds ``text``."""
        await self.until(
            lambda: any(text in line for line in self.rig.texts(self.task)), f"no event {text!r}"
        )

    def log_events(self) -> list[str]:
        """Return the task's events about its logs."""
        words = ("Log collection", "Output on", "were dropped", "FIFO")
        return [t for t in self.rig.texts(self.task) if any(word in t for word in words)]

    async def stop(self) -> ExitResult:
        """Stop the task, and return its exit."""
        await self.rig.registry.stop(self.task.id, "SIGTERM", 10)
        return await self.rig.registry.wait(self.task.id)


@contextlib.asynccontextmanager
async def logged(
    jar: Path, args: list[str], options: PluginOptions | None = None, **config: Any
) -> AsyncIterator[Logged]:
    """Run a driver with one task; 60 s at most."""
    async with open_rig(options) as rig:
        with fail_after(60):
            one = Logged(rig, jar, args, **config)
            try:
                await rig.registry.start(one.task.request)
                yield one
            finally:
                one.out.close()
                one.err.close()


def numbers(data: bytes | bytearray) -> list[int]:
    """Return the numbers of clock.jar's lines."""
    return [int(line.split()[1]) for line in bytes(data).decode().splitlines()]


async def test_reader_gone_and_back(jar_dir: Path) -> None:
    """A reader that goes away and comes back misses nothing; both are told, and only once."""
    async with logged(jar_dir / "clock.jar", ["5", "0"]) as one:
        for number in range(6):
            await one.out.read_until(b"tick %d " % (number * 40 + 20))
            one.out.close()
            if number == 0:
                await one.until_event("Log collection of stdout stopped: its reader is gone")
            await trio.sleep(0.1)
            one.out.open()
        await one.out.read_until(b"tick 300 ")
        await one.until_event("Log collection of stdout goes on")
        assert await one.counter("stdout.stalled_seconds") > 0.3
        assert await one.counter("stdout.bytes_dropped") == 0
        assert (await one.stop()).exit_code == 143
        await one.out.read_to_the_end()
        assert numbers(one.out.data) == list(range(len(numbers(one.out.data))))
        assert await one.counter("stdout.bytes_moved") == len(one.out.data)
        assert len(one.log_events()) <= 4, one.log_events()


async def test_stuck_reader_blocks_for_ever_if_asked_to(jar_dir: Path) -> None:
    """With log_block_timeout 0 the application waits for a stuck reader, and nothing is lost."""
    total = 6 * MIB
    async with logged(
        jar_dir / "volume.jar", [str(total)], log_overflow="block", log_block_timeout="0s"
    ) as one:
        await one.until_event("Log collection of stdout has read nothing for")
        before = await one.counter("stdout.bytes_moved")
        assert before < total
        status = await one.rig.registry.inspect(one.task.id)
        assert status.state is TaskState.RUNNING
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.out.read_to_the_end)
            nursery.start_soon(one.err.read_to_the_end)
        assert await one.rig.registry.wait(one.task.id) == ExitResult()
        assert (len(one.out.data), len(one.err.data)) == (total, total)
        assert await one.counter("stdout.bytes_moved") == total
        assert await one.counter("stdout.bytes_dropped") == 0
        assert await one.counter("stdout.stalled_seconds") > 4
        assert len(one.log_events()) <= 4, one.log_events()


async def test_stuck_reader_costs_output_after_the_timeout(jar_dir: Path) -> None:
    """After log_block_timeout a dead collector no longer stops the application; all is counted."""
    total = 20 * MIB
    async with logged(
        jar_dir / "volume.jar", [str(total)], log_overflow="block", log_block_timeout="1s"
    ) as one:
        begun = time.monotonic()
        assert await one.rig.registry.wait(one.task.id) == ExitResult()
        # 1 s until it drops, and at the end 5 s in which nothing moves
        assert 1 < time.monotonic() - begun < scaled(25)
        await one.until_event("Output on stdout is thrown away from now on")
        await one.until_event("of stdout were dropped")
        for name, collector in (("stdout", one.out), ("stderr", one.err)):
            await collector.read_to_the_end()
            moved = await one.counter(f"{name}.bytes_moved")
            assert len(collector.data) == moved
            assert moved + await one.counter(f"{name}.bytes_dropped") == total
        assert len(one.log_events()) <= 8, one.log_events()


async def test_drop_never_waits(jar_dir: Path) -> None:
    """With log_overflow = "drop" the application never waits; what is lost is counted."""
    total = 40 * MIB
    async with logged(jar_dir / "volume.jar", [str(total)], log_overflow="drop") as one:
        pid = int((await one.rig.registry.inspect(one.task.id)).attributes["container_pid"])
        begun = time.monotonic()
        await one.until(lambda: start_ticks(pid) is None, "the application waits")
        assert time.monotonic() - begun < scaled(15)
        assert await one.rig.registry.wait(one.task.id) == ExitResult()
        await one.out.read_to_the_end()
        moved = await one.counter("stdout.bytes_moved")
        dropped = await one.counter("stdout.bytes_dropped")
        assert moved == len(one.out.data) and moved + dropped == total
        assert dropped > total // 2
        await one.until_event("of stdout were dropped")
        assert len(one.log_events()) <= 8, one.log_events()


async def test_reader_that_wakes_up_ends_the_dropping(jar_dir: Path) -> None:
    """Once a stuck reader reads again it gets the latest output, and how much it missed is told."""
    async with logged(jar_dir / "volume.jar", [str(1 << 34)], log_overflow="drop") as one:
        await one.until_event("Output on stdout is thrown away from now on")
        with trio.move_on_after(1):
            await one.out.read_until(b"never there")
        await one.until_event("of stdout were dropped")
        before = await one.counter("stdout.bytes_moved")
        while await one.counter("stdout.bytes_moved") <= before:
            with trio.move_on_after(0.2):
                await one.out.read_until(b"never there")
        assert len(one.log_events()) <= 8, one.log_events()


async def test_fifo_replaced(jar_dir: Path) -> None:
    """When the path names another FIFO the pump changes over and takes along what was unread."""
    async with logged(jar_dir / "clock.jar", ["5", "0"]) as one:
        path = Path(one.task.request.stdout_path)
        await one.out.read_until(b"tick 20 ")
        one.out.close()
        path.unlink()
        os.mkfifo(path, 0o600)
        await trio.sleep(0.3)
        one.out.open()
        await one.out.read_until(b"tick 150 ")
        assert (await one.stop()).exit_code == 143
        await one.out.read_to_the_end()
        assert numbers(one.out.data) == list(range(len(numbers(one.out.data))))
        assert len(one.log_events()) <= 3, one.log_events()


def _symlink_to_file(path: Path, victim: Path) -> None:
    victim.write_text("precious")
    path.symlink_to(victim)


def _symlink_to_fifo(path: Path, victim: Path) -> None:
    os.mkfifo(victim, 0o600)
    path.symlink_to(victim)


def _regular_file(path: Path, victim: Path) -> None:
    victim.write_text("precious")
    os.link(victim, path)


def _nothing(path: Path, victim: Path) -> None:
    victim.write_text("precious")


@pytest.mark.parametrize(
    ("swap", "words"),
    [
        (_symlink_to_file, "it is a symlink"),
        (_symlink_to_fifo, "it is a symlink"),
        (_regular_file, "it is not a FIFO but a regular file"),
        (_nothing, "it does not exist"),
    ],
)
async def test_fifo_swapped(jar_dir: Path, swap: Callable[[Path, Path], None], words: str) -> None:
    """What a task puts in its FIFO's place is never written to, is told once, and passes."""
    async with logged(jar_dir / "clock.jar", ["5", "0"]) as one:
        path = Path(one.task.request.stdout_path)
        victim = one.rig.base / "victim"
        await one.out.read_until(b"tick 20 ")
        one.out.close()
        path.rename(path.with_name("kept"))
        swap(path, victim)
        guard = os.open(victim, os.O_RDONLY | os.O_NONBLOCK)  # a reader, if it is a FIFO
        try:
            await one.until_event(f"The FIFO of stdout cannot be opened: {words}")
            await trio.sleep(0.6)
            assert os.read(guard, 100) in (b"precious", b"")
        finally:
            os.close(guard)
        path.unlink(missing_ok=True)
        path.with_name("kept").rename(path)
        one.out.open()
        await one.out.read_until(b"tick 200 ")
        assert (await one.stop()).exit_code == 143
        await one.out.read_to_the_end()
        assert numbers(one.out.data) == list(range(len(numbers(one.out.data))))
        assert len(one.log_events()) <= 4, one.log_events()


async def test_log_directory_swapped(jar_dir: Path, tmp_path: Path) -> None:
    """A symlink in the place of the log directory is not followed either."""
    async with logged(jar_dir / "clock.jar", ["5", "0"]) as one:
        path = Path(one.task.request.stdout_path)
        os.mkfifo(tmp_path / path.name, 0o600)
        await one.out.read_until(b"tick 20 ")
        one.out.close()
        logs = path.parent
        logs.rename(logs.with_name("kept"))
        logs.symlink_to(tmp_path)
        elsewhere = os.open(tmp_path / path.name, os.O_RDONLY | os.O_NONBLOCK)
        try:
            await one.until_event("is a symlink or no directory, and is not followed")
            await trio.sleep(0.6)
            assert os.read(elsewhere, 100) == b""
        finally:
            os.close(elsewhere)
        logs.unlink()
        logs.with_name("kept").rename(logs)
        one.out.open()
        await one.out.read_until(b"tick 200 ")
        assert numbers(one.out.data)[:201] == list(range(201))


# ---- a splice that blocks ---------------------------------------------------------------

CRUN = """\
#!/bin/sh
# The real crun, but for the task whose arguments ask for the stuck writer.
command= bundle= pid=
for word in "$@"; do
    case "$word" in
        --bundle=*) bundle=${{word#--bundle=}} ;;
        --pid-file=*) pid=${{word#--pid-file=}} ;;
        create | start | delete | kill) command=$word ;;
        milo-*) id=$word ;;
    esac
done
if [ "$command" = create ] && grep -q STUCK_WRITER "$bundle/config.json"; then
    touch "{directory}/$id"
    # In the container's own mounts, which Milo compares with what it has checked.
    unshare -m {python} {stuck_root} "$bundle" {writer} "{directory}/$id.ready" &
    echo $! >"$pid"
    until [ -e "{directory}/$id.ready" ] || ! kill -0 $!; do sleep 0.01; done
    exit 0
fi
[ -e "{directory}/$id" ] && exit 0
exec {crun} "$@"
"""


@pytest.fixture
def stuck_crun(tmp_path: Path) -> Iterator[Path]:
    """Yield a crun that plays the stuck writer for some tasks; skips where none can be."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler (cc) here")
    writer = tmp_path / "stuck-writer"
    source = Path(__file__).parents[1] / "support/stuck_writer.c"
    subprocess.run([compiler, "-O1", "-o", writer, source, "-lpthread"], check=True)
    probe = subprocess.run([writer, "probe"], capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"this host does not permit userfaultfd: {probe.stdout.strip()}")
    crun = tmp_path / "crun"
    crun.write_text(
        CRUN.format(
            directory=tmp_path,
            writer=writer,
            crun=shutil.which("crun"),
            python=sys.executable,
            stuck_root=Path(__file__).parents[1] / "support/stuck_root.py",
        )
    )
    crun.chmod(0o755)
    yield crun


async def block(one: Logged) -> int:
    """Have the stuck writer block the splice of its own pump; return its process id.

    The pump is stopped until the writer waits: else it may have spliced before that, and wait for
    more in peace, above all on one processor.
    """
    await one.out.read_until(b"running")
    pid = int((await one.rig.registry.inspect(one.task.id)).attributes["container_pid"])
    supervisor = await one.rig.supervisor(one.task)
    os.kill(supervisor, signal.SIGSTOP)
    try:
        await one.until(lambda: _state(supervisor) == "T", "its pump is not stopped")
        assert _threads(pid) == 3
        os.kill(pid, signal.SIGUSR1)
        await one.until(lambda: _threads(pid) == 2, "the writer does not wait")
    finally:
        os.kill(supervisor, signal.SIGCONT)
    await one.until(lambda: _state(supervisor) == "D", "its pump does not block")
    return pid


def _threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.alone
async def test_a_splice_that_blocks_is_one_tasks_own(jar_dir: Path, stuck_crun: Path) -> None:
    """A task that blocks its own pump in the kernel holds up no other task and no RPC."""
    options = PluginOptions(crun_path=str(stuck_crun))
    async with logged(jar_dir / "hello.jar", ["STUCK_WRITER"], options) as one:
        registry = one.rig.registry
        other = one.rig.task(jar_dir / "clock.jar", args=["5", "0"], name="other")
        await registry.start(other.request)
        pid = await block(one)
        slowest = 0.0
        for number in range(100, 300, 20):
            await trio.to_thread.run_sync(other.out.wait_for, b"tick %d " % number)
            begun = time.monotonic()
            status = await registry.inspect(other.id)
            assert status.state is TaskState.RUNNING
            # its own, too: with what was known before
            await registry.inspect(one.task.id)
            await registry.signal(other.id, "SIGCONT")
            slowest = max(slowest, time.monotonic() - begun)
        assert slowest < 1.0
        third = one.rig.task(jar_dir / "exit42.jar", name="third")
        await registry.start(third.request)
        assert (await registry.wait(third.id)).exit_code == 42
        await registry.stop(other.id, "SIGTERM", 10)
        assert (await registry.wait(other.id)).exit_code == 143
        await registry.destroy(other.id, force=False)
        os.kill(pid, signal.SIGUSR2)
        await one.out.read_until(b"moved on")
        assert await one.stop() == ExitResult(exit_code=7)


@pytest.mark.parametrize("how", ["stop", "destroy"])
async def test_a_blocked_task_can_be_stopped(
    jar_dir: Path, stuck_crun: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """StopTask and DestroyTask end also a task whose own process is stuck in the kernel."""
    import milo.host.stopping as stopping
    import milo.host.task_client as task_client

    monkeypatch.setattr(stopping, "PATIENCE_S", 1.0)
    monkeypatch.setattr(task_client, "ANSWER_TIMEOUT_S", 1.0)
    options = PluginOptions(crun_path=str(stuck_crun))
    async with logged(jar_dir / "hello.jar", ["STUCK_WRITER"], options) as one:
        pid = await block(one)
        supervisor = await one.rig.supervisor(one.task)
        if how == "stop":
            await one.rig.registry.stop(one.task.id, "SIGINT", 0.5)
            assert await one.rig.registry.wait(one.task.id) == ExitResult(signal=9)
        await one.rig.registry.destroy(one.task.id, force=True)
        await one.until(lambda: start_ticks(pid) is None, "the application stays")
        await one.until(lambda: start_ticks(supervisor) is None, "its own process stays")
