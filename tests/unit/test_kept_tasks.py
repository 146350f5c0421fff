"""A spawner as the keeper of tasks, and a task process's side of it: no process is forked here."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from milo.core.records import CONTROL_SOCKET, EXIT_FILE, TASK_FILE, ProcessId, TaskRecord, encode
from milo.core.spawning import RUN_KEPT, adopt_mode, adopted_names, is_kept
from milo.files import take_lock, write_file
from milo.proc import this_process
from milo.spawner import _Server
from milo.task import kept_tasks
from milo.task.keeper import Keeper, listed
from milo.task.kept_tasks import KeptTasks
from milo.task.oci import filters
from milo.unix_sockets import listen, passing
from tests.support.log_rig import descriptors

NAMES = ("stdout.pipe", "stdout.fifo")
GONE = ProcessId(pid=2**22 - 1, start_ticks=1)
"""Of a process that there is not."""


def write_record(
    state_dir: Path, supervisor: ProcessId, container: ProcessId | None = None
) -> None:
    """Write what the task process ``supervisor`` does once it has opened the streams."""
    record = TaskRecord("id", "name", "alloc", "/alloc", supervisor, container)
    write_file(str(state_dir / TASK_FILE), encode(record))


class Forks:
    """Takes down what a spawner would have forked; each successor's channel can be used."""

    def __init__(self) -> None:
        self.modes: list[str] = []
        self.passed: list[list[int]] = []
        self.locked: list[int] = []
        """A duplicate of each lock, which a process would have."""
        self.channels: list[socket.socket] = []
        self.fails = False

    def __call__(self, mode: str, state_dir: str, fds: list[int]) -> tuple[int, int]:
        if self.fails:
            raise BlockingIOError("no processes")
        self.modes.append(mode)
        self.passed.append([os.fstat(fd).st_ino for fd in fds])
        self.locked.append(os.dup(fds[1]))
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channels.append(theirs)
        return 4711, ours.detach()

    def die(self) -> None:
        """End the last successor as its death does."""
        os.close(self.locked.pop())
        self.channels.pop().close()

    def close(self) -> None:
        """End all of them."""
        while self.channels:
            self.die()


class Process:
    """What a task process has: a lock, streams and a control socket."""

    def __init__(self, state_dir: Path, kept: KeptTasks) -> None:
        lock = take_lock(str(state_dir))
        assert lock is not None
        self.fds = [lock, *os.pipe(), os.open(os.devnull, os.O_RDONLY)]
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        kept.add(str(state_dir), ours.detach())
        self.keeper = Keeper(theirs)

    def begin(self) -> None:
        """Let the application run."""
        self.keeper.begin(lambda: listed(NAMES, tuple(self.fds[1:3]), self.fds[3]))

    def die(self) -> None:
        """End without a word."""
        self.keeper._drop()
        self.close()

    def close(self) -> None:
        """Close everything."""
        for fd in self.fds:
            os.close(fd)
        self.fds = []


@pytest.fixture
def forks() -> Iterator[Forks]:
    """What is forked; afterwards no descriptor of a test may be left."""
    before = descriptors()
    forks = Forks()
    yield forks
    forks.close()
    assert descriptors() == before


class Keeping(KeptTasks):
    """With a poller of its own."""

    def __init__(self, forks: Forks) -> None:
        self.poller = select.poll()
        super().__init__(forks, self.poller)

    @property
    def channels(self) -> list[int]:
        """The sockets of task processes that have said something, or have ended."""
        return [fd for fd, _ in self.poller.poll(0)]


def hear(kept: Keeping) -> None:
    """Take in the next message of each task process."""
    for channel in kept.channels:
        kept.hear(channel)


def begun(tmp_path: Path, forks: Forks) -> tuple[Keeping, Process]:
    """Return a keeper, and a task process that is kept with all that a successor needs."""
    kept = Keeping(forks)
    process = Process(tmp_path, kept)
    process.begin()
    hear(kept)
    return kept, process


def connects(state_dir: Path) -> bool:
    """Whether somebody listens where drivers look for a task process."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        try:
            client.connect(str(state_dir / CONTROL_SOCKET))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        return True


@pytest.mark.parametrize("replaced", [False, True])
def test_a_successor_is_where_drivers_look_for_it(
    tmp_path: Path, forks: Forks, replaced: bool
) -> None:
    """A driver that was ended just before it could fork one has left a socket of nobody's.

    Its next one would be refused there, and kill one successor after the other.
    """
    path = tmp_path / CONTROL_SOCKET
    with listen(str(path)) as listener:
        kept = Keeping(forks)
        process = Process(tmp_path, kept)
        os.dup2(listener.fileno(), process.fds[3])
    process.begin()
    hear(kept)
    served = os.fstat(process.fds[3]).st_ino
    for _ in range(2):
        assert connects(tmp_path)
        path.unlink()
        if replaced:
            listen(str(path)).close()
        assert not connects(tmp_path)
        if process.fds:
            process.die()
        else:
            forks.die()
        hear(kept)
        assert connects(tmp_path)
        assert path.stat().st_mode & 0o777 == 0o600
        assert forks.passed[-1][0] != served
        served = forks.passed[-1][0]
    forks.die()
    hear(kept)
    assert forks.passed[-1][0] == served  # nobody has touched it
    path.unlink()
    path.mkdir()  # where no socket can be made
    forks.die()
    hear(kept)
    assert not kept


def test_a_death_has_a_successor(tmp_path: Path, forks: Forks) -> None:
    """It gets control socket, lock and streams, and is kept itself by what was kept before."""
    kept, process = begun(tmp_path, forks)
    inodes = [os.fstat(fd).st_ino for fd in process.fds]
    process.die()
    hear(kept)
    assert forks.modes == ["adopt:lock,stdout.pipe,stdout.fifo"]
    lock, pipe, fifo, listener = inodes
    assert forks.passed == [[listener, lock, pipe, fifo]]
    assert take_lock(str(tmp_path)) is None
    forks.die()  # before it has said anything
    hear(kept)
    assert len(forks.modes) == 2 and forks.passed[1] == forks.passed[0]
    forks.channels[0].send(b"release")
    hear(kept)
    assert not kept


def test_one_that_is_over_has_none(tmp_path: Path, forks: Forks) -> None:
    """All that was kept is closed at the task process's word."""
    kept, process = begun(tmp_path, forks)
    process.keeper.release()
    hear(kept)
    assert not kept and not forks.modes and process.keeper.pid == 0
    process.close()


@pytest.mark.parametrize(
    ("mode", "done"), [(RUN_KEPT, []), ("run", []), ("adopt:lock", ["adopt:lock"])]
)
def test_a_start_is_void_without_its_driver(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, forks: Forks, mode: str, done: list[str]
) -> None:
    """The spawner was stopped meanwhile. Nobody would know of the application; what runs is served.

    The driver has been killed, or has told Nomad that the start has failed.
    """
    with open(os.devnull) as null:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        request = f"{mode} {tmp_path}".encode()
        ours.sendmsg([request], passing([null.fileno(), null.fileno()]))
        ours.close()
        server = _Server(theirs.detach(), (1024, 1024))
    monkeypatch.setattr(server, "_fork", forks)
    server._serve()
    assert forks.modes == done
    if done:
        forks.die()
        for channel, _ in server._poller.poll(0):
            server._kept.hear(channel)
    assert not server._kept and server._driver == -1


def test_a_filter_is_learned_before_the_application_runs(tmp_path: Path, forks: Forks) -> None:
    """That is no end of the task; a filter that is not there, or without a key, is not told."""
    path = tmp_path / "seccomp.bpf"
    path.write_bytes(bytes(8))
    kept = Keeping(forks)
    process = Process(tmp_path, kept)
    try:
        for key, file in (("", path), ("b", tmp_path / "missing"), ("a", path)):
            process.keeper.tell_filter(key, str(file))
            hear(kept)
        assert {"a": bytes(8)} == filters.KNOWN and kept
    finally:
        filters.KNOWN.clear()
    process.keeper.leave()
    hear(kept)
    process.close()
    assert not kept
    process.keeper.tell_filter("c", str(path))  # to nobody


def test_one_that_has_not_started_has_none(tmp_path: Path, forks: Forks) -> None:
    """A task process that dies inside of a start is the driver's to clean up after."""
    kept = Keeping(forks)
    Process(tmp_path, kept).die()
    hear(kept)
    assert not kept and not forks.modes


def test_one_with_an_exit_record_has_none(tmp_path: Path, forks: Forks) -> None:
    """How it ended is known, and a successor would say that it is not."""
    kept, process = begun(tmp_path, forks)
    (tmp_path / EXIT_FILE).write_text("{}")
    process.die()
    hear(kept)
    assert not kept and not forks.modes


def test_a_task_whose_directory_is_gone_has_none(tmp_path: Path, forks: Forks) -> None:
    """It was removed, and its process killed."""
    kept = Keeping(forks)
    directory = tmp_path / "task"
    directory.mkdir()
    process = Process(directory, kept)
    process.begin()
    hear(kept)
    directory.rmdir()
    process.die()
    hear(kept)
    assert not kept and not forks.modes


def test_of_two_keepers_one_forks(
    tmp_path: Path, forks: Forks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock decides, and the other lets go once that successor serves the task."""
    first, second = Keeping(forks), Keeping(forks)
    process = Process(tmp_path, first)
    process.begin()
    hear(first)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    second.add(str(tmp_path), ours.detach())
    before, process.keeper._channel = process.keeper._channel, theirs
    process.keeper.update()
    hear(second)
    assert before is not None
    before.close()  # between the word to the one and the word to the other
    process.die()
    hear(first)
    hear(second)
    assert len(forks.modes) == 1 and second and second.patience_s is not None
    monkeypatch.setattr(kept_tasks, "LOCK_TIMEOUT_S", 0.0)
    second.attempt()  # the successor has not opened anything yet
    assert second and second.patience_s == kept_tasks.LOOK_S
    write_record(tmp_path, supervisor=this_process())
    monkeypatch.setattr(kept_tasks, "LOOK_S", 0.0)
    second.attempt()
    assert not second and second.patience_s is None and len(forks.modes) == 1
    forks.channels[0].send(b"release")
    hear(first)


def dead_and_locked(
    state_dir: Path, forks: Forks, monkeypatch: pytest.MonkeyPatch, container: ProcessId
) -> tuple[Keeping, int]:
    """Return a keeper of a task whose process has just died, and somebody else's lock of it."""
    monkeypatch.setattr(kept_tasks, "LOCK_TIMEOUT_S", 0.0)
    monkeypatch.setattr(kept_tasks, "LOOK_S", 0.0)
    kept, process = begun(state_dir, forks)
    write_record(state_dir, supervisor=GONE, container=container)
    foreign = os.dup(process.fds[0])
    process.die()
    hear(kept)
    return kept, foreign


def test_a_lock_that_is_held_for_long_costs_nothing(
    tmp_path: Path, forks: Forks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as nobody else serves the task, and its application runs, all is kept."""
    monkeypatch.setattr(kept_tasks, "LOCK_PATIENCE_S", 0.0)
    kept, foreign = dead_and_locked(tmp_path, forks, monkeypatch, this_process())
    kept.attempt()
    assert kept and not forks.modes
    os.close(foreign)
    kept.attempt()
    assert forks.modes == ["adopt:lock,stdout.pipe,stdout.fifo"]
    forks.channels[0].send(b"release")
    hear(kept)


def test_a_lock_of_an_application_that_has_ended(
    tmp_path: Path, forks: Forks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has it may still be about to take in the rest of its output, but not for ever."""
    kept, foreign = dead_and_locked(tmp_path, forks, monkeypatch, GONE)
    kept.attempt()
    assert kept
    monkeypatch.setattr(kept_tasks, "LOCK_PATIENCE_S", 0.0)
    kept.attempt()
    assert not kept and not forks.modes
    os.close(foreign)


def test_a_lock_may_outlive_its_socket(tmp_path: Path, forks: Forks) -> None:
    """A process that is killed closes one descriptor after the other."""
    kept, process = begun(tmp_path, forks)
    late = os.dup(process.fds[0])
    process.die()
    hear(kept)
    assert not forks.modes and kept and not kept.channels
    os.close(late)
    kept.attempt()
    assert len(forks.modes) == 1
    forks.channels[0].send(b"release")
    hear(kept)


def test_a_task_that_dies_too_often_is_let_go(tmp_path: Path, forks: Forks) -> None:
    """Its descriptors are closed, and whoever asks its control socket is refused."""
    kept, process = begun(tmp_path, forks)
    process.die()
    for count in range(1, kept_tasks.MAX_DEATHS + 1):
        hear(kept)
        assert len(forks.modes) == count
        forks.die()
    hear(kept)
    assert not kept and len(forks.modes) == kept_tasks.MAX_DEATHS


def test_no_process_can_be_forked(tmp_path: Path, forks: Forks) -> None:
    """Nothing is kept: a driver that is there tries it again and again."""
    kept, process = begun(tmp_path, forks)
    forks.fails = True
    process.die()
    hear(kept)
    assert not kept


def test_a_fifo_is_kept_until_there_is_another(tmp_path: Path, forks: Forks) -> None:
    """The last writer's close is an end of file for Nomad's log collector."""
    kept, process = begun(tmp_path, forks)
    reader, writer = process.fds[1:3]
    process.keeper.begin(lambda: listed(("stdout.pipe",), (writer,), reader))
    hear(kept)
    process.die()
    hear(kept)
    assert forks.modes == ["adopt:lock,stdout.pipe,stdout.fifo"]
    forks.channels[0].send(b"release")
    hear(kept)


def test_another_keeper_is_told_before_the_last_one_is(tmp_path: Path, forks: Forks) -> None:
    """So that there is no moment without one; the old one ends as it is wanted no more."""
    first, second = Keeping(forks), Keeping(forks)
    process = Process(tmp_path, first)
    process.begin()
    hear(first)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    second.add(str(tmp_path), ours.detach())
    process.keeper.change(theirs, 12)
    assert process.keeper.pid == 12
    hear(second)
    hear(first)
    assert second and not first
    process.keeper.release()
    hear(second)
    assert not second
    process.close()


def test_another_keeper_that_is_gone_costs_nobody_the_last_one(
    tmp_path: Path, forks: Forks
) -> None:
    """A plugin's new spawner was killed before the task process heard of it."""
    kept, process = begun(tmp_path, forks)
    gone, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    gone.close()
    process.keeper.change(theirs, 12)
    assert process.keeper.pid == os.getppid()
    process.die()
    hear(kept)
    assert len(forks.modes) == 1
    forks.channels[0].send(b"release")
    hear(kept)


def test_a_keeper_that_is_gone_is_noticed(tmp_path: Path, forks: Forks) -> None:
    """The task process has none then, and goes on."""
    kept = Keeping(forks)
    process = Process(tmp_path, kept)
    [channel] = kept._tasks
    os.close(channel)
    assert process.keeper.pid == os.getppid()
    process.begin()
    assert process.keeper.pid == 0
    process.keeper.update()
    process.keeper.release()
    process.close()


def test_a_keeper_that_is_stopped_holds_nobody_up(tmp_path: Path, forks: Forks) -> None:
    """Once the socket is full the task process does without; a lock tells the keeper that it
    lives."""
    kept = Keeping(forks)
    process = Process(tmp_path, kept)
    process.begin()
    for _ in range(100_000):
        process.keeper.update()
        if process.keeper.pid == 0:
            break
    assert process.keeper.pid == 0
    while kept.channels:
        hear(kept)
    assert kept and not forks.modes  # nobody else may serve it
    process.keeper.release()
    process.close()
    (tmp_path / EXIT_FILE).write_text("{}")
    kept.attempt()
    assert not kept


def test_what_is_kept_has_no_higher_number_than_the_keeper_says(
    tmp_path: Path, forks: Forks
) -> None:
    """A forked child closes what is not its own up to there."""
    kept = Keeping(forks)
    process = Process(tmp_path, kept)
    [channel] = kept._tasks
    assert kept.highest == channel
    process.begin()
    hear(kept)
    held = kept._tasks[channel].descriptors.values()
    assert kept.highest == max(channel, *held)
    process.die()
    hear(kept)
    assert kept.highest >= max(*kept._tasks, *held)
    forks.channels[0].send(b"release")
    hear(kept)


def test_only_a_driver_that_takes_the_lock_has_its_tasks_kept() -> None:
    """An older Milo's plugin may have this one's spawner, and starts successors of its own."""
    assert is_kept("run:kept") and is_kept("adopt:lock") and is_kept("adopt:lock,stdout.pipe")
    assert not any(map(is_kept, ("run", "clean", "adopt:", "adopt:stdout.pipe", "keep", "lock")))
    assert adopt_mode(["stdout.pipe"]) == "adopt:lock,stdout.pipe"
    assert adopted_names("adopt:lock,stdout.pipe") == ["lock", "stdout.pipe"]
