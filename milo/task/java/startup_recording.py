"""What becomes of a startup archive while its JVM runs, and when that has ended."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import msgspec
import trio

from milo import proc, walk
from milo.core.java.startup_cache import ARCHIVE, CONFIGURATION
from milo.core.launch import Launch
from milo.errors import MiloError, PathError, Reason
from milo.task.children import WaitStatus
from milo.task.exec_server import Commands
from milo.task.java.idle_recording import ENDING_S, RUN_TIMEOUT_S, has_room, until_idle
from milo.task.java.second_step import SecondStep
from milo.task.java.silent_jvm import past_perf_data
from milo.task.java.startup_place import clear_place
from milo.task.java.startup_plan import KEEP_TIMEOUT_S, StartupPlan, store_of
from milo.task.java.startup_store import Description, Kept, Note, StartupStore, words_of
from milo.task.journal import Journal
from milo.task.ladder import StopLadder
from milo.task.oci.container import Container
from milo.walk import Held, Kind

MAX_BYTES: Final = 512 << 20
"""Of one archive: that of a large application has some 100 MiB."""
MORE_S: Final = 1.0
"""Where some time did not suffice, so much more is worth another try."""
FIRST_LOOK_S: Final = 0.05
TAKEN_AFTER_S: Final = 10.0
"""A JVM maps its archive some 20 ms after its start; on a busy host, later. So long it is looked
for where nothing tells how far a JVM has come."""
UNWRITTEN_EXIT: Final = 1
"""Of a JVM that cannot write what it was told to, whatever the application's own was."""
CRASHES: Final = frozenset((signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGSEGV))
_PART_BYTES: Final = 4 << 20


class NotKeptError(Exception):
    """Why what the JVM has recorded is not used, as a sentence without its full stop."""


class StartupArchive:
    """The archive of one task's JVM."""

    def __init__(
        self,
        launch: Launch,
        plan: StartupPlan,
        journal: Journal,
        second_step: SecondStep | None = None,
    ) -> None:
        """``second_step``, if the plan has one, is this object's from now on."""
        self._launch = launch
        self._plan = plan
        self._journal = journal
        self._second_step = second_step
        self._is_kept = False

    async def watch(self, container: Container, commands: Commands) -> None:
        """Say in the log what is used or recorded, or why nothing is.

        An archive that the application's process has not taken is forgotten. The JVM says nothing
        of it, and starts as it would without; so the next start records. One that is to be
        recorded while it runs is, once that has nothing to do.
        """
        if self._plan.remark:
            self._journal.log("info", self._plan.remark)
        if self._plan.live:
            await self._record_live(container, commands)
        if not self._plan.used_inode:
            return
        pid = container.process.pid
        inode = f" {self._plan.used_inode} ".encode()
        pause_s = FIRST_LOOK_S
        deadline = trio.current_time() + TAKEN_AFTER_S
        is_past = False
        while not is_past and trio.current_time() < deadline:
            await trio.sleep(pause_s)
            # In this order: a JVM that has come so far has mapped it before, or never will.
            is_up = past_perf_data(pid)
            mapped = proc.mapped_files(pid)
            if inode in mapped:
                return
            is_past = is_up and bool(mapped)  # of a process that ends nothing is mapped
            pause_s = min(1.5 * pause_s, 1.0)
        self._forget("The JVM has not taken its startup archive, which does not fit any more")

    async def _record_live(self, container: Container, commands: Commands) -> None:
        plan = self._plan
        assert plan.owner is not None and plan.method is not None
        process, group = container.process, container.cgroup_path
        if not await until_idle(process, group, plan.method):
            return
        refused = True
        try:
            with trio.fail_after(RUN_TIMEOUT_S):
                for argv in plan.live:
                    if not has_room(group, plan.method):
                        refused = False
                        raise NotKeptError("Its memory limit leaves too little by now")
                    ended = await commands.run_by_itself(container, argv)
                    if ended != WaitStatus(0, 0):
                        raise NotKeptError(f"{argv[0]} in the task has failed ({ended})")
                refused = not self._has_written(ARCHIVE)
                await self._store()
        except (NotKeptError, MiloError, OSError, trio.TooSlowError) as exc:
            why = words_of(exc) or f"it took longer than {RUN_TIMEOUT_S:g} s"
            self._journal.log("info", f"The startup archive of the running JVM was not kept: {why}")
            if refused and isinstance(exc, NotKeptError | trio.TooSlowError):
                await trio.sleep(ENDING_S)
                if proc.lives(process):
                    store_of(self._launch).set_note(plan.owner, plan.key, Note.FAILED)

    async def keep(
        self, container: Container, status: WaitStatus | None, ladder: StopLadder
    ) -> None:
        """Keep what the JVM has recorded, now that it has ended; remove it where it was written.

        ``status`` is how it ended. What the time of a stop does not suffice for is dropped, also
        when that is asked for meanwhile. Never raises for what the task did.
        """
        try:
            await self._keep_in_time(container, status, ladder)
        finally:
            if self._second_step is not None:
                self._second_step.close()

    async def _keep_in_time(
        self, container: Container, status: WaitStatus | None, ladder: StopLadder
    ) -> None:
        stopped = ladder.requested
        plan = self._plan
        if plan.used_inode and status is not None and status.signal in CRASHES:
            self._forget("The JVM crashed, so its startup archive is not used again")
        if not plan.recording:
            return
        assert plan.owner is not None
        store = store_of(self._launch)
        try:
            if self._is_kept:
                return
            if status is None or status.signal:
                store.set_note(plan.owner, plan.key, Note.KILLED)
                raise NotKeptError("The JVM did not end by itself, so it has no startup archive")
            # One that does so after all has it written at its end, the next time too.
            store.clear_note(plan.owner, plan.key, Note.KILLED)
            if plan.live and not plan.second_step:
                raise NotKeptError("The JVM ended before it was asked for its startup archive")
            self._check_end(status, stopped=stopped)
            kept = store.find(plan.owner, plan.key)
            if kept is not None and kept.description.stamps == plan.stamps:
                raise NotKeptError("Another start has kept the same startup archive meanwhile")
            began_s = trio.current_time()
            late_s = store.late_s(plan.owner, plan.key)
            left_s = min(ladder.deadline - began_s, KEEP_TIMEOUT_S)
            if late_s and left_s < late_s + MORE_S:
                raise NotKeptError(
                    f"There were {left_s:.1f} s left to keep the startup archive, and {late_s:.1f} "
                    "did not suffice the last time"
                )
            if not await _within(ladder, partial(self._keep, container)):
                late_s = max(late_s, trio.current_time() - began_s)
                store.set_note(plan.owner, plan.key, Note.LATE, msgspec.json.encode(late_s))
                raise NotKeptError("There was no time left to keep the startup archive")
        except NotKeptError as exc:
            self._journal.log("info", str(exc))
        except (MiloError, OSError) as exc:
            self._journal.log("info", f"The startup archive was not kept: {words_of(exc)}")
        finally:
            clear_place(self._launch, plan.recording)

    async def _add(self, store: StartupStore, held: Held) -> tuple[Description, list[Kept]]:
        plan = self._plan
        assert plan.owner is not None and plan.method is not None
        target, copy = store.new_file(plan.owner)
        try:
            try:
                await _copy(held, copy)
            finally:
                os.close(copy)
            description = Description(
                owner=plan.owner,
                method=plan.method,
                java=plan.java,
                file=os.path.basename(target),
                size_bytes=held.status.st_size,
                made_at_s=time.time(),
                stamps=plan.stamps,
            )
            return description, store.add(plan.key, description)
        except BaseException:
            store.discard(target)
            raise

    def _forget(self, why: str) -> None:
        assert self._plan.owner is not None
        store_of(self._launch).forget(self._plan.owner, self._plan.key)
        self._journal.log("info", f"{why}. The next start records another one")

    def _check_end(self, status: WaitStatus, *, stopped: bool) -> None:
        """Refuse what an application that failed has left."""
        plan = self._plan
        assert plan.owner is not None and plan.method is not None
        if not status.exit_code or stopped:
            return
        written = CONFIGURATION if plan.second_step else ARCHIVE
        if status.exit_code == UNWRITTEN_EXIT and not self._has_written(written):
            store_of(self._launch).set_note(plan.owner, plan.key, Note.FAILED)
            raise NotKeptError(f"The JVM has left no {plan.method}")
        raise NotKeptError(f"The application failed ({status}), so its {plan.method} is not kept")

    def _has_written(self, path: str) -> bool:
        try:
            self._hold(path).close()
        except PathError as exc:
            return exc.reason is not Reason.MISSING
        return True

    def _hold(self, path: str) -> Held:
        """Hold the regular file that is ``path`` in the container; raises `PathError`."""
        there = f"{self._plan.recording}/{os.path.basename(path)}"
        return walk.hold(there, beneath=self._launch.alloc_dir, kind=Kind.FILE)

    async def _keep(self, container: Container) -> None:
        plan = self._plan
        assert plan.owner is not None and plan.method is not None
        if plan.second_step:
            if self._second_step is None:
                raise NotKeptError("Another process has taken over, which makes no startup archive")
            made = await self._second_step.run(container, plan.second_step)
            if made != WaitStatus(0, 0):
                store_of(self._launch).set_note(plan.owner, plan.key, Note.FAILED)
                raise NotKeptError(f"The JVM has made no {plan.method} of its recording ({made})")
        await self._store()

    async def _store(self) -> None:
        """Copy what the JVM has written into the cache, if it can have written that."""
        plan = self._plan
        assert plan.owner is not None and plan.method is not None
        store = store_of(self._launch)
        try:
            held = self._hold(ARCHIVE)
        except PathError as exc:
            raise NotKeptError(f"The JVM has left no {plan.method}: {exc.words}") from exc
        with held:
            _check(held, plan.recorder)
            with store.adding(held.status.st_size):
                description, removed = await self._add(store, held)
        self._is_kept = True
        self._journal.log(
            "info",
            f"Kept for the next start: {plan.method} of {-(-description.size_bytes >> 20)} MiB",
        )
        for kept in removed:
            self._journal.log(
                "info", f"Removed for it, as the cache is full: that of {kept.description.owner}"
            )


async def _within(ladder: StopLadder, work: Callable[[], Awaitable[None]]) -> bool:
    """Do ``work`` in the time that there is; return whether that was enough."""
    failure: list[Exception] = []
    done = False
    async with trio.open_nursery() as nursery:

        async def hurry() -> None:
            while True:
                scope.deadline = min(scope.deadline, ladder.deadline)
                await ladder.wait_changed()

        scope = nursery.cancel_scope
        scope.deadline = min(ladder.deadline, trio.current_time() + KEEP_TIMEOUT_S)
        nursery.start_soon(hurry)
        try:
            await work()
        except (NotKeptError, MiloError, OSError) as exc:
            failure.append(exc)  # raised outside, where no group wraps it
        done = True
        scope.cancel()
    for error in failure:
        raise error
    return done


def _check(held: Held, recorder: int) -> None:
    """Refuse what the JVM cannot have written there."""
    status = held.status
    if status.st_uid != recorder:
        raise NotKeptError(f"{held.path} belongs to the user {status.st_uid}, not to the task's")
    if status.st_nlink != 1:
        raise NotKeptError(f"{held.path} has another name too")
    if not 0 < status.st_size <= MAX_BYTES:
        raise NotKeptError(f"{held.path} has {status.st_size} bytes")


async def _copy(held: Held, copy: int) -> None:
    """Copy a file that its writer may still change; nobody but Milo has the copy.

    Whoever has got a descriptor of what was written keeps that, so it is not moved.

    Raises:
        NotKeptError: it has another size by now.
    """
    source = held.open()
    try:
        left = held.status.st_size
        while left > 0:
            moved = os.sendfile(copy, source, None, min(left, _PART_BYTES))
            if moved == 0:
                break
            left -= moved
            os.fdatasync(copy)  # in parts: nothing ends one before it is done
            await trio.lowlevel.checkpoint()
        if left or os.read(source, 1):
            raise NotKeptError(f"{held.path} changed while it was read")
    finally:
        os.close(source)
