"""The preparer: what reads a tenant's bytes has bounds, and ends with the start."""

from __future__ import annotations

import contextlib
import mmap
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
import trio

from milo.core import records
from milo.core.launch import Launch
from milo.errors import ConfigError, TaskStartError
from milo.proc import address_space_bytes, children, comm
from milo.task import preparer
from milo.task.children import Reaper
from milo.task.preparer import Preparer
from milo.task.root.mount_check import MountCheck
from tests.support.launches import make_launch
from tests.support.log_rig import descriptors

Prepare = Callable[[Launch], tuple[preparer.Prepared, MountCheck]]


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Whatever a test does: no descriptor and no child more or less afterwards."""
    before = descriptors(), set(children(os.getpid()))
    yield
    assert (descriptors(), set(children(os.getpid()))) == before


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    """A task whose launch is written down."""
    found = make_launch(state_dir=str(tmp_path))
    (tmp_path / "launch.json").write_bytes(records.encode(found))
    return found


async def run(launch: Launch, what: Prepare, monkeypatch: pytest.MonkeyPatch) -> MountCheck:
    """Have the child do ``what``; return the check that comes back."""
    monkeypatch.setattr(preparer, "prepare", what)
    reaper = Reaper(reap_all=False)
    child = Preparer.fork()
    with trio.fail_after(60):
        async with reaper.running(), contextlib.aclosing(child):
            _, check = await child.prepare(launch, reaper)
    return check


async def refused(launch: Launch, what: Prepare, monkeypatch: pytest.MonkeyPatch) -> TaskStartError:
    """Have the child do ``what``; return why the task does not start."""
    with pytest.RaisesGroup(TaskStartError) as caught:
        await run(launch, what, monkeypatch)
    (error,) = caught.value.exceptions
    assert isinstance(error, TaskStartError)
    return error


async def test_memory_has_a_bound(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes more memory than the limit is refused with the limit, and costs no more."""
    monkeypatch.setattr(preparer, "MEMORY_BYTES", 32 << 20)

    def hog(_: Launch) -> tuple[preparer.Prepared, MountCheck]:
        kept = [bytes(1 << 20) for _ in range(1000)]
        raise AssertionError(len(kept))

    error = await refused(launch, hog, monkeypatch)
    assert "MiB of memory, which is Milo's limit" in str(error)
    assert not error.recoverable


async def test_memory_that_the_kernel_refuses_is_the_same(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A system call that finds no memory is no trouble of the host's."""
    monkeypatch.setattr(preparer, "MEMORY_BYTES", 32 << 20)

    def map_much(_: Launch) -> tuple[preparer.Prepared, MountCheck]:
        raise AssertionError(mmap.mmap(-1, 64 << 20))

    error = await refused(launch, map_much, monkeypatch)
    assert "MiB of memory, which is Milo's limit" in str(error)
    assert not error.recoverable


async def test_its_limits(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it may use is bounded by the kernel, which kills it first; no core file stays."""

    def tell(_: Launch) -> tuple[preparer.Prepared, MountCheck]:
        limits = [resource.getrlimit(kind) for kind in (resource.RLIMIT_CPU, resource.RLIMIT_CORE)]
        memory = resource.getrlimit(resource.RLIMIT_AS)[1] - address_space_bytes()
        score = Path("/proc/self/oom_score_adj").read_text().strip()
        raise ConfigError(str(limits), f"{memory >> 20} {score}", comm(os.getpid()).decode())

    text = str(await refused(launch, tell, monkeypatch))
    cpu = preparer.CPU_S
    assert f"[({cpu}, {cpu + 1}), (0, 0)]" in text
    assert "Expected milo-prepare" in text
    memory, score = text.partition(": ")[2].partition("]: ")[2].split(".")[0].split()
    assert 0 <= (preparer.MEMORY_BYTES >> 20) - int(memory) < 8 and score == "1000"


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_one_that_does_not_begin_is_found_out(
    launch: Launch, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """It has been stopped or killed, and that may not be done yet; nothing of it is left."""
    monkeypatch.setattr(preparer, "BEGIN_TIMEOUT_S", 0.1)
    child = Preparer.fork()
    os.kill(child._pid, number)
    child.ask(launch.state_dir)
    assert not child.has_begun()
    with pytest.raises(ProcessLookupError):
        os.kill(child._pid, 0)


async def test_one_that_has_begun_is_waited_for(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it says of that is not taken for its verdict."""

    def fail(_: Launch) -> NoReturn:
        raise ConfigError("options", "none", "some")

    monkeypatch.setattr(preparer, "prepare", fail)
    child = Preparer.fork()
    child.ask(launch.state_dir)
    assert child.has_begun()
    reaper = Reaper(reap_all=False)
    async with reaper.running(), contextlib.aclosing(child):
        with pytest.raises(TaskStartError, match="none"):
            await child.prepare(launch, reaper)


async def test_an_ignored_sigchld_is_not_kept(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever starts `milo run` may ignore it, and such a signal survives an exec."""

    def fail(_: Launch) -> tuple[preparer.Prepared, MountCheck]:
        raise ZeroDivisionError

    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        error = await refused(launch, fail, monkeypatch)
        assert "ZeroDivisionError" in str(error)
    finally:
        signal.signal(signal.SIGCHLD, before)


async def test_processor_time_has_a_bound(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    """What computes for longer than the limit is ended."""
    monkeypatch.setattr(preparer, "CPU_S", 1)

    def compute(_: Launch) -> tuple[preparer.Prepared, MountCheck]:
        while True:
            pass

    error = await refused(launch, compute, monkeypatch)
    assert "more than 1 s of processor time" in str(error)


async def test_time_has_a_bound(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for longer than the limit is ended."""
    monkeypatch.setattr(preparer, "TIMEOUT_S", 0.2)

    def wait(_: Launch) -> tuple[preparer.Prepared, MountCheck]:
        time.sleep(1000)
        raise AssertionError

    assert "more than 0.2 s" in str(await refused(launch, wait, monkeypatch))


async def test_cancellation_ends_it(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop meanwhile kills the child, and waits for that."""

    def wait(_: Launch) -> tuple[preparer.Prepared, MountCheck]:
        time.sleep(1000)
        raise AssertionError

    with trio.move_on_after(0.2) as scope:
        await run(launch, wait, monkeypatch)
    assert scope.cancelled_caught


async def test_its_death_is_told(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that is killed, by the kernel say, is a failed start that may be repeated."""

    def die(_: Launch) -> tuple[preparer.Prepared, MountCheck]:
        os.kill(os.getpid(), 9)
        raise AssertionError

    error = await refused(launch, die, monkeypatch)
    assert "has ended (killed by signal 9)" in str(error)
    assert error.recoverable


@pytest.mark.parametrize(
    ("failure", "words", "recoverable"),
    [
        (ConfigError("args", "no good", "better"), "Invalid value for args: no good", False),
        (OSError(28, "No space left on device"), "could not be prepared: [Errno 28]", True),
        (ZeroDivisionError("1/0"), "a fault of Milo's own: ZeroDivisionError", False),
    ],
)
async def test_failures_keep_their_words(
    launch: Launch,
    monkeypatch: pytest.MonkeyPatch,
    failure: Exception,
    words: str,
    recoverable: bool,
) -> None:
    """What the child raises is the start's own error, with its text and what Nomad is told."""

    def fail(_: Launch) -> tuple[preparer.Prepared, MountCheck]:
        raise failure

    error = await refused(launch, fail, monkeypatch)
    assert words in str(error)
    assert error.recoverable is recoverable


async def test_launch_that_is_not_there(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state directory that has vanished is told."""
    Path(launch.state_dir, "launch.json").unlink()
    assert "it is not there" in str(await refused(launch, preparer.prepare, monkeypatch))


def test_one_that_is_not_asked_ends() -> None:
    """A preparer that gets no task ends with its parent's end of the socket."""
    child = Preparer.fork()
    child.close()
    pid, status = os.waitpid(child._pid, 0)
    assert (pid, status) == (child._pid, 0)


def test_one_that_ends_before_anybody_waits_for_it(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy host the child is done before its task process has come to reap anything."""

    def fail(_: Launch) -> tuple[preparer.Prepared, MountCheck]:
        raise ConfigError("args", "no good", "better")

    async def prepare(child: Preparer) -> None:
        reaper = Reaper(reap_all=True)
        child.watch(reaper)
        with pytest.RaisesGroup(pytest.RaisesExc(TaskStartError, match="no good")):
            async with reaper.running():
                await child.prepare(launch, reaper)

    monkeypatch.setattr(preparer, "prepare", fail)
    task_process = os.fork()  # it reaps, and ends, all its children
    if task_process == 0:
        status = 1
        try:
            child = Preparer.fork()
            child.ask(launch.state_dir)
            os.waitid(os.P_PID, child._pid, os.WEXITED | os.WNOWAIT)
            trio.run(prepare, child)
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(task_process, 0) == (task_process, 0)
