"""Tasks that attack: the host, the driver and the other tasks go on, and nothing is left.

Each test's canary (`tests.support.hostile`) is what an attack would reach: it must be as it was.
docs/security.md names these tests beside what protects.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import attrs
import pytest
import trio

from milo.core import control
from milo.core.config.plugin_options import PluginOptions, parse_plugin_options
from milo.core.container.mounts import MASKED_PATHS
from milo.core.launch import Mount
from milo.core.records import CONTROL_SOCKET, LAUNCH_FILE, TASK_FILE, ProcessId, TaskRecord, encode
from milo.core.report import ExitResult, TaskState
from milo.errors import MiloError
from milo.host.task_client import open_control
from milo.proc import identify, lives, start_ticks
from tests.support import fake_crun, reach, scripted_java
from tests.support.driver_rig import DriverRig, LogReader, Task, open_rig
from tests.support.hostile import Canary, Swapper, drained
from tests.support.key_attacks import KEY_ATTACKS, KeyAttack, Scene, open_scene
from tests.support.launches import make_launch
from tests.support.pauses import pause_processes
from tests.support.private_mounts import small_tmpfs
from tests.support.userns import NEEDS_USERNS
from tests.support.waiting import fail_after

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")

MIB = 1 << 20
COUNTING = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.02; done"
ONE_OF_TWO = '[ "$1" = attack ] || { ' + COUNTING + "; }\n"
"""Begins a script: what follows is done with the argument ``attack``; else, lines are counted."""


def scripted(jdks: Path, script: str, **options: object) -> PluginOptions:
    """Return a configuration in which ``script`` is what every JAR does."""
    # Of the JVM's command line, only the application's own arguments are left.
    words = 'while [ $# -gt 0 ] && [ "$1" != -jar ]; do shift; done; [ $# -gt 1 ] && shift 2\n'
    home = scripted_java.make(jdks / "jdk", words + script)
    return PluginOptions(java_home=str(home), **options)  # type: ignore[arg-type]


async def line(reader: LogReader, text: bytes, timeout_s: float = 60) -> None:
    """Return once ``text`` has arrived."""
    await trio.to_thread.run_sync(reader.wait_for, text, timeout_s)


async def goes_on(task: Task) -> None:
    """Return once a counting task has printed ten lines more than now, all of them in order."""
    count = task.out.text.count(b"\n")
    await line(task.out, b"line %d\n" % (count + 10))
    lines = task.out.text.splitlines()[: count + 10]
    assert lines == [b"line %d" % number for number in range(1, count + 11)]


async def container_pid(rig: DriverRig, task: Task) -> int:
    return int((await rig.registry.inspect(task.id)).attributes["container_pid"])


async def until_gone(pid: int) -> None:
    with fail_after(60):
        while start_ticks(pid) is not None:  # noqa: ASYNC110
            await trio.sleep(0.02)


def state_bytes(rig: DriverRig) -> int:
    """Return the size of the largest file in the state directories."""
    return max(path.lstat().st_size for path in rig.state_dir.rglob("*"))


# ---- symlinks, and paths that are exchanged ----------------------------------------------


async def test_planted_and_exchanged_paths(jar_dir: Path, jdks: Path) -> None:
    """Directories, JAR and FIFOs that keep changing places with symlinks lead to nothing else.

    All the time: while the task starts, while its driver dies and the next one recovers it,
    while it is stopped and destroyed. A start may fail then, and no more than that.
    """
    script = "for d in local tmp secrets alloc/data; do touch /$d/here; done; " + COUNTING
    async with open_rig(scripted(jdks, script)) as rig:
        canary = Canary(rig.base / "canary", jar_dir / "hello.jar")
        started = 0
        for number in range(100):
            if number >= 10 and started:
                break  # each start may be refused: what changed places was noticed
            task = rig.task(jar_dir / "hello.jar", readers=False, alloc_id=f"{number:08}")
            own, shared = Path(task.request.task_dir), Path(task.request.shared_dir)
            planted = rig.base / f"planted{number}"
            planted.mkdir()
            fifo = ".app.stdout.fifo"
            pairs = [
                [(own / "local", "local"), (shared / "logs", "logs")],
                [(own / "tmp", "tmp"), (shared / "logs" / fifo, f"logs/{fifo}")],
                [(own / "secrets", "secrets"), (own / "local/hello.jar", "local/hello.jar")],
                [(shared / "data", "data"), (shared / "logs" / fifo, "secret")],
                [(own / "local/hello.jar", "secret"), (shared / "logs" / fifo, "link")],
            ][number % 5]
            swapped = []
            for place, target in pairs:
                link = planted / place.name.lstrip(".")
                link.symlink_to(canary.top / target)
                swapped.append((place, link))
            with (
                fail_after(120),
                drained(Path(task.request.stdout_path), Path(task.request.stderr_path)),
                Swapper(*swapped),
            ):
                try:
                    handle = await rig.registry.start(task.request)
                except MiloError:
                    await rig.registry.destroy(task.id, force=True)
                    continue
                started += 1
                await rig.restart()
                await rig.registry.recover(task.id, handle)
                await rig.registry.stop(task.id, "SIGKILL", 0)
                assert (await rig.registry.wait(task.id)).signal == signal.SIGKILL
                await rig.registry.destroy(task.id, force=True)
        assert not canary.touched()
        assert started, "not one task started: nothing was tried"


async def test_source_exchanged_after_the_check(jar_dir: Path, jdks: Path) -> None:
    """A task directory that is a symlink when crun mounts it is refused, by what is mounted.

    A crun that waits gives the attacker all the time between Milo's check and the mount.
    """
    crun = jdks / "crun"
    crun.write_text(
        "#!/bin/sh\n"
        'case " $* " in *" create "*)\n'
        f"  . {jdks}/attack;;\n"
        f'esac\nexec {shutil.which("crun")} "$@"\n'
    )
    crun.chmod(0o755)
    options = scripted(jdks, "touch /local/here; " + COUNTING)
    async with open_rig(attrs.evolve(options, crun_path=str(crun))) as rig:
        canary = Canary(rig.base / "canary", jar_dir / "hello.jar")
        for name in ("local", "secrets", "tmp"):
            task = rig.task(jar_dir / "hello.jar")
            place = f"{task.request.task_dir}/{name}"
            (jdks / "attack").write_text(
                f"mv {place} {place}.away; ln -s {canary.top}/{name} {place}\n"
            )
            # crun follows no symlink below the task's own directory, which comes first.
            told = f"something else took|openat2 `task/{name}`: No such file"
            with fail_after(60), pytest.raises(MiloError, match=told):
                await rig.registry.start(task.request)
            # It had its orders before what was mounted was looked at.
            assert pause_processes(rig.base) == []
        assert not canary.touched()


async def test_mount_point_exchanged_after_the_check(jar_dir: Path, jdks: Path) -> None:
    """A mount point in local/ that became a symlink is refused before anything runs."""
    crun = jdks / "crun"
    crun.write_text(
        "#!/bin/sh\n"
        f'case " $* " in *" create "*) . {jdks}/attack;; esac\n'
        f'exec {shutil.which("crun")} "$@"\n'
    )
    crun.chmod(0o755)
    options = scripted(jdks, "touch /local/here; " + COUNTING)
    async with open_rig(attrs.evolve(options, crun_path=str(crun))) as rig:
        canary = Canary(rig.base / "canary", jar_dir / "hello.jar")
        task = rig.task(jar_dir / "hello.jar")
        (rig.base / "volume").mkdir()
        launch = attrs.evolve(
            task.request,
            mounts=(Mount(host_path=str(rig.base / "volume"), task_path="/local/in/volume"),),
        )
        (jdks / "attack").write_text(
            f"mv {task.local}/in {task.local}/away; ln -s /usr/share {task.local}/in\n"
        )
        with fail_after(60), pytest.raises(MiloError):
            await rig.registry.start(launch)
        assert not (task.local / "here").exists()
        assert not Path("/usr/share/volume").exists()
        assert not canary.touched()


async def test_working_directory_exchanged_after_the_check(jar_dir: Path, jdks: Path) -> None:
    """A work_dir that leads elsewhere when crun enters it is refused before anything runs."""
    crun = fake_crun.wrapper(jdks / "crun", "create", f". {jdks}/attack")
    options = scripted(jdks, "pwd -P >/local/here; " + COUNTING)
    host = attrs.evolve(options, crun_path=str(crun), allow_host_namespaces=True)
    async with open_rig(host) as rig:
        for target in (f"/proc/{os.getpid()}/root", "/usr/share"):
            task = rig.task(jar_dir / "hello.jar", work_dir="/local/work", pid_mode="host")
            (jdks / "attack").write_text(
                f"mv {task.local}/work {task.local}/away; ln -s {target} {task.local}/work\n"
            )
            with fail_after(60), pytest.raises(MiloError, match="something else took"):
                await rig.registry.start(task.request)
            assert (task.local / "away").is_dir()
            assert not (task.local / "here").exists()


async def test_jdk_exchanged(jar_dir: Path, jdks: Path) -> None:
    """A JDK of somebody else's that changes places with another directory never runs that.

    Neither on the host, where it is only read, nor in the container.
    """
    async with open_rig(scripted(jdks, "touch /local/right; " + COUNTING)) as rig:
        canary = Canary(rig.base / "canary", jar_dir / "hello.jar")
        home = jdks / "jdk"
        (jdks / "link").symlink_to(canary.top / "jdk")
        for number in range(8):
            task = rig.task(jar_dir / "hello.jar", readers=False, alloc_id=f"{number:08}")
            with (
                fail_after(120),
                drained(Path(task.request.stdout_path), Path(task.request.stderr_path)),
                Swapper((home, jdks / "link")),
            ):
                try:
                    await rig.registry.start(task.request)
                    await rig.registry.stop(task.id, "SIGKILL", 0)
                except MiloError:
                    pass
                await rig.registry.destroy(task.id, force=True)
            assert not (task.local / "wrong").exists()
        opened_directory = "event 0x40000020 "
        assert not [one for one in canary.touched() if not one.startswith(opened_directory)]


TAMPERINGS = {
    "symlink": "mv /alloc/logs /alloc/away; ln -s {canary}/logs /alloc/logs",
    "symlinks": "cd /alloc/logs; rm .app.*; "
    "ln -s {canary}/secret .app.stdout.fifo; ln -s {canary}/secret .app.stderr.fifo",
    "files": "cd /alloc/logs; rm .app.*; : >.app.stdout.fifo; : >.app.stderr.fifo",
    "fifos": "cd /alloc/logs; rm .app.*; mkfifo .app.stdout.fifo .app.stderr.fifo",
    "gone": "mv /alloc/logs /alloc/away",
    "device": "rm -r /alloc/logs; ln -s /dev /alloc/logs",
}


async def test_log_directory_replaced(jar_dir: Path, jdks: Path) -> None:
    """What somebody makes of a task's log directory costs that task's log at most.

    A task of Milo's cannot, but one of another driver in the same group can. The task's
    driver and its own process are killed in the same instant: only then the FIFOs have to be
    found by their paths again. It is recovered, stopped and destroyed as ever.
    """
    base = jdks / "canary"
    script = "trap '' PIPE; echo open; " + COUNTING
    async with open_rig(scripted(jdks, script)) as rig:
        canary = Canary(base, jar_dir / "hello.jar")
        tasks = [rig.task(jar_dir / "hello.jar", args=[name]) for name in TAMPERINGS]
        with fail_after(180):
            handles = {task.id: await rig.registry.start(task.request) for task in tasks}
            for task in tasks:
                await line(task.out, b"open\n")
            for task, text in zip(tasks, TAMPERINGS.values(), strict=True):
                shared = f"{task.request.alloc_dir}/alloc"
                done = text.format(canary=base).replace("/alloc/", f"{shared}/")
                await trio.run_process(["/bin/sh", "-c", done])
            pids = {task.id: await container_pid(rig, task) for task in tasks}
            supervisors = [await rig.supervisor(task) for task in tasks]
            rig.kill_all(*supervisors)
            for supervisor in supervisors:
                await until_gone(supervisor)
            await rig.restart()
            for task in tasks:
                await rig.registry.recover(task.id, handles[task.id])
                assert await container_pid(rig, task) == pids[task.id]

            async def end(task: Task) -> None:
                await rig.registry.stop(task.id, "SIGTERM", 0.2)
                await rig.registry.wait(task.id)
                await rig.registry.destroy(task.id, force=True)
                await until_gone(pids[task.id])

            async with trio.open_nursery() as nursery:
                for task in tasks:
                    nursery.start_soon(end, task)
        assert not canary.touched()


async def test_a_task_cannot_change_its_log_directory(jar_dir: Path, jdks: Path) -> None:
    """A task makes, removes and exchanges nothing where the log collector opens files by path."""
    tries = "; ".join(
        f"({text.format(canary='/etc')}) && echo DONE" for text in TAMPERINGS.values()
    )
    script = f"{tries}; ln -s /etc/x /alloc/logs/app.stdout.1 && echo DONE; echo tried"
    async with open_rig(scripted(jdks, script)) as rig:
        with fail_after(60):
            task = rig.task(jar_dir / "hello.jar")
            logs = Path(task.request.alloc_dir, "alloc/logs")
            before = sorted(path.name for path in logs.iterdir())
            await rig.registry.start(task.request)
            await rig.registry.wait(task.id)
            await trio.to_thread.run_sync(task.out.wait_end)
            assert task.out.text == b"tried\n"
            assert sorted(path.name for path in logs.iterdir()) == before


# ---- processes, memory, disk, output -----------------------------------------------------


async def test_fork_bomb(jar_dir: Path, jdks: Path) -> None:
    """A fork bomb that ignores signals is held by the PID limit, and ends as any other task."""
    # A shell ends when it cannot fork, so the first process is none.
    bomb = "trap '' TERM INT; b() { b | b & sleep 4101; }; (while :; do b; done) & exec sleep 4102"
    async with open_rig(scripted(jdks, ONE_OF_TWO + bomb)) as rig:
        with fail_after(120):
            good = rig.task(jar_dir / "hello.jar", name="good")
            await rig.registry.start(good.request)
            task = rig.task(jar_dir / "hello.jar", args=["attack"], pids_limit=48)
            await rig.registry.start(task.request)
            await line(task.err, b"fork")  # "Cannot fork", in the shell's words
            await goes_on(good)
            await rig.registry.stop(task.id, "SIGTERM", 0.2)
            assert await rig.registry.wait(task.id) == ExitResult(signal=9)
            await rig.registry.destroy(task.id, force=True)
            await goes_on(good)
            assert (await rig.registry.inspect(good.id)).state is TaskState.RUNNING


async def test_memory_bomb(jar_dir: Path, jdks: Path) -> None:
    """A memory bomb is killed alone, and told as that."""
    async with open_rig(scripted(jdks, ONE_OF_TWO + "exec tail /dev/zero")) as rig:
        with fail_after(120):
            good = rig.task(jar_dir / "hello.jar", name="good")
            await rig.registry.start(good.request)
            pid = await container_pid(rig, good)
            task = rig.task(jar_dir / "hello.jar", args=["attack"], memory_mb=64)
            await rig.registry.start(task.request)
            result = await rig.registry.wait(task.id)
            assert (result.signal, result.oom_killed) == (9, True)
            await goes_on(good)
            assert await container_pid(rig, good) == pid


async def test_full_disk(jar_dir: Path, jdks: Path) -> None:
    """A task that fills the allocation's disk gets ENOSPC, and costs nobody else a step.

    It and others on the same disk are recovered, started again, stopped and destroyed; only what
    needs room there fails, and says so: a new mount point, and so the first start of a task.
    """
    fill = (
        "for d in tmp local alloc/data; do cat /dev/zero >/$d/fill; done\n"
        "i=0; while touch /tmp/file$i; do i=$((i+1)); done; echo full; " + COUNTING
    )
    async with open_rig(scripted(jdks, ONE_OF_TWO + fill)) as rig:
        (rig.base / "volume").mkdir()
        with small_tmpfs(rig.base / "alloc", "4m,nr_inodes=150"), fail_after(120):
            good = rig.task(jar_dir / "hello.jar", name="good")
            other = rig.task(jar_dir / "hello.jar", name="other")
            mounted = rig.task(jar_dir / "hello.jar", name="mounted")
            task = rig.task(jar_dir / "hello.jar", args=["attack"])
            tasks = [good, other, mounted, task]
            for name in ("alloc/logs", "dev", "private", "proc"):  # as an earlier start has left it
                Path(other.request.task_dir, name).mkdir(parents=True, exist_ok=True)
            handles = {one.id: await rig.registry.start(one.request) for one in (good, task)}
            await line(task.err, b"No space left on device")
            await line(task.out, b"full\n")
            await goes_on(good)
            await rig.restart()
            for one in (good, task):
                await rig.registry.recover(one.id, handles[one.id])
            await goes_on(good)
            await rig.registry.start(other.request)
            await goes_on(other)
            volume = Mount(host_path=str(rig.base / "volume"), task_path="/local/volume")
            with pytest.raises(MiloError, match="No space left on device"):
                await rig.registry.start(attrs.evolve(mounted.request, mounts=(volume,)))
            for one in (task, other, good):
                await rig.registry.stop(one.id, "SIGTERM", 0.5)
                assert (await rig.registry.wait(one.id)).signal
            await rig.finish()
            for one in tasks:  # their readers, so that the disk can be unmounted
                one.stdout = one.stderr = None


async def test_log_flood(jar_dir: Path, jdks: Path) -> None:
    """A task that writes as fast as it can, read or not, holds up nobody and fills no disk."""
    flood = "yes attack >&2 & exec yes attack"
    async with open_rig(scripted(jdks, ONE_OF_TWO + flood)) as rig:
        with fail_after(120):
            good = rig.task(jar_dir / "hello.jar", name="good")
            await rig.registry.start(good.request)
            read = rig.task(jar_dir / "hello.jar", name="read", args=["attack"])
            await rig.registry.start(read.request)
            unread = rig.task(
                jar_dir / "hello.jar",
                name="unread",
                args=["attack"],
                readers=False,
                log_overflow="drop",
            )
            stuck = [
                os.open(path, os.O_RDONLY | os.O_NONBLOCK)
                for path in (unread.request.stdout_path, unread.request.stderr_path)
            ]
            await rig.registry.start(unread.request)
            while min(read.out.length, read.err.length) < 100 * MIB:  # noqa: ASYNC110
                await trio.sleep(0.02)
            await goes_on(good)
            handle_states = [await rig.registry.inspect(one.id) for one in (good, read, unread)]
            assert all(one.state is TaskState.RUNNING for one in handle_states)
            for one in (read, unread):
                await rig.registry.stop(one.id, "SIGTERM", 1)
                assert await rig.registry.wait(one.id) == ExitResult(signal=15)
            assert state_bytes(rig) < MIB
            assert len(rig.texts(unread)) < 20, rig.texts(unread)
            await goes_on(good)
            for fd in stuck:
                os.close(fd)


# ---- what a task can reach ---------------------------------------------------------------

OWN = {
    *("/alloc", "/local", "/secrets", "/tmp", "/task", "/dev/mqueue", "/dev/shm"),
    *("/dev/full", "/dev/null", "/dev/random", "/dev/urandom", "/dev/zero", "/dev/tty"),
    *("/dev/pts/ptmx", "/dev/ptmx"),
}
"""The task's own, whoever it runs as; the device nodes are in a file system of its own."""
NOMADS = {"/alloc/logs", "/task/alloc/logs", "/task/private"}
"""Within the task's own, and nothing to change for it."""
FIFOS = {f"{at}/.app.{name}.fifo" for at in NOMADS for name in ("stdout", "stderr")}
"""Which root may write to."""
SHARED = {"/proc/pressure/cpu", "/proc/pressure/io", "/proc/pressure/memory"}
"""Open for everybody on every Linux: what is written there sets an alarm for the writer."""
EMULATED = {"/proc/exitcode", "/proc/sysemu"}
"""Root's where the kernel is a program (user mode), how that ends and runs; on no other kernel."""
OWN_CGROUPS = "/sys/fs/cgroup"
"""On cgroup v1 crun makes a small file system of the container's own to mount the groups in."""


@pytest.mark.skipif(not Path("/usr/bin/python3").exists(), reason="the probe is in Python")
@pytest.mark.parametrize("user", ["nobody", "root"])
async def test_reach(jar_dir: Path, jdks: Path, user: str) -> None:
    """A task that tries to change all that it can see changes what is its own, and no more.

    Root without capabilities owns more (its /dev, its mount points), but not more of the host.
    """
    script = "exec /usr/bin/python3 /local/reach.py"
    async with open_rig(scripted(jdks, script, allow_root=True)) as rig:
        canary = Canary(rig.base / "canary", jar_dir / "hello.jar")
        task = rig.task(jar_dir / "hello.jar")
        shutil.copy(reach.__file__, task.local / "reach.py")
        with fail_after(180):
            await rig.registry.start(attrs.evolve(task.request, user=user))
            await trio.to_thread.run_sync(task.out.wait_end, 150)
        found = [text.split(maxsplit=1) for text in task.out.text.decode().splitlines()]
        assert found[-1] == ["end"], task.err.text
        assert not [what for verb, what in found[1:-1] if verb == "did"]
        changed = {what for verb, what in found[1:-1] if verb in ("write", "make", "device")}
        others = {path for path in changed if not path.startswith(("/proc/", OWN_CGROUPS))}
        allowed = OWN | ({"/dev"} if user == "root" else set())
        assert not {path for path in others if not _inside(path, allowed)}
        assert not {path for path in others if _inside(path, NOMADS) and path not in FIFOS}
        kernel = {path for path in changed if path.startswith("/proc/")} - SHARED - EMULATED
        assert not {one for one in kernel if not (re.match(r"/proc/\d+/", one) or _is_masked(one))}
        assert not canary.touched()


def _inside(path: str, places: set[str]) -> bool:
    return any(path == place or path.startswith(f"{place}/") for place in places)


def _is_masked(path: str) -> bool:
    """Whether the container has a /dev/null in this place, which swallows what is written."""
    return path in MASKED_PATHS


async def test_command_with_files_of_the_host(jar_dir: Path, jdks: Path) -> None:
    """A command in a task gets pipes alone: crun gives its streams to the task's user.

    A /dev/null of the host would belong to nobody afterwards (measured with crun 1.8.1).
    """
    async with open_rig(scripted(jdks, COUNTING)) as rig:
        canary = Canary(rig.base / "canary", jar_dir / "hello.jar")
        task = rig.task(jar_dir / "hello.jar")
        with fail_after(60):
            await rig.registry.start(task.request)
            [state_dir] = [path for path in rig.state_dir.iterdir() if path.is_dir()]
            sock, _ = await open_control(str(state_dir), control.ROLE_EXEC)
            null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
            with sock:
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [null] * 3))]
                request = control.Exec(argv=("/bin/true",), tty=False)
                await sock.sendmsg([control.encode(request)], rights)
                answer = control.decode_notice(await sock.recv(control.MAX_MESSAGE_BYTES))
            os.close(null)
            assert isinstance(answer, control.ExecEnded)
            assert "pipes or sockets" in answer.error
        assert not canary.touched()


@NEEDS_USERNS
@pytest.mark.parametrize("collected", [True, False])
async def test_null_device_in_a_user_namespace(jar_dir: Path, jdks: Path, collected: bool) -> None:
    """A task in a user namespace, whose /dev/null is the host's, cannot close it to others."""
    script = "for i in 0 1 2; do chmod 600 /proc/self/fd/$i; done; chmod 600 /dev/null; exit 9"
    async with open_rig(scripted(jdks, script, userns=True)) as rig:
        canary = Canary(rig.base / "canary", jar_dir / "hello.jar")
        task = rig.task(jar_dir / "hello.jar")
        launch = task.request
        if not collected:
            launch = attrs.evolve(launch, stdout_path=os.devnull, stderr_path=os.devnull)
        with fail_after(60):
            await rig.registry.start(launch)
            assert await rig.registry.wait(task.id) == ExitResult(exit_code=9)
        assert not canary.touched()


# ---- keys of a job that together are more than the operator has switched on --------------


@contextlib.asynccontextmanager
async def attacking(
    jar_dir: Path, jdks: Path, attack: KeyAttack, plugin: Mapping[str, object]
) -> AsyncIterator[tuple[DriverRig, Task, Scene]]:
    """Yield a task that would make an attack by its keys, on a client so configured."""
    script = f"{attack.script}; echo tried; exec sleep 1000"
    home = scripted(jdks / f"of-{len(plugin)}-keys", script).java_home
    options = attrs.evolve(parse_plugin_options(plugin), java_home=home)
    async with open_rig(options) as rig:
        with open_scene(rig.base) as scene, fail_after(90):
            args = ["attack", *scene.arguments]
            task = rig.task(jar_dir / "hello.jar")
            config = {**task.request.config, **attack.config, "args": args}
            request = attrs.evolve(task.request, config=config, user=attack.user)
            yield rig, attrs.evolve(task, request=request), scene


@pytest.mark.parametrize("name", KEY_ATTACKS)
async def test_keys_give_nothing_that_is_not_switched_on(
    jar_dir: Path, jdks: Path, name: str
) -> None:
    """By default the start is refused, naming a key of the plugin's, and nothing has happened.

    It is as well where capabilities and the host's processes are permitted, each by itself.
    """
    attack = KEY_ATTACKS[name]
    each: dict[str, object] = {"allow_caps": ["all", "mknod"], "allow_host_namespaces": True}
    first = "allow_host_namespaces|allow_caps"
    for plugin, key in (({}, first), (each, attack.still_needs)):
        if key:
            async with attacking(jar_dir, jdks, attack, plugin) as (rig, task, scene):
                with pytest.raises(MiloError, match=key):
                    await rig.registry.start(task.request)
                assert not (task.local / "own").exists()
                assert scene.secret.read_text() == scene.letter.read_text() == "secret\n"
                assert scene.of_root.poll() is None


@pytest.mark.parametrize("name", KEY_ATTACKS)
async def test_one_switch_gives_what_the_java_driver_gives(
    jar_dir: Path, jdks: Path, name: str
) -> None:
    """Under the plugin's insecure_java_driver_privileges each of these attacks works."""
    attack = KEY_ATTACKS[name]
    plugin = {"insecure_java_driver_privileges": True}
    async with attacking(jar_dir, jdks, attack, plugin) as (rig, task, scene):
        await rig.registry.start(task.request)
        await line(task.out, b"tried\n")
        assert attack.worked(scene, task.local / "own"), task.err.text


# ---- the commands of root ----------------------------------------------------------------


async def milo(rig: DriverRig, *words: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command on the rig's state directory; it may fail, but not with a traceback."""
    command, *rest = words
    argv = [sys.executable, "-m", "milo", command, "--state-dir", str(rig.state_dir), *rest]
    with fail_after(60):
        done = await trio.run_process(argv, capture_stdout=True, capture_stderr=True, check=False)
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return done


@contextlib.contextmanager
def bound(*names: bytes) -> Iterator[None]:
    """Have sockets with these abstract names, as any process of the host's network may."""
    with contextlib.ExitStack() as stack:
        for name in names:
            sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            sock.bind(b"\0" + name)
            sock.listen()
        yield


@pytest.fixture
def victim() -> Iterator[ProcessId]:
    """A process of the host's, which root's commands must not end."""
    child = subprocess.Popen(["/bin/sleep", "1000"])
    identity = identify(child.pid)
    assert identity is not None
    yield identity
    child.kill()
    child.wait()


def forged_task(directory: Path, victim: ProcessId) -> Path:
    """Write what a task named ``evil``, whose processes are the victim, would have left."""
    path = directory / "0123456789abcdef"
    path.mkdir(parents=True)
    record = TaskRecord("evil/evil/1", "evil", "e0", str(path / "gone/e0"), victim, victim)
    (path / TASK_FILE).write_bytes(encode(record))
    launch = make_launch(task_name="evil", alloc_dir=record.alloc_dir, state_dir=str(path))
    (path / LAUNCH_FILE).write_bytes(encode(launch))
    return path


async def test_forged_names_of_sockets(jar_dir: Path, jdks: Path, victim: ProcessId) -> None:
    """No name of a socket makes a command fail, or makes it believe in a task of a tenant's.

    The tenant has a directory of root's own, as a task with ``user = "root"`` can make one, in a
    directory that is his. Its records name a process of the host's as a task.
    """
    async with open_rig(scripted(jdks, COUNTING)) as rig:
        task = rig.task(jar_dir / "hello.jar")
        await rig.registry.start(task.request)
        theirs = rig.base / "th"
        path = forged_task(theirs / "st", victim)
        (theirs / "st").chmod(0o700)
        os.chown(theirs, 65534, 65534)
        line = f"0: 2 0 10000 5 1 7 {path}/{CONTROL_SOCKET}".encode()
        odd = (b"\n", b"x\n" + line, b"\xff\xfe\xe4\n\x85", "\u2028".encode())
        with bound(*odd, f"{path}/{CONTROL_SOCKET}".encode()):
            listed = json.loads((await milo(rig, "ps", "--all", "--json")).stdout)
            assert "evil" not in [entry["task"] for entry in listed]
            mine = [entry["id"] for entry in listed if entry["state_dir"].startswith(str(rig.base))]
            assert len(mine) == 1
            assert (await milo(rig, "exec", mine[0], "--", "true")).returncode == 0
            assert (await milo(rig, "stats", "--json", mine[0])).returncode == 0
            assert b"there is no stdout or stderr file" in (await milo(rig, "logs", mine[0])).stderr
            for words in (("exec", "evil", "--", "true"), ("stop", "evil"), ("logs", "evil")):
                done = await milo(rig, *words)
                assert done.returncode == 1 and b"no task on this host matches" in done.stderr
            assert (await milo(rig, "gc", "--yes")).returncode == 0
            assert lives(victim)
            await goes_on(task)
            assert (await milo(rig, "stop", mine[0])).returncode == 0


async def test_state_directory_of_a_tenants(victim: ProcessId) -> None:
    """A state directory that another user can exchange is told, and not believed, though named."""
    async with open_rig() as rig:
        theirs = rig.base / "theirs"
        forged_task(theirs / "state", victim)
        os.chown(theirs, 65534, 65534)
        named = ("--state-dir", str(theirs / "state"))
        listed = await milo(rig, "ps", *named)
        assert b"theirs belongs to the user 65534" in listed.stderr and b"evil" not in listed.stdout
        assert (await milo(rig, "stop", *named, "evil")).returncode == 1
        refused = await milo(rig, "gc", "--yes", *named)
        assert refused.returncode == 1 and b"Only what root alone can change" in refused.stderr
        assert lives(victim)


@contextlib.contextmanager
def served_by_nobody(path: Path, victim: ProcessId) -> Iterator[int]:
    """Serve a control socket as an ordinary user, who says that every command is the victim.

    Yields a descriptor that brings a byte for each greeting.
    """
    reader, writer = os.pipe()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        welcome = control.encode(control.Welcome(version=1, supervisor=victim))
        started = control.encode(control.ExecStarted(process=victim))
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
                listener.listen()
                os.write(writer, b"!")
                while True:
                    client = listener.accept()[0]
                    with client, contextlib.suppress(OSError):
                        if client.recv(control.MAX_MESSAGE_BYTES):
                            os.write(writer, b"?")
                        client.send(welcome)
                        client.recv(control.MAX_MESSAGE_BYTES)
                        client.send(started)
            os._exit(1)
    os.close(writer)
    try:
        assert os.read(reader, 1) == b"!"
        yield reader
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)


async def test_a_server_that_is_not_roots(jar_dir: Path, jdks: Path, victim: ProcessId) -> None:
    """Who serves a task's socket and is an ordinary user gets no command, and ends no process."""
    async with open_rig(scripted(jdks, COUNTING)) as rig:
        task = rig.task(jar_dir / "hello.jar")
        await rig.registry.start(task.request)
        [state_dir] = [path for path in rig.state_dir.iterdir() if path.is_dir()]
        own = state_dir / CONTROL_SOCKET
        own.rename(state_dir / "kept")
        with served_by_nobody(own, victim) as greetings:
            done = await milo(rig, "exec", state_dir.name, "--", "true")
            assert done.returncode == 1 and b"does not belong to root" in done.stderr
            assert b"app" in (await milo(rig, "ps")).stdout
            os.set_blocking(greetings, False)
            with pytest.raises(BlockingIOError):
                os.read(greetings, 1)
        own.unlink()
        (state_dir / "kept").rename(own)
        assert lives(victim)
        assert (await milo(rig, "exec", state_dir.name, "--", "true")).returncode == 0
