"""Process 1 of a container's PID namespace: what it is for the application, and how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import attrs
import pytest
import trio

from milo.core.config.plugin_options import PluginOptions
from milo.core.launch import Network
from milo.core.records import Handle, decode, short_id
from milo.core.report import ExitResult
from milo.errors import TaskStartError
from milo.proc import start_ticks
from tests.support import fake_crun, networks, scripted_java
from tests.support.driver_rig import DriverRig, Task, open_rig
from tests.support.pauses import pause_processes
from tests.support.userns import WITH_AND_WITHOUT
from tests.support.waiting import fail_after

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")

EVERYTHING = PluginOptions(
    allow_root=True,
    allow_caps=("all",),
    allow_caps_with_host_namespaces=("all",),
    allow_seccomp_profiles=("unconfined",),
)
ROOTFS = pytest.mark.parametrize("rootfs", ["host", "minimal"])


@contextlib.asynccontextmanager
async def scripted(
    tmp_path: Path, script: str, plugin: PluginOptions | None = None
) -> AsyncIterator[DriverRig]:
    """Run a driver in which ``script`` is what every JAR does."""
    home = scripted_java.make(tmp_path / "jdk", script)
    async with open_rig(attrs.evolve(plugin or PluginOptions(), java_home=str(home))) as rig:
        yield rig


async def started(rig: DriverRig, task: Task, line: bytes = b"running") -> tuple[int, int]:
    """Start ``task``, wait for ``line``; return its process and its pause process, on the host."""
    await rig.registry.start(task.request)
    await trio.to_thread.run_sync(task.out.wait_for, line)
    attributes = (await rig.registry.inspect(task.id)).attributes
    [pause] = pause_processes(state_dir(rig, task))
    return int(attributes["container_pid"]), pause


def state_dir(rig: DriverRig, task: Task) -> str:
    return str(rig.state_dir / short_id(task.id))


async def until_gone(*pids: int) -> None:
    """Return once all of these processes have ended."""
    with fail_after(20):
        while any(start_ticks(pid) is not None for pid in pids):  # noqa: ASYNC110
            await trio.sleep(0.02)


# ---- what the application has of it -------------------------------------------------------


@WITH_AND_WITHOUT
@ROOTFS
async def test_the_jvm_is_process_2(jar_dir: Path, userns: bool, rootfs: str) -> None:
    """The JVM has a number that is not 1, and its exact end."""
    plugin = PluginOptions(userns=userns, rootfs=rootfs)
    async with open_rig(plugin) as rig:
        task = rig.task(jar_dir / "dies.jar", args=["exit"])
        await rig.registry.start(task.request)
        assert await rig.registry.wait(task.id) == ExitResult(exit_code=3)
        await task.read()
        assert task.out.text.startswith(b"pid 2\n")


@pytest.mark.parametrize(
    ("how", "options", "expected"),
    [
        ("9", [], 9),
        ("6", [], 6),
        ("segv", [], 6),
        ("oom", ["-Xmx32m", "-XX:OnOutOfMemoryError=kill -9 %p"], 9),
        ("oom", ["-Xmx32m", "-XX:+CrashOnOutOfMemoryError"], 6),
    ],
    ids=["kill", "abort", "fault", "on-oom", "crash-on-oom"],
)
async def test_an_end_by_a_signal_is_one(
    jar_dir: Path, how: str, options: list[str], expected: int
) -> None:
    """What ends a JVM on a host ends it in here: kill -9 from inside, a fault, an abort."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "dies.jar", args=[how], jvm_options=options)
        await rig.registry.start(task.request)
        with fail_after(60):
            assert await rig.registry.wait(task.id) == ExitResult(signal=expected)


async def test_sigterm_has_its_default_effect_under_xrs(jar_dir: Path) -> None:
    """With -Xrs the JVM leaves SIGTERM to the kernel, which ends it at once."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "dies.jar", args=["wait"], jvm_options=["-Xrs"])
        await started(rig, task, b"pid 2\n")
        with fail_after(20):
            await rig.registry.stop(task.id, "SIGTERM", 600)
            assert await rig.registry.wait(task.id) == ExitResult(signal=15)


@WITH_AND_WITHOUT
async def test_no_zombie_stays(jar_dir: Path, tmp_path: Path, userns: bool) -> None:
    """What an application leaves behind is reaped, until only itself and process 1 are there."""
    script = (
        "for i in 1 2 3 4 5; do sh -c 'true & exec sleep 0.01 &'; done;"
        "while set -- /proc/[0-9]*; [ $# -gt 2 ]; do sleep 0.01; done; echo running; sleep 600"
    )
    async with scripted(tmp_path, script, PluginOptions(userns=userns)) as rig:
        await started(rig, rig.task(jar_dir / "hello.jar"))


async def test_the_hosts_pid_namespace_has_none(jar_dir: Path, tmp_path: Path) -> None:
    """With pid_mode = "host" there is no pause process, and the end is exact as well."""
    plugin = PluginOptions(allow_host_namespaces=True)
    async with scripted(tmp_path, "echo running; kill -9 $$", plugin) as rig:
        task = rig.task(jar_dir / "hello.jar", pid_mode="host")
        await rig.registry.start(task.request)
        assert pause_processes(rig.base) == []
        assert await rig.registry.wait(task.id) == ExitResult(signal=9)


def unmeasured(environment: str) -> str:
    """Return an environment without what coverage adds to that of each program it executes."""
    return re.sub(r"^COVERAGE_PROCESS_CONFIG=[^ \0]*[ \0]?$", "", environment)


async def test_the_application_has_no_descriptor_of_it(jar_dir: Path, tmp_path: Path) -> None:
    """Only the standard streams are open when the application begins."""
    script = "sh -c 'readlink /proc/self/fd/3 || echo none'; sleep 600"
    async with scripted(tmp_path, script) as rig:
        task = rig.task(jar_dir / "hello.jar")
        await started(rig, task, b"none\n")


@WITH_AND_WITHOUT
async def test_it_stands_where_the_application_does(
    jar_dir: Path, tmp_path: Path, userns: bool
) -> None:
    """It is in the container's cgroups, as likely a victim of the OOM killer, and on its own."""
    async with scripted(tmp_path, "echo running; sleep 600", PluginOptions(userns=userns)) as rig:
        task = rig.task(jar_dir / "hello.jar")
        resources = attrs.evolve(task.request.resources, oom_score_adj=321)
        task.request = attrs.evolve(task.request, resources=resources)
        jvm, pause = await started(rig, task)
        for name in ("cgroup", "oom_score_adj"):
            own, other = (Path(f"/proc/{pid}/{name}").read_text() for pid in (pause, jvm))
            assert own == other, name
        status = dict(
            line.split(":\t", 1) for line in Path(f"/proc/{pause}/status").read_text().splitlines()
        )
        [uid, gid] = [set(status[key].split()) for key in ("Uid", "Gid")]
        assert uid == gid == {"2147418112"}
        assert not status["Groups"].strip()
        assert {status[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        assert os.getsid(pause) == pause
        assert os.listdir(f"/proc/{pause}/fd") == ["0"]
        assert os.readlink(f"/proc/{pause}/fd/0") == "anon_inode:[pidfd]"
        assert os.listdir(f"/proc/{pause}/root") == []
        assert unmeasured(Path(f"/proc/{pause}/environ").read_text()) == ""
        assert Path(f"/proc/{pause}/mountinfo").read_text().count("\n") == 1
        for kind in ("mnt", "ipc", "uts"):
            own, host = (os.readlink(f"/proc/{pid}/ns/{kind}") for pid in (pause, "self"))
            assert own != host, kind


async def test_its_memory(jar_dir: Path, tmp_path: Path) -> None:
    """Of ten it takes less than 64 KiB each, in proportion."""
    async with scripted(tmp_path, "echo running; sleep 600") as rig:
        sizes = []
        for _ in range(10):
            _, pause = await started(rig, rig.task(jar_dir / "hello.jar"))
        for pause in pause_processes(rig.base):
            lines = Path(f"/proc/{pause}/smaps_rollup").read_text().splitlines()
            sizes += [int(line.split()[1]) for line in lines if line.startswith("Pss:")]
        assert len(sizes) == 10
        assert max(sizes) < 64, sizes


@pytest.mark.skipif(networks.missing() is not None, reason=str(networks.missing()))
async def test_its_network_is_no_other_than_the_applications(jar_dir: Path, tmp_path: Path) -> None:
    """It is in the group's network or in an empty one, where the application is not in the host's.

    A task that may enter namespaces would come to the host's network through it.
    """
    host = os.readlink("/proc/self/ns/net")
    with networks.namespace(tmp_path / "net") as path:
        async with scripted(tmp_path, "echo running; sleep 600") as rig:
            group, alone = rig.task(jar_dir / "hello.jar"), rig.task(jar_dir / "hello.jar")
            group.request = attrs.evolve(
                group.request, network=Network(mode="group", namespace_path=str(path))
            )
            alone.request = attrs.evolve(alone.request, network=Network(mode="none"))
            jvm, pause = await started(rig, group)
            own, other = (os.readlink(f"/proc/{pid}/ns/net") for pid in (pause, jvm))
            assert own == other != host
            _, pause = await started(rig, alone)
            assert os.readlink(f"/proc/{pause}/ns/net") not in (host, own)


# ---- what a hostile application has of it -------------------------------------------------

LOOK = """
for name in environ maps; do echo "<$name $(cat /proc/1/$name 2>&1 | tr '\\0' ' ')>"; done
for name in exe cwd root fd/0; do echo "<$name $(readlink /proc/1/$name)>"; done
for name in root cwd fd root/..; do echo "<in $name: $(ls -A /proc/1/$name/ 2>&1)>"; done
echo "<touch $(touch /proc/1/root/x 2>&1)>"
echo "<write $(sh -c ': > /proc/1/exe' 2>&1)>"
for number in 9 15 19 1 11; do kill -$number 1; done
echo running; sleep 600
"""


@WITH_AND_WITHOUT
async def test_root_with_all_capabilities_finds_nothing(
    jar_dir: Path, tmp_path: Path, userns: bool
) -> None:
    """Its root is empty and read-only, its memory the program's, and no signal harms it."""
    plugin = attrs.evolve(EVERYTHING, userns=userns)
    async with scripted(tmp_path, LOOK, plugin) as rig:
        task = rig.task(jar_dir / "hello.jar", cap_add=["all"], seccomp_profile="unconfined")
        task.request = attrs.evolve(task.request, user="root")
        await started(rig, task)
        shown = task.out.text.decode()
        found = dict(re.findall(r"<(in \S+:|\S+) ([^>]*)>", shown))
        if userns:  # which has no rights in what belongs to the host's root
            assert {found[name] for name in ("exe", "cwd", "root", "fd/0")} == {""}, shown
            for name in ("environ", "maps", "in root:", "in cwd:", "in fd:", "touch", "write"):
                assert "Permission denied" in found[name], shown
        else:
            assert unmeasured(found["environ"]) == "", shown
            mapped = [line.split(None, 5)[-1] for line in found["maps"].splitlines() if "/" in line]
            assert mapped == ["/milo-pause (deleted)"], shown
            assert found["exe"] == "/milo-pause (deleted)"
            assert (found["cwd"], found["root"]) == ("/", "/")
            assert found["fd/0"] == "anon_inode:[pidfd]"
            assert {found[f"in {name}:"] for name in ("root", "cwd", "root/..")} == {""}, shown
            assert found["in fd:"] == "0"
            assert "Read-only file system" in found["touch"]
            assert "cannot create /proc/1/exe" in found["write"]
        with trio.move_on_after(0.3):
            raise AssertionError(await rig.registry.wait(task.id))


TRACE = """
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_ulong, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long
print("attach", libc.ptrace(16, 1, 0, 0), flush=True)
print(os.waitpid(1, 0x40000000), flush=True)
regs = (ctypes.c_ulonglong * 27)()
libc.ptrace(12, 1, 0, ctypes.cast(regs, ctypes.c_void_p))
# At its own system call again, but it is to open a file there.
path = regs[19] - 64
libc.ptrace(4, 1, ctypes.c_void_p(path), ctypes.c_void_p(int.from_bytes(b"/\\0", "little")))
regs[16] -= 2
regs[10], regs[15] = 2, 2**64 - 1
regs[14], regs[13], regs[12] = path, 0, 0
libc.ptrace(13, 1, 0, ctypes.cast(regs, ctypes.c_void_p))
print("running", libc.ptrace(17, 1, 0, 0), flush=True)
import time; time.sleep(600)
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="has the registers of x86_64")
async def test_who_makes_it_do_something_ends_the_task(jar_dir: Path, tmp_path: Path) -> None:
    """Any other system call, traced into it, is its end and that of the container."""
    script = f"exec /usr/bin/python3 -c '{TRACE}'"
    async with scripted(tmp_path, script, EVERYTHING) as rig:
        task = rig.task(jar_dir / "hello.jar", cap_add=["all"], seccomp_profile="unconfined")
        task.request = attrs.evolve(task.request, user="root")
        await rig.registry.start(task.request)
        with fail_after(30):
            result = await rig.registry.wait(task.id)
            await task.read()
        assert b"attach 0" in task.out.text, task.out.text + task.err.text
        assert result.signal == signal.SIGKILL
        assert f"killed by signal {int(signal.SIGSYS)}" in result.error


# ---- how it ends ---------------------------------------------------------------------------


async def test_its_end_is_the_tasks_and_told(jar_dir: Path, tmp_path: Path) -> None:
    """Killed from outside it takes the application with it, and that is what is reported."""
    async with scripted(tmp_path, "sleep 600 & echo running; sleep 600") as rig:
        task = rig.task(jar_dir / "hello.jar")
        jvm, pause = await started(rig, task)
        os.kill(pause, signal.SIGKILL)
        with fail_after(20):
            result = await rig.registry.wait(task.id)
        assert result.signal == 9
        assert "its pause process, which is process 1 of the container" in result.error
        assert "killed by signal 9" in result.message
        await until_gone(jvm, pause)


async def test_the_applications_end_is_its_own(jar_dir: Path, tmp_path: Path) -> None:
    """With the application end the pause process and every other process of the container."""
    script = "setsid sleep 4101 & trap '' TERM; (trap '' TERM; sleep 4102) & echo running; exit 3"
    async with scripted(tmp_path, script) as rig:
        task = rig.task(jar_dir / "hello.jar")
        await rig.registry.start(task.request)
        assert await rig.registry.wait(task.id) == ExitResult(exit_code=3)
        assert pause_processes(rig.base) == []


async def test_stopped_it_holds_nothing_up(jar_dir: Path, tmp_path: Path) -> None:
    """Halted by SIGSTOP it is ended all the same."""
    async with scripted(tmp_path, "echo running; exec sleep 600") as rig:
        task = rig.task(jar_dir / "hello.jar")
        jvm, pause = await started(rig, task)
        os.kill(pause, signal.SIGSTOP)
        os.kill(jvm, signal.SIGTERM)
        with fail_after(20):
            assert await rig.registry.wait(task.id) == ExitResult(signal=15)
        await until_gone(pause)


@WITH_AND_WITHOUT
async def test_it_outlives_the_task_process(jar_dir: Path, userns: bool) -> None:
    """A task process that is killed leaves JVM and pause process to its successor."""
    async with open_rig(PluginOptions(userns=userns)) as rig:
        task = rig.task(jar_dir / "clock.jar", args=["5", "0"])
        await rig.registry.start(task.request)
        await trio.to_thread.run_sync(task.out.wait_for, b"tick 20 ")
        [pause] = pause_processes(rig.base)
        os.kill(await rig.supervisor(task), signal.SIGKILL)
        await rig.until_event(task, "another one has taken over")
        await trio.to_thread.run_sync(task.out.wait_for, b"tick 200 ")
        assert pause_processes(rig.base) == [pause]
        await rig.registry.stop(task.id, "SIGTERM", 20)
        assert "nobody saw its exit code" in (await rig.registry.wait(task.id)).error
        await until_gone(pause)


async def test_it_needs_nobody_to_end_it(jar_dir: Path, tmp_path: Path) -> None:
    """With task process, driver and spawner killed, the application's end is still its own."""
    async with scripted(tmp_path, "echo running; sleep 600") as rig:
        task = rig.task(jar_dir / "hello.jar")
        handle = decode(await rig.registry.start(task.request), Handle, where="the handle")
        await trio.to_thread.run_sync(task.out.wait_for, b"running")
        [pause] = pause_processes(rig.base)
        supervisor = await rig.supervisor(task)
        rig.kill_all(supervisor)
        await until_gone(supervisor)
        assert start_ticks(pause) is not None
        assert handle.container is not None
        os.kill(handle.container.pid, signal.SIGKILL)
        await until_gone(pause)
        await rig.restart()


@pytest.mark.parametrize("command", ["create", "start"])
async def test_a_start_that_fails_leaves_none(jar_dir: Path, tmp_path: Path, command: str) -> None:
    """When crun fails, there is no pause process any more once that is reported."""
    crun = fake_crun.wrapper(tmp_path / "crun", command, "exit 1")
    async with scripted(tmp_path, "true", PluginOptions(crun_path=str(crun))) as rig:
        task = rig.task(jar_dir / "hello.jar")
        with pytest.raises(TaskStartError):
            await rig.registry.start(task.request)
        assert pause_processes(rig.base) == []


@pytest.mark.parametrize("command", ["create", "start"])
async def test_a_task_process_killed_in_a_start_leaves_none(
    jar_dir: Path, tmp_path: Path, command: str
) -> None:
    """Killed while crun is at it, before or after the container is there, it leaves no process."""
    crun = fake_crun.wrapper(tmp_path / "crun", command, f"echo > {tmp_path}/at; {STAYS}")
    async with scripted(tmp_path, "true", PluginOptions(crun_path=str(crun))) as rig:
        task = rig.task(jar_dir / "hello.jar")
        async with trio.open_nursery() as nursery:

            async def start() -> None:
                with pytest.raises(TaskStartError):
                    await rig.registry.start(task.request)

            nursery.start_soon(start)
            with fail_after(20):
                while not (tmp_path / "at").exists():  # noqa: ASYNC110
                    await trio.sleep(0.02)
            place = state_dir(rig, task)
            record = json.loads(Path(f"{place}/task.json").read_text())
            os.kill(record["supervisor"]["pid"], signal.SIGKILL)
            if command == "create":
                with fail_after(20):
                    while pause_processes(place):  # noqa: ASYNC110
                        await trio.sleep(0.02)
            for pid in _with_parent_gone(tmp_path):
                os.kill(pid, signal.SIGKILL)
        await rig.registry.destroy(task.id, force=True)
        assert pause_processes(place) == []


STAYS = f"sleep 601.{os.getpid()}"
"""What the stand-in for crun does; that of a test beside this one is another."""


def _with_parent_gone(tmp_path: Path) -> list[int]:
    """Return the processes that the stand-in for crun left: it and its sleep."""
    needle = os.fsencode(tmp_path / "crun")
    found = []
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            with contextlib.suppress(OSError):
                words = (directory / "cmdline").read_bytes()
                parts = words.split(b"\0")
                if needle in parts or parts[:-1] == STAYS.encode().split():
                    found.append(int(directory.name))
    return found
