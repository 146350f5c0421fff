"""``milo dump``: a thread dump, a heap dump or a flight recording of a task's JVM.

The JDK's own ``jcmd`` makes it, in the task's container and as the application's user. What the JVM
has written lies in a directory of the task's, so that it is taken for nothing but bytes: no symlink
is followed to it, and it has a bound.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import sys
import time
from argparse import Namespace
from collections.abc import AsyncGenerator
from typing import Final

import trio

from milo import proc, walk
from milo.cli import recording
from milo.cli.arguments import MIB, absolute, seconds_of
from milo.cli.last_end import end_of, prepared_of
from milo.cli.new_file import NewFile, new_file
from milo.cli.output import progress, say
from milo.cli.tasks import tasks_of_host
from milo.cli.terminal_filter import TerminalFilter
from milo.core.exec_io import ExecInput, Printed, Typed
from milo.core.java.flight_recorder import NAME
from milo.core.text import printable
from milo.errors import MiloError, PathError, Reason, TaskEndedError
from milo.host.exec_client import run_command
from milo.host.tasks import HostTask, find_task, last_end
from milo.process_signals import catches, is_halted, signal_process
from milo.walk import Kind

THREADS_S: Final = 30.0
HEAP_S: Final = 600.0
"""A full garbage collection comes first, and then the disk's speed counts."""
RECORDING_S: Final = 60.0
"""For the JVM to write one down; the task may hinder it, for ever if it is let."""
LOOK_S: Final = 1.0
END_S: Final = 5.0
"""For a JVM to end a recording that nobody waits for any more."""
DURATION: Final = "30s"
MAX_DURATION_S: Final = 24 * 3600.0
MAX_PRINTED: Final = 256 * MIB
MAX_RECORDING: Final = 4096 * MIB
MAX_HEAP: Final = 65536 * MIB
"""Without a memory limit."""
HEAP_FACTOR: Final = 3
"""A dump has 8 bytes for each reference, the heap mostly 4."""
WORDS_CHARS: Final = 300
CHUNK_BYTES: Final = 1 << 20
INCOMPLETE: Final = b"ump file is incomplete"
"""What HotSpot says, without a failure, when it could not write all of a heap."""
_NO_REASON: Final = re.compile(r"\d+:$|Picked up \w+:")
"""The JVM's number, which ``jcmd`` prints first, and what a JVM says of its environment."""
NOT_FOUND: Final = 127
"""What a command that is not there ends with; ``jcmd`` itself never does."""


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
    asked = options.duration is not None
    duration_s = seconds_of("--duration", options.duration or DURATION, 1.0, MAX_DURATION_S)
    tasks = tasks_of_host(options)
    task = find_task(options.task, tasks)
    ended = _with_recording(task, tasks) if options.what == "jfr" and not asked else None
    if ended is not None and not task.running:
        path = _target(options.what, options.file, task)
        with new_file(path) as file:
            recording.collect(ended[0].alloc_dir, ended[1], file)
        say(f"Wrote {path}, of {ended[0].id}, which has ended")
        return 0
    container = task.record.container if task.record is not None else None
    # An ended process has the number 0, which jcmd would take for all JVMs.
    number = proc.number_inside(container.pid) if task.running and container is not None else 0
    if number == 0:
        raise TaskEndedError(task.name, "there is nothing to dump")
    path = _target(options.what, options.file, task)
    jvm = str(number)
    along = not asked and _records_along(task)
    if options.what == "threads":
        data = trio.run(_threads, task, jvm)
        if not path:
            sys.stdout.buffer.write(_for_terminal(data) if sys.stdout.isatty() else data)
            return 0
        with new_file(path) as file:
            file.write(data)
    else:
        with new_file(path) as file:
            trio.run(_written, task, jvm, options.what, None if along else duration_s, file)
    say(f"Wrote {path}, of the running JVM" if ended else f"Wrote {path}")
    if ended is not None:
        say(f"To fetch that of the last one, which has ended: milo dump jfr {ended[0].id}")
    return 0


def _with_recording(task: HostTask, tasks: list[HostTask]) -> tuple[HostTask, str] | None:
    """Return the last instance of a task that has ended, and what its recording is called.

    None where none ran along with it.
    """
    for one in (task, last_end(task, tasks)):
        end = end_of(one) if one is not None else None
        if one is not None and end is not None and (end.recording or one.exit is not None):
            return (one, end.recording) if end.recording else None
    return None


def _records_along(task: HostTask) -> bool:
    """Whether a flight recording runs along with a task."""
    prepared = prepared_of(task)
    return prepared is not None and bool(prepared.jvm.recording)


def _target(what: str, asked: str, task: HostTask) -> str:
    if asked or what == "threads":
        return absolute(asked) if asked else ""
    suffix = "hprof" if what == "heap" else "jfr"
    name = "".join(char if char.isalnum() or char in "._-" else "_" for char in task.name)
    stem = absolute(f"{name}-{time.strftime('%Y%m%d-%H%M%S')}")
    paths = (f"{stem}{more}.{suffix}" for more in ("", *(f"-{number}" for number in range(2, 100))))
    return next((path for path in paths if not os.path.lexists(path)), f"{stem}.{suffix}")


def _for_terminal(data: bytes) -> bytes:
    """Return what may be shown: the application has chosen the names of its threads."""
    shown = TerminalFilter()
    return shown.feed(data) + shown.end()


async def _threads(task: HostTask, jvm: str) -> bytes:
    try:
        return await _jcmd(task, THREADS_S, jvm, "Thread.print", "-l")
    except NoToolsError as exc:
        return _by_signal(task, exc)


def _by_signal(task: HostTask, no_tools: NoToolsError) -> bytes:
    """Have the JVM print its threads where it does so by itself; return where that is.

    Raises:
        DumpError: that would end the application, or nobody would see them.
    """
    assert task.record is not None and task.record.container is not None
    process = task.record.container
    prepared = prepared_of(task)
    files = prepared.jvm.tuning.thread_dump_files if prepared is not None else ""
    # A JVM with -Xrs, or before its first class, would be ended by a look at it.
    if not catches(process.pid, signal.SIGQUIT):
        problem = "SIGQUIT would end the application, which has no handler for it"
    elif is_halted(process.pid):
        problem = "the application is halted"
    elif not files and task.launch is not None and task.launch.stdout_path == os.devnull:
        problem = "nobody collects what it prints"
    else:
        signal_process(process, signal.SIGQUIT)
        where = f"prints the threads to its log: milo logs {task.id}"
        if files:
            where = f"writes the threads to {task.alloc_dir}{files}"
        return f"Its Java has no jcmd. The JVM {where}\n".encode()
    raise DumpError(task, f"its Java has no jcmd, and {problem}") from no_tools


async def _written(
    task: HostTask, jvm: str, what: str, duration_s: float | None, target: NewFile
) -> None:
    """Have the JVM write a file where it may, and copy it to ``target``.

    Without ``duration_s`` it is of the recording that runs along.
    """
    assert task.record is not None
    name = f"milo-dump-{secrets.token_hex(8)}"
    place = f"/alloc/data/{name}"
    directory = f"{task.record.alloc_dir}/alloc/data"
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(_end_by_signal, task)
            nursery.start_soon(_end_without_file, task, f"{directory}/{name}")
            if what == "heap":
                with progress("Writing the heap"):
                    words = await _jcmd(task, HEAP_S, jvm, "GC.heap_dump", place)
                limit = _heap_limit(task)
            elif duration_s is None:
                with progress("Writing the recording"):
                    words = await _jcmd(
                        task, RECORDING_S, jvm, "JFR.dump", f"name={NAME}", f"filename={place}"
                    )
                limit = MAX_RECORDING
            else:
                words = await _record(task, jvm, name, place, duration_s)
                limit = MAX_RECORDING
            await trio.to_thread.run_sync(_copy, task, f"{directory}/{name}", target, limit, words)
            nursery.cancel_scope.cancel()
    finally:
        with (
            contextlib.suppress(PathError),
            walk.hold(directory, beneath=task.record.alloc_dir, kind=Kind.DIRECTORY) as held,
        ):
            held.remove(name)


async def _end_by_signal(task: HostTask, *, task_status: trio.TaskStatus[None]) -> None:
    """Raise `DumpError` at a signal that would end this process with half a file left."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGHUP) as signals:
        task_status.started()
        async for number in signals:
            raise DumpError(task, f"{signal.Signals(number).name} has ended it")


async def _end_without_file(task: HostTask, path: str) -> None:
    """Raise `DumpError` when the task has put something else in the file's place.

    For a FIFO, say, the JVM would wait as long as it is let.
    """
    assert task.record is not None
    while True:
        await trio.sleep(LOOK_S)
        try:
            walk.hold(path, beneath=task.record.alloc_dir, kind=Kind.FILE).close()
        except PathError as exc:
            if exc.reason is not Reason.MISSING:
                raise DumpError(task, f"something took its file's place: {exc.words}") from exc


async def _record(task: HostTask, jvm: str, name: str, place: str, duration_s: float) -> bytes:
    words = await _jcmd(task, THREADS_S, jvm, "JFR.start", f"name={name}")
    if b"Started" not in words:
        raise DumpError(task, _shown(words))
    try:
        with progress(f"Recording for {duration_s:g} s"):
            await trio.sleep(duration_s)
        return await _jcmd(task, RECORDING_S, jvm, "JFR.stop", f"name={name}", f"filename={place}")
    except trio.Cancelled:
        with trio.move_on_after(END_S, shield=True), contextlib.suppress(MiloError):
            await _jcmd(task, THREADS_S, jvm, "JFR.stop", f"name={name}")
        raise


def _heap_limit(task: HostTask) -> int:
    memory = 0
    if task.launch is not None:
        resources = task.launch.resources
        memory = max(resources.memory_bytes, resources.memory_max_bytes)
    return HEAP_FACTOR * memory + MAX_PRINTED if memory else MAX_HEAP


def _copy(task: HostTask, path: str, target: NewFile, limit: int, words: bytes) -> None:
    assert task.record is not None
    try:
        with walk.hold(path, beneath=task.record.alloc_dir, kind=Kind.FILE) as held:
            if not held.status.st_size or INCOMPLETE in words:
                raise DumpError(task, _shown(words) or "its file is empty")
            if held.status.st_size > limit:
                raise DumpError(task, f"its file is larger than {limit // MIB} MiB")
            source, left = held.open(), held.status.st_size
    except PathError as exc:
        problem = f"something took its file's place: {exc.words}"
        if exc.reason is Reason.MISSING:
            problem = f"there is no file. Its JVM said: {_shown(words)}" if words else exc.words
        raise DumpError(task, problem) from exc
    try:
        while left and (data := os.read(source, min(CHUNK_BYTES, left))):
            left -= len(data)
            target.write(data)
            trio.from_thread.check_cancelled()
    finally:
        os.close(source)


async def _jcmd(task: HostTask, timeout_s: float, *words: str) -> bytes:
    """Run the JDK's ``jcmd`` in the task; return what it printed."""
    printed = bytearray()

    async def keep(part: Printed) -> None:
        printed.extend(part.data[: MAX_PRINTED - len(printed)])

    with trio.move_on_after(timeout_s):
        end = await run_command(
            task.state_dir,
            ("jcmd", *words),
            tty=False,
            inputs=_no_input(),
            emit=keep,
            combined=True,
        )
        if end.exit_code == NOT_FOUND:
            raise NoToolsError(task)
        if end.exit_code or end.signal:
            raise DumpError(task, f"jcmd failed ({end.shell_code}): {_shown(bytes(printed))}")
        return bytes(printed)
    raise DumpError(task, f"its JVM did not answer within {timeout_s:g} s")


async def _no_input() -> AsyncGenerator[ExecInput, None]:
    yield Typed(closed=True)


def _shown(words: bytes) -> str:
    """Return why a tool has failed: its last line, or the first one of an exception's."""
    lines = [line for line in words.decode(errors="replace").splitlines() if line.strip()]
    frames = [number for number, line in enumerate(lines) if line.startswith("\tat ")]
    if frames:
        lines = [line for line in lines[: frames[0]] if not _NO_REASON.match(line)][:1] or lines
    return printable(lines[-1][:WORDS_CHARS]) if lines else ""
