"""The spawner: forks task processes from an interpreter that has everything imported.

It is forked from the plugin (`milo.spawner_process`) before there is an event loop or a thread,
holds none of the plugin's descriptors, and waits in a plain loop. Forking a process that runs Trio,
asyncio or a thread would copy locks and epoll descriptors. What a task process takes of memory is
in docs/architecture.md.

It is also the keeper of the tasks whose processes it has forked, and forks their successors without
any driver (`milo.task.keeper`). So it ends when its driver and the last of these tasks have.
"""

from __future__ import annotations

import contextlib
import encodings.ascii  # noqa: F401 - Python's only module that a task process looked for later
import errno
import gc
import os
import resource
import select
import signal
import socket
import time
from functools import cache
from typing import Final, NoReturn

from milo.core.spawning import (
    END_OF_PATH,
    KEEP,
    MAX_DESCRIPTORS,
    MAX_REQUEST_BYTES,
    RUN,
    SPAWNED_FD,
    TAKEN,
    TAKEN_TIMEOUT_S,
    is_kept,
)
from milo.proc import comm, open_descriptors, parent, set_process_name
from milo.task import main as task_main
from milo.task.code_placement import place_together
from milo.task.immortal import make_all_immortal
from milo.task.kept_tasks import KeptTasks
from milo.task.rehearsal import rehearse
from milo.unix_sockets import close_all, close_all_but, passed_descriptors, passing

STANDBY_PAUSE_S: Final = 0.1
"""Since the last request: what it has started has the processors to itself."""
STANDBY_RETRY_S: Final = 10.0
"""After a fork that was refused."""
USED_CODE: Final = os.path.join(os.path.dirname(__file__), "task/used_code.txt")
"""What task processes run, a name of `milo.task.code_placement`'s a line. Written by
``python -m tests.support.used_code``."""


def serve(sock: socket.socket) -> NoReturn:
    """Be the spawner until the driver's end of ``sock`` is closed. Never returns.

    It is SEQPACKET. A request is a mode, a blank and a state directory's path, with the listening
    control socket attached, and possibly the descriptors of a task to take over; the answer is the
    decimal process id, or ``error: ...``. The request `KEEP` forks nothing: with it comes the
    keeper's end of a task's channel, and the answer is the keeper's own process id.
    """
    set_process_name("milo-spawner")
    with contextlib.suppress(OSError):
        os.setsid()
    keep = _drop_descriptors([sock.detach()])[0]
    sock = socket.socket(fileno=keep)
    os.environ.clear()
    # crun makes the container's cgroups with it, which the JVM, as another user, must be able
    # to read to see its limits. What is Milo's own lies in directories of mode 0700.
    os.umask(0o022)
    os.chdir("/")
    # A Ctrl-C in the agent's terminal, or a SIGTERM to a whole group, must not cost the
    # means to start tasks: only the end of the driver ends the spawner.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the task processes
    settle()
    _Server(sock.detach(), _raise_limit()).run()
    os._exit(0)


@cache
def settle() -> None:
    """Put the memory of this process in the order in which others share most of it. Only once.

    Whatever fails of it costs memory, and no task.
    """
    with contextlib.suppress(Exception):
        place_together(used_code())
    # Its failure would show in the task processes, which do the same.
    with contextlib.suppress(Exception):
        rehearse()
    with contextlib.suppress(Exception):
        make_all_immortal()
    # So that collections in the children do not copy these pages. Not after a gc.collect():
    # it leaves holes that the children's objects then go into, one page copied for each
    # (measured at 10 tasks: 0.5 MiB a task).
    gc.freeze()


def used_code() -> list[str]:
    """Return the names of the functions that a task process calls."""
    with contextlib.suppress(OSError), open(USED_CODE, encoding="utf-8") as file:
        return file.read().splitlines()
    return []  # as while Milo's own files are being replaced: it costs no task


class _Server:
    """Forks task processes for a driver, and for tasks whose own process has died."""

    def __init__(self, driver: int, limit: tuple[int, int]) -> None:
        self._driver = driver
        self._limit = limit
        self._poller = select.poll()
        self._poller.register(driver, select.POLLIN)
        self._kept = KeptTasks(self._fork, self._poller)
        self._standby: tuple[int, int] | None = None
        """The id of a task process that waits for its task, and the channel to it."""
        self._busy_until_s = time.monotonic() + STANDBY_PAUSE_S

    def run(self) -> None:
        """Return when neither the driver nor a kept task is left."""
        while self._driver >= 0 or self._kept:
            ready = {fd for fd, _ in self._poller.poll(self._patience_ms())}
            # Deaths first: a driver asks for a successor where there is no keeper.
            for channel in ready - {self._driver}:
                self._kept.hear(channel)
            self._kept.attempt()
            if self._driver in ready:
                self._serve()
                self._busy_until_s = time.monotonic() + STANDBY_PAUSE_S
            elif self._wants_standby() and time.monotonic() >= self._busy_until_s:
                self._make_standby()

    def _patience_ms(self) -> float | None:
        """Return how long there is nothing to do, whatever happens; None: for ever."""
        patience_s = [] if self._kept.patience_s is None else [self._kept.patience_s]
        if self._wants_standby():
            patience_s.append(max(0.0, self._busy_until_s - time.monotonic()))
        return min(patience_s) * 1e3 if patience_s else None

    def _serve(self) -> None:
        """Do what the driver asks for next, or note that it is gone."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, self._driver)
        try:
            request, ancillary, flags, _ = sock.recvmsg(
                MAX_REQUEST_BYTES, socket.CMSG_SPACE(MAX_DESCRIPTORS * 4), socket.MSG_CMSG_CLOEXEC
            )
            fds = passed_descriptors(ancillary)
            if request and not (request.startswith(RUN.encode()) and self._is_deserted()):
                if flags & socket.MSG_CTRUNC:  # there was no room for what came with it
                    close_all(fds)
                    sock.send(_refusal(errno.EMFILE))
                else:
                    sock.send(self._answer(os.fsdecode(request), fds))
                return
            close_all(fds)
        except OSError:
            pass
        finally:
            sock.detach()
        self._poller.unregister(self._driver)
        os.close(self._driver)
        self._driver = -1
        if self._standby is not None:
            _end_standby(*self._standby)
            self._standby = None

    def _is_deserted(self) -> bool:
        """Whether nobody waits for the answer any more."""
        poller = select.poll()
        poller.register(self._driver, 0)
        return bool(poller.poll(0))

    def _answer(self, request: str, fds: list[int]) -> bytes:
        mode, _, state_dir = request.partition(" ")
        if mode == KEEP and len(fds) == 1:
            self._kept.add(state_dir.removesuffix(END_OF_PATH), fds[0])
            return str(os.getpid()).encode()
        try:
            order = task_main.Order(mode, state_dir, fds)
            pid, channel = self._order_standby(order) or self._fork(mode, state_dir, fds)
        except OSError as exc:
            return _refusal(exc.errno)
        finally:
            close_all(fds)
        if is_kept(mode):
            self._kept.add(state_dir, channel)
        else:
            os.close(channel)
        return str(pid).encode()

    def _wants_standby(self) -> bool:
        return self._driver >= 0 and self._standby is None

    def _make_standby(self) -> None:
        """Have a task process wait for the next task: forks and what these copy are no part of its
        start then."""
        try:
            self._standby = self._fork_with(None)
        except OSError:
            self._busy_until_s = time.monotonic() + STANDBY_RETRY_S

    def _order_standby(self, order: task_main.Order) -> tuple[int, int] | None:
        """Have the one that waits do ``order``; return its id and channel, None without one.

        One that does not answer is ended, and has done nothing for the order.
        """
        if self._standby is None or not order.mode.startswith(RUN):
            return None
        (pid, channel), self._standby = self._standby, None
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, channel)
        try:
            # Its preparer may still hold the other end, and lets the order vanish.
            os.kill(pid, 0)
            sock.sendmsg([order.text], passing(order.fds))
            if _is_taken(sock):
                sock.setblocking(True)
                return pid, sock.detach()
        except OSError:  # it has ended, or does not answer
            pass
        _end_standby(pid, sock.detach())
        return None

    def _fork(self, mode: str, state_dir: str, fds: list[int]) -> tuple[int, int]:
        """Fork a task process that gets ``fds``; return its id, and the channel to it.

        Raises OSError.
        """
        return self._fork_with(task_main.Order(mode, state_dir, fds))

    def _fork_with(self, order: task_main.Order | None) -> tuple[int, int]:
        """Do that for ``order``, or for one that is still to come."""
        fds = [] if order is None else order.fds
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        others = () if self._standby is None else self._standby[1:]
        highest = max(
            self._kept.highest, self._driver, ours.fileno(), theirs.fileno(), *fds, *others
        )
        spawner = os.getpid()
        try:
            pid = os.fork()
        except OSError:
            ours.close()
            theirs.close()
            raise
        if pid == 0:
            ours.detach()
            close_all_but((0, 1, 2, theirs.fileno(), *fds), below=1 + highest)
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_NOFILE, self._limit)
            _become_task_process(order, theirs, spawner)
        theirs.close()
        return pid, ours.detach()


def _is_taken(sock: socket.socket) -> bool:
    """Whether who stands by has said that it takes its order; if not, it cannot say so any more.

    Raises OSError.
    """
    sock.settimeout(TAKEN_TIMEOUT_S)
    try:
        return sock.recv(len(TAKEN)) == TAKEN
    except TimeoutError:
        # Two would run the task if the word came after this look and before the end of the channel.
        sock.shutdown(socket.SHUT_RD)
        return sock.recv(len(TAKEN)) == TAKEN


def _end_standby(pid: int, channel: int) -> None:
    """End one that has no order; it may have ended, or have been stopped."""
    os.close(channel)  # which would do for one that runs
    # Not another one that has got its number since.
    if (parent(pid), comm(pid)) == (os.getpid(), task_main.STANDBY_NAME.encode()):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def _refusal(number: int | None) -> bytes:
    return f"error: no task process can be forked: {os.strerror(number or 0)}".encode()


def _raise_limit() -> tuple[int, int]:
    """Let this process have as many descriptors as it may; return what a task process gets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return soft, hard


def main() -> NoReturn:
    """Be a spawner that was executed, with its socket at `SPAWNED_FD`."""
    serve(socket.socket(fileno=SPAWNED_FD))


def _drop_descriptors(keep: list[int]) -> list[int]:
    """Close everything but ``keep``, put /dev/null on 0 to 2, and return the new numbers.

    Whoever keeps the plugin's stderr open hides its death from the agent.
    """
    moved: list[int] = []
    for fd in keep:
        # Out of the way of 0 to 2, should the plugin have been started without them.
        moved.append(fd if fd > 2 else os.dup2(fd, 3 + len(moved), inheritable=False))
    null = os.open("/dev/null", os.O_RDWR)
    for standard in (0, 1, 2):
        if standard != null:
            os.dup2(null, standard)
    if null > 2:
        os.close(null)
    for fd in open_descriptors():
        if fd > 2 and fd not in moved:
            with contextlib.suppress(OSError):
                os.close(fd)
    return moved


def _become_task_process(
    order: task_main.Order | None, channel: socket.socket, spawner: int
) -> NoReturn:
    status, preparer = 70, None
    try:
        os.setsid()
        for number in (signal.SIGCHLD, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        if order is None:
            if (ordered := task_main.stand_by(channel, spawner)) is None:
                os._exit(0)
            order, preparer = ordered
        status = task_main.main(order, channel, preparer)
    except BaseException as exc:
        # The last resort: the journal of the task process has the details if it got that far.
        if order is not None:
            with (
                contextlib.suppress(BaseException),
                open(f"{order.state_dir}/task.log", "a") as file,
            ):
                file.write(f"[error] the task process failed: {exc!r}\n")
    finally:
        os._exit(status)
