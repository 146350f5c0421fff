"""``milo dump``: a thread dump, a heap dump or a flight recording of a task's JVM.

The JDK's own ``jcmd`` makes it, in the task's container and as the application's user. What the JVM
has written lies in a directory of the task's, so that it is taken for nothing but bytes: no symlink
is followed to it, and it has a bound.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import sys
import time
from argparse import Namespace
from collections.abc import AsyncGenerator, Iterator
from typing import BinaryIO, Final

import trio

from milo import proc, walk
from milo.cli.arguments import MIB, absolute, seconds_of
from milo.cli.output import progress, say
from milo.cli.tasks import tasks_of_host
from milo.cli.terminal_filter import TerminalFilter
from milo.core.exec_io import ExecInput, Printed, Typed
from milo.core.text import printable
from milo.errors import ControlError, MiloError, PathError, TaskEndedError
from milo.host.exec_client import run_command
from milo.host.tasks import HostTask, find_task
from milo.walk import Kind

THREADS_S: Final = 30.0
HEAP_S: Final = 600.0
"""A full garbage collection comes first, and then the disk's speed counts."""
MAX_DURATION_S: Final = 24 * 3600.0
MAX_PRINTED: Final = 256 * MIB
MAX_RECORDING: Final = 4096 * MIB
MAX_HEAP: Final = 65536 * MIB
"""Without a memory limit."""
HEAP_FACTOR: Final = 3
"""A dump has 8 bytes for each reference, the heap mostly 4."""
WORDS_CHARS: Final = 300
CHUNK_BYTES: Final = 1 << 20
NO_TOOLS: Final = ("not found", "No such file")
"""What crun says of a command that is not there."""


class DumpError(MiloError):
    """The JVM or its tools have not done what was asked for."""

    def __init__(self, task: HostTask, problem: str) -> None:
        self.task = task.name
        self.problem = problem
        super().__init__(f"Error: no dump of task {task.name!r}: {problem}")


class NoToolsError(DumpError):
    """The task runs on a Java without ``jcmd``."""

    def __init__(self, task: HostTask) -> None:
        super().__init__(task, "its Java has no jcmd, as is so with a JRE. Run it on a JDK")


def dump(options: Namespace) -> int:
    """Get a dump of a task; return the exit status.

    Raises:
        MiloError: there is no such task, it has ended, or its JVM gives none.
    """
    duration_s = seconds_of("--duration", options.duration, 1.0, MAX_DURATION_S)
    task = find_task(options.task, tasks_of_host(options))
    container = task.record.container if task.record is not None else None
    # An ended process has the number 0, which jcmd would take for all JVMs.
    number = proc.number_inside(container.pid) if task.running and container is not None else 0
    if number == 0:
        raise TaskEndedError(task.name, "there is nothing to dump")
    path = _target(options.what, options.file, task)
    jvm = str(number)
    if options.what == "threads":
        data = trio.run(_threads, task, jvm)
        if not path:
            sys.stdout.buffer.write(_for_terminal(data) if sys.stdout.isatty() else data)
            return 0
        with _new_file(path) as file:
            file.write(data)
    else:
        with _new_file(path) as file:
            trio.run(_written, task, jvm, options.what, duration_s, file.fileno())
    say(f"Wrote {path}")
    return 0


def _target(what: str, asked: str, task: HostTask) -> str:
    if asked or what == "threads":
        return absolute(asked) if asked else ""
    suffix = "hprof" if what == "heap" else "jfr"
    name = "".join(char if char.isalnum() or char in "._-" else "_" for char in task.name)
    return absolute(f"{name}-{time.strftime('%Y%m%d-%H%M%S')}.{suffix}")


def _for_terminal(data: bytes) -> bytes:
    """Return what may be shown: the application has chosen the names of its threads."""
    shown = TerminalFilter()
    return shown.feed(data) + shown.end()


@contextlib.contextmanager
def _new_file(path: str) -> Iterator[BinaryIO]:
    """Open a new file for its owner alone, which is removed when the dump fails."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as f:
        try:
            yield f
        except BaseException:
            os.unlink(path)
            raise


async def _threads(task: HostTask, jvm: str) -> bytes:
    try:
        return await _jcmd(task, THREADS_S, jvm, "Thread.print", "-l")
    except NoToolsError:
        assert task.record is not None and task.record.container is not None
        proc.signal_process(task.record.container, signal.SIGQUIT)
        return b"Its Java has no jcmd. The JVM prints the threads to its log: see milo logs\n"


async def _written(task: HostTask, jvm: str, what: str, duration_s: float, target: int) -> None:
    """Have the JVM write a file where it may, and copy it to the descriptor ``target``."""
    assert task.record is not None
    name = f"milo-dump-{secrets.token_hex(8)}"
    place = f"/alloc/data/{name}"
    directory = f"{task.record.alloc_dir}/alloc/data"
    try:
        if what == "heap":
            with progress("Writing the heap"):
                words = await _jcmd(task, HEAP_S, jvm, "GC.heap_dump", place)
            limit = _heap_limit(task)
        else:
            words = await _record(task, jvm, name, place, duration_s)
            limit = MAX_RECORDING
        await trio.to_thread.run_sync(_copy, task, f"{directory}/{name}", target, limit, words)
    finally:
        with (
            contextlib.suppress(PathError),
            walk.hold(directory, beneath=task.record.alloc_dir, kind=Kind.DIRECTORY) as held,
        ):
            held.remove(name)


async def _record(task: HostTask, jvm: str, name: str, place: str, duration_s: float) -> bytes:
    words = await _jcmd(task, THREADS_S, jvm, "JFR.start", f"name={name}")
    if b"Started" not in words:
        raise DumpError(task, _shown(words))
    try:
        with progress(f"Recording for {duration_s:g} s"):
            await trio.sleep(duration_s)
        return await _jcmd(task, HEAP_S, jvm, "JFR.stop", f"name={name}", f"filename={place}")
    except trio.Cancelled:
        with trio.CancelScope(shield=True), contextlib.suppress(MiloError):
            await _jcmd(task, THREADS_S, jvm, "JFR.stop", f"name={name}")
        raise


def _heap_limit(task: HostTask) -> int:
    memory = 0
    if task.launch is not None:
        resources = task.launch.resources
        memory = max(resources.memory_bytes, resources.memory_max_bytes)
    return HEAP_FACTOR * memory + MAX_PRINTED if memory else MAX_HEAP


def _copy(task: HostTask, path: str, target: int, limit: int, words: bytes) -> None:
    assert task.record is not None
    try:
        with walk.hold(path, beneath=task.record.alloc_dir, kind=Kind.FILE) as held:
            if held.status.st_size > limit:
                raise DumpError(task, f"its file is larger than {limit // MIB} MiB")
            source, left = held.open(), held.status.st_size
    except PathError as exc:
        raise DumpError(task, _shown(words) or exc.words) from exc
    try:
        while left and (data := os.read(source, min(CHUNK_BYTES, left))):
            left -= len(data)
            view = memoryview(data)
            while view:
                view = view[os.write(target, view) :]
    finally:
        os.close(source)


async def _jcmd(task: HostTask, timeout_s: float, *words: str) -> bytes:
    """Run the JDK's ``jcmd`` in the task; return what it printed."""
    printed = bytearray()

    async def keep(part: Printed) -> None:
        printed.extend(part.data[: MAX_PRINTED - len(printed)])

    with trio.move_on_after(timeout_s):
        try:
            end = await run_command(
                task.state_dir,
                ("jcmd", *words),
                tty=False,
                inputs=_no_input(),
                emit=keep,
                combined=True,
            )
        except ControlError as exc:
            if any(sign in str(exc) for sign in NO_TOOLS):
                raise NoToolsError(task) from exc
            raise
        if end.exit_code or end.signal:
            raise DumpError(task, f"jcmd failed ({end.shell_code}): {_shown(bytes(printed))}")
        return bytes(printed)
    raise DumpError(task, f"its JVM did not answer within {timeout_s:g} s")


async def _no_input() -> AsyncGenerator[ExecInput, None]:
    yield Typed(closed=True)


def _shown(words: bytes) -> str:
    """Return the last line that a tool has printed."""
    lines = [line for line in words.decode(errors="replace").splitlines() if line.strip()]
    return printable(lines[-1][:WORDS_CHARS]) if lines else ""
