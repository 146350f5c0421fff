"""One container: crun's commands in order, and what has to be undone."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import Final

import trio

from milo.core import cgroup
from milo.core import crun as crun_args
from milo.core.launch import Application, Launch, TaskOptions
from milo.core.records import CRUN_LOG, PID_FILE, ProcessId, TaskRecord, short_id
from milo.errors import ControlError, CrunError, MiloError
from milo.processes import start_ticks
from milo.task import bundle, cgroup_state, cgroups
from milo.task.bundle import Bundle
from milo.task.children import Reaper, WaitStatus
from milo.task.crun import Crun

GONE_TIMEOUT_S: Final = 10.0
GONE_LOOK_S: Final = 0.01
"""How often a killed process that is not a child is looked at; pidfds need Linux 5.3."""


class Container:
    """The container of one task. Methods are called in the order in which they stand here."""

    def __init__(self, launch: Launch, reaper: Reaper) -> None:
        self.id = f"milo-{short_id(launch.task_id)}"
        self.process: ProcessId | None = None
        self.started_at_s = 0.0
        self._launch = launch
        self._reaper = reaper
        self._bundle: Bundle | None = None
        self._log = os.path.join(launch.state_dir, CRUN_LOG)
        self._root = os.path.join(launch.state_dir, "crun")
        self._crun = Crun(reaper, self._log)
        self._created = False
        self._ended = False

    @property
    def cgroup_path(self) -> str:
        """As given to crun, relative to the hierarchy's root; empty before `prepare`."""
        return "" if self._bundle is None else self._bundle.cgroup_path

    def prepare(self, options: TaskOptions, app: Application, argv: tuple[str, ...]) -> None:
        """Write the bundle; raises MiloError."""
        self._bundle = bundle.write_bundle(self._launch, options, app, argv)

    async def create(self, stdout: int, stderr: int) -> None:
        """Create the container; its first process waits, and inherits the two descriptors.

        Raises:
            CrunError, CrunMissingError: with crun's own words.
        """
        assert self._bundle is not None
        pid_file = os.path.join(self._launch.state_dir, PID_FILE)
        self._created = True
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
            stdout=stdout,
            stderr=stderr,
        )
        with open(pid_file, encoding="ascii") as file:
            pid = int(file.read())
        self._reaper.watch(pid)
        ticks = start_ticks(pid)
        if ticks is None:
            raise CrunError("create", "its process ended at once", "")
        self.process = ProcessId(pid, ticks)
        cgroups.settle(
            pid,
            oom_score_adj=self._launch.resources.oom_score_adj,
            cpuset_cgroup=self._launch.cpuset_cgroup,
            cpuset_cpus=self._launch.resources.cpuset_cpus,
        )

    async def start(self) -> None:
        """Let the application run; raises `CrunError`."""
        self.started_at_s = time.time()
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
            os.kill(self.process.pid, number)
        except OSError as exc:
            raise ControlError(f"Error: Signal {number} was not sent: {exc.strerror}") from exc

    async def kill_all(self) -> None:
        """Send SIGKILL to every process of the container. Never raises for one that is gone."""
        # In a PID namespace of its own, the end of the first process is the end of all.
        with contextlib.suppress(MiloError):
            self.signal(signal.SIGKILL)

    async def wait(self) -> WaitStatus:
        """Return how the first process ended."""
        assert self.process is not None
        status = await self._reaper.wait(self.process.pid)
        self._ended = True
        return status

    def oom_killed(self) -> bool:
        """Whether the kernel's OOM killer has ended a process of this container."""
        return bool(self.cgroup_path) and cgroup_state.oom_kills(self.cgroup_path) > 0

    async def remove(self, record: TaskRecord | None) -> None:
        """Remove what an earlier process of this task left; ``record`` is what it wrote."""
        self._created = True
        process = None if record is None else record.container
        # Not this process's child, so its number alone does not say who it is.
        if process is not None and start_ticks(process.pid) == process.start_ticks:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
            with trio.move_on_after(GONE_TIMEOUT_S):
                while start_ticks(process.pid) == process.start_ticks:  # noqa: ASYNC110
                    await trio.sleep(GONE_LOOK_S)
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
        if self._created:
            # What crun cannot remove is removed by hand below; a crun that hangs or has been
            # uninstalled in the meantime must not keep a task from ending.
            with contextlib.suppress(MiloError):
                await self._crun.run(
                    "delete",
                    crun_args.delete_args(
                        self._launch.crun_path,
                        self.id,
                        log_file=self._log,
                        root=self._root,
                        force=True,
                    ),
                )
            if cgroup_path:
                cgroup_state.kill_remaining(cgroup_path)
            if self.process is not None and not self._ended:
                await self.wait()
            self._created = False
        if cgroup_path:
            await self._remove_cgroups(cgroup_path)
        with contextlib.suppress(MiloError):
            bundle.remove_bundle(self._launch.state_dir)

    async def _remove_cgroups(self, cgroup_path: str) -> None:
        """A killed process leaves its cgroup a moment after it is gone from /proc."""
        cgroups.remove_leftovers(cgroup_path, self._launch.cgroup_parent)
