"""`milo logs` on files that a task has written, rotated, exchanged or blown up."""

from __future__ import annotations

import argparse
import os
import shutil
import struct
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from milo.cli import log_printer, log_text, logs
from milo.core.records import (
    COUNTERS_FILE,
    TIMELINE_FILE,
    ExitRecord,
    ProcessId,
    TaskNames,
    TaskRecord,
)
from milo.core.timeline import FILE_BYTES, MARKS
from milo.errors import MiloError
from milo.host.tasks import HostTask
from milo.proc import identify
from tests.support.launches import make_launch
from tests.support.opens import watched

MIB = 1 << 20
DEAD = ProcessId(1, 1)


class Host:
    """A host with one task, whose logs lie where Nomad's collector puts them."""

    def __init__(self, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.alloc_dir = base / "alloc-dir"
        self.logs = self.alloc_dir / "alloc/logs"
        self.logs.mkdir(parents=True)
        self.container = DEAD
        monkeypatch.setattr(logs, "tasks_of_host", lambda options: [self._task()])

    def _task(self) -> HostTask:
        record = TaskRecord(
            task_id="id",
            task_name="app",
            alloc_id="a1",
            alloc_dir=str(self.alloc_dir),
            supervisor=DEAD,
            container=self.container,
        )
        return HostTask("/run/milo/0123456789abcdef", record, None, None)

    def destroy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Leave the exit record alone, as DestroyTask does."""
        names = TaskNames("app", "a1", "shop")
        ended = ExitRecord(exit_code=1, names=names, alloc_dir=str(self.alloc_dir))
        task = HostTask("/run/milo/0123456789abcdef", None, ended, None)
        monkeypatch.setattr(logs, "tasks_of_host", lambda options: [task])

    def file(self, number: int, text: str = "", *, stream: str = "stdout") -> Path:
        path = self.logs / f"app.{stream}.{number}"
        path.write_text(text)
        return path

    def show(self, lines: int | None = None, *, follow: bool = False, stderr: bool = False) -> None:
        options = argparse.Namespace(
            task="app", lines=lines, follow=follow, stderr=stderr, stdout=not stderr, since=""
        )
        assert logs.show_logs(options) == 0


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A host whose task has ended."""
    return Host(tmp_path, monkeypatch)


@pytest.fixture(autouse=True)
def no_descriptor_left() -> Iterator[None]:
    """Whatever a test does: no descriptor more or less afterwards."""
    before = set(os.listdir("/proc/self/fd"))
    yield
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("lines", "shown"),
    [
        (None, "1\n2\n3\n4\n5\n6"),
        (0, ""),
        (1, "6"),
        (2, "5\n6"),
        (3, "4\n5\n6"),
        (4, "3\n4\n5\n6"),
        (6, "1\n2\n3\n4\n5\n6"),
        (99, "1\n2\n3\n4\n5\n6"),
    ],
)
def test_the_last_lines_of_all_files(
    host: Host, capsysbinary: Any, lines: int | None, shown: str
) -> None:
    """Rotated files are one text, wherever a line is torn; the last line may have no end."""
    for number, text in ((9, "1\n2"), (10, "\n3\n4\n"), (11, ""), (12, "5\n6")):
        host.file(number, text)
    host.file(0, "trouble\n", stream="stderr")
    host.show(lines)
    assert capsysbinary.readouterr().out == shown.encode()


def test_long_lines_are_found_over_many_blocks(host: Host, capsysbinary: Any) -> None:
    """A line is as long as it is; other line separators than the line feed end none."""
    text = "x" * 300_000 + "\n" + "y\r\v\x0c" * 50_000 + "\n"
    host.file(0, "first\n" + text)
    host.show(2)
    assert capsysbinary.readouterr().out == text.encode()


def test_the_log_of_a_task_that_nomad_has_destroyed(
    host: Host, monkeypatch: pytest.MonkeyPatch, capsysbinary: Any
) -> None:
    """Waiting for its restart, or stopped: the allocation is there, and its exit record."""
    host.file(0, "why it failed\n")
    host.destroy(monkeypatch)
    host.show()
    assert capsysbinary.readouterr().out == b"why it failed\n"


def test_only_files_of_this_stream_are_read(host: Host, capsysbinary: Any) -> None:
    """Nothing that a task plants under a log's name is followed, opened or waited for."""
    host.file(3, "one\n")
    os.mkfifo(host.logs / "app.stdout.4")
    (host.logs / "app.stdout.5").symlink_to("/etc/hostname")
    (host.logs / "app.stdout.6").mkdir()
    for name in ("app.stdout.x", "app.stdout.1x", "app.stdout." + "9" * 60, "app.stdoutx1"):
        (host.logs / name).write_text("no")
    with watched(host.logs / "app.stdout.4", Path("/etc/hostname")) as opened:
        host.show()
        host.show(2)
        host.show(follow=True)
        assert not opened()
    assert capsysbinary.readouterr().out == b"one\n" * 3


def test_a_directory_that_was_exchanged_is_not_followed(host: Host) -> None:
    """What a task puts in the place of the logs' directory is refused by name."""
    host.logs.rmdir()
    host.logs.symlink_to("/var/log")
    with pytest.raises(MiloError, match="logs"):
        host.show()
    host.logs.unlink()
    with pytest.raises(MiloError, match="logs"):
        host.show(follow=True)


def test_no_log_is_an_error(host: Host) -> None:
    """What is missing is told, with the stream."""
    with pytest.raises(MiloError, match="there is no stderr file"):
        host.show(stderr=True)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes have been read; more than 200 MiB are a failure."""
    real, total = os.pread, [0]

    def pread(fd: int, count: int, offset: int) -> bytes:
        data = real(fd, count, offset)
        total[0] += len(data)
        assert total[0] < 200 * MIB, "it reads without end"
        return data

    monkeypatch.setattr(os, "pread", pread)
    return total


@pytest.mark.parametrize("lines", [1, 5, 100_000])
def test_the_last_lines_are_bounded(
    host: Host, capsysbinary: Any, counted: list[int], lines: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Terabytes without a line feed take neither time nor memory; that they are cut is told."""
    written = [0]
    monkeypatch.setattr(
        log_printer, "_write", lambda data: written.__setitem__(0, written[0] + len(data))
    )
    os.truncate(host.file(0), 1 << 40)
    tracemalloc.start()
    try:
        host.show(lines)
        assert tracemalloc.get_traced_memory()[1] < 4 * MIB
    finally:
        tracemalloc.stop()
    assert written[0] == min(lines, 64) * MIB
    assert counted[0] <= 2 * written[0]
    assert b"MiB" in capsysbinary.readouterr().err


def test_a_log_that_grows_faster_than_it_is_printed(
    host: Host, capsysbinary: Any, counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without -f, what is there at the beginning is printed, and no more."""
    path = host.file(0, "one\n")
    real = os.pread

    def pread(fd: int, count: int, offset: int) -> bytes:
        with path.open("a") as file:
            file.write("more\n" * 1000)
        return real(fd, count, offset)

    monkeypatch.setattr(os, "pread", pread)
    for lines in (None, 1):
        path.write_text("one\n")
        host.show(lines)
        assert capsysbinary.readouterr().out == b"one\n"


def test_following_loses_nothing_in_the_beginning(
    host: Host, capsysbinary: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written after the first read, and before anything else is looked at, is shown."""
    path = host.file(0, "one\n")
    with subprocess.Popen(["sleep", "100"]) as container:
        identity = identify(container.pid)
        assert identity is not None
        host.container = identity
        real = os.pread

        def pread(fd: int, count: int, offset: int) -> bytes:
            data = real(fd, count, offset)
            if not data and container.poll() is None:
                with path.open("a") as file:
                    file.write("two\n")
                host.file(1, "three\n")
                container.kill()
                container.wait()
            return data

        monkeypatch.setattr(os, "pread", pread)
        host.show(follow=True)
    assert capsysbinary.readouterr().out == b"one\ntwo\nthree\n"


def test_following_begins_with_the_last_lines(host: Host, capsysbinary: Any) -> None:
    """-n and -f together: the last lines, then what comes."""
    host.file(0, "one\ntwo\n")
    host.file(1, "three\n")
    host.show(2, follow=True)
    assert capsysbinary.readouterr().out == b"two\nthree\n"


def test_a_log_that_was_cut_short_is_read_from_its_beginning(
    host: Host, capsysbinary: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that has become smaller while it was followed is another one."""
    path = host.file(0, "one\ntwo\n")
    with subprocess.Popen(["sleep", "100"]) as container:
        identity = identify(container.pid)
        assert identity is not None
        host.container = identity

        def sleep(seconds: float) -> None:
            path.write_text("new\n")
            container.kill()
            container.wait()

        monkeypatch.setattr(time, "sleep", sleep)
        host.show(follow=True)
    assert capsysbinary.readouterr().out == b"one\ntwo\nnew\n"


def test_a_terminal_shows_no_control_characters(
    host: Host, capsysbinary: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal they are escaped, but for colours; a program gets the bytes as they are."""
    text = "\x1b[31mred\x1b[0m \x1b]0;title\x07 zoë\n"
    host.file(0, text)
    host.show()
    assert capsysbinary.readouterr().out == text.encode()
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    host.show()
    shown = "\x1b[31mred\x1b[0m \\x1b]0;title\\x07 zoë\n\x1b[m"
    assert capsysbinary.readouterr().out == shown.encode()


def test_more_names_than_are_read_are_told(
    host: Host, capsysbinary: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory that is full of files takes no time without end, and the loss is told."""
    monkeypatch.setattr(log_text, "MAX_NAMES", 5)
    for number in range(10):
        host.file(number, "x\n")
    host.show()
    shown = capsysbinary.readouterr()
    assert shown.out == b"x\n" * 5
    assert b"more than 5" in shown.err


class Job(Host):
    """A host with two tasks of one job, whose groups and logs are the allocations' own."""

    def __init__(self, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(base, monkeypatch)
        self.base = base
        monkeypatch.setattr(logs, "tasks_of_host", lambda options: [self.task(0), self.task(1)])

    def task(self, index: int, job: str = "shop") -> HostTask:
        """One of them."""
        alloc_dir = self.base / str(index)
        state_dir = self.base / f"state-{index}"
        record = TaskRecord(
            task_id="id",
            task_name="app",
            alloc_id=f"a{index}",
            alloc_dir=str(alloc_dir),
            supervisor=DEAD,
            container=DEAD,
        )
        launch = make_launch(
            alloc_dir=str(alloc_dir), job_name=job, alloc_name=f"{job}.front[{index}]"
        )
        return HostTask(str(state_dir), record, None, launch)

    def print(self, index: int, *pieces: tuple[int, str]) -> None:
        """Have a task print these texts at these times, and note the times."""
        for name in (f"{index}/alloc/logs", f"state-{index}"):
            (self.base / name).mkdir(parents=True, exist_ok=True)
        path = self.base / f"{index}/alloc/logs/app.stdout.0"
        path.write_text("".join(text for _, text in pieces))
        state_dir = self.base / f"state-{index}"
        size, cells = 0, []
        for at_s, text in pieces:
            cells += [at_s * 10**9, size, 0]
            size += len(text)
        count = len(pieces)
        marks = struct.pack(f"{FILE_BYTES // 8}Q", count, *cells, *([0] * (3 * (MARKS - count))))
        (state_dir / TIMELINE_FILE).write_bytes(marks)
        (state_dir / COUNTERS_FILE).write_bytes(struct.pack("4Q", size, 0, 0, 0))

    def show_job(self, **options: Any) -> None:
        """As ``milo logs shop``."""
        given = {
            "task": "shop",
            "lines": None,
            "follow": False,
            "stderr": False,
            "stdout": False,
            "since": "",
        }
        assert logs.show_logs(argparse.Namespace(**{**given, **options})) == 0


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """A host with a job of two tasks."""
    found = Job(tmp_path, monkeypatch)
    found.print(0, (10, "one\n"), (30, "three\nand a half"))
    found.print(1, (20, "two\n"), (40, "four\n"))
    return found


@pytest.mark.parametrize("follow", [False, True])
def test_all_tasks_of_a_job_in_order_of_time(job: Job, capsysbinary: Any, follow: bool) -> None:
    """Each line has its task's name before it, also the last one, which has not ended."""
    job.show_job(follow=follow)
    assert capsysbinary.readouterr().out.decode().splitlines() == [
        "front[0]/app | one",
        "front[1]/app | two",
        "front[0]/app | three",
        "front[1]/app | four",
        "front[0]/app | and a half",
    ]


def test_the_last_lines_of_each_task(job: Job, capsysbinary: Any) -> None:
    """As docker compose counts them."""
    job.show_job(lines=1)
    assert capsysbinary.readouterr().out.decode().splitlines() == [
        *("front[1]/app | four", "front[0]/app | and a half")
    ]


def test_what_is_younger_of_each_task(job: Job, capsysbinary: Any) -> None:
    """--since counts for all of them."""
    job.print(1, (20, "two\n"), (int(time.time()), "now\n"))
    job.show_job(since="1h")
    assert capsysbinary.readouterr().out == b"front[1]/app | now\n"


def test_tasks_of_several_jobs_are_not_merged(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that two jobs have means neither."""
    tasks = [job.task(0), job.task(1, "other")]
    monkeypatch.setattr(logs, "tasks_of_host", lambda options: tasks)
    with pytest.raises(MiloError, match="more than one task"):
        job.show_job(task="app")


def test_a_task_without_a_log_is_told_of(job: Job, capsysbinary: Any) -> None:
    """And those of the others are printed."""
    shutil.rmtree(job.base / "0")
    job.show_job()
    shown = capsysbinary.readouterr()
    assert shown.out == b"front[1]/app | two\nfront[1]/app | four\n"
    assert b"has no log" in shown.err
