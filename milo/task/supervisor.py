"""One task, from its launch to its exit record: the nursery of a task process.

The nursery owns the container's exit, the two pumps, the stop ladder and the watch over the
allocation's directory. Ending it ends all of them, and nothing of a task outlives it.
"""

from __future__ import annotations

import itertools
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Final

import trio

from milo.core import control, records
from milo.core.config.task_options import TaskOptions, parse_task_options
from milo.core.java.application import java_arguments
from milo.core.launch import Launch
from milo.core.lifecycle import Happening, Phase, advance
from milo.core.text import printable
from milo.errors import ControlError, MiloError, TaskStartError
from milo.files import write_file
from milo.proc import this_process
from milo.task.children import Reaper, WaitStatus
from milo.task.control_server import ControlServer
from milo.task.exec_server import Commands
from milo.task.java import application
from milo.task.java.jvm import Jvm
from milo.task.journal import Journal
from milo.task.ladder import StopLadder
from milo.task.logs.streams import Streams, Takeover
from milo.task.oci import privileges
from milo.task.oci.container import Container

ALLOC_CHECK_S: Final = 5.0
ALLOC_MISSING_TIMES: Final = 3
"""A directory that is missing once may be in the middle of a move."""
ORPHAN_GRACE_S: Final = 5.0
"""How long the application has after SIGTERM when its allocation is gone."""

UNSEEN_EXIT: Final = "the process that supervised it was killed, so nobody saw its exit code"

Outcome = records.ExitRecord | control.StartFailed


class Supervisor:
    """Runs one `Launch`. `run` is called once, in a process that may reap its children."""

    def __init__(
        self,
        launch: Launch,
        reaper: Reaper,
        *,
        listener: socket.socket | None = None,
        observe: Callable[[control.Message], None] | None = None,
    ) -> None:
        self.launch = launch
        self.phase = Phase.CREATING
        self._reaper = reaper
        self._journal = Journal(os.path.join(launch.state_dir, records.LOG_FILE))
        self._identity = this_process()
        self._server = None
        if listener is not None:
            alone = observe is not None  # `milo run`, where no driver will come
            self._server = ControlServer(listener, self, self._identity, expects_driver=not alone)
        self._observe = observe
        self._container: Container | None = None
        self._streams: Streams | None = None
        self._jvm: Jvm | None = None
        self._latest: control.Message | None = None
        self._commands = Commands(launch, reaper)
        self._ladder = StopLadder(self._journal.log)
        self._marks: dict[str, float] = {"begin": time.monotonic()}

    # ---- the whole life -----------------------------------------------------------------

    async def run(self, takeover: Takeover | None = None) -> Outcome:
        """Run the task to its end and return how that was.

        With ``takeover``, go on with one that another process started. Cancellation kills the
        container, waits for it, and leaves nothing behind.
        """
        async with trio.open_nursery() as services:
            await services.start(self._reaper.run)
            if self._server is not None:
                await services.start(self._server.run)
            self._journal.attach(self._publish)
            outcome = await self._live(takeover)
            if self._server is not None:
                await self._server.flush()
            services.cancel_scope.cancel()
        return outcome

    async def _live(self, takeover: Takeover | None) -> Outcome:
        if takeover is not None:
            self._take_over(takeover)
            return await self._watch()
        options = TaskOptions()
        try:
            try:
                options = parse_task_options(self.launch.config, self.launch.plugin)
                privileges.permitted_user(self.launch, options)
                await self._start(options)
            except OSError as exc:
                # A disk that is full, a directory that vanished: said in the host's own words.
                raise TaskStartError(
                    f"Error: The task could not be prepared: {exc}", recoverable=True
                ) from exc
        except MiloError as exc:
            return await self._fail(exc)
        finally:
            if self.phase is Phase.CREATING and self._container is not None:
                # Cancelled, or a bug: whatever was created must not be left.
                with trio.CancelScope(shield=True):
                    await self._container.destroy()
        return await self._watch()

    async def _start(self, options: TaskOptions) -> None:
        self._streams = Streams.open(self.launch, options, self._journal)
        app = application.resolve_application(self.launch, options)
        self._mark("inspect")
        self._container = Container(self.launch, self._reaper)
        self._jvm = Jvm(self.launch, options, app)
        arguments = java_arguments(app, options, self._jvm.tuning.arguments)
        self._container.prepare(options, app, arguments)
        for note in self._container.notes:
            self._journal.log("warn", note)
            self._jvm.remark(note)
        self._write_record(None)
        self._mark("bundle")
        await self._container.create(self._streams.container_stdout, self._streams.container_stderr)
        self._write_record(self._container.process)
        self._mark("create")
        if self._ladder.requested:
            raise TaskStartError(
                "Error: The task was stopped before it had started", recoverable=False
            )
        await self._container.start()
        self._streams.release_container_ends()
        self._mark("start")
        assert self._container.process is not None
        self.phase = advance(self.phase, Happening.STARTED)
        self._announce(
            control.Started(
                container=self._container.process,
                container_id=self._container.id,
                cgroup_path=self._container.cgroup_path,
                started_at_s=self._container.started_at_s,
                timings_s=self._timings(),
            )
        )

    def _take_over(self, takeover: Takeover) -> None:
        options = parse_task_options(self.launch.config, self.launch.plugin)
        container = Container.adopt(self.launch, self._reaper, takeover.record)
        self._container = container
        assert container.process is not None
        self._commands.end_left_behind(container.cgroup_path, container.process.pid)
        self._jvm = Jvm(self.launch, options)
        self._streams = Streams.adopt(self.launch, options, self._journal, takeover)
        try:
            self._write_record(container.process)
        except MiloError as exc:
            # The old record names the same container, and a full disk must not cost the task.
            self._journal.log("error", str(exc))
        self.phase = advance(self.phase, Happening.STARTED)
        self._announce(
            control.Started(
                container=container.process,
                container_id=container.id,
                cgroup_path=container.cgroup_path,
                started_at_s=container.started_at_s,
            )
        )
        self._journal.event(
            "The process that supervised the task was killed; another one has taken over"
        )

    async def _fail(self, error: MiloError) -> Outcome:
        """Say why the task did not start, everywhere its user may look, and clean up."""
        text = printable(str(error))
        self._journal.log("error", text)
        if self._container is not None:
            await self._container.destroy()
        if self._streams is not None:
            self._streams.close()
        self.phase = advance(self.phase, Happening.START_FAILED)
        if not self._ladder.requested:
            # Who had it stopped knows; and the end of this text ends Nomad's log collection.
            await Streams.write_error(self.launch, text)
        failed = control.StartFailed(text=control.cut(text), recoverable=error.recoverable)
        self._announce(failed)
        return failed

    async def _watch(self) -> records.ExitRecord:
        """Be there while the container runs; return how it ended, all output delivered."""
        assert self._container is not None and self._streams is not None and self._jvm is not None
        status: WaitStatus | None = None
        ended = False
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._streams.run)
                nursery.start_soon(self._ladder.climb, self._container)
                nursery.start_soon(self._watch_allocation)
                nursery.start_soon(self._jvm.tell, self._container, self._journal)
                status = await self._container.wait()
                ended = True
                self.phase = advance(self.phase, Happening.CONTAINER_EXITED)
                ended_at_s = time.time()
                await self._streams.drained()
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                if not ended:
                    await self._container.kill_all()
                    await self._container.wait()
                oom_killed, memory = self._container.oom_killed(status), self._container.memory()
                self._jvm.tell_of_dump(self._journal)
                crash = "" if status == WaitStatus(0, 0) else self._crash()
                self._streams.close()
                await self._container.destroy()
                if self._container.trouble:
                    self._journal.log("warn", f"{self._container.trouble}; removed without it")
        stdout, stderr = self._streams.counters()
        error = UNSEEN_EXIT if status is None else ""
        if (pause := self._container.pause_status) is not None and not oom_killed:
            error = (
                "its pause process, which is process 1 of the container, ended too early "
                f"({pause}), and the kernel ends everything in the container with it"
            )
        record = records.ExitRecord(
            exit_code=-1 if status is None else status.exit_code,
            signal=0 if status is None else status.signal,
            oom_killed=oom_killed,
            memory=memory,
            error=error,
            ended_at_s=ended_at_s,
            started_at_s=self._container.started_at_s,
            task_id=self.launch.task_id,
            alloc_dir=self.launch.alloc_dir,
            stdout=stdout,
            stderr=stderr,
            crash=crash,
            java_oom=self._streams.java_oom,
            last_stderr_line=self._streams.last_stderr_line,
        )
        try:
            write_file(
                os.path.join(self.launch.state_dir, records.EXIT_FILE), records.encode(record)
            )
        except MiloError as exc:
            # The connected driver still hears of the exit; only a later one could not.
            self._journal.log("error", str(exc))
        self.phase = advance(self.phase, Happening.DRAINED)
        self._announce(control.Exited(record=record))
        return record

    def _crash(self) -> str:
        assert self._jvm is not None and self._container is not None
        process = self._container.process
        return "" if process is None else self._jvm.crash(process.pid)

    async def _watch_allocation(self) -> None:
        """End a task whose allocation's directory is gone: nobody can own it any more."""
        missing = 0
        while missing < ALLOC_MISSING_TIMES:
            await trio.sleep(ALLOC_CHECK_S)
            missing = 0 if os.path.isdir(self.launch.alloc_dir) else missing + 1
        self._journal.log("warn", f"{self.launch.alloc_dir} is gone")
        self._journal.event("The task is stopped, because its allocation's directory is gone")
        self.request_stop(signal.SIGTERM, ORPHAN_GRACE_S)

    # ---- what clients ask (control_server.Backend) --------------------------------------

    def status(self, seq: int) -> control.Status:
        """Return the answer to a `control.GetStatus`."""
        if self._streams is None:
            none = records.StreamCounters()
            return control.Status(seq=seq, phase=self.phase, stdout=none, stderr=none)
        stdout, stderr = self._streams.counters()
        return control.Status(seq=seq, phase=self.phase, stdout=stdout, stderr=stderr)

    def request_stop(self, signal: int, timeout_s: float) -> None:
        """Send ``signal`` now and SIGKILL ``timeout_s`` later; of two stops the earlier counts."""
        self.phase = advance(self.phase, Happening.STOP_REQUESTED)
        self._ladder.request(signal, timeout_s)

    def send_signal(self, signal: int) -> None:
        """Send ``signal`` to the application's first process."""
        if self._container is None or self.phase not in (Phase.RUNNING, Phase.STOPPING):
            raise ControlError(f"Error: The task is {self.phase.value}; it takes no signal")
        self._container.signal(signal)

    def descriptors(self) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """Return what a successor would need to go on with the streams."""
        return ((), ()) if self._streams is None else self._streams.descriptors()

    async def run_command(self, sock: trio.socket.SocketType) -> None:
        """Run a command in the container for the client behind ``sock``."""
        running = self.phase in (Phase.RUNNING, Phase.STOPPING)
        await self._commands.serve(sock, self._container if running else None)

    def current(self) -> control.Message | None:
        """Return the last of Started, StartFailed and Exited."""
        return self._latest

    def _announce(self, message: control.Message) -> None:
        self._latest = message
        self._publish(message)

    def _publish(self, message: control.Message) -> None:
        if self._server is not None:
            self._server.publish(message)
        if self._observe is not None:
            self._observe(message)

    def _write_record(self, container: records.ProcessId | None) -> None:
        assert self._container is not None
        record = records.TaskRecord(
            task_id=self.launch.task_id,
            task_name=self.launch.task_name,
            alloc_id=self.launch.alloc_id,
            alloc_dir=self.launch.alloc_dir,
            supervisor=self._identity,
            container=container,
            pipes={} if self._streams is None else self._streams.inodes(),
            container_id=self._container.id,
            cgroup_path=self._container.cgroup_path,
            started_at_s=self._container.started_at_s,
        )
        write_file(os.path.join(self.launch.state_dir, records.TASK_FILE), records.encode(record))

    def _mark(self, name: str) -> None:
        self._marks[name] = time.monotonic()

    def _timings(self) -> dict[str, float]:
        """Return the seconds that each step of the start took."""
        return {
            after: self._marks[after] - self._marks[before]
            for before, after in itertools.pairwise(self._marks)
        }
