"""Commands in a running task, with the real crun: what ``nomad alloc exec`` is made of."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from milo import cgroup_files
from milo.core.cgroup import Mode
from milo.core.config.plugin_options import PluginOptions
from milo.core.exec_io import CommandEnd, ExecInput, Printed, TerminalSize, Typed
from milo.errors import ControlError
from milo.host.exec_client import KEPT_BYTES, Inputs, run_command, run_script
from milo.proc import start_ticks
from milo.task.oci.privileges import userns_problem
from tests.support import fake_crun
from tests.support.driver_rig import DriverRig, Task, open_rig
from tests.support.waiting import fail_after

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")


@attrs.define
class Output:
    """Collects what a command prints."""

    stdout: bytes = b""
    stderr: bytes = b""
    closed: set[bool] = attrs.Factory(set)
    changed: trio.Event = attrs.Factory(trio.Event)

    async def emit(self, printed: Printed) -> None:
        if printed.to_stderr:
            self.stderr += printed.data
        else:
            self.stdout += printed.data
        if printed.closed:
            self.closed.add(printed.to_stderr)
        self.changed.set()
        self.changed = trio.Event()

    async def until(self, text: bytes) -> None:
        with fail_after(20):
            try:
                while text not in self.stdout:
                    await self.changed.wait()
            except trio.Cancelled:
                print(self.stdout, self.stderr)
                raise


async def nothing() -> AsyncGenerator[ExecInput, None]:
    yield Typed(closed=True)


async def running(rig: DriverRig, jar_dir: Path, **config: Any) -> Task:
    """Start a task that runs until it is stopped."""
    task = rig.task(jar_dir / "clock.jar", **config)
    await rig.registry.start(task.request)
    return task


async def printing(task: Task) -> None:
    """Wait for the application's first line: a JVM that still starts needs its directory.

    Nor does it answer jcmd.
    """
    await trio.to_thread.run_sync(task.out.wait_for, b"\n")


def state_dir(rig: DriverRig, task: Task) -> str:
    return rig.registry._tasks[task.id].launch.state_dir


async def run(
    rig: DriverRig,
    task: Task,
    *argv: str,
    tty: bool = False,
    inputs: Inputs | None = None,
) -> tuple[CommandEnd, Output]:
    """Run a command to its end."""
    output = Output()
    with fail_after(60):
        end = await run_command(
            state_dir(rig, task),
            argv,
            tty=tty,
            inputs=nothing() if inputs is None else inputs,
            emit=output.emit,
        )
    return end, output


async def test_streams_and_exit_code_are_the_commands_own(jar_dir: Path) -> None:
    """Standard output and error are kept apart, and the exit code or signal is exact."""
    async with open_rig() as rig:
        task = await running(rig, jar_dir)
        end, output = await run(rig, task, "sh", "-c", "echo out; echo err >&2; exit 42")
        assert end == CommandEnd(42)
        assert (output.stdout, output.stderr) == (b"out\n", b"err\n")
        assert output.closed == {False, True}
        end, _ = await run(rig, task, "sh", "-c", "kill -TERM $$")
        assert (end.signal, end.shell_code) == (15, 143)


async def test_it_has_the_applications_own_privileges(jar_dir: Path) -> None:
    """Namespaces, user, capabilities, environment, limits and cgroup are the application's."""
    async with open_rig() as rig:
        task = await running(rig, jar_dir)
        script = (
            "id -u; grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status;"
            "cat /proc/self/oom_score_adj; ulimit -Hn; echo $NOMAD_TASK_DIR;"
            "for n in pid mnt ipc uts cgroup; do"
            ' [ "$(readlink /proc/self/ns/$n)" = "$(readlink /proc/2/ns/$n)" ] && echo same; done'
        )
        end, output = await run(rig, task, "sh", "-c", script)
        lines = output.stdout.decode().split("\n")
        _, reference = await run(
            rig, task, "grep", "-E", "^(CapEff|CapBnd|NoNewPrivs|Seccomp):", "/proc/2/status"
        )
        assert end == CommandEnd(0), output
        assert lines[0] == "65534"
        assert "\n".join(lines[1:5]) + "\n" == reference.stdout.decode()
        assert lines[5] == "0"
        assert lines.count("same") == 5
        assert "/local" in lines


@contextmanager
def reserved_core() -> Iterator[tuple[str, str]]:
    """Yield the number of a core, and on cgroup v1 a cpuset group that is a task's own."""
    hierarchy = cgroup_files.detect()
    core = str(max(os.sched_getaffinity(0)))
    if hierarchy.mode is Mode.V2:
        yield core, ""
        return
    group = Path(hierarchy.mounts["cpuset"], f"milo-test-{os.getpid()}")
    group.mkdir()
    try:
        (group / "cpuset.mems").write_text((group.parent / "cpuset.mems").read_text())
        yield core, str(group)
    finally:
        group.rmdir()


@pytest.mark.parametrize("tty", [False, True])
async def test_a_command_begins_where_the_task_is(jar_dir: Path, tty: bool) -> None:
    """Each command and each child of one, however early, has the task's OOM score and cores."""
    facts = "cat /proc/self/oom_score_adj; grep Cpus_allowed_list /proc/self/status"
    async with open_rig() as rig:
        with reserved_core() as (core, group):
            task = rig.task(jar_dir / "clock.jar")
            resources = attrs.evolve(task.request.resources, oom_score_adj=345, cpuset_cpus=core)
            task = attrs.evolve(
                task,
                request=attrs.evolve(task.request, resources=resources, cpuset_cgroup=group),
            )
            await rig.registry.start(task.request)
            found: list[list[bytes]] = []

            async def look() -> None:
                script = f"({facts}) & wait; {facts}"
                _, output = await run(rig, task, "sh", "-c", script, tty=tty)
                found.append(output.stdout.split())

            for _ in range(6):
                async with trio.open_nursery() as nursery:
                    for _ in range(5):
                        nursery.start_soon(look)
            await rig.registry.destroy(task.id, force=True)
    assert found == [[b"345", b"Cpus_allowed_list:", core.encode()] * 2] * 30


async def test_standard_input_arrives_whole_and_ends(jar_dir: Path) -> None:
    """Megabytes go in and come out again, byte for byte, and the end of input arrives."""
    data = os.urandom(1 << 20) * 3

    async def typed() -> AsyncGenerator[ExecInput, None]:
        for start in range(0, len(data), 50_000):
            yield Typed(data[start : start + 50_000])
        yield Typed(closed=True)

    async with open_rig() as rig:
        task = await running(rig, jar_dir)
        end, output = await run(rig, task, "cat", inputs=typed())
        assert end == CommandEnd(0)
        assert hashlib.sha256(output.stdout).digest() == hashlib.sha256(data).digest()


async def test_a_slow_reader_loses_nothing(jar_dir: Path) -> None:
    """A command that has ended long ago is read to its last byte, however slow the reader is."""
    received = 0

    async def slowly(printed: Printed) -> None:
        nonlocal received
        received += len(printed.data)
        await trio.sleep(0.7 if received < 100_000 else 0)

    async with open_rig() as rig:
        task = await running(rig, jar_dir)
        end = await run_command(
            state_dir(rig, task),
            ("head", "-c", "200000", "/dev/zero"),
            tty=False,
            inputs=nothing(),
            emit=slowly,
        )
        assert (end, received) == (CommandEnd(0), 200_000)


async def test_terminal_has_its_size_and_its_signals(jar_dir: Path) -> None:
    """With a terminal, the command sees one of its container's own; resize and Ctrl-C work."""
    send, receive = trio.open_memory_channel[ExecInput](10)
    output = Output()
    ends: list[CommandEnd] = []

    async def run_shell(rig: DriverRig, task: Task) -> None:
        ends.append(
            await run_command(
                state_dir(rig, task), ("sh",), tty=True, inputs=receive, emit=output.emit
            )
        )

    async with open_rig() as rig, trio.open_nursery() as nursery:
        task = await running(rig, jar_dir)
        nursery.start_soon(run_shell, rig, task)
        await send.send(TerminalSize(rows=33, columns=111))
        await send.send(Typed(b"stty size; tty\n"))
        await output.until(b"33 111")
        await output.until(b"/dev/pts/")
        await send.send(TerminalSize(rows=44, columns=122))
        await send.send(Typed(b"stty size; exec sh\n"))
        await output.until(b"44 122")
        await send.send(Typed(b"sh -c 'echo begun; exec sleep 1000'\n"))
        await output.until(b"begun\r\n")
        await send.send(Typed(b"\x03"))
        await send.send(Typed(b"echo code=$?\n"))
        await output.until(b"code=130")
        await send.send(Typed(b"exit 7\n"))

        async def ended() -> bool:
            return bool(ends)

        await until(ended)
        nursery.cancel_scope.cancel()
    assert ends == [CommandEnd(7)]


async def test_the_end_of_input_ends_a_shell_on_a_terminal(jar_dir: Path) -> None:
    """A client without more input ends the shell as Ctrl-D does."""
    async with open_rig() as rig:
        task = await running(rig, jar_dir)
        end, _ = await run(rig, task, "sh", tty=True)
        assert end == CommandEnd(0)


@pytest.mark.parametrize("tty", [False, True])
async def test_a_command_that_is_not_there_is_named(jar_dir: Path, tty: bool) -> None:
    """The exit code is a shell's 127, and crun's words reach the user once."""
    async with open_rig() as rig:
        task = await running(rig, jar_dir)
        end, output = await run(rig, task, "no-such-command", tty=tty)
        assert end == CommandEnd(127)
        text = output.stdout + output.stderr
        assert text.count(b"no-such-command") == 1, text


async def test_a_word_is_never_cut(jar_dir: Path) -> None:
    """A word that no command line can hold is refused, instead of running another command."""
    async with open_rig() as rig:
        task = await running(rig, jar_dir)
        end, output = await run(rig, task, "/bin/echo", "a\0b")
        assert end == CommandEnd(126)
        assert output.stdout == b"" and b"holds a NUL character" in output.stderr


@pytest.mark.parametrize("tty", [False, True])
async def test_a_command_may_be_as_long_as_the_kernel_takes_it(jar_dir: Path, tty: bool) -> None:
    """Above that it is an error with its size, and nothing runs."""
    async with open_rig() as rig:
        task = await running(rig, jar_dir)
        words = ["x" * 100_000, "é" * 20_000, "", "z"] * 7
        script = 'printf "%s," "$#" "${#1}" "${27}" "${28}"'
        end, output = await run(rig, task, "/bin/sh", "-c", script, "sh", *words, tty=tty)
        assert (end, output.stdout) == (CommandEnd(0), b"28,100000,,z,")
        end, output = await run(rig, task, "/bin/echo", *["y" * 100_000] * 21, tty=tty)
        assert end == CommandEnd(126)
        text = output.stdout + output.stderr
        assert b"bytes in all" in text and b"yy" not in text, text[:1000]


async def processes_of(rig: DriverRig, task: Task) -> set[int]:
    started = rig.registry._tasks[task.id].started
    assert started is not None
    # The JVM reaps nobody, so what a killed shell leaves behind stays there as a zombie.
    return {pid for pid in cgroup_files.processes(started.cgroup_path) if start_ticks(pid)}


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    with fail_after(20):
        while not await condition():  # noqa: ASYNC110
            await trio.sleep(0.02)


@pytest.mark.parametrize("tty", [False, True])
async def test_a_client_that_goes_takes_the_command_along(jar_dir: Path, tty: bool) -> None:
    """Cancelling the session kills the command and its children, and nothing of the task."""
    async with open_rig() as rig:
        task = await running(rig, jar_dir)
        before = await processes_of(rig, task)
        output = Output()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                lambda: run_command(
                    state_dir(rig, task),
                    ("sh", "-c", "sleep 1000 & trap '' HUP TERM; echo up; sleep 1000"),
                    tty=tty,
                    inputs=trio.open_memory_channel[ExecInput](0)[1],
                    emit=output.emit,
                )
            )
            await output.until(b"up")

            async def forked() -> bool:
                return len(await processes_of(rig, task)) == len(before) + 3

            await until(forked)
            nursery.cancel_scope.cancel()

        async def gone() -> bool:
            return await processes_of(rig, task) == before

        await until(gone)


async def test_the_end_of_the_task_ends_its_commands(jar_dir: Path) -> None:
    """A command that runs when the task is stopped is told as killed."""
    async with open_rig() as rig, trio.open_nursery() as nursery:
        task = await running(rig, jar_dir)
        output = Output()
        ends: list[CommandEnd | str] = []

        async def command() -> None:
            try:
                ends.append(
                    await run_command(
                        state_dir(rig, task),
                        ("sh", "-c", "echo up; exec sleep 1000"),
                        tty=False,
                        inputs=trio.open_memory_channel[ExecInput](0)[1],
                        emit=output.emit,
                    )
                )
            except ControlError as exc:
                ends.append(str(exc))

        nursery.start_soon(command)
        await output.until(b"up")
        await rig.registry.stop(task.id, "SIGKILL", 0)

        async def ended() -> bool:
            return bool(ends)

        await until(ended)
        assert ends == [CommandEnd(0, signal=9)]


async def test_the_death_of_the_task_process_ends_the_command(jar_dir: Path) -> None:
    """The client hears of it, and the command is killed though nobody supervises it."""
    async with open_rig() as rig:
        task = await running(rig, jar_dir)
        before = await processes_of(rig, task)
        output = Output()

        async def noted() -> bool:
            found = Path(state_dir(rig, task)).glob("exec-*.pid")
            return any(path.read_bytes() for path in found)

        async def kill() -> None:
            await output.until(b"up")
            # A successor finds the command by what crun writes down, perhaps a moment later.
            await until(noted)
            os.kill(await rig.supervisor(task), signal.SIGKILL)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(kill)
            with pytest.raises(ControlError, match="has ended"):
                await run_command(
                    state_dir(rig, task),
                    ("sh", "-c", "echo up; exec sleep 1000"),
                    tty=False,
                    inputs=trio.open_memory_channel[ExecInput](0)[1],
                    emit=output.emit,
                )

        async def gone() -> bool:
            return await processes_of(rig, task) == before

        await until(gone)

        # Its successor runs commands as well.
        async def answers() -> bool:
            try:
                end, _ = await run(rig, task, "true")
            except ControlError:
                return False
            return end == CommandEnd(0)

        await until(answers)


async def test_what_a_command_leaves_running_holds_nobody_up(jar_dir: Path) -> None:
    """A background process with the streams open does not keep the session open."""
    async with open_rig() as rig:
        task = await running(rig, jar_dir)
        end, output = await run(rig, task, "sh", "-c", "sleep 1000 & echo done")
        assert (end, output.stdout) == (CommandEnd(0), b"done\n")


async def test_many_at_once(jar_dir: Path) -> None:
    """Twenty commands at a time do not mix up their output."""
    async with open_rig() as rig:
        task = await running(rig, jar_dir)

        async def one(number: int) -> None:
            end, output = await run(rig, task, "sh", "-c", f"echo {number}; exit {number}")
            assert (end.exit_code, output.stdout) == (number, b"%d\n" % number)

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(one, number)


async def test_script_checks_have_their_output_and_their_timeout(jar_dir: Path) -> None:
    """Both streams in order, the last 4 KiB of them; one that takes too long is killed."""
    async with open_rig() as rig:
        task = await running(rig, jar_dir)
        output, end = await run_script(
            state_dir(rig, task), ("sh", "-c", "echo a; echo b >&2; echo c; exit 2"), 20
        )
        assert (output, end) == (b"a\nb\nc\n", CommandEnd(2))
        output, _ = await run_script(state_dir(rig, task), ("seq", "100000"), 20)
        assert len(output) == KEPT_BYTES and output.endswith(b"\n100000\n")
        before = await processes_of(rig, task)
        with pytest.raises(ControlError, match=r"within its timeout of 3 s.*It printed: begun"):
            await run_script(state_dir(rig, task), ("sh", "-c", "echo begun; sleep 1000"), 3)

        async def gone() -> bool:
            return await processes_of(rig, task) == before

        await until(gone)


async def test_the_jdks_tools_work_by_bare_name(jar_dir: Path) -> None:
    """jcmd of the task's own JDK talks to the task's JVM."""
    async with open_rig() as rig:
        task = await running(rig, jar_dir)
        await printing(task)
        end, output = await run(rig, task, "jcmd", "2", "VM.version")
        assert end == CommandEnd(0), output
        assert b"JDK" in output.stdout


async def test_a_task_that_does_not_run_takes_no_command(jar_dir: Path) -> None:
    """The error says that the task has ended."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "hello.jar")
        await rig.registry.start(task.request)
        await rig.registry.wait(task.id)
        with pytest.raises(ControlError):
            await run(rig, task, "true")


# ---- the working directory --------------------------------------------------------------


@pytest.mark.parametrize(
    "with_userns",
    [
        False,
        pytest.param(True, marks=pytest.mark.skipif(bool(userns_problem()), reason="no userns")),
    ],
)
async def test_working_directory_is_the_applications(jar_dir: Path, with_userns: bool) -> None:
    """A command begins where the application does, and holds no descriptor but its streams."""
    async with open_rig(PluginOptions(userns=with_userns)) as rig:
        task = await running(rig, jar_dir, work_dir="/local/work")
        script = "pwd -P; pwd; for n in 3 4 5 6 7 8 9; do readlink /proc/self/fd/$n; done; :"
        end, output = await run(rig, task, "sh", "-c", script)
        assert (end, output.stdout) == (CommandEnd(0), b"/local/work\n/local/work\n")
        other = await running(rig, jar_dir)
        end, output = await run(rig, other, "sh", "-c", "pwd -P; ls")
        _, reference = await run(rig, other, "ls", "/task")
        assert output.stdout == b"/task\n" + reference.stdout
        assert b"secrets" in reference.stdout.split()


async def test_working_directory_that_became_a_symlink(jar_dir: Path) -> None:
    """A command is not run where a symlink in work_dir leads, which crun would follow as root."""
    async with open_rig(PluginOptions(allow_host_namespaces=True)) as rig:
        secret = rig.base / "secret"
        secret.write_text("secret")
        secret.chmod(0o644)
        task = await running(rig, jar_dir, work_dir="/local/work", pid_mode="host")
        await printing(task)
        (task.local / "work").rmdir()
        for target in (f"/proc/{os.getpid()}/root", "/usr/share", "/proc/self/fd/5", "missing"):
            (task.local / "work").symlink_to(target)
            end, output = await run(rig, task, "cat", f".{secret}")
            assert (end.exit_code, output.stdout) == (126, b"")
            assert b"working directory /local/work" in output.stderr
            assert b"symlink" in output.stderr
            (task.local / "work").unlink()


async def test_working_directory_exchanged_after_the_check(tmp_path: Path, jar_dir: Path) -> None:
    """What becomes of work_dir's path in the meantime does not matter: the command is in it."""
    tmp_path.chmod(0o755)
    crun = fake_crun.wrapper(tmp_path / "crun", "exec", f". {tmp_path}/attack")
    plugin = PluginOptions(allow_host_namespaces=True, crun_path=str(crun))
    async with open_rig(plugin) as rig:
        task = await running(rig, jar_dir, work_dir="/local/work", pid_mode="host")
        await printing(task)
        (tmp_path / "attack").write_text(
            f"mv {task.local}/work {task.local}/away; ln -s /usr/share {task.local}/work\n"
        )
        end, output = await run(rig, task, "sh", "-c", "pwd -P")
        assert (end, output.stdout) == (CommandEnd(0), b"/local/away\n")
