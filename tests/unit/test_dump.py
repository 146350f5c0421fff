"""Where `milo dump` puts its file, and what it does without the JDK's ``jcmd``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from milo import proc
from milo.cli import dump
from milo.cli.dump import DumpError, NoToolsError
from milo.cli.new_file import NewFile, new_file
from milo.core.container.spec import User
from milo.core.exec_io import CommandEnd, Printed
from milo.core.java.heap import Tuning
from milo.core.java.option_words import UserWords
from milo.core.records import (
    PREPARED_FILE,
    ExitRecord,
    ProcessId,
    TaskNames,
    TaskRecord,
    encode,
)
from milo.errors import ControlError
from milo.host.exec_client import Emit
from milo.host.tasks import HostTask
from milo.process_signals import catches, is_halted
from milo.task.java.jvm import JvmPlan
from milo.task.logs.pump_policy import PumpPolicy
from milo.task.oci.bundle import Bundle
from milo.task.preparer import Prepared
from tests.support.launches import make_launch
from tests.support.recordings import chunk
from tests.support.waiting import wait_for


@attrs.frozen
class Task:
    """`milo.host.tasks.HostTask`, of which the name counts here."""

    name: str = "web"


def test_two_dumps_within_a_second_have_two_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that was not asked for is a free one."""
    task: Any = Task()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "strftime", lambda _: "now")
    for expected in ("web-now.hprof", "web-now-2.hprof", "web-now-3.hprof"):
        path = Path(dump._target("heap", "", task))
        assert path == tmp_path / expected
        path.touch()
    assert dump._target("heap", "mine", task) == str(tmp_path / "mine")


# ---- a Java without jcmd

CRUN_SAYS = b"executable file `jcmd` not found in $PATH: No such file or directory\n"
CATCHES = """
import os, signal, time
signal.signal(signal.SIGQUIT, lambda *_: os.write(1, b"caught\\n"))  # also within a print
print("ready", flush=True)
while True:
    time.sleep(60)
"""
CATCHES_NOTHING = "import time; print('ready', flush=True); time.sleep(600)"


def without_jcmd(monkeypatch: pytest.MonkeyPatch, failure: str = "") -> None:
    """Have crun say that there is no such command, or no task process answer."""

    async def run(*_: object, emit: Emit, **__: object) -> CommandEnd:
        if failure:
            raise ControlError(failure)
        await emit(Printed(CRUN_SAYS))
        return CommandEnd(127)

    monkeypatch.setattr(dump, "run_command", run)


@pytest.fixture
def child(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[bytes]]:
    """A task's first process, which runs some Python."""
    command = [sys.executable, "-c", request.param]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        yield process
        process.kill()


def task_of(child: subprocess.Popen[bytes]) -> HostTask:
    """The task whose first process is ``child``."""
    identity = proc.identify(child.pid)
    record = TaskRecord("id", "web", "a1", "/nowhere", ProcessId(2**22, 1), container=identity)
    return HostTask("/run/milo/0123456789abcdef", record, None, None)


@pytest.mark.parametrize("child", [CATCHES], indirect=True)
async def test_a_jre_prints_its_threads_to_the_log(
    child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By SIGQUIT, which the JVM has a handler for."""
    without_jcmd(monkeypatch)
    assert b"prints the threads to its log" in await dump._threads(task_of(child), "2")
    assert child.stdout is not None and child.stdout.readline() == b"caught\n"


@pytest.mark.parametrize("child", [CATCHES], indirect=True)
async def test_nothing_is_printed_for_nobody(
    child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a job without log collection no threads are to be seen in any log."""
    without_jcmd(monkeypatch)
    task = attrs.evolve(task_of(child), launch=make_launch(stdout_path="/dev/null"))
    with pytest.raises(DumpError, match="has no jcmd, and nobody collects what it prints"):
        await dump._threads(task, "2")


@pytest.mark.parametrize("child", [CATCHES_NOTHING], indirect=True)
async def test_no_look_ends_a_task(
    child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGQUIT would end what does not catch it: a JVM with -Xrs, or before its first class."""
    assert not catches(child.pid, signal.SIGQUIT)
    without_jcmd(monkeypatch)
    with pytest.raises(DumpError, match="has no jcmd, and SIGQUIT would end the application"):
        await dump._threads(task_of(child), "2")
    assert child.poll() is None


@pytest.mark.parametrize("child", [CATCHES], indirect=True)
async def test_a_halted_jvm_prints_nothing(
    child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would print when it is let go on, and nobody waits for that."""
    without_jcmd(monkeypatch)
    child.send_signal(signal.SIGSTOP)
    wait_for("the halt", lambda: is_halted(child.pid))
    with pytest.raises(DumpError, match="has no jcmd, and the application is halted"):
        await dump._threads(task_of(child), "2")


@pytest.mark.parametrize("child", [CATCHES], indirect=True)
async def test_no_answer_is_no_jre(
    child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing control socket has the same words, and nothing is sent then."""
    without_jcmd(monkeypatch, "Error: No task process answers at /x: No such file or directory")
    with pytest.raises(ControlError, match="No task process answers"):
        await dump._threads(task_of(child), "2")


async def test_a_jre_has_no_heap_dump(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing is said, not what crun said."""
    without_jcmd(monkeypatch)
    task = HostTask("/run/milo/0123456789abcdef", None, None, None)
    with pytest.raises(NoToolsError, match="Run it on a JDK"):
        await dump._jcmd(task, 5, "2", "GC.heap_dump", "/x")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (b"2:\nDumping heap to /x ...\nNo space left on device\n\n", "No space left on device"),
        (
            b"Picked up JAVA_TOOL_OPTIONS: -Da=b\n2:\n"
            b"com.sun.tools.attach.AttachNotSupportedException: target process 2 is busy\n"
            b"\tat jdk.attach/sun.tools.attach.A.b(A.java:1)\n"
            b"\tat jdk.jcmd/sun.tools.jcmd.JCmd.main(JCmd.java:112)\n",
            "com.sun.tools.attach.AttachNotSupportedException: target process 2 is busy",
        ),
        (b"\tat jdk.jcmd/sun.tools.jcmd.JCmd.main(JCmd.java:112)\n", "\\tat jdk.jcmd/"),
        (b"\n", ""),
    ],
)
def test_the_reason_of_a_refusal_is_quoted(words: bytes, reason: str) -> None:
    """Of an exception that is what it says, and not where it was thrown."""
    assert dump._shown(words).startswith(reason)


# ---- a task that Nomad has restarted

FILES = "/alloc/data/web-00000001"


def restarted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, container: ProcessId | None) -> None:
    """Have the command find a task and its last instance, which has left a recording."""
    (tmp_path / "alloc/data").mkdir(parents=True)
    (tmp_path / f"{FILES[1:]}.jfr").write_bytes(chunk(b"events", state=0))
    names = TaskNames("web", "a1")
    end = ExitRecord(1, alloc_dir=str(tmp_path), recording=FILES, names=names)
    record = TaskRecord("id", "web", "a1", str(tmp_path), ProcessId(2**22, 1), container=container)
    tasks = [
        HostTask("/run/milo/0123456789abcdef", None, end, None),
        HostTask("/run/milo/fedcba9876543210", record, None, None),
    ]
    monkeypatch.setattr(dump, "tasks_of_host", lambda options: tasks)


def fetch(target: Path) -> int:
    """Run ``milo dump jfr web``."""
    return dump.dump(Namespace(what="jfr", task="web", file=str(target), duration=None))


@pytest.mark.parametrize("child", [CATCHES], indirect=True)
def test_which_recording_it_is_is_told(
    child: subprocess.Popen[bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By name the running JVM's is fetched, and how to get that of the last end is said."""
    restarted(tmp_path, monkeypatch, proc.identify(child.pid))

    async def written(*_: object) -> None:
        return

    monkeypatch.setattr(dump, "_written", written)
    target = tmp_path / "a.jfr"
    assert fetch(target) == 0
    assert capsys.readouterr().out == (
        f"Wrote {target}, of the running JVM\n"
        "To fetch that of the last one, which has ended: milo dump jfr 0123456789abcdef\n"
    )


def test_between_two_starts_the_last_recording_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No JVM runs yet that could be asked."""
    restarted(tmp_path, monkeypatch, None)
    target = tmp_path / "a.jfr"
    assert fetch(target) == 0
    assert target.read_bytes() == chunk(b"events", state=0)
    assert capsys.readouterr().out == f"Wrote {target}, of 0123456789abcdef, which has ended\n"


def test_a_lost_task_has_left_its_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its task process was killed with the JVM; what was decided before its start names it."""
    (tmp_path / "alloc/data").mkdir(parents=True)
    (tmp_path / f"{FILES[1:]}.jfr").write_bytes(chunk(b"events", state=0))
    jvm = JvmPlan("Java 17", 17, UserWords(()), Tuning(), recording=FILES)
    bundle = Bundle("/bundle", "milo-id", "/cgroup", "/bundle/config.json", User(0, 0))
    prepared = Prepared(PumpPolicy.of("block", 30.0), jvm, bundle)
    (tmp_path / PREPARED_FILE).write_bytes(encode(prepared))
    gone = ProcessId(2**22, 1)
    record = TaskRecord("id", "web", "a1", str(tmp_path), gone, container=gone)
    task = HostTask(str(tmp_path), record, None, None)
    monkeypatch.setattr(dump, "tasks_of_host", lambda options: [task])
    target = tmp_path / "a.jfr"
    assert fetch(target) == 0
    assert target.read_bytes() == chunk(b"events", state=0)
    assert capsys.readouterr().out == f"Wrote {target}, of {task.id}, which has ended\n"


# ---- a signal while a dump is copied


async def test_a_signal_while_it_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of GiBs that takes a while, as when a terminal is closed: no half file stays."""
    data = tmp_path / "alloc/data"
    data.mkdir(parents=True)
    written: list[int] = []

    async def jcmd(*words: object) -> bytes:
        (tmp_path / str(words[-1]).removeprefix("/")).write_bytes(bytes(8 << 20))
        return b"Heap dump file created"

    class Slow(NewFile):
        def write(self, data: bytes) -> None:
            super().write(data)
            written.append(len(data))
            if len(written) == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            wait_for("the signal", lambda: len(written) > 1 or noticed.is_set())

    noticed = threading.Event()
    by_signal = dump._end_by_signal

    async def noticing(task: HostTask, *, task_status: trio.TaskStatus[None]) -> None:
        try:
            await by_signal(task, task_status=task_status)
        finally:
            noticed.set()

    monkeypatch.setattr(dump, "CHUNK_BYTES", 4096)
    monkeypatch.setattr(dump, "_end_by_signal", noticing)
    monkeypatch.setattr(dump, "_jcmd", jcmd)
    task: Any = Namespace(name="web", record=Namespace(alloc_dir=str(tmp_path)), launch=None)
    wanted = pytest.RaisesGroup(pytest.RaisesExc(DumpError, match="SIGTERM has ended it"))
    with wanted, new_file(str(tmp_path / "heap")) as file:
        await dump._written(task, "2", "heap", None, Slow(file.path, file._fd))
    assert len(written) < (8 << 20) // dump.CHUNK_BYTES
    assert not (tmp_path / "heap").exists() and not list(data.iterdir())
