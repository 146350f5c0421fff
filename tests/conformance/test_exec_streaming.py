"""Commands in a running task, as the driver's RPC ExecTaskStreaming gives them."""

from __future__ import annotations

import io
import os
import tarfile
from itertools import pairwise
from pathlib import Path

import pytest
import trio

from milo import cgroup_files
from tests.conformance.harness import open_harness
from tests.support.waiting import fail_after, scaled

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")


@pytest.mark.parametrize(("tty", "newline"), [(False, b"\n"), (True, b"\r\n")])
async def test_output_arrives_as_it_is_written(jar_dir: Path, tty: bool, newline: bytes) -> None:
    """A line of a command arrives before the next is written; a terminal ends it with CR LF."""
    async with open_harness() as harness:
        task = harness.rig.task(jar_dir / "stubborn.jar")
        await harness.running(task)
        script = "for word in red green blue; do echo $word; sleep 0.5; done"
        session = await harness.shell(task, script, tty=tty)
        assert session.exit_code == 0
        assert session.stdout == newline.join([b"red", b"green", b"blue", b""])
        pauses = [later - earlier for earlier, later in pairwise(session.arrived_s)]
        assert len(pauses) >= 2 and sum(pauses) > 0.9, pauses


async def test_a_terminal_has_one_stream(jar_dir: Path) -> None:
    """On a terminal both streams arrive as standard output, in order; the exit code is exact."""
    async with open_harness() as harness:
        task = harness.rig.task(jar_dir / "stubborn.jar")
        await harness.running(task)
        session = await harness.shell(task, "echo one; echo two >&2; echo three; exit 9", tty=True)
        assert (session.stdout, session.stderr) == (b"one\r\ntwo\r\nthree\r\n", b"")
        assert session.exit_code == 9


async def test_there_is_no_terminal_unless_asked_for(jar_dir: Path) -> None:
    """Without a terminal none of the three streams is one, and its size cannot be had."""
    async with open_harness() as harness:
        task = harness.rig.task(jar_dir / "stubborn.jar")
        await harness.running(task)
        session = await harness.shell(task, "test -t 0 || test -t 1 || test -t 2; echo $?; stty -a")
        assert session.stdout == b"1\n"
        assert b"Inappropriate ioctl" in session.stderr
        assert session.exit_code == 1


async def test_the_latest_size_counts(jar_dir: Path) -> None:
    """Of two sizes of the terminal that come at the start, the command sees the second."""
    async with open_harness() as harness:
        task = harness.rig.task(jar_dir / "stubborn.jar")
        await harness.running(task)
        sizes = [(11, 22), (33, 44)]
        # A busy host may give the command its sizes later.
        script = "sleep 0.5; until stty size | grep '33 44'; do sleep 0.1; done"
        session = await harness.shell(task, script, tty=True, sizes=sizes)
        assert (session.stdout, session.exit_code) == (b"33 44\r\n", 0)


async def test_a_terminal_echoes_what_is_typed(jar_dir: Path) -> None:
    """What is typed on a terminal appears, and then what the command makes of it."""
    async with open_harness() as harness:
        task = harness.rig.task(jar_dir / "stubborn.jar")
        await harness.running(task)
        session = await harness.shell(
            task, "read word; echo got $word", tty=True, stdin=b"apple\n", ends=False
        )
        assert (session.stdout, session.exit_code) == (b"apple\r\ngot apple\r\n", 0)


async def test_a_command_need_not_read_all_of_its_input(jar_dir: Path) -> None:
    """A command that reads one line ends, though its client neither ends its input nor goes."""
    async with open_harness() as harness:
        task = harness.rig.task(jar_dir / "stubborn.jar")
        await harness.running(task)
        session = await harness.shell(
            task, "echo ask; read word; echo got $word", stdin=b"pear\nplum\n", ends=False
        )
        assert (session.stdout, session.exit_code) == (b"ask\ngot pear\n", 0)


async def test_a_terminal_ends_with_its_first_process(jar_dir: Path) -> None:
    """On a terminal a session ends with the command, whatever that leaves in the background."""
    async with open_harness() as harness:
        task = harness.rig.task(jar_dir / "stubborn.jar")
        await harness.running(task)
        began_s = trio.current_time()
        script = "( (sleep 20; echo late) & ); echo early; exec sleep 0.3"
        session = await harness.shell(task, script, tty=True)
        assert (session.stdout, session.exit_code) == (b"early\r\n", 0)
        assert trio.current_time() - began_s < scaled(15)


async def test_files_of_a_command_are_the_tasks(jar_dir: Path) -> None:
    """A file that a command makes is not the host's, and the next command reads it."""
    async with open_harness() as harness:
        task = harness.rig.task(jar_dir / "stubborn.jar")
        await harness.running(task)
        made = await harness.shell(task, "name=$(mktemp); echo $name; echo kept > $name")
        assert made.exit_code == 0
        path = made.stdout.decode().strip()
        assert not Path(path).exists()
        assert (await harness.command(task, "cat", path)).stdout == b"kept\n"


async def test_a_command_is_in_the_tasks_cgroup(jar_dir: Path) -> None:
    """A command counts as the task's; but the task does not see where its group is on the host.

    Nomad's own drivers show the host's path in /proc/self/cgroup. Milo's tasks have a cgroup
    namespace: to them the container's group is the root.
    """
    async with open_harness() as harness:
        task = harness.rig.task(jar_dir / "stubborn.jar")
        await harness.running(task)
        started = harness.rig.registry._tasks[task.id].started
        assert started is not None
        before = set(cgroup_files.processes(started.cgroup_path))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(harness.command, task, "sleep", "20")
            with fail_after(10):
                while set(cgroup_files.processes(started.cgroup_path)) <= before:  # noqa: ASYNC110
                    await trio.sleep(0.02)
            nursery.cancel_scope.cancel()
        seen = await harness.command(task, "cat", "/proc/self/cgroup")
        controllers = [line.split(":") for line in seen.stdout.decode().splitlines()]
        assert {path for _, names, path in controllers if names != "name=systemd"} == {"/"}


async def test_the_streams_have_names(jar_dir: Path) -> None:
    """The task's user opens /dev/stdin, /dev/stdout and /dev/stderr, in a command and as itself."""
    script = "cat /dev/stdin; echo out > /dev/stdout; echo err > /dev/stderr"
    async with open_harness() as harness:
        task = harness.rig.task(jar_dir / "stubborn.jar")
        await harness.running(task)
        session = await harness.shell(task, script, stdin=b"in\n")
        assert (session.stdout, session.stderr, session.exit_code) == (b"in\nout\n", b"err\n", 0)
        application = harness.rig.task(jar_dir / "shell.jar", args=[script], name="application")
        await harness.start(application)
        assert (await harness.wait(application)).exit_code == 0
        await trio.to_thread.run_sync(application.out.wait_end)
        await trio.to_thread.run_sync(application.err.wait_end)
        assert (application.out.text, application.err.text) == (b"out\n", b"err\n")


async def test_an_archive_is_unpacked_from_standard_input(jar_dir: Path) -> None:
    """tar reads an archive that a client sends, and says what it unpacked."""
    content = os.urandom(20_000)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo("sent.bin")
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    async with open_harness() as harness:
        task = harness.rig.task(jar_dir / "stubborn.jar")
        await harness.running(task)
        words = ("tar", "-x", "-v", "-C", "/local", "-f", "/dev/stdin")
        session = await harness.command(task, *words, stdin=archive.getvalue())
        assert (session.stdout, session.exit_code) == (b"sent.bin\n", 0), session.stderr
        assert (task.local / "sent.bin").read_bytes() == content
