"""The preparer: a child process that reads a tenant's files before the task starts.

Options, JAR, class files, a JDK's ``release``, ELF files and argument files may have been made to
cost memory and time. So a process of its own reads them, with limits of memory, processor time and
elapsed time, and the kernel's OOM killer takes it first. It writes the bundle and
`records.PREPARED_FILE`, passes on descriptors of what it has checked, and ends. The task process
reads none of these files and can answer meanwhile.

It is forked before there is an event loop, because forking a process that has one is not safe, and
waits to be told which task it prepares. A task process tells it at once, and gets ready meanwhile.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Final, NoReturn

import attrs
import msgspec
import trio

from milo import cgroup_files
from milo.core import control, records
from milo.core.config.spelling import in_options, words_in_options
from milo.core.config.task_options import TaskOptions, parse_task_options
from milo.core.container.spec import User
from milo.core.java.application import java_arguments
from milo.core.launch import Application, Launch
from milo.errors import MiloError, StateError, TaskStartError
from milo.files import read_file, write_file
from milo.proc import (
    address_space_bytes,
    die_with,
    open_descriptors,
    set_oom_score_adj,
    set_process_name,
)
from milo.task.children import Child, Reaper
from milo.task.containment import fault
from milo.task.java.application import resolve_application
from milo.task.java.class_path import missing_sentence
from milo.task.java.jvm import JvmPlan, plan_jvm, user_words
from milo.task.java.needs import needs
from milo.task.java.recordings import remove_old
from milo.task.java.startup_plan import StartupPlan, plan_startup
from milo.task.logs.pump_policy import PumpPolicy
from milo.task.oci import privileges
from milo.task.oci.bundle import Bundle, write_bundle
from milo.task.root import access
from milo.task.root.mount_check import MountCheck
from milo.unix_sockets import close_all, passed_descriptors, passing

MEMORY_BYTES: Final = 512 << 20
"""More than it has at its start. A JAR with 500,000 entries takes about 100 MiB (measured)."""
CPU_S: Final = 20
"""Of processor time. A JAR of 100 MB takes 0.1 s; an emulated machine is 30 times slower."""
TIMEOUT_S: Final = 60.0
"""In all, from the request on: a disk may be slow."""
OOM_SCORE_ADJ: Final = 1000
"""The highest there is: where the host runs out of memory it goes before any application."""
BEGIN_TIMEOUT_S: Final = 1.0
"""How long one that was forked ahead may take to begin; one that stands by takes 0.1 ms. It may
have been stopped, or killed and not have ended yet, which nobody can tell from outside."""
DESCRIPTORS_AT_ONCE: Final = 100
"""In one message; the kernel takes 253 (SCM_MAX_FD)."""
KILL_TIMEOUT_S: Final = 10.0
"""How long it may take to end after SIGKILL: a dead file server may hold it for ever."""
MIB: Final = 1 << 20


@attrs.frozen
class Prepared:
    """What the task process has to know of what was prepared; `records.PREPARED_FILE`."""

    policy: PumpPolicy
    """Of both log streams."""
    jvm: JvmPlan
    bundle: Bundle
    """Without its binds."""
    startup: StartupPlan = attrs.field(factory=StartupPlan)
    held: tuple[tuple[str, str], ...] = ()
    """Of each descriptor that is passed on: see `MountCheck.pairs`."""
    warnings: tuple[str, ...] = ()
    """Sentences for the task's user, to be told before the application says anything."""
    removed: tuple[str, ...] = ()
    """The recordings of earlier starts that were removed, by what their names begin with."""
    inspect_s: float = 0.0
    bundle_s: float = 0.0
    version: records.Int32 = records.RECORD_VERSION


class _Verdict(msgspec.Struct, frozen=True, omit_defaults=True):
    """The last message of a preparer, after its descriptors."""

    error: str = ""
    """Why the task cannot start; empty when all is prepared."""
    recoverable: bool = False
    more: bool = False
    """Whether this message only brings descriptors, and others follow."""


_BEGUN: Final = msgspec.json.encode(_Verdict(more=True))
"""The first message of one that was asked."""


class Preparer:
    """The child, as its parent holds it. Make it with `fork`; it does one task."""

    def __init__(self, pid: int, sock: socket.socket) -> None:
        self._pid = pid
        self._sock = sock
        self._child: Child | None = None
        self.asked_s = 0.0
        """When it was asked, by time.monotonic(); 0 before."""

    @classmethod
    def fork(cls, rehearsal: Callable[[], object] | None = None) -> Preparer:
        """Return a new one. Call it before there is an event loop or a thread.

        It begins with ``rehearsal``, for which there is time where it is not asked at once.

        Raises:
            OSError: no socket or no process can be made.
        """
        cgroup_files.detect()  # once for both: it stays known
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent = os.getpid()
        # One that is ignored, as whoever started `milo run` may have it, leaves no status.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        try:
            pid = os.fork()
        except OSError:
            ours.close()
            theirs.close()
            raise
        if pid == 0:
            with contextlib.suppress(BaseException):
                _be_preparer(theirs.detach(), parent, rehearsal)
            os._exit(1)
        theirs.close()
        return cls(pid, ours)

    def ask(self, state_dir: str) -> None:
        """Let it begin with the task in ``state_dir``; `prepare` says what comes of that.

        Once is enough. Whoever calls this removes the bundle, whatever comes.
        """
        if not self.asked_s:
            self.asked_s = time.monotonic()
            with contextlib.suppress(OSError):  # it has ended
                self._sock.send(os.fsencode(state_dir))

    def has_begun(self) -> bool:
        """Whether it has begun with what it was asked for; before `watch`.

        One that does not within `BEGIN_TIMEOUT_S` is ended and has done nothing: another one can
        be asked.
        """
        self._sock.settimeout(BEGIN_TIMEOUT_S)
        with contextlib.suppress(OSError):
            if self._sock.recv(len(_BEGUN)):
                return True
        self._sock.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)
        return False

    def watch(self, reaper: Reaper) -> None:
        """Have ``reaper`` watch it, before that runs: it may drop the status of a child unwatched.

        Once asked, it may end at any moment. Once is enough.
        """
        if self._child is None:
            with contextlib.suppress(ChildProcessError):  # which `prepare` tells
                self._child = reaper.adopt(self._pid)

    async def prepare(self, launch: Launch, reaper: Reaper) -> tuple[Prepared, MountCheck]:
        """Have the bundle of ``launch`` written, and return what is known then.

        ``reaper`` runs. Whoever calls this closes the `MountCheck`, and removes the bundle also
        when it fails. Cancellation kills the child, and waits for that; otherwise `aclose` does.

        Raises:
            TaskStartError: the task cannot start, or its preparation took too much.
        """
        self.watch(reaper)
        if (child := self._child) is None:
            raise _ended("before it was asked for anything")
        verdict: _Verdict | None = None
        fds: list[int] = []
        try:
            with (
                trio.socket.from_stdlib_socket(self._sock) as sock,
                trio.move_on_after(TIMEOUT_S) as scope,
                contextlib.suppress(OSError),
            ):
                self.ask(launch.state_dir)
                verdict = await _receive(sock, fds)
            if scope.cancelled_caught:
                raise _too_much(f"{TIMEOUT_S:g} s")
            if verdict is None:
                status = await child.wait()
                if status.signal == signal.SIGXCPU:
                    raise _too_much(f"{CPU_S} s of processor time")
                raise _ended(str(status))
            if verdict.error:
                raise TaskStartError(verdict.error, recoverable=verdict.recoverable)
            prepared = read_prepared(launch.state_dir)
            if prepared is None or len(prepared.held) != len(fds):
                raise StateError(launch.state_dir, "what was prepared is not there")
            passed, fds = fds, []
            return prepared, MountCheck.received(prepared.held, passed)
        except BaseException:
            close_all(fds)
            await self.aclose()
            raise

    async def prepare_unless(
        self, stopped: Callable[[], Awaitable[object]], launch: Launch, reaper: Reaper
    ) -> tuple[Prepared, MountCheck] | None:
        """Do that, and return None as soon as ``stopped`` returns before it is done."""
        made: list[tuple[Prepared, MountCheck]] = []
        failure: list[MiloError] = []
        async with trio.open_nursery() as nursery:

            async def end_when_stopped() -> None:
                await stopped()
                nursery.cancel_scope.cancel()

            nursery.start_soon(end_when_stopped)
            try:
                made.append(await self.prepare(launch, reaper))
            except MiloError as exc:
                failure.append(exc)  # raised outside, where no group wraps it
            nursery.cancel_scope.cancel()
        for error in failure:
            raise error
        return made[0] if made else None

    async def aclose(self) -> None:
        """Return once it has ended, if `prepare` was called; it is killed if need be."""
        if self._child is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._child.signal(signal.SIGKILL)  # it may have ended, as it does behind its verdict
        with trio.CancelScope(shield=True), trio.move_on_after(KILL_TIMEOUT_S):
            await self._child.wait()

    def close(self) -> None:
        """Let one that was never asked go: it ends. May be called in any case."""
        self._sock.close()


async def _receive(sock: trio.socket.SocketType, fds: list[int]) -> _Verdict | None:
    """Return the verdict and add to ``fds`` what comes with it; None when there is none."""
    space = socket.CMSG_SPACE(DESCRIPTORS_AT_ONCE * 4)
    while True:
        packet, ancillary, _, _ = await sock.recvmsg(
            control.MAX_MESSAGE_BYTES, space, socket.MSG_CMSG_CLOEXEC
        )
        fds += passed_descriptors(ancillary)
        if not packet:
            return None
        verdict = msgspec.json.decode(packet, type=_Verdict)
        if not verdict.more:
            return verdict


def read_prepared(state_dir: str) -> Prepared | None:
    """Return what was prepared for the task in ``state_dir``, or None: an older Milo's task."""
    path = os.path.join(state_dir, records.PREPARED_FILE)
    data = read_file(path)
    return None if data is None else records.decode(data, Prepared, where=path)


def read_launch(state_dir: str) -> Launch:
    """Return what the driver wrote for the task in ``state_dir``; raises `StateError`."""
    path = os.path.join(state_dir, records.LAUNCH_FILE)
    data = read_file(path)
    if data is None:
        raise StateError(path, "it is not there")
    return records.decode(data, Launch, where=path)


def read_record(state_dir: str) -> records.TaskRecord | None:
    """Return the record of the task in ``state_dir``; None where none can be read."""
    path = os.path.join(state_dir, records.TASK_FILE)
    try:
        data = read_file(path)
        return None if data is None else records.decode(data, records.TaskRecord, where=path)
    except MiloError:
        return None  # what is there is removed by its name all the same


def prepare(launch: Launch) -> tuple[Prepared, MountCheck]:
    """Decide all about a task, and write its bundle. The caller closes the `MountCheck`.

    Raises:
        MiloError: the task cannot start; part of the bundle may be there.
    """
    began_s = time.monotonic()
    options = parse_task_options(launch.config, launch.plugin)
    user = privileges.permitted_user(launch, options)
    app = resolve_application(launch, options)
    plan = plan_jvm(launch, options, app)
    words = user_words(launch, options, app.java.major, openj9=app.java.openj9)
    startup = plan_startup(launch, options, app, words, plan.tuning, user)
    inspected_s = time.monotonic()
    removed = remove_old(launch, plan.recording) if plan.recording else []
    try:
        bundle, check = _lay_out(launch, options, app, user, plan, startup)
    except MiloError:
        # Another process may have removed the archive since, or the operator the whole cache.
        if startup.bind is None or os.path.lexists(startup.bind.source):
            raise
        startup = StartupPlan(remark="No startup archive, because it has just been removed")
        bundle, check = _lay_out(launch, options, app, user, plan, startup)
    missing = missing_sentence(launch, app.jar, bundle.binds) if app.jar else ""
    prepared = Prepared(
        policy=PumpPolicy.of(options.log_overflow, options.log_block_timeout_s),
        jvm=attrs.evolve(plan, remarks=(*plan.remarks, *bundle.notes)),
        bundle=attrs.evolve(bundle, binds=()),
        startup=startup,
        held=check.pairs,
        warnings=(missing,) if missing else (),
        removed=tuple(removed),
        inspect_s=inspected_s - began_s,
        bundle_s=time.monotonic() - inspected_s,
    )
    return prepared, check


def _lay_out(
    launch: Launch,
    options: TaskOptions,
    app: Application,
    user: User,
    plan: JvmPlan,
    startup: StartupPlan,
) -> tuple[Bundle, MountCheck]:
    """Write the bundle, and hold what it mounts; raises `MiloError`."""
    arguments = java_arguments(app, options, (*plan.tuning.arguments, *startup.arguments))
    bundle = write_bundle(launch, options, app, arguments, startup.bind, user)
    wanted = needs(launch, app, bundle.binds, bundle.work_dir)
    access.check(wanted, bundle.binds, launch, options, bundle.user)
    check = MountCheck(
        bundle.binds,
        alloc_dir=launch.alloc_dir,
        java_home=app.java.home,
        root=bundle.root,
        work_dir=bundle.work_dir,
    )
    return bundle, check


# ---- in the child ---------------------------------------------------------------------------


def _be_preparer(fd: int, parent: int, rehearsal: Callable[[], object] | None = None) -> NoReturn:
    die_with(parent)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # its parent ends it
    for other in open_descriptors():
        if other > 2 and other != fd:
            with contextlib.suppress(OSError):
                os.close(other)
    sock = socket.socket(fileno=fd)
    if rehearsal is not None:
        with contextlib.suppress(Exception):  # which would show in the preparation too
            rehearsal()
    state_dir = os.fsdecode(sock.recv(control.MAX_MESSAGE_BYTES))
    if not state_dir:
        os._exit(0)
    sock.send(_BEGUN)
    set_process_name("milo-prepare")
    _limit_itself()
    try:
        verdict = _answer(sock, state_dir)
    except MemoryError:
        verdict = None
    # What fills the memory may be gone by now, or not: so this is little.
    sock.send(_NO_MEMORY if verdict is None else msgspec.json.encode(verdict))
    os._exit(0)


def _answer(sock: socket.socket, state_dir: str) -> _Verdict:
    """Prepare the task in ``state_dir`` and pass on what is held."""
    by_hand, jar = False, ""
    try:
        launch = read_launch(state_dir)
        by_hand, jar = launch.by_hand, launch.config.get("jar_path", "")
        prepared, check = prepare(launch)
        if by_hand:
            said = tuple(words_in_options(text, jar) for text in prepared.warnings)
            prepared = attrs.evolve(prepared, warnings=said)
        write_file(os.path.join(state_dir, records.PREPARED_FILE), records.encode(prepared))
        held = check.descriptors
        more = msgspec.json.encode(_Verdict(more=True))
        for first in range(0, len(held), DESCRIPTORS_AT_ONCE):
            sock.sendmsg([more], passing(held[first : first + DESCRIPTORS_AT_ONCE]))
    except MemoryError:
        raise
    except MiloError as exc:
        text = str(exc)
        if by_hand:
            text = in_options(exc, jar)
        return _Verdict(error=control.cut(text), recoverable=exc.recoverable)
    except OSError as exc:
        if exc.errno == errno.ENOMEM:
            raise MemoryError from exc
        # A disk that is full, a directory that vanished: said in the host's own words.
        text = f"Error: The task could not be prepared: {exc}"
        return _Verdict(error=control.cut(text), recoverable=True)
    except Exception as exc:
        text = f"Error: The task could not be prepared, by a fault of Milo's own: {fault(exc)}"
        return _Verdict(error=control.cut(text))
    return _Verdict()


def _limit_itself() -> None:
    with contextlib.suppress(OSError):
        set_oom_score_adj(os.getpid(), OOM_SCORE_ADJ)
    _lower(resource.RLIMIT_AS, address_space_bytes() + MEMORY_BYTES)
    _lower(resource.RLIMIT_CPU, CPU_S, CPU_S + 1)
    _lower(resource.RLIMIT_CORE, 0)


def _lower(kind: int, soft: int, hard: int = 0) -> None:
    """Set a limit, which is never raised; without ``hard`` both are ``soft``."""
    hard = hard or soft
    most = resource.getrlimit(kind)[1]
    if most != resource.RLIM_INFINITY:
        soft, hard = min(soft, most), min(hard, most)
    resource.setrlimit(kind, (soft, hard))


def _too_much(what: str) -> TaskStartError:
    return TaskStartError(_too_much_text(what), recoverable=False)


def _too_much_text(what: str) -> str:
    return (
        f"Error: Preparing the task took more than {what}, which is Milo's limit. Look at what the "
        "job brings: a JAR whose manifest or directory is huge, or a JDK with very many files"
    )


_NO_MEMORY: Final = msgspec.json.encode(
    _Verdict(error=_too_much_text(f"{MEMORY_BYTES // MIB} MiB of memory"))
)


def _ended(how: str) -> TaskStartError:
    """Return what to say of a preparer that has ended without a verdict."""
    return TaskStartError(
        f"Error: The process that prepares the task has ended ({how}). The kernel kills it first "
        "when the host is out of memory: look at its log (journalctl -k)",
        recoverable=True,
    )
