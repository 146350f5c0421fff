"""Which state directories `milo gc` takes for orphans: the rule, case by case."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from milo.core import records
from milo.core.records import ExitRecord, ProcessId, TaskRecord
from milo.host.leftovers.orphans import Findings, Kept, Orphan, judge_directory, judge_process, look
from milo.host.leftovers.traces import TaskProcess
from milo.host.state_store import StateStore
from milo.proc import start_ticks
from tests.support.launches import make_launch

NAME = "0123456789abcdef"
DEAD = ProcessId(1, 1)
"""Process 1 was not started in the first tick of anything."""


def alive() -> ProcessId:
    """A process that runs: this one."""
    return ProcessId(os.getpid(), start_ticks(os.getpid()) or 0)


class Layout:
    """One state directory and the allocation that it names."""

    def __init__(self, base: Path) -> None:
        self.store = StateStore(str(base / "state"))
        self.path = base / "state" / NAME
        self.path.mkdir(parents=True)
        self.alloc_dir = base / "allocs" / "one"
        self.alloc_dir.mkdir(parents=True)

    def launch(self) -> None:
        launch = make_launch(
            task_id="id",
            task_name="app",
            alloc_id="one",
            alloc_dir=str(self.alloc_dir),
            stdout_path="/dev/null",
            stderr_path="/dev/null",
            state_dir=str(self.path),
            crun_path="/bin/false",
            javas=(),
        )
        (self.path / records.LAUNCH_FILE).write_bytes(records.encode(launch))

    def task(self, supervisor: ProcessId, container: ProcessId | None = None) -> None:
        record = TaskRecord(
            task_id="id",
            task_name="app",
            alloc_id="one",
            alloc_dir=str(self.alloc_dir),
            supervisor=supervisor,
            container=container,
        )
        (self.path / records.TASK_FILE).write_bytes(records.encode(record))

    def exit(self) -> None:
        record = ExitRecord(exit_code=0, task_id="id", alloc_dir=str(self.alloc_dir))
        (self.path / records.EXIT_FILE).write_bytes(records.encode(record))

    def age(self) -> None:
        """Let everything have been written an hour ago."""
        then = time.time() - 3600
        for path in (*self.path.iterdir(), self.path):
            os.utime(path, (then, then), follow_symlinks=False)

    def judge(self) -> Orphan | Kept | None:
        return judge_directory(self.store, str(self.path))


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path)


def test_a_running_task_is_living(layout: Layout) -> None:
    """While the allocation is there, a task process or a container is enough to be living."""
    layout.launch()
    layout.task(alive(), DEAD)
    layout.age()
    assert layout.judge() is None
    layout.task(DEAD, alive())
    layout.age()
    assert layout.judge() is None


def test_an_ended_task_is_its_allocations(layout: Layout) -> None:
    """An exit that Nomad may still ask for is kept while the allocation is there."""
    layout.launch()
    layout.task(DEAD, DEAD)
    layout.exit()
    layout.age()
    assert layout.judge() is None


def test_a_bare_exit_record_outlives_its_task(layout: Layout) -> None:
    """What DestroyTask leaves is kept as long as the allocation is there, and no longer."""
    layout.exit()
    layout.age()
    assert layout.judge() is None
    layout.alloc_dir.rmdir()
    assert isinstance(layout.judge(), Orphan)


def test_without_process_and_exit_nothing_can_be_recovered(layout: Layout) -> None:
    """Task process and container gone without a record: an orphan, but not in its first minute."""
    layout.launch()
    layout.task(DEAD, DEAD)
    assert isinstance(layout.judge(), Kept)
    layout.age()
    verdict = layout.judge()
    assert isinstance(verdict, Orphan) and "left no exit record" in verdict.reason


def test_a_start_in_progress_is_kept(layout: Layout) -> None:
    """A directory that StartTask has just made is nobody's orphan."""
    assert isinstance(layout.judge(), Kept)
    layout.launch()
    assert isinstance(layout.judge(), Kept)


def test_a_served_socket_is_life(layout: Layout) -> None:
    """Whoever serves the control socket, in whatever PID namespace, is alive."""
    layout.launch()
    layout.task(DEAD, DEAD)
    listener = layout.store.listen(str(layout.path))
    layout.age()
    assert layout.judge() is None
    listener.close()
    layout.age()
    assert isinstance(layout.judge(), Orphan)


@pytest.mark.parametrize("running", [True, False])
def test_a_gone_allocation_owns_nothing(layout: Layout, running: bool) -> None:
    """Without its allocation's directory a task is an orphan, whatever runs for it."""
    layout.launch()
    layout.task(alive() if running else DEAD, DEAD)
    layout.alloc_dir.rmdir()
    verdict = layout.judge()
    assert isinstance(verdict, Orphan)
    assert "task 'app' of allocation one: the directory of its allocation is gone" in verdict.reason
    assert (f"its task process {os.getpid()} is running" in verdict.reason) is running


def test_a_missing_data_directory_is_no_proof(layout: Layout) -> None:
    """Where all allocations are missing, the agent's disk may not be mounted: kept."""
    layout.launch()
    layout.task(DEAD, DEAD)
    layout.age()
    layout.alloc_dir.rmdir()
    layout.alloc_dir.parent.rmdir()
    verdict = layout.judge()
    assert isinstance(verdict, Kept) and "may not be mounted" in verdict.reason


@pytest.mark.parametrize("name", [records.LAUNCH_FILE, records.TASK_FILE, records.EXIT_FILE])
def test_what_cannot_be_read_is_kept(layout: Layout, name: str) -> None:
    """Damaged records, and those of a newer Milo, are kept, and it is said why."""
    layout.launch()
    layout.task(DEAD, DEAD)
    (layout.path / name).write_bytes(b'{"version":99')
    layout.age()
    layout.alloc_dir.rmdir()
    verdict = layout.judge()
    assert isinstance(verdict, Kept) and name in verdict.reason


def test_an_empty_directory_is_an_orphan_after_a_while(layout: Layout) -> None:
    """A directory without any record that nobody uses is an orphan, once it is a minute old."""
    layout.age()
    assert isinstance(layout.judge(), Orphan)
    with layout.store.listen(str(layout.path)):
        layout.age()
        assert isinstance(layout.judge(), Kept)


def test_other_names_are_not_touched(layout: Layout) -> None:
    """What is not named like one of Milo's directories is not looked at."""
    (Path(layout.store.root) / "lost+found").mkdir()
    layout.launch()
    layout.task(alive())
    found = look(layout.store.root)
    assert (found.directories, found.processes, found.mounts) == ((), (), ())


def test_two_looks_have_to_agree() -> None:
    """Only what both looks have found counts; of processes the very same ones."""
    one, two = Orphan("/a", "x"), Orphan("/b", "y")
    before = Findings(
        directories=(one, two), processes=((Orphan("7", "z"), ProcessId(7, 1)),), groups=(two,)
    )
    after = Findings(directories=(one,), processes=((Orphan("7", "z"), ProcessId(7, 2)),))
    assert after.also_in(before) == Findings(directories=(one,))
    assert before.orphans == (one, two, Orphan("7", "z"), two)


@pytest.mark.parametrize("planted", ["", "symlink", "directory symlink", "file"])
def test_a_task_process_lives_as_long_as_something_has_its_fifos_place(
    tmp_path: Path, planted: str
) -> None:
    """Only a FIFO that is gone is a sign; what a task puts there is neither followed nor one."""
    logs = tmp_path / "alloc/logs"
    logs.mkdir(parents=True)
    if planted == "symlink":
        (logs / "fifo").symlink_to("nowhere")
    elif planted == "directory symlink":
        logs.rmdir()
        logs.symlink_to("elsewhere")
    elif planted:
        (logs / "fifo").touch()
    process = TaskProcess(alive(), f"{tmp_path}/state/{NAME}/control.sock", (f"{logs}/fifo",))
    verdict = judge_process(process)
    assert isinstance(verdict, Kept if planted else Orphan)
