"""What reads a tenant's bytes before the start is a process of its own, which a stop ends."""

from __future__ import annotations

import os
import signal
import time
import zipfile
from pathlib import Path

import pytest
import trio

from milo.core import control
from milo.errors import TaskStartError
from milo.host.task_client import TaskClient
from milo.proc import children, comm, start_ticks, this_process
from tests.support import spawners
from tests.support.driver_rig import DriverRig, open_rig
from tests.support.waiting import fail_after, scaled

NEVER_ENDS = """
import time, milo.task.preparer as preparer
preparer.prepare = lambda launch: launch.task_id and time.sleep(1000)  # not in a rehearsal
"""
TASK_PROCESS_KIB = 48 << 10
"""The most that a task process may ever have used; an idle one has some 30 MiB resident."""


def high_water_kib(pid: int) -> int:
    """Return the most memory that a process has had resident."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    raise AssertionError("no VmHWM")


async def preparer_of(rig: DriverRig) -> tuple[int, int]:
    """Return the process ids of the one task process and of its preparer, once it is there."""
    while True:
        for spawner in children(this_process().pid):
            for task in children(spawner):
                for child in children(task):
                    if comm(child) == b"milo-prepare":
                        return task, child
        await trio.sleep(0.01)


async def gone(pid: int) -> None:
    """Wait until a process has ended, which it does a moment after it has told its end."""
    while True:
        if not Path(f"/proc/{pid}").exists():
            return
        await trio.sleep(0.01)


async def test_a_stop_ends_the_preparation(jar_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The task process answers while its preparer is at work, and a stop kills that."""
    spawners.patch(monkeypatch, f"exec({NEVER_ENDS!r})")
    async with open_rig() as rig:
        with fail_after(40):
            failed: list[TaskStartError] = []
            task = rig.task(jar_dir / "hello.jar")

            async def start() -> None:
                with pytest.raises(TaskStartError, match="stopped before it had started") as caught:
                    await rig.registry.start(task.request)
                failed.append(caught.value)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(start)
                supervisor, preparer = await preparer_of(rig)
                (directory,) = rig.state_dir.iterdir()
                client = await TaskClient.connect(
                    str(directory), lambda _: None, role=control.ROLE_OBSERVER
                )
                nursery.start_soon(client.run)
                began_s = time.monotonic()
                assert (await client.status()).phase == "creating"
                await client.stop(signal.SIGTERM, 30)
            assert failed
            assert time.monotonic() - began_s < scaled(10)
            for pid in (supervisor, preparer):
                await gone(pid)
            assert not list(rig.state_dir.iterdir())


async def test_one_that_died_while_it_stood_by_is_replaced(jar_dir: Path) -> None:
    """A task process that waits for its task has a preparer already, which may end meanwhile."""
    async with open_rig() as rig:
        with fail_after(20):
            while not (ready := standing_by(rig)):  # noqa: ASYNC110
                await trio.sleep(0.01)
        standby, preparer = ready
        os.kill(preparer, signal.SIGKILL)
        with fail_after(20):
            while start_ticks(preparer) is not None:  # noqa: ASYNC110
                await trio.sleep(0.01)
        task = rig.task(jar_dir / "hello.jar", args=["stay"])
        await rig.registry.start(task.request)
        assert await rig.supervisor(task) == standby
        await rig.registry.stop(task.id, "SIGTERM", 10)


def standing_by(rig: DriverRig) -> tuple[int, int] | None:
    """Return the task process that waits for its task and its preparer, if they are there."""
    found = [pid for pid in children(rig.spawner.pid) if comm(pid) == b"milo-standby"]
    preparers = [pid for standby in found for pid in children(standby)]
    return (found[0], preparers[0]) if preparers else None


def with_manifest(jar: Path, lines: str) -> None:
    """Add ``lines`` to the main section of the manifest of ``jar``."""
    with zipfile.ZipFile(jar) as old:
        entries = {name: old.read(name) for name in old.namelist()}
    manifest = entries.pop("META-INF/MANIFEST.MF").decode().rstrip("\r\n") + "\r\n"
    with zipfile.ZipFile(jar, "w", zipfile.ZIP_DEFLATED) as new:
        new.writestr("META-INF/MANIFEST.MF", manifest + lines)
        for name, data in entries.items():
            new.writestr(name, data)


async def test_a_large_manifest_costs_the_task_process_nothing(jar_dir: Path) -> None:
    """A manifest of 200,000 lines is read, and the process that stays has never held it."""
    async with open_rig() as rig:
        with fail_after(60):
            task = rig.task(jar_dir / "clock.jar", args=["5", "0"])
            (jar,) = task.local.glob("*.jar")
            with_manifest(jar, "".join(f"A{number}: b\r\n" for number in range(200_000)))
            await rig.registry.start(task.request)
            assert high_water_kib(await rig.supervisor(task)) < TASK_PROCESS_KIB
            await rig.registry.stop(task.id, "SIGKILL", 0)


@pytest.mark.parametrize(
    "lines", ["A: b\n" * 4_000_000, "A: b\n" + " c\n" * 6_000_000], ids=["lines", "folded"]
)
async def test_a_small_jar_that_expands_without_end(jar_dir: Path, lines: str) -> None:
    """Millions of lines in some KB are refused by Milo's limit, in a second or two."""
    async with open_rig() as rig:
        with fail_after(60):
            task = rig.task(jar_dir / "hello.jar")
            (jar,) = task.local.glob("*.jar")
            with_manifest(jar, lines)
            assert jar.stat().st_size < 100_000
            with pytest.raises(TaskStartError, match=r"more than .*, which is Milo's limit"):
                await rig.registry.start(task.request)


async def test_a_long_command_line_is_not_kept(jar_dir: Path) -> None:
    """What the task process and its successors have to know of a job is little."""
    async with open_rig() as rig:
        with fail_after(60):
            args = ["5", "0", *("x" * 100_000 for _ in range(5))]
            task = rig.task(jar_dir / "clock.jar", args=args, jvm_options=["-Dy=" + "y" * 100_000])
            await rig.registry.start(task.request)
            (directory,) = rig.state_dir.iterdir()
            assert (directory / "prepared.json").stat().st_size < 16_384
            await rig.registry.stop(task.id, "SIGKILL", 0)


async def test_nothing_of_a_preparer_stays(jar_dir: Path) -> None:
    """A task that runs has no preparer any more, and its task process holds nothing of it."""
    async with open_rig() as rig:
        with fail_after(40):
            task = rig.task(jar_dir / "clock.jar", args=["5", "0"])
            await rig.registry.start(task.request)
            supervisor = await rig.supervisor(task)
            assert b"milo-prepare" not in {comm(pid) for pid in children(supervisor)}
            held = [path.readlink().name for path in Path(f"/proc/{supervisor}/fd").iterdir()]
            assert not [name for name in held if name in ("local", "secrets", "tmp", "alloc")]
            await rig.registry.stop(task.id, "SIGKILL", 0)
