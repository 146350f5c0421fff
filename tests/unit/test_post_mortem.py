"""``milo post-mortem`` of a task whose files are an attacker's."""

from __future__ import annotations

import json
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from milo import proc
from milo.cli import gc, post_mortem
from milo.cli.post_mortem import NotEndedError, show_end
from milo.core.java.startup_cache import RECORDED
from milo.core.records import (
    ExitRecord,
    LastFigures,
    MemoryPeak,
    ProcessId,
    SeenEnd,
    TaskNames,
    TaskRecord,
)
from milo.host.tasks import HostTask
from milo.task.java.jvm import files_of
from tests.support.launches import make_launch
from tests.unit.test_output_sampler import THREADS


@pytest.fixture
def alloc(tmp_path: Path) -> Path:
    """An allocation's directory."""
    for name in ("logs", "data"):
        (tmp_path / "alloc" / name).mkdir(parents=True)
    return tmp_path


def ended(alloc: Path, monkeypatch: pytest.MonkeyPatch, *others: HostTask, **more: Any) -> None:
    """Have the command find a task that has ended, and ``others``."""
    record = ExitRecord(
        exit_code=0,
        signal=9,
        ended_at_s=100.0,
        started_at_s=40.0,
        task_id="a1/web/3f2a",
        alloc_dir=str(alloc),
        files="/alloc/data/web-3f2a",
        names=TaskNames(task_name="web", alloc_id="a1"),
        **more,
    )
    task = HostTask("/run/state/0123456789abcdef", None, record, None)
    monkeypatch.setattr(post_mortem, "tasks_of_host", lambda options: [task, *others])


def test_what_a_task_has_written_is_not_believed(
    alloc: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No symlink is followed, no FIFO waited for, and no terminal obeys what is shown."""
    data, logs = alloc / "alloc/data", alloc / "alloc/logs"
    (data / "web-3f2a.hs_err.log").symlink_to("/etc/passwd")
    (data / "web-3f2a.recording").symlink_to("/")
    os.mkfifo(data / "web-3f2a.hprof")
    (data / "web-3f2a.jfr").touch()
    os.mkfifo(logs / "web.stderr.0")
    (logs / "web.stderr.2").symlink_to("/etc/passwd")
    lines = [b"line %d" % number for number in range(30)]
    lines += [b"a\x1b[2Jb\x1b]0;title\x07\xff", b"x" * 100_000]
    (logs / "web.stderr.1").write_bytes(b"\n".join(lines[:-1]))
    ended(alloc, monkeypatch, crash="the JVM crashed: \x1b[2J", oom_kills=1, oom_killed=True)
    assert show_end(Namespace(task="web", json=True)) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["dumps"] == {} and found["threads"] is None
    assert found["crash"] == "the JVM crashed: \\x1b[2J"
    assert found["stderr"][0] == "line 11" and "\x1b" not in "".join(found["stderr"])
    assert show_end(Namespace(task="web", json=False)) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and "root:" not in shown
    assert "OOM kills     1, the application among them" in shown
    (logs / "web.stderr.1").write_bytes(b"\n".join(lines))
    assert show_end(Namespace(task="web", json=True)) == 0
    assert json.loads(capsys.readouterr().out)["stderr"] == ["x" * 500]


def test_a_stack_trace_is_read_as_it_was_printed(
    alloc: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its frames are indented, and what a JVM says of its startup archive is not its last word."""
    words = b"java.lang.Error\n\tat Main.main(Main.java:17)\n" + RECORDED
    (alloc / "alloc/logs/web.stderr.0").write_bytes(words)
    ended(alloc, monkeypatch)
    show_end(Namespace(task="web", json=False))
    shown = capsys.readouterr().out
    assert shown.endswith("\n  java.lang.Error\n          at Main.main(Main.java:17)\n")


def test_the_end_of_its_standard_error_is_the_applications(
    alloc: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A thread dump that Milo has asked for, of 10,000 lines, say, does not hide it."""
    words = b"pool is full\n" + THREADS.replace(
        b"\n\n", b"\n" + b"\tat a.B.c(B.java:1)\n" * 9000, 3
    )
    (alloc / "alloc/logs/web.stderr.0").write_bytes(words + b"asked to end\n")
    ended(alloc, monkeypatch, thread_dump=True)
    show_end(Namespace(task="web", json=False))
    told = "the end of its standard error:\n  pool is full\n  asked to end\n"
    assert capsys.readouterr().out.endswith(told)


def test_a_stop_is_told_as_one(
    alloc: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What Nomad had asked for is not told as unexpected, as Nomad's own event does not."""
    ended(alloc, monkeypatch, stop_asked=True, stop_killed=True)
    show_end(Namespace(task="web", json=False))
    assert "how           Task was ended as asked by SIGKILL" in capsys.readouterr().out


def test_what_is_there_is_named(
    alloc: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Dumps by their paths on the host, and the figures that are known."""
    data = alloc / "alloc/data"
    (data / "web-3f2a.recording/2026").mkdir(parents=True)
    (data / "web-3f2a.hprof").write_bytes(b"JAVA PROFILE")
    figures = LastFigures("G1", 3 << 20, 4 << 20, 8 << 20, 1 << 20, 7, 0.25, 12, 14, 100)
    ended(alloc, monkeypatch, figures=figures, memory=MemoryPeak(9 << 20, 16 << 20))
    show_end(Namespace(task="web", json=False))
    shown = capsys.readouterr().out
    assert f"recording     {data}/web-3f2a.recording\n" in shown
    assert f"heap dump     {data}/web-3f2a.hprof\n" in shown
    assert "threads       12, at most 14\n" in shown
    assert "GC            G1 7 times in 0.2 s\n" in shown
    assert "exit          code 0, signal 9 (SIGKILL)\n" in shown


@pytest.mark.parametrize(
    ("files", "row"),
    [
        ("", "thread dump   in its log: milo logs 0123456789abcdef\n"),
        ("/alloc/data/javacore.*.txt", "thread dump   {alloc}/alloc/data/javacore.*.txt\n"),
    ],
)
def test_where_the_threads_are(
    alloc: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    files: str,
    row: str,
) -> None:
    """HotSpot prints them, OpenJ9 writes a file."""
    ended(alloc, monkeypatch, thread_dump=True, thread_dump_files=files)
    show_end(Namespace(task="web", json=False))
    assert row.format(alloc=alloc) in capsys.readouterr().out


def test_a_task_that_nomad_has_restarted(
    alloc: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its last end is told, and which instance is there now; JSON stays JSON."""
    record = TaskRecord("id", "web", "a1", str(alloc), proc.this_process(), started_at_s=200.0)
    again = HostTask("/run/state/fedcba9876543210", record, None, None)
    ended(alloc, monkeypatch, again)
    assert show_end(Namespace(task="web", json=True)) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["signal"] == 9
    assert shown.err == (
        "milo: that is the end of 0123456789abcdef. Nomad has restarted the task since: it is "
        "fedcba9876543210 now, and starting\n"
    )


def lost(alloc: Path, monkeypatch: pytest.MonkeyPatch, seen: SeenEnd | None = None) -> HostTask:
    """Have the command find a task whose task process and JVM were both killed."""
    launch = make_launch(task_id="a1/web/3f2a", task_name="web", alloc_dir=str(alloc))
    gone = ProcessId(2**22, 1)
    record = TaskRecord(
        launch.task_id, "web", "a1", str(alloc), gone, container=gone, started_at_s=40.0, ended=seen
    )
    task = HostTask("/run/state/0123456789abcdef", record, None, launch)
    (alloc / f"{files_of(launch)[1:]}.recording/2026").mkdir(parents=True)
    (alloc / "alloc/logs/web.stderr.0").write_text("no space in the pool\n")
    monkeypatch.setattr(post_mortem, "tasks_of_host", lambda options: [task])
    return task


def test_a_lost_task_has_ended(
    alloc: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody has seen how; what it has left is there all the same."""
    task = lost(alloc, monkeypatch)
    assert show_end(Namespace(task="web", json=False)) == 0
    shown = capsys.readouterr().out
    assert "ended         nobody has seen when\n" in shown
    assert "how           How the task ended is not known: its task process has ended" in shown
    assert f"recording     {alloc}/alloc/data/web-3f2a.recording\n" in shown
    assert shown.endswith("the end of its standard error:\n  no space in the pool\n")
    show_end(Namespace(task="web", json=True))
    told = json.loads(capsys.readouterr().out)
    assert told["ended_at"] is None and told["started_at"] == 40.0 and not told["successful"]

    monkeypatch.setattr(gc, "list_tasks", lambda directories: [task])
    assert gc._abandoned_words("/run/x") == (
        False,
        "left by a milo run that was killed, task 'web', with its recording",
    )


def test_the_end_of_a_lost_task_may_have_been_seen(
    alloc: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its task process was killed while it kept an archive."""
    lost(alloc, monkeypatch, SeenEnd(3, 0, 100.0))
    assert show_end(Namespace(task="web", json=False)) == 0
    shown = capsys.readouterr().out
    assert "UTC, after 1m0s\n" in shown and "how           Task failed with exit code 3\n" in shown


def test_a_task_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nothing to tell of it yet."""
    record = TaskRecord("id", "web", "a1", "/nowhere", proc.this_process())
    task = HostTask("/run/x", record, None, None)
    monkeypatch.setattr(post_mortem, "tasks_of_host", lambda options: [task])
    with pytest.raises(NotEndedError, match="has not ended: it is starting"):
        show_end(Namespace(task="web", json=False))
