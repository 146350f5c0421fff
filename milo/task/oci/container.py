"""One container: crun's commands in order, and what has to be undone."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator

import trio

from milo import cgroup_files
from milo.core import cgroup
from milo.core.config.task_options import TaskOptions
from milo.core.container import crun as crun_args
from milo.core.launch import Application, Launch
from milo.core.records import CRUN_LOG, PID_FILE, MemoryPeak, ProcessId, TaskRecord, short_id
from milo.errors import ControlError, CrunError, MiloError, StateError
from milo.proc import identify
from milo.task.children import Reaper, WaitStatus
from milo.task.oci import bundle, cgroup_placement, cgroup_state
from milo.task.oci.bundle import Bundle
from milo.task.oci.crun import Crun
from milo.task.oci.non_child import NonChildProcess
from milo.task.oci.pause import PauseProcess
from milo.task.root.mount_check import MountCheck


class Container:
    """The container of one task. Methods are called in the order in which they stand here."""

    def __init__(self, launch: Launch, reaper: Reaper) -> None:
        self.id = f"milo-{short_id(launch.task_id)}"
        self.process: ProcessId | None = None
        self.started_at_s = 0.0
        self._launch = launch
        self._reaper = reaper
        self._bundle: Bundle | None = None
        self._mount_check: MountCheck | None = None
        self._log = os.path.join(launch.state_dir, CRUN_LOG)
        self._root = os.path.join(launch.state_dir, "crun")
        self._crun = Crun(reaper, self._log)
        self._cgroup_path = ""
        self._non_child: NonChildProcess | None = None
        self._pause: PauseProcess | None = None
        self._created = False
        self._ended = False
        self.pause_status: WaitStatus | None = None
        """How the pause process ended, when that was not with the application. Once waited for."""
        self.trouble = ""
        """What went wrong while it was removed, for the log; it is removed all the same."""

    @classmethod
    def adopt(cls, launch: Launch, reaper: Reaper, record: TaskRecord) -> Container:
        """Return the container that an earlier task process started and wrote down.

        Raises:
            StateError: ``record`` has no container.
        """
        if record.container is None:
            raise StateError(launch.state_dir, "no container was written down there")
        container = cls(launch, reaper)
        container.process = record.container
        container.started_at_s = record.started_at_s
        container._cgroup_path = record.cgroup_path
        container._non_child = NonChildProcess(record.container)
        container._created = True
        return container

    @property
    def cgroup_path(self) -> str:
        """As given to crun, relative to the hierarchy's root; empty before `prepare`."""
        return self._cgroup_path

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the task's user, once prepared: what it has to do without."""
        return () if self._bundle is None else self._bundle.notes

    def prepare(self, options: TaskOptions, app: Application, argv: tuple[str, ...]) -> None:
        """Write the bundle; raises MiloError."""
        self._bundle = bundle.write_bundle(self._launch, options, app, argv)
        self._cgroup_path = self._bundle.cgroup_path
        self._mount_check = MountCheck(
            self._bundle.binds,
            alloc_dir=self._launch.alloc_dir,
            java_home=app.java.home,
            root=self._bundle.root,
            work_dir=self._bundle.work_dir,
        )

    async def create(self, stdout: int, stderr: int) -> None:
        """Create the container; its first process waits, and inherits the two descriptors.

        Raises:
            CrunError, CrunMissingError: with crun's own words.
            StateError: something was exchanged while it was being mounted.
        """
        assert self._bundle is not None and self._mount_check is not None
        pid_file = os.path.join(self._launch.state_dir, PID_FILE)
        self._created = True
        passed = None
        if not self._bundle.host_pids:
            self._pause = PauseProcess(self._reaper, self._launch.state_dir, self._launch.network)
            passed = self._pause.namespace
        with _streams_of_its_own(self._launch) as stdin:
            await self._crun.run(
                "create",
                crun_args.create_args(
                    self._launch.crun_path,
                    self.id,
                    bundle_path=self._bundle.path,
                    pid_file=pid_file,
                    log_file=self._log,
                    root=self._root,
                ),
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                passed=passed,
            )
        with open(pid_file, encoding="ascii") as file:
            pid = int(file.read())
        self._reaper.watch(pid)
        self.process = identify(pid)
        if self.process is None:
            raise CrunError("create", "its process ended at once", "")
        self.started_at_s = time.time()
        self._mount_check.verify(pid)
        self._mount_check.close()
        cgroup_placement.settle(
            pid,
            oom_score_adj=self._launch.resources.oom_score_adj,
            cpuset_cgroup=self._launch.cpuset_cgroup,
            cpuset_cpus=self._launch.resources.cpuset_cpus,
        )
        if self._pause is not None:
            await self._settle(self._pause)
        shares = self._launch.resources.cpu_shares
        cgroup_placement.weigh(shares, self._cgroup_path, self._launch.cgroup_parent)

    async def _settle(self, pause: PauseProcess) -> None:
        """Put the pause process where the container's process is, and let go of it."""
        assert self.process is not None
        cgroup_placement.join(pause.pid, self._cgroup_path)
        cgroup_placement.settle(
            pause.pid,
            oom_score_adj=self._launch.resources.oom_score_adj,
            cpuset_cgroup=self._launch.cpuset_cgroup,
            cpuset_cpus=self._launch.resources.cpuset_cpus,
        )
        await pause.hand_over(self.process.pid)

    async def start(self) -> None:
        """Let the application run; raises `CrunError`."""
        await self._crun.run(
            "start",
            crun_args.start_args(
                self._launch.crun_path, self.id, log_file=self._log, root=self._root
            ),
        )

    def signal(self, number: int) -> None:
        """Send a signal to the first process; raises `ControlError` when it has ended.

        Its id cannot be another's: only this process can reap it.
        """
        if self.process is None or self._ended:
            raise ControlError("Error: The application has ended")
        try:
            if self._non_child is not None:
                self._non_child.signal(number)
            else:
                os.kill(self.process.pid, number)
        except OSError as exc:
            raise ControlError(f"Error: Signal {number} was not sent: {exc.strerror}") from exc

    async def kill_all(self) -> None:
        """Send SIGKILL to the whole container. Never raises for a process that is gone."""
        if self._pause is not None:
            self._pause.kill()
        # Where there is none of Milo's own, the application's end is the end of all: see `wait`.
        with contextlib.suppress(MiloError):
            self.signal(signal.SIGKILL)

    async def wait(self) -> WaitStatus | None:
        """Return how the application ended, all others gone too; None when it is not known."""
        assert self.process is not None
        status = None
        if self._non_child is not None:
            await self._non_child.wait()
        else:
            status = await self._reaper.wait(self.process.pid)
        self._ended = True
        # With the pause process the kernel ends the others; in the host's PID namespace, and
        # where another task process's pause process has seen the end itself, it is done here.
        with trio.CancelScope(shield=True):
            if self._pause is not None:
                self.pause_status = await self._pause.end()
                self._pause = None
            await cgroup_state.end_all(self.cgroup_path)
        return status

    def oom_killed(self, status: WaitStatus | None) -> bool:
        """Whether the kernel's OOM killer has ended the application, which ended so."""
        if not self.cgroup_path or cgroup_files.oom_kills(self.cgroup_path) == 0:
            return False
        return status is None or status.signal == signal.SIGKILL

    def memory(self) -> MemoryPeak:
        """Return the most memory that it has used, and its limit; while its cgroup is there."""
        return cgroup_state.memory_peak(self.cgroup_path) if self.cgroup_path else MemoryPeak()

    async def remove(self, record: TaskRecord | None) -> None:
        """Remove what an earlier process of this task left; ``record`` is what it wrote."""
        self._created = True
        if record is not None and record.container is not None:
            process = NonChildProcess(record.container)
            with contextlib.suppress(OSError):
                process.signal(signal.SIGKILL)
            with trio.move_on_after(cgroup_state.GONE_TIMEOUT_S):
                await process.wait()
            process.close()
        name = f"milo-{os.path.basename(self._launch.state_dir)}"
        await self._destroy(
            record.cgroup_path
            if record is not None and record.cgroup_path
            else cgroup.container_path(self._launch.cgroup_parent, name)
        )

    async def destroy(self) -> None:
        """Remove container, cgroups and bundle, whatever there is of them. Never raises."""
        if self._created:
            await self.kill_all()
        await self._destroy(self.cgroup_path)

    async def _destroy(self, cgroup_path: str) -> None:
        if self._mount_check is not None:
            self._mount_check.close()
        if self._created:
            # What crun cannot remove is removed by hand below; a crun that hangs or has been
            # uninstalled in the meantime must not keep a task from ending.
            if cgroup_path:
                await cgroup_state.end_all(cgroup_path)
            delete = crun_args.delete_args(
                self._launch.crun_path, self.id, log_file=self._log, root=self._root, force=True
            )
            try:
                await self._crun.run("delete", delete)
            except MiloError as exc:
                self.trouble = str(exc)
            if cgroup_path:
                await cgroup_state.end_all(cgroup_path)
            if self.process is not None and not self._ended:
                await self.wait()
            if self._pause is not None:
                await self._pause.end()
                self._pause = None
            self._created = False
        if self._non_child is not None:
            self._non_child.close()
        if cgroup_path:
            cgroup_placement.remove_leftovers(cgroup_path, self._launch.cgroup_parent)
        with contextlib.suppress(MiloError):
            bundle.remove_bundle(self._launch.state_dir)


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
