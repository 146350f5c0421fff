"""One task, from its launch to its exit record: the nursery of a task process.

What runs in it, and what each part may end:

- the reaper, around everything else: it outlives all clean-up, because clean-up waits for children;
- the control server: a client's failure ends that client's connection;
- the container: its end is the end of the task, and nothing else is;
- beside it the two pumps, the stop ladder, and what watches the allocation's directory, the JVM,
  its heap dump and the kernel's kills. Each is contained (`milo.task.containment`), and its failure
  ends nothing. The ladder and the watch over the allocation can end the task only by a stop, as a
  client can.

However `Supervisor.run` ends, nothing of the task outlives it, and how the task ended is written
down: in `exit.json` if it had started, otherwise in its streams and a `StartFailed`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

import trio

from milo.core import control, records
from milo.core.describe import kills_sentence
from milo.core.launch import Launch
from milo.core.lifecycle import Happening, Phase, advance
from milo.core.text import printable
from milo.errors import ControlError, MiloError, TaskStartError
from milo.files import write_file
from milo.proc import this_process
from milo.task import containment, keeper
from milo.task.children import Reaper, WaitStatus
from milo.task.conclusion import End, Running, conclude, end_container, give_way
from milo.task.control_server import ControlServer
from milo.task.exec_server import Commands
from milo.task.java.jvm import Jvm, plan_of_past
from milo.task.java.second_step import SecondStep
from milo.task.java.startup_plan import StartupPlan
from milo.task.java.startup_recording import StartupArchive
from milo.task.journal import Journal
from milo.task.keeper import Keeper
from milo.task.ladder import StopLadder, stopped_early
from milo.task.logs.pump_policy import PumpPolicy
from milo.task.logs.streams import Streams, Takeover
from milo.task.oci.bundle import Bundle, cgroup_path
from milo.task.oci.console import Console
from milo.task.oci.container import (
    Container,
    adopt,
    create,
    discard_bundle,
    pause_process,
)
from milo.task.oci.pause import PauseProcess
from milo.task.preparer import Prepared, Preparer, read_prepared
from milo.task.root.mount_check import MountCheck

ALLOC_CHECK_S: Final = 5.0
ALLOC_MISSING_TIMES: Final = 3
"""A directory that is missing once may be in the middle of a move."""
ORPHAN_GRACE_S: Final = 5.0
"""How long the application has after SIGTERM when its allocation is gone."""


Outcome = records.ExitRecord | control.StartFailed
Observer = Callable[[control.Message], None]


class Supervisor:
    """Runs one `Launch`. `run` is called once, in a process that may reap its children.

    ``observe`` is called with every message that a driver would get. ``console`` is the
    application's standard input, and stays the caller's. ``spell`` puts an error into the words of
    whoever has started it. ``keeper`` forks a successor if need be.
    """

    def __init__(
        self,
        launch: Launch,
        reaper: Reaper,
        *,
        listener: socket.socket | None = None,
        observe: Observer | None = None,
        console: Console | None = None,
        spell: Callable[[str], str] = str,
        keeper: Keeper | None = None,
    ) -> None:
        self.launch = launch
        self._spell = spell
        self._keeper = keeper or Keeper()
        self._console = console or Console()
        self.phase = Phase.CREATING
        self._reaper = reaper
        self._journal = Journal(os.path.join(launch.state_dir, records.LOG_FILE), self._publish)
        self._identity = this_process()
        self._server = None
        self._driven = driven = observe is None  # unlike `milo run`, where no driver will come
        if listener is not None:
            self._server = ControlServer(listener, self, self._identity, expects_driver=driven)
        self._observe = observe
        self._container: Container | None = None
        self._jvm: Jvm | None = None
        self._streams: Streams | None = None
        self._announced: list[control.Message] = []
        self._commands = Commands(launch, reaper)
        self._ladder = StopLadder(self._journal.log)
        self._seen: records.SeenEnd | None = None
        """How the application ended, where that is to be written down early."""
        self._marks: dict[str, float] = {"begin": time.monotonic()}

    # ---- the whole life -----------------------------------------------------------------

    async def run(self, start: Preparer | Takeover) -> Outcome:
        """Run the task to its end and return how that was.

        A `Preparer` has been forked for it; a `Takeover` is of one that another process has
        started. Cancellation kills the container, waits for it, and leaves nothing behind.
        """
        if isinstance(start, Preparer):
            start.watch(self._reaper)
        # Around everything else, since all clean-up may wait for a child.
        async with self._reaper.running(), trio.open_nursery() as services:
            if self._server is not None:
                await services.start(self._server.run)
            outcome = await self._live(start)
            if self._server is not None:
                await self._server.flush()
            services.cancel_scope.cancel()
        return outcome

    async def _live(self, start: Preparer | Takeover) -> Outcome:
        if isinstance(start, Takeover):
            return await self._watch(self._take_over(start))
        try:
            try:
                running = await self._start(start)
            except OSError as exc:
                # A disk that is full, a directory that vanished: said in the host's own words.
                raise TaskStartError(
                    f"Error: The task could not be prepared: {exc}", recoverable=True
                ) from exc
            except Exception as exc:
                if isinstance(exc, MiloError):
                    raise
                raise TaskStartError(
                    "Error: The task could not be prepared, by a fault of Milo's own: "
                    f"{containment.fault(exc)}",
                    recoverable=False,
                ) from exc
        except MiloError as exc:
            return await self._fail(exc)
        return await self._watch(running)

    async def _start(self, preparer: Preparer) -> Running:
        """Make the container and let the application run. Leaves nothing when it fails."""
        with contextlib.ExitStack() as undo:
            undo.callback(discard_bundle, self.launch, cgroup_path(self.launch))
            preparer.ask(self.launch.state_dir)
            self._marks["begin"] = preparer.asked_s
            async with (
                contextlib.aclosing(preparer),
                pause_process(self.launch, self._reaper) as pause,
            ):
                # While it is prepared.
                streams = self._streams = Streams.open(self.launch, PumpPolicy(), self._journal)
                undo.callback(streams.close)
                prepared, mount_check = await self._prepare(preparer)
                with contextlib.closing(mount_check):
                    self._ready_streams(streams, prepared)
                    container = await self._create(prepared.bundle, mount_check, streams, pause)
                    second_step = None
                    if prepared.startup.second_step:
                        second_step = SecondStep(
                            self.launch, self._reaper, prepared.bundle, mount_check
                        )
            try:
                if self._ladder.requested:
                    raise stopped_early()
                await container.start()
            except BaseException:
                with trio.CancelScope(shield=True):
                    await container.destroy()
                raise
            undo.pop_all()
        self._console.connect(streams.container_stdout)
        streams.release_container_ends()
        self._mark("start")
        jvm = Jvm(self.launch, prepared.jvm)
        archive = StartupArchive(self.launch, prepared.startup, self._journal, second_step)
        self._keeper.tell_filter(prepared.bundle.filter_key, container.filter_path)
        return Running(container, streams, jvm, archive, self._timings(prepared))

    async def _prepare(self, preparer: Preparer) -> tuple[Prepared, MountCheck]:
        """Have the task prepared, unless it is stopped meanwhile."""
        stopped = self._ladder.wait_requested
        made = await preparer.prepare_unless(stopped, self.launch, self._reaper)
        if made is None:
            raise stopped_early()
        self._mark("prepare")
        return made

    def _ready_streams(self, streams: Streams, prepared: Prepared) -> None:
        """Have the streams do as the job wants, and tell what the preparer has to say."""
        streams.use(prepared.policy)
        for name in prepared.removed:
            self._journal.log("info", f"an old flight recording was removed: {name}")
        for warning in prepared.warnings:
            self._journal.event(warning)
            streams.print_first(warning)

    async def _create(
        self,
        bundle: Bundle,
        mount_check: MountCheck,
        streams: Streams,
        pause: PauseProcess | None,
    ) -> Container:
        for note in bundle.notes:
            self._journal.log("warn", note)
        self._write_record(bundle.container_id, bundle.cgroup_path, None)
        container = await create(
            self.launch,
            self._reaper,
            bundle,
            mount_check,
            console=self._console,
            stdout=streams.container_stdout,
            stderr=streams.container_stderr,
            pause=pause,
        )
        try:
            self._write_record(bundle.container_id, bundle.cgroup_path, container)
        except BaseException:
            with trio.CancelScope(shield=True):
                await container.destroy()
            raise
        self._mark("create")
        return container

    def _take_over(self, takeover: Takeover) -> Running:
        prepared = read_prepared(self.launch.state_dir)
        if prepared is not None:
            policy, plan, startup = prepared.policy, prepared.jvm, prepared.startup
        else:
            plugin = self.launch.plugin
            policy = PumpPolicy.of(plugin.log_overflow, plugin.log_block_timeout_s)
            plan, startup = plan_of_past(self.launch), StartupPlan()
        container = adopt(self.launch, self._reaper, takeover.record)
        streams = self._streams = Streams.adopt(self.launch, policy, self._journal, takeover)
        with containment.contained("ending what commands have left", self._journal.log):
            self._commands.end_left_behind(container.cgroup_path, container.process.pid)
        if (seen := takeover.record.ended) is not None:
            # Whatever ended that process while it kept an archive is not tried again.
            self._seen, startup = seen, StartupPlan()
        streams.open_fifos()  # before the record, at which a keeper lets go of them
        try:
            self._write_record(container.id, container.cgroup_path, container)
        except MiloError as exc:
            # The old record names the same container, and a full disk must not cost the task.
            self._journal.log("error", str(exc))
        self._journal.event(
            "The process that supervised the task was killed; another one has taken over"
        )
        jvm = Jvm(self.launch, plan, is_new=False)
        archive = StartupArchive(self.launch, startup, self._journal)
        return Running(container, streams, jvm, archive)

    async def _fail(self, error: MiloError) -> Outcome:
        """Say why the task did not start, everywhere its user may look."""
        text = printable(self._spell(str(error)))
        self._journal.log("error", text)
        self.phase = advance(self.phase, Happening.START_FAILED)
        if not self._ladder.requested:
            # Who had it stopped knows; and the end of this text ends Nomad's log collection.
            await Streams.write_error(self.launch, text)
        failed = control.StartFailed(text=control.cut(text), recoverable=error.recoverable)
        self._announce(failed)
        return failed

    async def _watch(self, running: Running) -> records.ExitRecord:
        """Be there while the container runs; return how it ended, all output delivered.

        Whatever happens, also to this process itself, the container is gone afterwards, and how
        it ended is written down and told.
        """
        end = End()
        try:
            await self._accompany(running, end)
        except Exception as exc:
            end.problem = f"the process that supervised it failed: {containment.fault(exc)}"
            self._journal.log("error", end.problem)
        finally:
            with trio.CancelScope(shield=True):
                record = await self._conclude(running, end)
        return record

    async def _accompany(self, running: Running, end: End) -> None:
        """Return when the container has ended and its output is delivered; note that in ``end``.

        What runs beside the container may end nothing but itself: see `containment`.
        """
        container, streams, log = running.container, running.streams, self._journal.log
        self._container, self._jvm = container, running.jvm
        streams.open_fifos()
        self._keeper.begin(self._kept)  # what a successor needs, before anybody counts on one
        self.phase = advance(self.phase, Happening.STARTED)
        self._announce(
            control.Started(
                container=container.process,
                container_id=container.id,
                cgroup_path=container.cgroup_path,
                started_at_s=container.started_at_s,
                timings_s=running.timings_s,
            )
        )
        beside: dict[str, Callable[[], Awaitable[None]]] = {
            "the application's terminal": self._console.run,
            "the stop ladder": partial(
                self._ladder.climb, container, partial(self._ask_last_words, running)
            ),
            "the watch over the allocation": self._watch_allocation,
            "the look at what the JVM chose": partial(running.jvm.tell, container, self._journal),
            "the look at its archive": partial(running.archive.watch, container, self._commands),
            "the watch for a heap dump": partial(running.jvm.watch_dump, self._journal),
            "the watch for the kernel's kills": partial(
                container.oom_kills.watch, partial(self._tell_of_kills, container), log
            ),
        }
        async with trio.open_nursery() as nursery:
            nursery.start_soon(streams.run)  # which contains its pumps itself
            for what, run in beside.items():
                nursery.start_soon(containment.keep_running, what, run, log)
            end.status = await container.wait()
            end.at_s = time.time()
            self._note_end(container, end)
            self.phase = advance(self.phase, Happening.CONTAINER_EXITED)
            await self._console.drained()
            await streams.drained()
            nursery.cancel_scope.cancel()

    async def _conclude(self, running: Running, end: End) -> records.ExitRecord:
        """Remove what is left, then write down and tell how the task ended. Never raises."""
        if not end.at_s:
            await end_container(running.container, end, self._journal.log)
            self._note_end(running.container, end)
            self.phase = advance(self.phase, Happening.CONTAINER_EXITED)
        if self._driven:
            give_way()
        # What a successor would begin with is closed from here on.
        self._keeper.release()
        record = await conclude(self.launch, running, end, self._journal, self._ladder)
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

    def _note_end(self, container: Container, end: End) -> None:
        """Write down how the application ended, of which a successor could not learn; or be one."""
        if end.status is not None:
            self._seen = records.SeenEnd(end.status.exit_code, end.status.signal, end.at_s)
            with containment.contained("writing down the application's end", self._journal.log):
                self._write_record(container.id, container.cgroup_path, container)
        elif (seen := self._seen) is not None:
            end.status, end.at_s = WaitStatus(seen.exit_code, seen.signal), seen.at_s

    def _ask_last_words(self, running: Running, sent: str) -> None:
        with containment.contained("asking for a thread dump", self._journal.log):
            running.jvm.ask_for_threads(running.container, sent, self._journal)

    def _tell_of_kills(self, container: Container, count: int) -> None:
        self._journal.event(kills_sentence(count, container.memory().limit_bytes))

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

    def status(self, seq: int, *, figures: bool) -> control.Status:
        """Return the answer to a `control.GetStatus`."""
        stdout = stderr = records.StreamCounters()
        if self._streams is not None:
            stdout, stderr = self._streams.counters()
        jvm = None
        if figures and self._jvm is not None and self._container is not None:
            jvm = self._jvm.figures(self._container.started_at_s)
        return control.Status(seq=seq, phase=self.phase, stdout=stdout, stderr=stderr, jvm=jvm)

    def request_stop(self, signal: int, timeout_s: float) -> None:
        """Send ``signal`` now and SIGKILL ``timeout_s`` later; of two stops the earlier counts."""
        self.phase = advance(self.phase, Happening.STOP_REQUESTED)
        self._ladder.request(signal, timeout_s)

    @property
    def stop_requested(self) -> bool:
        """Whether somebody has asked for the task's end."""
        return self._ladder.requested

    def send_signal(self, signal: int) -> None:
        """Send ``signal`` to the application's first process."""
        if self._container is None or self.phase not in (Phase.RUNNING, Phase.STOPPING):
            raise ControlError(f"Error: The task is {self.phase.value}; it takes no signal")
        self._container.signal(signal)

    def descriptors(self) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """Return what a successor would need to go on with the streams."""
        return ((), ()) if self._streams is None else self._streams.descriptors()

    @property
    def keeper_pid(self) -> int:
        """The process that forks a successor without being asked; 0 where there is none."""
        return self._keeper.pid

    def be_kept(self, channel: socket.socket, pid: int) -> None:
        """Let another process be the keeper."""
        self._keeper.change(channel, pid)

    def be_unkept(self) -> None:
        """Have no keeper from now on."""
        self._keeper.leave()

    def _kept(self) -> keeper.Descriptors:
        assert self._server is not None
        return keeper.listed(*self.descriptors(), self._server.fileno())

    async def run_command(self, sock: trio.socket.SocketType) -> None:
        """Run a command in the container for the client behind ``sock``."""
        running = self.phase in (Phase.RUNNING, Phase.STOPPING)
        await self._commands.serve(sock, self._container if running else None)

    def current(self) -> Sequence[control.Message]:
        """Return what there was of Started, StartFailed and Exited."""
        return self._announced

    def _announce(self, message: control.Message) -> None:
        self._announced.append(message)
        self._publish(message)

    def _publish(self, message: control.Message) -> None:
        if isinstance(message, control.DescriptorsChanged):
            self._keeper.update()
        if self._server is not None:
            self._server.publish(message)
        if self._observe is not None:
            try:
                self._observe(message)
            except Exception as exc:
                # A closed terminal, say: whoever only looks on ends no task.
                self._observe = None
                self._journal.log("error", f"events cannot be shown: {containment.fault(exc)}")

    def _write_record(
        self, container_id: str, cgroup_path: str, container: Container | None
    ) -> None:
        record = records.TaskRecord(
            task_id=self.launch.task_id,
            task_name=self.launch.task_name,
            alloc_id=self.launch.alloc_id,
            alloc_dir=self.launch.alloc_dir,
            supervisor=self._identity,
            container=None if container is None else container.process,
            pipes={} if self._streams is None else self._streams.inodes(),
            container_id=container_id,
            cgroup_path=cgroup_path,
            started_at_s=0.0 if container is None else container.started_at_s,
            ended=self._seen,
        )
        write_file(os.path.join(self.launch.state_dir, records.TASK_FILE), records.encode(record))

    def _mark(self, name: str) -> None:
        self._marks[name] = time.monotonic()

    def _timings(self, prepared: Prepared) -> dict[str, float]:
        """Return the seconds that each step of the start took; ``prepare`` is the hand-over."""
        steps = {
            after: self._marks[after] - self._marks[before]
            for before, after in itertools.pairwise(self._marks)
        }
        own = {"inspect": prepared.inspect_s, "bundle": prepared.bundle_s}
        return {**own, **steps, "prepare": steps["prepare"] - sum(own.values())}
