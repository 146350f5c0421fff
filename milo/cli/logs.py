"""``milo logs``: what a task has printed, from the files of Nomad's log collector."""

from __future__ import annotations

import os
import re
import stat
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from typing import Final

from milo.cli.tasks import tasks_of_host
from milo.errors import ConfigError, MiloError
from milo.host.tasks import HostTask, find_task

CHUNK_BYTES: Final = 64 * 1024
POLL_S: Final = 0.1
"""The task can replace these files, so that a watch on one of them would not do."""


class NoLogsError(MiloError):
    """Nothing is kept of what the task prints."""

    def __init__(self, task: HostTask, why: str) -> None:
        super().__init__(f"Error: no log of task {task.id} ({task.name}): {why}")


def show_logs(options: Namespace) -> int:
    """Print a task's log, and with ``-f`` go on until the task has ended.

    Raises:
        MiloError: there is no such task, or no log of it.
    """
    if options.lines is not None and options.lines < 0:
        raise ConfigError("--lines", f"got {options.lines}", "0 or more")
    task = find_task(options.task, tasks_of_host(options))
    stream = "stderr" if options.stderr else "stdout"
    directory = _open_directory(task)
    try:
        names = _names(directory, task.name, stream)
        if not names and not options.follow:
            raise NoLogsError(task, f"its {stream} has no file in the allocation's alloc/logs")
        _print(directory, names, options.lines)
        if options.follow:
            _follow(directory, task, stream, names)
    finally:
        os.close(directory)
    return 0


def _open_directory(task: HostTask) -> int:
    """Open the directory of the log files, through no symlink: the task can write above it."""
    assert task.record is not None
    if task.launch is not None and task.launch.log_dir:
        return os.open(task.launch.log_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(task.record.alloc_dir, flags)
        for name in ("alloc", "logs"):
            inner = os.open(name, flags, dir_fd=fd)
            os.close(fd)
            fd = inner
    except OSError as exc:
        raise NoLogsError(task, f"{exc.filename or 'alloc/logs'}: {exc.strerror}") from exc
    return fd


def _names(directory: int, task: str, stream: str) -> list[str]:
    """Return the names of the log files, the oldest first: ``<task>.<stream>.<number>``."""
    pattern = re.compile(rf"{re.escape(task)}\.{stream}\.(\d+)")
    found = [match for name in os.listdir(directory) if (match := pattern.fullmatch(name))]
    return [match[0] for match in sorted(found, key=lambda match: int(match[1]))]


def _print(directory: int, names: list[str], lines: int | None) -> None:
    chunks: Iterator[bytes] = (chunk for name in names for chunk in _read(directory, name, 0))
    if lines is None:
        for chunk in chunks:
            _write(chunk)
        return
    tail = b""
    for chunk in chunks:
        tail += chunk
        kept = tail.splitlines(keepends=True)
        tail = b"".join(kept[len(kept) - lines :]) if lines else b""
    _write(tail)


def _read(directory: int, name: str, offset: int) -> Iterator[bytes]:
    try:
        fd = os.open(
            name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory
        )
    except OSError:
        return  # rotated away meanwhile, or a symlink
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return
        while chunk := os.pread(fd, CHUNK_BYTES, offset):
            offset += len(chunk)
            yield chunk
    finally:
        os.close(fd)


def _follow(directory: int, task: HostTask, stream: str, names: list[str]) -> None:
    at = names[-1] if names else ""
    offset = os.stat(at, dir_fd=directory, follow_symlinks=False).st_size if at else 0
    while True:
        ended = not task.running and not task.supervised
        for name in _names(directory, task.name, stream):
            if at and _number(name) < _number(at):
                continue
            if name != at:
                at, offset = name, 0
            for chunk in _read(directory, name, offset):
                offset += len(chunk)
                _write(chunk)
        if ended:
            return
        time.sleep(POLL_S)


def _number(name: str) -> int:
    return int(name.rpartition(".")[2])


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
