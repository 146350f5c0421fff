"""The spawner: forks task processes from an interpreter that has everything imported.

It is forked from the plugin before there is an event loop or a thread, holds none of the plugin's
descriptors, and waits in a plain loop. Forking a process that runs Trio, asyncio or a thread would
copy locks and epoll descriptors. It ends with its driver; the task processes do not. Measured: a
task process is ready 4.6 ms after the request and takes 3.3 MB.
"""

from __future__ import annotations

import contextlib
import encodings.ascii  # noqa: F401 - Python's only module that a task process looked for later
import gc
import os
import signal
import socket
from typing import Final, NoReturn

import attrs

from milo.proc import open_descriptors, set_process_name
from milo.task import main as task_main
from milo.unix_sockets import passed_descriptors

MAX_REQUEST_BYTES: Final = 4096
MAX_DESCRIPTORS: Final = 16
SPAWNED_FD: Final = 3
"""Where `milo.host.spawner_client` puts the socket of a spawner that it executes."""


@attrs.frozen
class SpawnerProcess:
    """What `fork_spawner` leaves in the driver."""

    pid: int
    sock: socket.socket
    """SEQPACKET. A request is a mode, a blank and a state directory's path, with the listening
    control socket attached, and possibly the descriptors of a task to take over; the answer is
    the decimal process id, or ``error: ...``."""


def fork_spawner() -> SpawnerProcess:
    """Fork the spawner from this process, which may run no event loop and no thread yet.

    Raises:
        OSError: no socket or no process can be made.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            ours.close()
            serve(theirs)
        os._exit(0)
    theirs.close()
    return SpawnerProcess(pid, ours)


def serve(sock: socket.socket) -> NoReturn:
    """Be the spawner until the driver's end of ``sock`` is closed. Never returns."""
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
    # So that collections in the children do not copy these pages. Not after a gc.collect():
    # it leaves holes that the children's objects then go into, one page copied for each
    # (measured at 10 tasks: 0.5 MiB a task).
    gc.freeze()
    while True:
        try:
            request, ancillary, _, _ = sock.recvmsg(
                MAX_REQUEST_BYTES, socket.CMSG_SPACE(MAX_DESCRIPTORS * 4), socket.MSG_CMSG_CLOEXEC
            )
        except OSError:
            os._exit(0)
        if not request:
            os._exit(0)
        fds = passed_descriptors(ancillary)
        try:
            pid = os.fork()
        except OSError as exc:
            answer = f"error: no task process can be forked: {exc.strerror}"
        else:
            if pid == 0:
                _become_task_process(sock, request, fds)
            answer = str(pid)
        for fd in fds:
            os.close(fd)
        try:
            sock.send(answer.encode())
        except OSError:
            os._exit(0)


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


def _become_task_process(sock: socket.socket, request: bytes, fds: list[int]) -> NoReturn:
    status = 70
    mode, _, state_dir = os.fsdecode(request).partition(" ")
    try:
        sock.close()
        os.setsid()
        for number in (signal.SIGCHLD, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        status = task_main.main(mode, state_dir, fds)
    except BaseException as exc:
        # The last resort: the journal of the task process has the details if it got that far.
        with contextlib.suppress(BaseException), open(f"{state_dir}/task.log", "a") as file:
            file.write(f"[error] the task process failed: {exc!r}\n")
    finally:
        os._exit(status)
