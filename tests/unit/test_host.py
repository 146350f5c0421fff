"""The driver's parts, each without a task: events, state, health, spawner, one task's record."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from contextlib import aclosing
from pathlib import Path
from typing import Any, cast

import attrs
import pytest
import trio
import trio.testing

from milo.core import control, records
from milo.core.config.plugin_options import PluginOptions
from milo.core.launch import JavaRuntime, Launch
from milo.core.records import ExitRecord, Handle, ProcessId, TaskRecord
from milo.core.report import ExitResult, TaskState
from milo.core.signals import NO_SIGNAL
from milo.errors import ControlError, NoAnswerError, SpawnerError, StateError, TaskStartError
from milo.files import write_file
from milo.host import events, fingerprint, spawner_client, stopping
from milo.host.events import Broadcast
from milo.host.fingerprint import Fingerprinter
from milo.host.follower import MAX_ADOPTIONS, Adoptions
from milo.host.leftovers.removal import Leftovers, join_fifos
from milo.host.managed import ENDING_PATIENCE_S, PATIENCE_S, ManagedTask
from milo.host.programs import ChangeableProgramError, find_program, helper, trusted_crun
from milo.host.registry import Registry
from milo.host.spawner_client import SpawnerClient
from milo.host.state_store import NAMES_A_SWEEP, SWEPT, StateStore
from milo.host.stats.usage import Ticks, follow_usage
from milo.host.task_client import TaskClient
from milo.host.task_processes import TaskProcesses, end_silent
from milo.host.task_state import Ended, Running
from milo.proc import identify
from milo.task.preparer import read_launch
from milo.unix_sockets import passed_descriptors
from tests.support import launches
from tests.support.log_rig import descriptors, settle
from tests.support.nomad_signals import NOMADS
from tests.support.past_version import identity

ME = ProcessId(os.getpid(), 1)
SENT = set(NOMADS) - {"SIGNULL"}


def make_launch(root: Path, task_id: str = "alloc/app/1", **changes: Any) -> Launch:
    """A launch whose state directory is the one that the store gives it."""
    values: dict[str, Any] = {
        "task_id": task_id,
        "task_name": "app",
        "alloc_id": "alloc",
        "alloc_dir": str(root / "alloc"),
        "stdout_path": os.devnull,
        "stderr_path": os.devnull,
        "state_dir": StateStore(str(root / "state")).task_dir(task_id),
        "crun_path": "/bin/true",
        "javas": (),
    }
    return launches.make_launch(**{**values, **changes})


# ---- events ----------------------------------------------------------------------------


async def test_what_nobody_hears_is_kept_for_the_first() -> None:
    """Then every subscriber gets each value, until it goes."""
    broadcast: Broadcast[int] = Broadcast()
    broadcast.publish(1)
    heard: dict[str, list[int]] = {"a": [], "b": []}

    async def listen(name: str, count: int) -> None:
        async with aclosing(broadcast.subscribe()) as values:
            async for value in values:
                heard[name].append(value)
                if len(heard[name]) == count:
                    return

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen, "a", 2)
        await settle()
        nursery.start_soon(listen, "b", 2)
        await settle()
        broadcast.publish(2)
        await settle()
        broadcast.publish(3)
    assert heard == {"a": [1, 2], "b": [2, 3]}
    broadcast.publish(4)
    async with aclosing(broadcast.subscribe()) as values:
        assert await anext(values) == 4


async def test_a_slow_subscriber_misses_what_is_too_much() -> None:
    """It holds up neither the publisher nor the others, and memory has a bound."""
    broadcast: Broadcast[int] = Broadcast()
    for number in range(events.QUEUED + 50):
        broadcast.publish(number)
    async with aclosing(broadcast.subscribe()) as slow:
        assert await anext(slow) == 50
        for number in range(2 * events.QUEUED):
            broadcast.publish(-number)
        assert await anext(slow) == 51


# ---- the state directory ---------------------------------------------------------------


def test_a_task_directory_is_made_read_and_removed(tmp_path: Path) -> None:
    """For root's eyes only; the exit record outlives the rest where that is asked for."""
    store = StateStore(str(tmp_path / "state"))
    assert list(store.directories()) == []
    launch = make_launch(tmp_path)
    store.make(launch)
    path = Path(launch.state_dir)
    assert list(store.directories()) == [str(path)]
    assert path.stat().st_mode & 0o777 == Path(store.root).stat().st_mode & 0o777 == 0o700
    assert store.read_launch(str(path)) == launch
    assert store.read_task(str(path)) is None and store.read_exit(str(path)) is None
    with pytest.raises(StateError, match="File exists"):
        store.make(launch)
    listener = store.listen(str(path))
    listener.close()
    with pytest.raises(StateError, match="no socket can be made"):
        store.listen(str(path))
    exit_record = ExitRecord(exit_code=3, alloc_dir=launch.alloc_dir)
    (path / records.EXIT_FILE).write_bytes(records.encode(exit_record))
    (path / "bundle/rootfs").mkdir(parents=True)
    store.remove(str(path), keep_exit=True)
    assert [entry.name for entry in path.iterdir()] == [records.EXIT_FILE]
    assert store.read_exit(str(path)) == exit_record
    store.remove(str(path), keep_exit=False)
    assert not path.exists()
    store.remove(str(path), keep_exit=True)  # which is gone already
    with pytest.raises(StateError, match="not directly below"):
        store.remove("/tmp", keep_exit=False)


def test_a_root_that_others_could_have_made_is_refused(tmp_path: Path) -> None:
    """A symlink or a file is no state directory; a mode that is too wide is narrowed."""
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "file").write_text("")
    for name in ("link", "file", "file/below"):
        with pytest.raises(StateError, match="Set"):
            StateStore(str(tmp_path / name)).prepare()
    (tmp_path / "wide").mkdir(mode=0o755)
    StateStore(str(tmp_path / "wide")).prepare()
    assert (tmp_path / "wide").stat().st_mode & 0o777 == 0o700


def test_exit_records_of_allocations_that_are_gone_are_swept(tmp_path: Path) -> None:
    """Never one that belongs to a living task or task process, or cannot be read.

    An agent that ends while it kills a task, and forgets its allocation, never destroys the task.
    """
    store = StateStore(str(tmp_path / "state"))
    kept, there = tmp_path / "alloc", str(tmp_path / "alloc")
    kept.mkdir()
    paths = {}
    for name, alloc_dir in (
        ("gone", "/nonexistent"),
        ("there", there),
        ("living", "/nonexistent"),
        ("task", "/nonexistent"),
        ("ended", "/nonexistent"),
        ("ending", "/nonexistent"),
        ("broken", ""),
    ):
        launch = make_launch(tmp_path, name)
        store.make(launch)
        paths[name] = Path(launch.state_dir)
        record = records.encode(ExitRecord(exit_code=0, alloc_dir=alloc_dir))
        (paths[name] / records.EXIT_FILE).write_bytes(b"{" if name == "broken" else record)
    (paths["task"] / records.TASK_FILE).write_bytes(b"{}")
    for name, process in (("ended", ProcessId(2**22 + 1, 1)), ("ending", identify(os.getpid()))):
        assert process is not None
        task = TaskRecord("a/t/1", "t", "a", "/nonexistent", supervisor=process)
        (paths[name] / records.TASK_FILE).write_bytes(records.encode(task))
    (Path(store.root) / "something-else").mkdir()
    store.sweep(lambda: {str(paths["living"])})
    left = {name for name, path in paths.items() if path.exists()}
    assert left == {"there", "living", "task", "ending", "broken"}


def test_a_sweep_is_short_however_much_is_kept(tmp_path: Path) -> None:
    """Each one looks at a few directories and the next one at others, until all have been seen."""
    (there := tmp_path / "there").mkdir()
    store = StateStore(str(tmp_path / "state"))
    count = 3 * SWEPT
    for number in range(count):
        launch = make_launch(tmp_path, f"task{number}")
        store.make(launch)
        record = ExitRecord(exit_code=0, alloc_dir=str(there))
        store.write_exit(launch.state_dir, record)
    there.rmdir()
    left = [count]
    while left[-1]:
        store.sweep(set)
        left.append(len(list(store.directories())))
    assert left == [count, 2 * SWEPT, SWEPT, 0]


def test_a_sweep_does_not_look_for_all_tasks_each_time(tmp_path: Path) -> None:
    """With a thousand that run, it would take longer than all else at the end of one."""
    store = StateStore(str(tmp_path))
    living = {store.task_dir(str(number)) for number in range(10 * NAMES_A_SWEEP)}
    found: list[int] = []

    def claimed() -> set[str]:
        found.append(len(living))
        return living

    for _ in range(30):
        store.sweep(claimed)
    assert len(found) == 3
    living.clear()
    for _ in range(30):
        store.sweep(claimed)
    assert len(found) > 20


def test_a_sweep_removes_nothing_that_was_claimed_since_it_was_found(tmp_path: Path) -> None:
    """As by the start of a task whose id was there before."""
    store = StateStore(str(tmp_path / "state"))
    claimed: set[str] = set()
    for number in range(SWEPT + 1):
        launch = make_launch(tmp_path, f"task{number}")
        store.make(launch)
        record = ExitRecord(exit_code=0, alloc_dir=str(tmp_path / "gone"))
        store.write_exit(launch.state_dir, record)
    store.sweep(lambda: claimed)
    claimed.update(store.directories())
    assert len(claimed) == 1
    store.sweep(lambda: claimed)
    assert set(store.directories()) == claimed


# ---- health ----------------------------------------------------------------------------


def crun_script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


class Javas:
    """Finds what it is told to."""

    def __init__(self, *found: JavaRuntime) -> None:
        self.found = found
        self.problems: tuple[str, ...] = ()
        self.looks = 0

    async def find(self, java_home: str, environ: object) -> tuple[JavaRuntime, ...]:
        self.looks += 1
        return self.found


def make_fingerprinter(crun: str, javas: Javas, path: str = "/nonexistent") -> Fingerprinter:
    printer = Fingerprinter({"PATH": path})
    printer._finder = javas  # type: ignore[assignment]
    printer.configure(PluginOptions(crun_path=crun))
    return printer


def java(home: Path) -> JavaRuntime:
    (home / "bin").mkdir(parents=True)
    crun_script(home / "bin/java", "exit 0")
    return JavaRuntime(str(home), "17.0.1", 17, "test")


async def test_health_says_what_is_missing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its description is what a user reads when no task is placed."""
    found = java(tmp_path / "jdk")
    good = crun_script(tmp_path / "crun", "echo crun version 1.8.1; echo commit: x")
    bad = crun_script(tmp_path / "bad", "echo runc version 1.1")
    answer = await make_fingerprinter(good, Javas(found)).fingerprint()
    assert (answer.health, answer.attributes["driver.milo.crun.version"]) == ("healthy", "1.8.1")
    assert answer.attributes["driver.milo.java.version"] == "17.0.1"
    for crun, javas, words in (
        ("/nonexistent/crun", Javas(found), "Install the package crun"),
        (bad, Javas(found), "does not answer like crun"),
        (good, Javas(), "No Java runtime found"),
    ):
        answer = await make_fingerprinter(crun, javas).fingerprint()
        assert answer.health == "unhealthy" and words in answer.description
    for javas, begin in ((Javas(found), "Healthy, but the Java"), (Javas(), "Error: No Java")):
        javas.problems = ("PATH /x: no", "java_home /nonexistent: it does not exist")
        answer = await make_fingerprinter(good, javas).fingerprint()
        assert answer.description.startswith(begin)
        assert answer.description.endswith("names is not used: /nonexistent: it does not exist")
    broken = Javas()
    broken.problems = ("/opt/jdk: its release file is empty",)
    printer = make_fingerprinter(good, broken)
    await printer.fingerprint()
    await printer.fingerprint()
    assert caplog.text.count("its release file is empty") == 1


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("crun version 1.8", "crun 1.8 is older than 1.8.1"),
        ("crun version 0.17", "crun 0.17 is older than 1.8.1"),
        ("crun version 1.21\n+SYSTEMD +CAP", "built without SECCOMP"),
        ("crun version 1.21\n+SYSTEMD", "built without SECCOMP and CAP"),
    ],
)
async def test_crun_that_cannot_be_used(tmp_path: Path, output: str, words: str) -> None:
    """One that is too old, or would drop a container's limits in silence, gets no tasks."""
    crun = crun_script(tmp_path / "crun", f"echo '{output}'")
    answer = await make_fingerprinter(crun, Javas(java(tmp_path / "jdk"))).fingerprint()
    assert answer.health == "unhealthy"
    assert words in answer.description and "Install another crun" in answer.description


async def test_crun_without_seccomp_where_nothing_is_filtered(tmp_path: Path) -> None:
    """Where the operator wants no filter, none is missed."""
    crun = crun_script(tmp_path / "crun", "echo 'crun version 1.21'; echo '+SYSTEMD +CAP'")
    printer = make_fingerprinter(crun, Javas(java(tmp_path / "jdk")))
    printer.configure(PluginOptions(crun_path=crun, seccomp_profile="unconfined"))
    assert (await printer.fingerprint()).health == "healthy"


async def test_known_faults_of_crun_are_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A healthy driver warns in the agent's log of what is known to be wrong with its crun."""
    crun = crun_script(tmp_path / "crun", "echo crun version 1.8.1")
    printer = make_fingerprinter(crun, Javas(java(tmp_path / "jdk")))
    for _ in range(2):
        answer = await printer.fingerprint()
        assert (answer.health, answer.description) == ("healthy", "Healthy")
    assert caplog.text.count("crun 1.8.1 has known faults") == 1
    assert answer.attributes["driver.milo.crun.version"] == "1.8.1"


async def test_a_crun_that_hangs_is_no_crun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fingerprint has a bound, and a file that is no program is no surprise."""
    monkeypatch.setattr(fingerprint, "CRUN_TIMEOUT_S", 0.1)
    hangs = crun_script(tmp_path / "hangs", "exec sleep 1000")
    printer = make_fingerprinter(hangs, Javas())
    assert await printer._crun_output(hangs) == ""
    assert await printer._crun_output("/nonexistent") == ""
    (tmp_path / "data").write_bytes(b"\0")
    (tmp_path / "data").chmod(0o755)
    assert await printer._crun_output(str(tmp_path / "data")) == ""


async def test_javas_are_looked_for_again_when_one_is_gone(tmp_path: Path) -> None:
    """Each start would pay for a look at every JDK's files otherwise."""
    javas = Javas(java(tmp_path / "jdk"))
    printer = make_fingerprinter("crun", javas)
    for _ in range(3):
        assert await printer.javas() == javas.found
    assert javas.looks == 1
    (tmp_path / "jdk/bin/java").unlink()
    await printer.javas()
    assert javas.looks == 2
    printer.configure(PluginOptions(java_home="/other"))
    await printer.javas()
    assert javas.looks == 3
    printer.note_start({"create": 0.01})


async def test_health_is_told_when_it_changes(
    tmp_path: Path, autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, after a new configuration, and when a later look finds something else."""
    javas = Javas()
    good = crun_script(tmp_path / "crun", "echo crun version 1.8.1")
    printer = make_fingerprinter("/nonexistent/crun", javas)

    async def output(crun: str) -> str:
        return "crun version 1.8.1"  # on this clock no real process is waited for

    monkeypatch.setattr(printer, "_crun_output", output)
    async with aclosing(printer.watch()) as found:
        assert "crun was not found" in (await anext(found)).description
        printer.configure(PluginOptions(crun_path=good))
        assert "No Java" in (await anext(found)).description
        javas.found = (java(tmp_path / "jdk"),)
        begun = trio.current_time()
        assert (await anext(found)).health == "healthy"
        assert trio.current_time() - begun == fingerprint.PERIOD_S


def test_a_program_is_found_beyond_the_agents_path(tmp_path: Path) -> None:
    """A service's PATH is often short; an absolute path is taken as it is."""
    assert find_program("sh", {"PATH": "/nonexistent"}).endswith("/sh")
    path = crun_script(tmp_path / "crun", "exit 0")
    assert find_program("crun", {"PATH": str(tmp_path)}) == path == find_program(path, {})
    assert find_program("no-such-program", {}) == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a program of another user's")
@pytest.mark.parametrize("mode", [0o755, 0o777])
async def test_no_program_of_another_user_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    """His directory is on PATH, or ``.`` is; root, or a second user, would do his will."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    crun = crun_script(theirs / "crun", f"touch {tmp_path}/run; echo crun version 1.25")
    if mode == 0o755:
        os.chown(theirs, 1001, 1001)
        os.chown(crun, 1001, 1001)
    theirs.chmod(mode)
    monkeypatch.chdir(theirs)
    for path in (str(theirs), "."):
        environ = {"PATH": path}
        with pytest.raises(ChangeableProgramError, match=f"{crun} is not run, because {theirs} "):
            trusted_crun("crun", environ)
        assert helper("crun", environ) == ""
        printer = make_fingerprinter("crun", Javas(), path)
        answer = await printer.fingerprint()
        assert answer.health == "unhealthy" and "is not run, because" in answer.description
    assert not (tmp_path / "run").exists()
    os.chown(theirs, 0, 0)
    os.chown(crun, 0, 0)
    theirs.chmod(0o755)
    assert trusted_crun("crun", {"PATH": str(theirs)}) == helper(crun, {}) == crun
    assert trusted_crun("no-such-crun", {}) == "/usr/bin/no-such-crun"


async def test_usage_is_sampled_until_the_end(autojump_clock: Any) -> None:
    """Each sample has a time; a cgroup that is gone is no error."""
    ended = trio.Event()
    times = []
    async for usage in follow_usage("id", "/milo-nonexistent", 5.0, ended, Ticks()):
        assert usage.task_id == "id" and usage.timestamp_s > 0
        times.append(trio.current_time())
        if len(times) == 3:
            ended.set()
    assert [at - times[0] for at in times] == [0, 5, 10]


# ---- the spawner -----------------------------------------------------------------------


@attrs.frozen
class Spawned:
    """A spawner's end that a test plays."""

    pid: int
    sock: socket.socket


def play(*answers: str) -> tuple[SpawnerClient, socket.socket]:
    """Return a client, and the socket on which it was answered already."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for answer in answers:
        theirs.send(answer.encode())
    return SpawnerClient(Spawned(2**22, ours)), theirs


async def test_a_spawner_is_asked_and_answers() -> None:
    """The request has mode and directory, and the descriptors; an error is the spawner's own."""
    client, theirs = play("4711", "error: no task process can be forked: no memory")
    read, write = os.pipe()
    assert await client.spawn("run", "/run/milo/x", [read]) == 4711
    request, rights, _, _ = theirs.recvmsg(4096, socket.CMSG_SPACE(64))
    assert request == b"run /run/milo/x"
    received = passed_descriptors(rights)
    assert os.path.samestat(os.fstat(received[0]), os.fstat(read))
    with pytest.raises(ControlError, match="no memory"):
        await client.spawn("run", "/run/milo/x", [read])
    for fd in (read, write, *received):
        os.close(fd)
    client.close()
    client.close()
    assert theirs.recv(100) == b"run /run/milo/x" and theirs.recv(100) == b""
    theirs.close()


async def test_a_spawner_that_hangs_is_let_go(autojump_clock: Any) -> None:
    """A late answer would be taken for that of the next request."""
    client, theirs = play()
    with pytest.raises(ControlError, match="did not answer in 30 s"):
        await client.spawn("run", "/run/milo/x", [])
    assert theirs.recv(100) and theirs.recv(100) == b""
    theirs.close()


async def test_a_cancelled_request_takes_its_answer_along() -> None:
    """The next request gets its own answer, not that of the one that nobody waits for."""
    client, theirs = play()
    asked = trio.CancelScope()

    async def ask_and_be_cancelled() -> None:
        with asked:
            await client.spawn("run", "/run/milo/first", [])

    with trio.socket.from_stdlib_socket(theirs) as spawner:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask_and_be_cancelled)
            assert await spawner.recv(4096) == b"run /run/milo/first"
            asked.cancel()
            await trio.testing.wait_all_tasks_blocked()
            await spawner.send(b"1001")
        async with trio.open_nursery() as nursery:

            async def answer() -> None:
                assert await spawner.recv(4096) == b"run /run/milo/second"
                await spawner.send(b"1002")

            nursery.start_soon(answer)
            assert await client.spawn("run", "/run/milo/second", []) == 1002
        client.close()


async def test_a_spawner_that_died_is_replaced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a new program; when that dies as well, the start has failed."""
    client, theirs = play()
    theirs.close()
    monkeypatch.setattr(spawner_client, "CODE", "import sys")
    before = descriptors()
    with pytest.raises(ControlError, match="spawner of task processes died"):
        await client.spawn("run", "/nonexistent", [])
    assert len(descriptors()) <= len(before)


async def test_a_spawner_that_is_dead_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is executed for it: each of many tasks would do so, again and again."""
    monkeypatch.setattr(spawner_client, "_execute_spawner", pytest.fail)
    client, theirs = play()
    with pytest.raises(SpawnerError, match="There is no spawner"):
        await client.keep("/run/milo/x", 0)
    changed = client.changed
    with client._first.sock as sock:  # type: ignore[union-attr]
        client._first = None
        client._sock = trio.socket.from_stdlib_socket(sock)
        theirs.close()
        with pytest.raises(SpawnerError, match="died"):
            await client.keep("/run/milo/x", 0)
    assert client.changed is changed and not changed.is_set()
    client.close()


async def test_a_spawner_is_told_apart_from_the_last_one() -> None:
    """Whoever had tasks kept by it has them kept by the next one."""
    client, theirs = play("4711")
    changed = client.changed
    await client.spawn("run", "/run/milo/x", [])
    assert changed.is_set() and not client.changed.is_set()
    client.close()
    theirs.close()


async def test_an_older_spawner_starts_nothing_for_a_request_to_keep() -> None:
    """It takes the mode for that of a task to start, whose state directory cannot be."""
    client, theirs = play("1", "4711")
    await client.spawn("run", "/run/milo/x", [])
    assert await client.keep("/run/milo/x", theirs.fileno()) == 4711
    assert theirs.recv(100) == b"run /run/milo/x"
    _, _, path = theirs.recv(100).decode().partition(" ")
    with pytest.raises(StateError, match=r"null (byte|character)"):
        read_launch(path)
    client.close()
    theirs.close()


async def test_a_real_spawner_forks_what_is_asked_for(tmp_path: Path) -> None:
    """A process that fails says why in the task's directory, and the spawner lives on."""
    client = SpawnerClient()
    first, second = tmp_path / "first", tmp_path / "second"
    for directory in (first, second):
        directory.mkdir()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with trio.socket.from_stdlib_socket(ours) as end, theirs:
            assert await client.spawn("run", str(directory), [theirs.fileno()]) > 0
            theirs.close()
            with trio.fail_after(20):
                assert await end.recv(1) == b""
        assert "the task process failed: StateError" in (directory / "task.log").read_text()
    pid = client.pid
    client.close()
    with trio.fail_after(20):
        await spawner_client._until_ended(pid)


# ---- one task --------------------------------------------------------------------------


class Lines:
    """What a task has told."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.logs: list[control.Log] = []

    def make(self, root: Path) -> ManagedTask:
        return ManagedTask(
            make_launch(root),
            on_event=lambda task, text, at_s: self.events.append(text),
            on_log=lambda task, line: self.logs.append(line),
        )


STARTED = control.Started(
    container=ProcessId(2**22, 1), container_id="milo-x", cgroup_path="/x", started_at_s=7.0
)


async def test_a_task_takes_in_what_its_process_says(tmp_path: Path) -> None:
    """Started, events and lines, the end; the first word on the end counts."""
    lines = Lines()
    task = lines.make(tmp_path)
    with pytest.raises(ControlError, match="does not answer"):
        task.connection.require()
    task.take(STARTED)
    task.take(control.Event(text="said", at_s=1))
    task.take(control.Log(level="info", text="line"))
    task.take(control.Done(seq=1))
    assert (await task.wait_started()) is STARTED
    assert (lines.events, [line.text for line in lines.logs]) == (["said"], ["line"])
    assert (await task.inspect()).state is TaskState.RUNNING
    task.take(control.Exited(record=ExitRecord(exit_code=3, ended_at_s=9)))
    task.lose("too late")
    status = await task.inspect()
    assert (status.state, status.completed_at_s) == (TaskState.EXITED, 9)
    assert status.result == ExitResult(exit_code=3)
    assert status.attributes["container_id"] == "milo-x"


class Silent:
    """A connection to a task process that answers once, and then no more."""

    def __init__(self) -> None:
        self._answers = 1

    async def status(self) -> control.Status:
        if not self._answers:
            await trio.sleep_forever()
        self._answers -= 1
        none = records.StreamCounters()
        return control.Status(seq=1, phase="running", stdout=none, stderr=none)


async def test_a_task_that_is_being_stopped_holds_up_no_inspect(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """A hundred that end at once answer late: what each has said last is told after 10 ms."""
    task = Lines().make(tmp_path)
    task.connection.use(cast(TaskClient, Silent()))
    task.take(STARTED)
    await task.inspect()
    await trio.sleep(1)
    took_s = []
    for stop in (False, True):
        if stop:
            task.request_stop()
        began_s = trio.current_time()
        attributes = (await task.inspect()).attributes
        took_s.append(trio.current_time() - began_s)
        assert attributes["phase"] == "running" and float(attributes["status_age_seconds"]) > 1
    assert took_s == pytest.approx([PATIENCE_S, ENDING_PATIENCE_S])


async def test_what_makes_no_sense_is_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A task process that says what cannot be costs a line in the log, and never the task."""
    task = Lines().make(tmp_path)
    task.take(STARTED)
    task.take(control.StartFailed(text="Error: no JAR", recoverable=True))
    assert "said what makes no sense: 'start failed' cannot happen" in caplog.text
    assert task.state == Running(STARTED)


async def test_a_start_that_failed_is_told(tmp_path: Path) -> None:
    """With the task process's own text, or with what is known when it just went."""
    failed, lost = Lines().make(tmp_path), Lines().make(tmp_path)
    failed.take(control.StartFailed(text="Error: no JAR", recoverable=True))
    with pytest.raises(TaskStartError, match="Error: no JAR") as caught:
        await failed.wait_started()
    assert caught.value.recoverable
    lost.lose("its task process was killed")
    with pytest.raises(TaskStartError, match="had started: its task process was killed"):
        await lost.wait_started()
    assert isinstance(lost.state, Ended) and not lost.state.record.successful


def test_kept_descriptors_are_closed_with_the_task(tmp_path: Path) -> None:
    """A FIFO is held until there is another descriptor of it; at the end all are let go."""
    before = descriptors()
    task = Lines().make(tmp_path)
    read, write = os.pipe()
    task.descriptors.keep({"stdout.pipe": os.dup(read), "stdout.fifo": os.dup(write)})
    task.descriptors.keep({"stdout.pipe": os.dup(read)})
    assert set(task.descriptors._kept) == {"stdout.pipe", "stdout.fifo"}
    lent = task.descriptors.lend_fifos()
    assert set(lent) == {"stdout.fifo"}
    joined = join_fifos(lent, {"stdout.fifo": os.dup(write)})
    task.lose("x")
    assert task.descriptors._kept == {}
    task.descriptors.keep({"stdout.pipe": os.dup(read)})
    for fd in (read, write, *joined.values()):
        os.close(fd)
    assert descriptors() == before


def test_a_process_that_dies_again_and_again_is_given_up() -> None:
    """Something must be wrong with the host then."""
    adoptions = Adoptions()
    for _ in range(MAX_ADOPTIONS):
        adoptions.count()
    with pytest.raises(ControlError, match="died 11 times in 10 s"):
        adoptions.count()


async def test_a_stop_goes_past_a_process_that_does_not_answer(
    tmp_path: Path, autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The application is signalled directly, and one that cannot be killed is an error.

    Which process that is stands in the state directory, and not in what the task process said.
    """
    sent: list[tuple[ProcessId, int]] = []

    def send(process: ProcessId, number: int) -> bool:
        sent.append((process, number))
        return True

    monkeypatch.setattr(stopping, "signal_process", send)
    task = Lines().make(tmp_path)
    task.take(STARTED)
    await stopping_ends_without(task)
    assert sent == []
    own = ProcessId(2**22, 77)
    record = records.TaskRecord("id", "web", "a1", "/nowhere", own, own)
    state_dir = Path(task.launch.state_dir)
    state_dir.mkdir(parents=True)
    write_file(str(state_dir / records.TASK_FILE), records.encode(record))
    await stopping_ends_without(task)
    assert sent == [(own, signal.SIGTERM), (own, signal.SIGKILL)]
    sent.clear()
    await stopping_ends_without(task, NO_SIGNAL)
    assert sent == [(own, signal.SIGKILL)]


async def stopping_ends_without(task: ManagedTask, number: int = signal.SIGTERM) -> None:
    """Stop a task that does not end."""
    with pytest.raises(ControlError, match="has not ended 60 s after its SIGKILL"):
        await stopping.stop_task(task, number, 20.0)


@pytest.mark.parametrize("timeout_s", [10.0, 0.0, -60.0])
@pytest.mark.parametrize("name", [*NOMADS, "", "SIGNONSENSE", "0", "-1", "\0", "x" * 10_000])
async def test_no_argument_keeps_a_task_from_being_stopped(
    tmp_path: Path, name: str, timeout_s: float
) -> None:
    """Whatever StopTask names is a stop; what cannot be sent is left out before the SIGKILL."""
    task = Lines().make(tmp_path)
    task.take(STARTED)
    asked: list[tuple[int, float]] = []

    class Client:
        async def stop(self, number: int, timeout_s: float) -> None:
            control.decode_request(
                control.encode(control.Stop(seq=1, signal=number, timeout_s=timeout_s))
            )
            asked.append((number, timeout_s))
            task.finish(ExitRecord(exit_code=0, signal=9))

    task.connection.use(Client())  # type: ignore[arg-type]
    registry = Registry(SpawnerClient(), environ={})
    registry._tasks[task.task_id] = task
    await registry.stop(task.task_id, name, timeout_s)
    number = signal.SIGINT if not name else getattr(signal, name) if name in SENT else NO_SIGNAL
    assert asked == [(number, max(0.0, timeout_s))]


@pytest.mark.parametrize(
    ("level", "number"), [("trace", 10), ("debug", 10), ("info", 20), ("warn", 30), ("error", 40)]
)
def test_a_task_processs_lines_go_to_the_agents_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, level: str, number: int
) -> None:
    """At their level, with the task's id, the line's own keys and its time.

    An unknown level is info.
    """
    registry = Registry(SpawnerClient(), environ={})
    task = registry._new_task(make_launch(tmp_path))
    with caplog.at_level(1, logger="milo"):
        task.take(control.Log(level=level, text="100% sure", fields={"stream": "stdout"}, at_s=9.5))
        task.take(control.Log(level="?", text="odd"))
    first, odd = caplog.records
    assert (first.levelno, first.getMessage(), odd.levelno) == (number, "100% sure", 20)
    assert first.__dict__["fields"] == {"task_id": task.task_id, "stream": "stdout"}
    assert first.__dict__["at_s"] == 9.5
    assert abs(odd.__dict__["at_s"] - time.time()) < 60  # of an older Milo, which does not say


# ---- what was left ---------------------------------------------------------------------


class Forked:
    """A spawner that only notes what it was asked for."""

    def __init__(self) -> None:
        self.modes: list[str] = []

    async def spawn(self, mode: str, state_dir: str, fds: list[int]) -> int:
        self.modes.append(mode)
        return 1


async def test_only_earlier_instances_of_the_same_task_are_removed(tmp_path: Path) -> None:
    """Nothing that is claimed, another task's, or unreadable and not in the way."""
    asked = Forked()
    found = Leftovers(TaskProcesses(asked))  # type: ignore[arg-type]
    store = StateStore(str(tmp_path / "state"))
    launches = {
        "earlier": make_launch(tmp_path, "alloc/app/0"),
        "claimed": make_launch(tmp_path, "alloc/app/2"),
        "other": make_launch(tmp_path, "alloc/web/0", task_name="web"),
        "unreadable": make_launch(tmp_path, "else/app/0"),
        "in the way": make_launch(tmp_path, "alloc/app/1"),
    }
    for launch in launches.values():
        store.make(launch)
    for name in ("unreadable", "in the way"):
        (Path(launches[name].state_dir) / records.LAUNCH_FILE).write_bytes(b"\0")
    fifos = await found.remove_unclaimed(
        store, launches["in the way"], [launches["claimed"].state_dir]
    )
    assert fifos == {}
    left = {name for name, launch in launches.items() if Path(launch.state_dir).exists()}
    assert left == {"claimed", "other", "unreadable"}
    assert asked.modes == ["clean", "clean"]
    await found.remove(str(tmp_path / "state/none"))


class Counting(StateStore):
    """A state directory that notes of whose launches it was asked."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.asked: list[str] = []

    def read_launch(self, state_dir: str) -> Launch | None:
        self.asked.append(state_dir)
        return super().read_launch(state_dir)


async def test_a_start_does_not_look_again_at_what_has_ended(tmp_path: Path) -> None:
    """Of a thousand that have ended each start would read a thousand files; a new one it sees."""
    found = Leftovers(TaskProcesses(Forked()))  # type: ignore[arg-type]
    store = Counting(str(tmp_path / "state"))
    request = make_launch(tmp_path, "alloc/app/1")
    ended = [make_launch(tmp_path, f"alloc/app/{number}") for number in range(2, 6)]
    for launch in ended:
        store.make(launch)
        store.write_exit(launch.state_dir, ExitRecord(exit_code=0, alloc_dir=str(tmp_path)))
        store.remove(launch.state_dir, keep_exit=True)
    for count in (len(ended), 0):
        store.asked.clear()
        assert await found.remove_unclaimed(store, request, set()) == {}
        assert len(store.asked) == count
    other = make_launch(tmp_path, "alloc/app/6")
    store.make(other)
    store.asked.clear()
    await found.remove_unclaimed(store, ended[0], set())
    assert sorted(store.asked) == sorted([ended[0].state_dir, other.state_dir])
    assert not Path(other.state_dir).exists() and not Path(ended[0].state_dir).exists()
    assert Path(ended[1].state_dir).exists()


def test_what_nobody_claims_is_what_is_there_without_it(tmp_path: Path) -> None:
    """Directories of tasks, and none where there is no state directory."""
    store = StateStore(str(tmp_path / "state"))
    assert store.unclaimed(()) == []
    paths = [make_launch(tmp_path, f"alloc/app/{number}") for number in range(3)]
    for launch in paths:
        store.make(launch)
    (Path(store.root) / "something-else").mkdir()
    known = {paths[0].state_dir, "/elsewhere"}
    assert sorted(store.unclaimed(known)) == sorted(launch.state_dir for launch in paths[1:])


@pytest.mark.parametrize(
    ("silence", "survives"),
    [
        (ControlError("Error: No task process answers"), True),
        (NoAnswerError("Error: The task process did not answer in 10 s"), False),
    ],
)
async def test_a_process_that_is_ending_is_not_killed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, silence: ControlError, survives: bool
) -> None:
    """Only one that is there and does not answer is, and only then the log has an error."""
    launch = make_launch(tmp_path)
    StateStore(str(tmp_path / "state")).make(launch)
    process = await trio.lowlevel.open_process(["/bin/cat"], stdin=subprocess.PIPE)
    assert process.stdin is not None
    record = TaskRecord("alloc/app/1", "app", "alloc", "", identity(process.pid))
    (Path(launch.state_dir) / records.TASK_FILE).write_bytes(records.encode(record))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(end_silent, launch.state_dir, silence)
        await settle()
        if survives:
            await process.stdin.aclose()
    await process.stdin.aclose()
    assert await process.wait() == (0 if survives else -signal.SIGKILL)
    assert ("is killed" in caplog.text) is not survives
    await end_silent(launch.state_dir, silence)  # which has gone


async def test_a_handle_names_the_process_that_served_it(tmp_path: Path) -> None:
    """Nomad gets enough to find the task again after everything else has died."""
    task = Lines().make(tmp_path)

    @attrs.frozen
    class Client:
        welcome: control.Welcome

    task.connection.use(Client(control.Welcome(version=1, supervisor=ME)))  # type: ignore[arg-type]
    handle = task.handle(STARTED)
    assert handle == Handle(
        task_id=task.task_id,
        state_dir=task.launch.state_dir,
        supervisor=ME,
        container=STARTED.container,
        container_id="milo-x",
        started_at_s=7.0,
    )
    assert records.decode(records.encode(handle), Handle, where="x") == handle
    assert TaskRecord("", "", "", "", ME).container is None
