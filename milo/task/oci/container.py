"""One container: `create` makes it, `Container` is what there is from then on.

Nothing here is in an order that has to be known: a `Container` has a process, and whatever was
there before it (a bundle, half a container) is removed by the function that failed to make one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from typing import Final

import attrs
import trio

from milo import cgroup_files
from milo.core.container import crun as crun_args
from milo.core.launch import Launch
from milo.core.records import CRUN_LOG, PID_FILE, MemoryPeak, ProcessId, TaskRecord
from milo.errors import ControlError, CrunError, MiloError, PauseProcessError, StateError
from milo.namespaces import pid_namespace_members
from milo.proc import identify
from milo.process_signals import is_ending
from milo.task.children import Child, Reaper, WaitStatus
from milo.task.oci import bundle, cgroup_placement, cgroup_state, filters
from milo.task.oci.bundle import Bundle, cgroup_path, container_id
from milo.task.oci.console import Console
from milo.task.oci.crun import Crun
from milo.task.oci.non_child import NonChildProcess
from milo.task.oci.oom_kills import OomKills
from milo.task.oci.pause import PauseProcess
from milo.task.root.mount_check import MountCheck

CONSOLE_SOCKET: Final = "console.sock"
"""Below the state directory, while crun sends the application's terminal."""


async def create(
    launch: Launch,
    reaper: Reaper,
    bundle: Bundle,
    mount_check: MountCheck,
    *,
    console: Console | None = None,
    stdout: int,
    stderr: int,
    pause: PauseProcess | None = None,
) -> Container:
    """Create the container; its process waits, and inherits the two descriptors.

    With a terminal, it has that instead. ``mount_check`` holds what ``bundle`` names, and stays the
    caller's. ``pause`` is of `pause_process`; without it one is made here. When this fails, or is
    cancelled, nothing is left of the container nor of the bundle.

    Raises:
        CrunError, CrunMissingError: with crun's own words.
        StateError: something was exchanged while it was being mounted, or the kernel refuses.
    """
    child: Child | None = None
    placement = cgroup_placement.placement_of(launch)
    try:
        if bundle.host_pids:
            if pause is not None:
                pause.kill()
                await pause.end()
            pause = None
        elif pause is None:
            pause = _fork_pause(launch, reaper)
        child = await _create(launch, reaper, bundle, pause, console or Console(), (stdout, stderr))
        process = identify(child.pid)
        if process is None:
            raise CrunError("create", "its process ended at once", "")
        container = Container(
            launch,
            reaper,
            child,
            process,
            pause,
            cgroup_path=bundle.cgroup_path,
            started_at_s=time.time(),
        )
        cgroup_placement.settle(child.pid, placement, launch.resources.cpuset_cpus)
        if pause is not None:
            cgroup_placement.join(pause.pid, bundle.cgroup_path)
            cgroup_placement.settle(pause.pid, placement)
            await pause.order(child.pid)  # what follows goes on beside that
        mount_check.verify(child.pid)
        cgroup_placement.leave_cpuset(bundle.cgroup_path, placement)
        shares = launch.resources.cpu_shares
        cgroup_placement.weigh(shares, bundle.cgroup_path, launch.cgroup_parent)
        if pause is not None:
            await pause.ready()
    except BaseException:
        with trio.CancelScope(shield=True):
            if child is not None:
                with contextlib.suppress(ProcessLookupError):
                    child.signal(signal.SIGKILL)
            if pause is not None:
                pause.kill()
            await _remove(launch, reaper, bundle.cgroup_path)
            if pause is not None:
                await pause.end()
        raise
    return container


@contextlib.asynccontextmanager
async def pause_process(launch: Launch, reaper: Reaper) -> AsyncIterator[PauseProcess | None]:
    """Yield a pause process for `create`, to be forked while something else takes longer.

    None where the container seems to get none, or none can be forked now: `create` sees to that.
    Nothing is left of it when the block fails.
    """
    pause = None
    if launch.config.get("pid_mode", launch.plugin.default_pid_mode) != "host":
        with contextlib.suppress(PauseProcessError, OSError):
            pause = _fork_pause(launch, reaper)
    try:
        yield pause
    except BaseException:
        if pause is not None:
            with trio.CancelScope(shield=True):
                pause.kill()
                await pause.end()
        raise


def _fork_pause(launch: Launch, reaper: Reaper) -> PauseProcess:
    return PauseProcess(reaper, launch.state_dir, launch.network, returns=launch.rights.returns)


async def _create(
    launch: Launch,
    reaper: Reaper,
    bundle: Bundle,
    pause: PauseProcess | None,
    console: Console,
    streams: tuple[int, int],
) -> Child:
    """Run ``crun create`` and return the container's process."""
    pid_file = os.path.join(launch.state_dir, PID_FILE)
    log = os.path.join(launch.state_dir, CRUN_LOG)
    stdout, stderr = streams
    with (
        _streams_of_its_own(launch) as ended,
        reaper.orphans_kept(),
        console.offered(os.path.join(launch.state_dir, CONSOLE_SOCKET)) as console_socket,
    ):
        arguments = crun_args.create_args(
            launch.crun_path,
            bundle.container_id,
            bundle_path=bundle.path,
            pid_file=pid_file,
            log_file=log,
            root=_crun_root(launch),
            cgroups=launch.rights.cgroups,
            console_socket=console_socket,
        )
        await Crun(reaper, log).run(
            "create",
            arguments,
            stdin=ended if console.stdin is None else console.stdin,
            stdout=stdout,
            stderr=stderr,
            passed=None if pause is None else pause.namespace,
        )
        with open(pid_file, encoding="ascii") as file:
            child = reaper.adopt(int(file.read()))
    return child


def adopt(launch: Launch, reaper: Reaper, record: TaskRecord) -> Container:
    """Return the container that an earlier task process started and wrote down.

    Raises:
        StateError: ``record`` has no container.
    """
    if record.container is None:
        raise StateError(launch.state_dir, "no container was written down there")
    return Container(
        launch,
        reaper,
        NonChildProcess(record.container),
        record.container,
        None,  # it waits for the application by itself
        cgroup_path=record.cgroup_path,
        started_at_s=record.started_at_s,
    )


async def remove(launch: Launch, reaper: Reaper, record: TaskRecord | None) -> None:
    """Remove what an earlier process of this task left; ``record`` is what it wrote."""
    if record is not None and record.container is not None:
        process = NonChildProcess(record.container)
        with contextlib.suppress(OSError):
            process.signal(signal.SIGKILL)
        with trio.move_on_after(cgroup_state.GONE_TIMEOUT_S):
            await process.wait()
        process.close()
    known = record is not None and record.cgroup_path
    await _remove(launch, reaper, known or cgroup_path(launch))


@attrs.frozen
class MemoryEnd:
    """Whom the kernel's OOM killer has ended; see `milo.core.records.ExitRecord`."""

    oom_killed: bool = False
    oom_kills: int = 0
    stop_killed: bool = False


class Container:
    """The container of one task, from its creation on."""

    def __init__(
        self,
        launch: Launch,
        reaper: Reaper,
        first: Child | NonChildProcess,
        process: ProcessId,
        pause: PauseProcess | None,
        *,
        cgroup_path: str,
        started_at_s: float,
    ) -> None:
        self.id = container_id(launch)
        self.process: Final = process
        self.started_at_s: Final = started_at_s
        self.cgroup_path: Final = cgroup_path
        """As given to crun, relative to the hierarchy's root; empty where it has none."""
        self._launch = launch
        self._reaper = reaper
        self._first = first
        self._pause = pause
        self._ended = False
        self._stop_killed = False
        self.oom_kills: Final = OomKills(cgroup_path, process)
        self.pause_status: WaitStatus | None = None
        """How the pause process ended, when that was not with the application. Once waited for."""

    @property
    def filter_path(self) -> str:
        """Where crun has the container's filter of system calls, if it has one."""
        return os.path.join(_crun_root(self._launch), self.id, filters.FILE)

    async def start(self) -> None:
        """Let the application run; raises `CrunError`."""
        log = os.path.join(self._launch.state_dir, CRUN_LOG)
        arguments = crun_args.start_args(
            self._launch.crun_path, self.id, log_file=log, root=_crun_root(self._launch)
        )
        await Crun(self._reaper, log).run("start", arguments)

    def signal(self, number: int) -> None:
        """Send a signal to the first process; raises `ControlError` when it has ended."""
        if self._ended:
            raise ControlError("Error: The application has ended")
        self._note_signal(number)
        try:
            self._first.signal(number)
        except OSError as exc:
            raise ControlError(f"Error: Signal {number} was not sent: {exc.strerror}") from exc

    def kill(self) -> None:
        """Send SIGKILL to the whole container. Never raises for a process that is gone."""
        self._note_signal(signal.SIGKILL)
        if self._pause is not None:
            self._pause.kill()
        # Where there is none of Milo's own, the application's end is the end of all: see `wait`.
        with contextlib.suppress(MiloError):
            self.signal(signal.SIGKILL)

    def _note_signal(self, number: int) -> None:
        """Note that a signal is about to be sent which ends an application that lives."""
        if number == signal.SIGKILL and not is_ending(self.process):
            self._stop_killed = True

    async def wait(self) -> WaitStatus | None:
        """Return how the application ended, all others gone too; None when it is not known."""
        status = await self._first.wait()
        self._ended = True
        # With the pause process the kernel ends the others; in the host's PID namespace, and
        # where another task process's pause process has seen the end itself, it is done here.
        with trio.CancelScope(shield=True):
            await self._end_pause()
            await cgroup_state.end_all(self.cgroup_path)
        return status

    async def _end_pause(self) -> None:
        if self._pause is not None:
            self.pause_status = await self._pause.end()
            self._pause = None

    def processes(self) -> set[int]:
        """Return the host's ids of all its processes; while the first lives."""
        if self.cgroup_path:
            return cgroup_files.processes(self.cgroup_path)
        return pid_namespace_members(self.process.pid)

    def memory_end(self, status: WaitStatus | None) -> MemoryEnd:
        """Return whom the kernel has ended for memory; ``status`` is how the application ended.

        While its cgroup is there. When nobody knows how it ended, it may have been so.
        """
        number = signal.SIGKILL if status is None else status.signal
        count = self.oom_kills.count()
        stop_killed = self._stop_killed and number == signal.SIGKILL
        own = not stop_killed and self.oom_kills.is_applications_own(number, count=count)
        return MemoryEnd(own, count, stop_killed)

    def memory(self) -> MemoryPeak:
        """Return the most memory that it has used, and its limit; while its cgroup is there."""
        return cgroup_state.memory_peak(self.cgroup_path) if self.cgroup_path else MemoryPeak()

    async def vacate(self) -> None:
        """Remove the container, which has ended, and leave its bundle for another one.

        Where crun cannot, that one cannot be made, and says why.
        """
        await _delete(self._launch, self._reaper, self.cgroup_path)

    async def destroy(self) -> str:
        """Kill and remove container, cgroups and bundle, whatever there is of them. Never raises.

        Returns:
            What went wrong with that, for the log; it is removed all the same.
        """
        self.kill()
        trouble = await _remove(self._launch, self._reaper, self.cgroup_path)
        if not self._ended:
            with trio.move_on_after(cgroup_state.GONE_TIMEOUT_S):
                await self.wait()
        await self._end_pause()
        if isinstance(self._first, NonChildProcess):
            self._first.close()
        return trouble


async def _remove(launch: Launch, reaper: Reaper, cgroup_path: str) -> str:
    """Remove a container, its cgroups and its bundle; return what crun could not do."""
    # What crun cannot remove is removed by hand below; a crun that hangs or has been
    # uninstalled in the meantime must not keep a task from ending.
    trouble = await _delete(launch, reaper, cgroup_path)
    discard_bundle(launch, cgroup_path)
    return trouble


async def _delete(launch: Launch, reaper: Reaper, cgroup_path: str) -> str:
    """Remove a container with its processes; return what crun could not do."""
    trouble = ""
    await cgroup_state.end_all(cgroup_path)
    log = os.path.join(launch.state_dir, CRUN_LOG)
    delete = crun_args.delete_args(
        launch.crun_path, container_id(launch), log_file=log, root=_crun_root(launch), force=True
    )
    try:
        await Crun(reaper, log).run("delete", delete)
    except MiloError as exc:
        trouble = str(exc)
    await cgroup_state.end_all(cgroup_path)
    return trouble


def discard_bundle(launch: Launch, cgroup_path: str) -> None:
    """Remove a bundle without a container, and the empty cgroups around it. Never raises."""
    cgroup_placement.remove_leftovers(cgroup_path, launch.cgroup_parent)
    with contextlib.suppress(MiloError):
        bundle.remove_bundle(launch.state_dir)


def _crun_root(launch: Launch) -> str:
    return os.path.join(launch.state_dir, "crun")


@contextlib.contextmanager
def _streams_of_its_own(launch: Launch) -> Iterator[int | None]:
    """Yield the container's standard input; afterwards the host's /dev/null is root's, as ever.

    In a user namespace crun has no /dev/null but the host's, and gives its three standard
    streams to the task's user: who owns it may close it to everybody (measured with 1.8.1).
    So the input is a pipe that has ended. Output that nobody collects does go to /dev/null,
    which is taken back here, before anything of the task runs.
    """
    if not launch.plugin.userns:
        yield None
        return
    reader, writer = os.pipe2(os.O_CLOEXEC)
    os.close(writer)
    try:
        yield reader
    finally:
        os.close(reader)
        if os.stat(os.devnull).st_uid != 0:
            os.chown(os.devnull, 0, 0)
