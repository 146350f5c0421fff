"""`milo ps`, `logs`, `stats`, `stop` and `exec` on tasks that a driver has started."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import shutil
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import attrs
import pytest
import trio

from milo.core.report import ExitResult
from tests.support.driver_rig import DriverRig, Task, open_rig
from tests.support.private_mounts import small_tmpfs
from tests.support.waiting import fail_after, scaled, wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")


async def milo(
    rig: DriverRig, command: str, *words: str, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """Run the command against the rig's state directory."""
    with fail_after(scaled(60)):
        return await trio.run_process(
            [sys.executable, "-m", "milo", command, "--state-dir", str(rig.state_dir), *words],
            stdin=stdin,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )


async def running(rig: DriverRig, jar_dir: Path, name: str = "app") -> Task:
    """Start a task that prints until it is stopped, and wait until its JVM does."""
    task = rig.task(jar_dir / "clock.jar", name=name)
    await rig.registry.start(task.request)
    await trio.to_thread.run_sync(task.out.wait_for, b"\n")
    return task


def short(rig: DriverRig, task: Task) -> str:
    return os.path.basename(rig.registry._tasks[task.id].launch.state_dir)


async def test_ps_lists_what_runs_and_what_has_run(jar_dir: Path) -> None:
    """Each task has a line with its state and its streams' counters; --all has the ended ones."""
    async with open_rig() as rig:
        one = await running(rig, jar_dir)
        two = rig.task(jar_dir / "exit42.jar", name="brief")
        await rig.registry.start(two.request)
        await rig.registry.wait(two.id)
        plain = await milo(rig, "ps")
        assert plain.returncode == 0, plain.stderr
        head, *lines = plain.stdout.decode().splitlines()
        assert head.split()[:6] == ["ID", "JOB", "GROUP", "TASK", "ALLOC", "STATE"]
        mine = [line.split() for line in lines if line.startswith(f"{short(rig, one)[:8]} ")]
        assert [line[3:6] for line in mine] == [["app", one.request.alloc_id[:8], "running"]]
        assert short(rig, two)[:8] not in plain.stdout.decode()
        everything = json.loads((await milo(rig, "ps", "--json", "--all")).stdout)
        states = {task["id"]: task for task in everything}
        assert states[short(rig, one)]["stdout"]["bytes_moved"] > 0
        assert states[short(rig, two)]["exit"]["exit_code"] == 42


async def test_an_ended_task_is_known_until_its_allocation_is_gone(jar_dir: Path) -> None:
    """Nomad destroys a task as soon as it has ended, also when it will start it again."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "exit42.jar", name=f"brief-{os.getpid()}")
        await rig.registry.start(attrs.evolve(task.request, job_name="shop"))
        await rig.registry.wait(task.id)
        await rig.registry.destroy(task.id, force=False)
        name = task.request.task_name
        log = Path(task.request.alloc_dir, f"alloc/logs/{name}.stderr.0")
        log.write_text("why it failed\n")
        assert name not in (await milo(rig, "ps")).stdout.decode()
        everything = (await milo(rig, "ps", "--all")).stdout.decode().splitlines()
        (row,) = [line for line in everything if name in line]
        assert "shop" in row and "exited (42)" in row
        assert (await milo(rig, "logs", name)).stdout == b"why it failed\n"
        done = await milo(rig, "stats", name)
        assert done.returncode == 1 and b"Its state: exited (42)" in done.stderr
        assert b"has ended" in (await milo(rig, "stop", name)).stderr
        shutil.rmtree(task.request.alloc_dir)
        later = rig.task(jar_dir / "exit42.jar", name="later")
        await rig.registry.start(later.request)
        await rig.registry.wait(later.id)
        await rig.registry.destroy(later.id, force=False)
        done = await milo(rig, "logs", name)
        assert done.returncode == 1 and f"nomad status {name}".encode() in done.stderr


async def test_exec_is_the_commands_streams_and_exit_code(jar_dir: Path) -> None:
    """A task is named by its name or the beginning of its id."""
    async with open_rig() as rig:
        name = f"webshop-{os.getpid()}"
        task = await running(rig, jar_dir, name=name)
        done = await milo(
            rig, "exec", name, "--", "sh", "-c", "cat; echo err >&2; exit 3", stdin=b"in"
        )
        assert (done.returncode, done.stdout, done.stderr) == (3, b"in", b"err\n")
        done = await milo(rig, "exec", short(rig, task)[:12], "--", "id", "-u")
        assert (done.returncode, done.stdout) == (0, b"65534\n")
        done = await milo(rig, "exec", "no-such-task", "--", "true")
        assert done.returncode == 1 and b"milo ps --all" in done.stderr
        done = await milo(rig, "exec", name)
        assert done.returncode == 2 and b"COMMAND" in done.stderr


async def test_stop_waits_for_the_end(jar_dir: Path) -> None:
    """The command returns when the task has ended, and says how."""
    async with open_rig() as rig:
        task = await running(rig, jar_dir)
        done = await milo(rig, "stop", "--signal", "SIGKILL", short(rig, task))
        assert done.returncode == 0, done.stderr
        assert b"SIGKILL" in done.stdout or b"signal 9" in done.stdout
        assert await rig.registry.wait(task.id) == ExitResult(signal=9)
        done = await milo(rig, "stop", "--timeout", "soon", short(rig, task))
        assert done.returncode == 2 and b"--timeout" in done.stderr


async def test_stats_are_measured(jar_dir: Path) -> None:
    """One line a task, from two looks at its cgroup."""
    async with open_rig() as rig:
        task = await running(rig, jar_dir)
        found = json.loads((await milo(rig, "stats", "--json", "--interval", "200ms")).stdout)
        mine = [one for one in found if one["id"] == short(rig, task)]
        assert mine[0]["memory_limit_bytes"] == 256 << 20
        assert 1 << 20 < mine[0]["memory_bytes"] < 256 << 20
        assert 0 < mine[0]["heap_committed_bytes"] <= mine[0]["heap_max_bytes"] < 256 << 20
        assert mine[0]["threads"] > 3 and mine[0]["classes"] > 100
        assert 0 <= mine[0]["gc_percent"] <= 100 and mine[0]["gc_collections"] >= 0
        words = ("stats", "--interval", "200ms", short(rig, task))
        told = (await milo(rig, *words)).stdout
        assert b"THROTTLED" in told and b"HEAP" in told and b"THREADS" in told
        await rig.registry.stop(task.id, "SIGKILL", 0)
        await rig.registry.wait(task.id)
        done = await milo(rig, *words)
        assert done.returncode == 1 and b"has ended, so it uses nothing" in done.stderr


async def test_logs_are_read_from_the_collectors_files(jar_dir: Path) -> None:
    """All rotated files in order, the last lines alone, and no file behind a symlink."""
    async with open_rig() as rig:
        task = await running(rig, jar_dir)
        logs = Path(task.request.alloc_dir) / "alloc/logs"
        (logs / "app.stdout.9").write_text("one\ntwo\n")
        (logs / "app.stdout.10").write_text("three\n")
        (logs / "app.stderr.0").write_text("trouble\n")
        (logs / "app.stdout.11").symlink_to("/etc/hostname")
        name = short(rig, task)
        assert (await milo(rig, "logs", "--stdout", name)).stdout == b"one\ntwo\nthree\n"
        done = await milo(rig, "logs", "--stdout", "-n", "2", name)
        assert done.stdout == b"two\nthree\n"
        assert (await milo(rig, "logs", "--stderr", short(rig, task))).stdout == b"trouble\n"
        (logs / "app.stderr.0").unlink()
        done = await milo(rig, "logs", "--stderr", short(rig, task))
        assert done.returncode == 1 and b"there is no stderr file" in done.stderr


async def test_exec_on_a_terminal(jar_dir: Path) -> None:
    """The command has the terminal's size, every key, and leaves the terminal as it was."""
    async with open_rig() as rig:
        task = await running(rig, jar_dir)
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 31, 117, 0, 0))
        before = termios.tcgetattr(theirs)
        words = ("exec", "--state-dir", str(rig.state_dir), short(rig, task), "--", "sh")
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "milo", *words], stdin=theirs, stdout=theirs, stderr=theirs
        )
        seen = b""

        async def until(text: bytes) -> None:
            nonlocal seen
            with fail_after(30):
                while text not in seen:
                    await trio.lowlevel.wait_readable(ours)
                    seen += os.read(ours, 4096)

        await until(b"$ ")
        os.write(ours, b"stty size; tty\n")
        await until(b"31 117")
        await until(b"/dev/pts/0")
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 41, 127, 0, 0))
        process.send_signal(signal.SIGWINCH)  # it is not the terminal's own process group
        # A busy host lets the shell go first.
        os.write(ours, b"until stty size | grep 127; do sleep 0.1; done; exit 4\n")
        await until(b"41 127")
        with fail_after(30):
            assert await process.wait() == 4
        assert termios.tcgetattr(theirs) == before
        os.close(ours)
        os.close(theirs)


async def test_logs_are_followed_to_the_end(jar_dir: Path) -> None:
    """-f goes on through rotated files, until the task has ended."""
    async with open_rig() as rig:
        task = await running(rig, jar_dir)
        logs = Path(task.request.alloc_dir) / "alloc/logs"
        (logs / "app.stdout.0").write_text("one\n")
        words = ("logs", "--state-dir", str(rig.state_dir), "-f", short(rig, task))
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "milo", *words], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        seen = b""

        async def until(text: bytes) -> None:
            nonlocal seen
            with fail_after(30):
                while text not in seen:
                    seen += await process.stdout.receive_some()  # type: ignore[union-attr]

        await until(b"one\n")
        with (logs / "app.stdout.0").open("a") as file:
            file.write("two\n")
        await until(b"two\n")
        (logs / "app.stdout.1").write_text("three\n")
        await until(b"three\n")
        await rig.registry.stop(task.id, "SIGKILL", 0)
        with fail_after(30):
            assert await process.wait() == 0
        assert seen == b"one\ntwo\nthree\n"


async def test_both_streams_are_one_log(jar_dir: Path) -> None:
    """In order of time, with marks of the task process, and in part with --since and -n."""
    async with open_rig() as rig:
        script = "for i in 1 2 3; do echo out $i; sleep 0.1; echo err $i >&2; sleep 0.1; done"
        task = rig.task(jar_dir / "shell.jar", args=[f"{script}; sleep 60"])
        await rig.registry.start(task.request)
        await trio.to_thread.run_sync(task.out.wait_for, b"out 3\n")
        await trio.to_thread.run_sync(task.err.wait_for, b"err 3\n")
        logs = Path(task.request.alloc_dir) / "alloc/logs"
        (logs / "app.stdout.0").write_bytes(b"earlier\n" + task.out.text)
        (logs / "app.stderr.0").write_bytes(task.err.text)
        expected = b"".join(b"out %d\nerr %d\n" % (i, i) for i in (1, 2, 3))
        name = short(rig, task)
        assert (await milo(rig, "logs", name)).stdout == b"earlier\n" + expected
        assert (await milo(rig, "logs", "-n", "3", name)).stdout == b"err 2\nout 3\nerr 3\n"
        assert (await milo(rig, "logs", "--since", "5m", name)).stdout.endswith(expected)
        assert (await milo(rig, "logs", "--since", "1ms", name)).stdout == b""


async def test_dumps(tmp_path: Path, jar_dir: Path) -> None:
    """Of threads, heap and a recording, where the caller wants them, and nothing stays behind."""
    async with open_rig() as rig:
        task = await running(rig, jar_dir)
        name = short(rig, task)
        done = await milo(rig, "dump", "threads", name)
        assert done.returncode == 0 and b'"main"' in done.stdout, done.stderr
        heap, recording = tmp_path / "heap.hprof", tmp_path / "a.jfr"
        done = await milo(rig, "dump", "heap", name, str(heap))
        assert done.returncode == 0, done.stderr
        assert (
            heap.read_bytes().startswith(b"JAVA PROFILE") and heap.stat().st_mode & 0o777 == 0o600
        )
        done = await milo(rig, "dump", "heap", name, str(heap))
        assert done.returncode == 1 and b"is there already" in done.stderr
        with small_tmpfs(tmp_path / "small", "64k"):
            for what in ("heap", "jfr", "threads"):
                full = tmp_path / "small" / what
                (tmp_path / "small/rest").write_bytes(b"x" * (60 << 10))
                done = await milo(rig, "dump", "--duration", "1", what, name, str(full))
                words = f"Error: {full} cannot be written: No space left on device\n"
                assert (done.returncode, done.stderr.decode()) == (1, words)
                assert not full.exists()
        done = await milo(rig, "dump", "jfr", "--duration", "2", name, str(recording))
        assert done.returncode == 0, done.stderr
        assert recording.read_bytes().startswith(b"FLR\0")
        assert not list((Path(task.request.alloc_dir) / "alloc/data").glob("milo-dump*"))
        await rig.registry.stop(task.id, "SIGKILL", 0)
        await rig.registry.wait(task.id)
        assert b"has ended" in (await milo(rig, "dump", "heap", name)).stderr


@pytest.mark.parametrize("ignores", [False, True], ids=["catches SIGQUIT", "-Xrs"])
async def test_threads_without_jcmd(jar_dir: Path, ignores: bool) -> None:
    """The JVM prints them to its log, if that does not end it."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "clock.jar", jvm_options=["-Xrs"] if ignores else [])
        # Where crun looks for a command.
        env = {**task.request.env, "PATH": "/nowhere"}
        await rig.registry.start(attrs.evolve(task.request, env=env))
        await trio.to_thread.run_sync(task.out.wait_for, b"tick 1")
        done = await milo(rig, "dump", "threads", short(rig, task))
        if ignores:
            assert done.returncode == 1 and b"SIGQUIT would end the application" in done.stderr
            assert (await milo(rig, "stop", short(rig, task))).returncode == 0
            assert (await rig.registry.wait(task.id)).signal == signal.SIGTERM
        else:
            assert (done.returncode, done.stdout.decode()) == (
                0,
                "Its Java has no jcmd. The JVM prints the threads to its log: "
                f"milo logs {short(rig, task)}\n",
            )
            await trio.to_thread.run_sync(task.out.wait_for, b"Full thread dump")


async def test_a_dump_that_is_ended_leaves_nothing(tmp_path: Path, jar_dir: Path) -> None:
    """SIGTERM comes while the JVM records: no file stays, neither there nor in the task."""
    async with open_rig() as rig:
        task = await running(rig, jar_dir)
        target = tmp_path / "a.jfr"
        words = ("dump", "--state-dir", str(rig.state_dir), "--duration", "10m", "jfr")
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "milo", *words, short(rig, task), str(target)],
            stderr=subprocess.PIPE,
        )
        assert process.stderr is not None
        status = Path(f"/proc/{process.pid}/status")

        def catches() -> bool:
            caught = int(status.read_text().partition("SigCgt:")[2].split()[0], 16)
            return target.exists() and bool(caught & 1 << signal.SIGTERM - 1)

        await trio.to_thread.run_sync(wait_for, "the dump", catches)
        process.send_signal(signal.SIGTERM)
        with fail_after(20):
            assert await process.wait() == 1
        assert b"SIGTERM has ended it" in await process.stderr.receive_some()
        assert not target.exists()
        assert not list((Path(task.request.alloc_dir) / "alloc/data").glob("milo-dump*"))
