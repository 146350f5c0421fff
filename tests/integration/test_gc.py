"""`milo gc` on real leftovers: what is shown, what is removed, and what never is."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trio

from milo.cli.main import run_command
from milo.core.report import ExitResult
from milo.proc import start_ticks
from tests.support.driver_rig import DriverRig, Task, cgroups_of, open_rig
from tests.support.pauses import pause_processes
from tests.support.private_mounts import small_tmpfs
from tests.support.waiting import fail_after

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="collecting garbage needs root")


async def gc(rig: DriverRig, *arguments: str, status: int = 0) -> str:
    """Run the command on the rig's state directory; return what it printed."""
    command = [sys.executable, "-m", "milo", "gc", "--state-dir", str(rig.state_dir), *arguments]
    with fail_after(60):
        done = await trio.run_process(
            command, capture_stdout=True, stderr=subprocess.STDOUT, check=False
        )
    assert done.returncode == status, done.stdout.decode()
    return done.stdout.decode()


async def started(rig: DriverRig, task: Task) -> tuple[int, int, Path]:
    """Start ``task``; return the ids of its container and its own process, and its directory."""
    await rig.registry.start(task.request)
    await trio.to_thread.run_sync(task.out.wait_for, b"\n")
    attributes = (await rig.registry.inspect(task.id)).attributes
    pid = int(attributes["container_pid"])
    return pid, await rig.supervisor(task), Path(attributes["state_dir"])


async def until_gone(*pids: int) -> None:
    """Return once the processes have ended."""
    with fail_after(20):
        while any(start_ticks(pid) is not None for pid in pids):  # noqa: ASYNC110
            await trio.sleep(0.02)


def age(directory: Path) -> None:
    """Let everything in ``directory`` have been written an hour ago."""
    then = time.time() - 3600
    for path in (*directory.iterdir(), directory):
        os.utime(path, (then, then), follow_symlinks=False)


async def test_the_living_are_left_alone(jar_dir: Path) -> None:
    """Nothing of a running task, nor the exit of an ended one, is shown or removed."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "stubborn.jar")
        pid, supervisor, directory = await started(rig, task)
        ended = rig.task(jar_dir / "exit42.jar", name="ended")
        await rig.registry.start(ended.request)
        await rig.registry.wait(ended.id)
        age(directory)
        assert "Nothing to remove" in await gc(rig, "--yes")
        await rig.restart()  # nor when no driver holds them
        assert "Nothing to remove" in await gc(rig, "--yes")
        assert start_ticks(pid) is not None and start_ticks(supervisor) is not None
        assert len(list(rig.state_dir.iterdir())) == 2


async def test_a_task_without_its_allocation(jar_dir: Path) -> None:
    """Its container, cgroup and directory are shown, and are gone after --yes."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "stubborn.jar")
        pid, supervisor, directory = await started(rig, task)
        rig.pause()
        os.kill(supervisor, signal.SIGKILL)
        shutil.rmtree(task.request.alloc_dir)
        shown = await gc(rig)
        assert f"orphan   {directory}: task 'app' of allocation {task.request.alloc_id}" in shown
        assert f"its application is running (process {pid})" in shown and "milo gc --yes" in shown
        assert start_ticks(pid) is not None and directory.exists()
        assert f"removed  {directory}" in await gc(rig, "--yes")
        await until_gone(pid)
        assert not directory.exists()
        assert "Nothing to remove" in await gc(rig)
        await rig.restart()


async def test_a_task_process_that_stands_still(jar_dir: Path) -> None:
    """A task process that cannot end by itself is ended, with its container."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "stubborn.jar")
        pid, supervisor, directory = await started(rig, task)
        await rig.restart()
        os.kill(supervisor, signal.SIGSTOP)
        shutil.rmtree(task.request.alloc_dir)
        assert f"its task process {supervisor} is running" in await gc(rig)
        await gc(rig, "--yes")
        await until_gone(pid, supervisor)
        assert not directory.exists()


async def test_neither_process_nor_exit_record(jar_dir: Path) -> None:
    """A task that was killed with its process is kept for a minute, and then an orphan."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "stubborn.jar")
        pid, supervisor, directory = await started(rig, task)
        rig.kill_all(supervisor, pid)
        await until_gone(pid, supervisor)
        await rig.restart()
        shown = await gc(rig, "--yes")
        assert f"kept     {directory}" in shown and "less than 60 s ago" in shown
        age(directory)
        assert "left no exit record" in await gc(rig, "--yes")
        assert not directory.exists()


async def test_an_exit_record_goes_with_its_allocation(jar_dir: Path) -> None:
    """What DestroyTask leaves is kept while the allocation is there, and no longer."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "exit42.jar")
        await rig.registry.start(task.request)
        assert await rig.registry.wait(task.id) == ExitResult(exit_code=42)
        await rig.registry.destroy(task.id, force=False)
        (directory,) = rig.state_dir.iterdir()
        age(directory)
        assert "Nothing to remove" in await gc(rig, "--yes")
        shutil.rmtree(task.request.alloc_dir)
        shown = await gc(rig)
        assert "1 exit record of removed allocations: normal" in shown
        assert f"orphan   {directory}" not in shown
        assert "removed  1 exit record" in await gc(rig, "--yes")
        assert not directory.exists()


async def test_a_container_without_a_state_directory(jar_dir: Path) -> None:
    """Nobody can recover it, so it is killed, and its cgroups are removed."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "stubborn.jar")
        pid, supervisor, directory = await started(rig, task)
        groups = cgroups_of(rig.names())
        rig.kill_all(supervisor)
        await until_gone(supervisor)
        shutil.rmtree(directory)
        pids = ", ".join(map(str, sorted([pid, *pause_processes(directory)])))
        words = f"/milo-{directory.name}: container without a state directory (processes {pids})"
        assert f"orphan   {words}" in await gc(rig)
        assert start_ticks(pid) is not None
        assert f"removed  {words}" in await gc(rig, "--yes")
        await until_gone(pid)
        assert not [path for path in groups if path.exists()]
        await rig.restart()


async def test_a_pause_process_alone(jar_dir: Path) -> None:
    """One that could not see its application's end is the container's all the same."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "stubborn.jar")
        pid, supervisor, directory = await started(rig, task)
        [pause] = pause_processes(directory)
        os.kill(pause, signal.SIGSTOP)
        rig.kill_all(supervisor)
        await until_gone(supervisor)
        os.kill(pid, signal.SIGKILL)
        await until_gone(pid)
        shutil.rmtree(directory)
        words = f"/milo-{directory.name}: container without a state directory (processes {pause})"
        assert f"orphan   {words}" in await gc(rig)
        assert f"removed  {words}" in await gc(rig, "--yes")
        await until_gone(pause)
        await rig.restart()


async def test_a_task_process_without_a_state_directory(jar_dir: Path) -> None:
    """One that stands still is ended when its log FIFOs are gone, and kept until then."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "clock.jar", args=["20", "0"])
        pid, supervisor, directory = await started(rig, task)
        await rig.restart()
        os.kill(supervisor, signal.SIGSTOP)
        shutil.rmtree(directory)
        assert f"kept     process {supervisor}" in await gc(rig, "--yes")
        shutil.rmtree(task.request.alloc_dir)
        shown = await gc(rig, "--yes")
        assert (
            f"removed  {supervisor}: task process whose state directory {directory} is gone"
            in shown
        )
        await until_gone(pid, supervisor)
        assert "Nothing to remove" in await gc(rig)


async def test_another_state_directory_is_not_ours(jar_dir: Path) -> None:
    """Containers of a Milo with another state directory are neither shown nor touched."""
    async with open_rig() as rig, open_rig() as other:
        task = other.task(jar_dir / "stubborn.jar")
        pid, supervisor, _ = await started(other, task)
        rig.state_dir.mkdir(mode=0o700)
        assert "Nothing to remove" in await gc(rig, "--yes")
        assert start_ticks(pid) is not None and start_ticks(supervisor) is not None


async def test_a_mount_in_an_orphan_is_detached_not_emptied(tmp_path: Path, jar_dir: Path) -> None:
    """What somebody mounted inside of an orphan is unmounted, and its content is left alone."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "exit42.jar")
        await rig.registry.start(task.request)
        await rig.registry.wait(task.id)
        (directory,) = rig.state_dir.iterdir()
        shutil.rmtree(task.request.alloc_dir)
        precious = tmp_path / "precious"
        with small_tmpfs(precious):
            (precious / "file").write_text("precious")
            (directory / "inside").mkdir()
            bind = ["mount", "--bind", str(precious), f"{directory}/inside"]
            subprocess.run(bind, check=True)  # noqa: ASYNC221 - here, in this mount namespace
            shown = await gc(rig, "--yes")
            assert f"removed  {directory}/inside: an unused mount" in shown
            assert not directory.exists()
            assert (precious / "file").read_text() == "precious"


async def test_an_empty_cgroup(jar_dir: Path) -> None:
    """A cgroup like a container's, without process and directory, is removed when it is old."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "stubborn.jar")
        await started(rig, task)
        (first, *_) = cgroups_of(rig.names())
        empty = first.with_name("milo-00000000deadbeef")
        empty.mkdir()
        try:
            assert empty.name not in await gc(rig, "--yes")  # somebody may be about to use it
            os.utime(empty, (0, 0))
            assert f"removed  /{empty.name}: an empty cgroup" in await gc(rig, "--yes")
            assert not empty.exists() and first.exists()
        finally:
            if empty.exists():
                empty.rmdir()


def test_others_see_their_own_runs_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without root nothing of root's is looked at: tests/integration/test_rootless.py has more."""
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    assert run_command(["gc"]) == 0
    assert capsys.readouterr().out == "You have nothing to remove\n"
