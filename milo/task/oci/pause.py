"""The pause process: process 1 of a container's PID namespace, so that the JVM is not.

As process 1 a JVM's abort ends with 127 instead of a signal, SIGKILL and SIGTERM from inside
have no effect on it, and the orphans that it does not reap stay as zombies. The pause process
ignores SIGCHLD, so that the kernel reaps them, and does nothing else.

How it lives, and why nothing of it can be left behind:

- The task process forks it into the PID namespace that it makes for it, while ``crun create``
  is still to come, and is its parent.
- Until the container exists it waits for its orders on a socket, and ends when the other end
  of that is closed: by the task process, or by the kernel with the task process.
- With its orders comes a pidfd of the application's first process. It then gives up all that it
  has and executes `milo.core.container.pause_program`, which waits for that process and ends:
  it needs nobody to end it, and the end of the task process means nothing to it.
- By then it is in the container's cgroup, where everything that ends a container finds it.

A task with whatever capability may look into it, trace it and join its namespaces. It finds an
empty, read-only root, no network but its own, no descriptor of the host's, no memory and no
executable but the program's, a user without other rights, and a seccomp filter.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import signal
import socket
from collections.abc import Callable
from typing import Final, NoReturn

import trio

from milo.cgroup_files import hasten_moves
from milo.core.container import pause_program
from milo.core.container.userns import PAUSE_ID
from milo.core.launch import Network
from milo.errors import PauseProcessError
from milo.namespaces import (
    CLONE_NEWNS,
    MNT_DETACH,
    MS_NODEV,
    MS_NOSUID,
    MS_RDONLY,
    MS_REC,
    groups_are_kept,
)
from milo.proc import (
    CLONE_NEWNET,
    enter_namespace,
    open_descriptors,
    open_pid_namespace,
    prctl,
    set_capabilities,
    set_process_name,
)
from milo.task.children import Reaper, WaitStatus, fork, reset_signals
from milo.unix_sockets import close_all, passed_descriptors, passing

TIMEOUT_S: Final = 30.0
"""It is there and ready some 5 ms after the fork (measured), and on a busy host later."""
ENDED_S: Final = 1.0
"""How long it may take to see that the application has ended, before it is killed."""

CLONE_NEWCGROUP: Final = 0x02000000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWPID: Final = 0x20000000
"""linux/sched.h"""
MS_REMOUNT: Final = 32
MS_BIND: Final = 4096
MS_PRIVATE: Final = 1 << 18
"""linux/mount.h"""
PR_CAPBSET_DROP: Final = 24
PR_SET_NO_NEW_PRIVS: Final = 38
PR_CAP_AMBIENT: Final = 47
PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
"""linux/prctl.h"""
NOBODY: Final = 65534

ROOT_OPTIONS: Final = b"mode=0555,size=64k,nr_inodes=4"
PROGRAM_MODE: Final = 0o111
"""Not to be read by whoever executes it: the kernel then makes the process undumpable, so that
nobody looks into it, of whatever user, without ``sys_ptrace``; execve(2)."""

_libc = ctypes.CDLL(None, use_errno=True)


class PauseProcess:
    """One container's pause process. Methods are called in the order in which they stand here.

    Whatever fails, `end` undoes it all.
    """

    def __init__(
        self, reaper: Reaper, state_dir: str, network: Network, *, returns: bool = True
    ) -> None:
        """Fork it into a namespace for the container to join.

        Blocks for some milliseconds. ``state_dir`` is the task's, which names the process;
        ``network`` is the container's. ``returns``: see `milo.core.container.rights.Rights`.

        Raises:
            PauseProcessError: the kernel refuses, or there is no program for this machine.
        """
        self._reaper = reaper
        self._killed = False
        self._waits = False
        """Whether it sees the application's end itself."""
        machine = os.uname().machine
        if machine not in pause_program.MACHINES:
            raise PauseProcessError(f"Milo has no program for a machine of type {machine}")
        program = pause_program.program(machine)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                forked = _fork if returns else _fork_apart
                pid = forked(lambda: _pause(theirs, state_dir, network, program, alone=not returns))
                self._child = reaper.adopt(pid)
                self.namespace = open_pid_namespace(pid)
                """A descriptor of the PID namespace, until it is handed over."""
            except OSError as exc:
                ours.close()  # which ends it
                raise PauseProcessError(f"it cannot be forked: {exc}") from exc
        self._sock: trio.socket.SocketType | None = trio.socket.from_stdlib_socket(ours)

    @property
    def pid(self) -> int:
        """The host's number of it."""
        return self._child.pid

    async def order(self, process: int) -> None:
        """Have it wait for the end of ``process``, the container's first, and for nothing else.

        It has to be in the container's cgroup by now, the root of which it sees afterwards. It
        takes 2 ms until it does; `ready` says when.

        Raises:
            PauseProcessError: it has ended, and the container with it.
        """
        assert self._sock is not None
        pidfds: list[int] = []
        with contextlib.suppress(OSError):  # Linux before 5.3: `end` ends it, or the cgroup's end
            pidfds.append(os.pidfd_open(process))
        try:
            await self._sock.sendmsg([b"go"], passing(pidfds))  # the first there is: it has room
        except OSError as exc:
            raise PauseProcessError(f"it has ended: {exc.strerror}") from exc
        finally:
            close_all(pidfds)
        self._waits = bool(pidfds)

    async def ready(self) -> None:
        """Return once it does what `order` has asked for; before anything of the task runs.

        Raises:
            PauseProcessError: it has failed or ended, and the container with it.
        """
        assert self._sock is not None
        answer = b""
        try:
            with trio.move_on_after(TIMEOUT_S) as scope:
                answer = await self._sock.recv(4096)
        except OSError as exc:
            raise PauseProcessError(f"it has ended: {exc.strerror}") from exc
        if scope.cancelled_caught:
            raise PauseProcessError(f"no answer in {TIMEOUT_S:g} s")
        if answer:
            raise PauseProcessError(answer.decode(errors="replace"))
        self._reaper.reap()
        if self._child.status is not None:
            raise PauseProcessError(f"it has ended: {self._child.status}")
        self._let_go()

    def kill(self) -> None:
        """Send it SIGKILL, with which the kernel ends all of the container."""
        with contextlib.suppress(ProcessLookupError):
            self._child.signal(signal.SIGKILL)
            self._killed = True

    async def end(self) -> WaitStatus | None:
        """Return once it has ended, killed if need be; to be called when the container has.

        Returns:
            How it ended when that was not as it should be: neither with the application, nor
            by `kill`.
        """
        self._let_go()
        status = None
        with trio.CancelScope(shield=True):
            if self._waits:
                with trio.move_on_after(ENDED_S):
                    status = await self._child.wait()
            if status is None:
                self.kill()
                with trio.move_on_after(TIMEOUT_S):
                    status = await self._child.wait()
        return None if self._killed or status in (None, WaitStatus(0, 0)) else status

    def _let_go(self) -> None:
        if self._sock is not None:
            self._sock.close()
            os.close(self.namespace)
            self._sock = None


# ---- in the child: system calls alone, and no way back ------------------------------------


def _fork(child: Callable[[], NoReturn]) -> int:
    """Run ``child`` as process 1 of a new PID namespace, and return its id; raises OSError."""
    own = open_pid_namespace()
    try:
        _call("unshare", CLONE_NEWPID)  # for the next child
        try:
            return fork(child)
        finally:
            enter_namespace(own, CLONE_NEWPID)  # for those that follow
    finally:
        os.close(own)


def _fork_apart(child: Callable[[], NoReturn]) -> int:
    """Do the same by a process in between, which is the one that cannot return."""
    reader, writer = os.pipe2(os.O_CLOEXEC)

    def between() -> None:
        try:
            _call("unshare", CLONE_NEWPID)
            if (pid := os.fork()) == 0:
                child()
            answer = str(pid)
        except OSError as exc:
            answer = f"-{exc.errno}"
        os.write(writer, answer.encode())
        os._exit(0)

    try:
        try:
            helper = fork(between)
        finally:
            os.close(writer)
        answer = int(os.read(reader, 64) or b"-1")
        os.waitpid(helper, 0)
    finally:
        os.close(reader)
    if answer < 0:
        raise OSError(-answer, os.strerror(-answer))
    return answer


def _pause(
    sock: socket.socket, state_dir: str, network: Network, program: bytes, *, alone: bool
) -> NoReturn:
    """Be the pause process, and tell the task process of what fails."""
    try:
        # While crun is still to come, which would wait for the same, as would the task process.
        hasten_moves()
        _leave_parent(sock.fileno())
        keeps_groups = alone and groups_are_kept()  # asked while there is a /proc
        executable = _leave_host(state_dir, network, program)
        data, ancillary, _, _ = sock.recvmsg(16, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
        if not data:
            os._exit(0)  # without a container
        with contextlib.suppress(OSError):  # Linux before 4.6
            _call("unshare", CLONE_NEWCGROUP)
        _drop_privileges(keeps_groups=keeps_groups, alone=alone)
        # Without a pidfd something that never becomes readable: its other end stays open here.
        pidfds = passed_descriptors(ancillary) or os.pipe()
        os.dup2(pidfds[0], 0)
        os.set_inheritable(pidfds[-1], len(pidfds) > 1)
        for standard in (1, 2):
            os.set_inheritable(standard, False)
        os.execve(executable, [pause_program.NAME, state_dir], {})  # noqa: S606
    except BaseException as exc:
        with contextlib.suppress(OSError):
            sock.send(str(exc).encode(errors="replace"))
    os._exit(1)


def _leave_parent(keep: int) -> None:
    """Let go of what the task process has given: descriptors, handlers, session and name."""
    reset_signals()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps, also after the exec
    set_process_name(pause_program.NAME)
    os.setsid()
    for fd in open_descriptors():
        if fd > 2 and fd != keep:
            with contextlib.suppress(OSError):
                os.close(fd)  # one of them is the listing's own, closed by now


def _leave_host(place: str, network: Network, program: bytes) -> int:
    """Go to namespaces with nothing in them, and return a descriptor of the executable.

    That is the one file which ever was in the new root. ``place`` is a directory to begin at.
    Of network namespaces there is no other where the container has the host's own or a group's:
    each takes 160 KiB (measured).
    """
    if network.mode == "group":
        group = os.open(network.namespace_path, os.O_RDONLY | os.O_CLOEXEC)
        enter_namespace(group, CLONE_NEWNET)
        os.close(group)
    alone = CLONE_NEWNET if network.mode == "none" else 0
    _call("unshare", CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | alone)
    _mount(b"none", b"/", b"", MS_REC | MS_PRIVATE)
    flags = MS_NOSUID | MS_NODEV
    _mount(b"milo-pause", os.fsencode(place), b"tmpfs", flags, ROOT_OPTIONS)
    os.chdir(place)
    file = os.open(pause_program.NAME, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC)
    os.write(file, program)
    os.fchmod(file, PROGRAM_MODE)
    os.close(file)  # what is open for writing cannot be executed
    executable = os.open(pause_program.NAME, os.O_PATH | os.O_CLOEXEC)
    os.unlink(pause_program.NAME)
    _call("pivot_root", b".", b".")
    _call("umount2", b".", MNT_DETACH)
    os.chdir("/")
    _mount(b"", b"/", b"", MS_REMOUNT | MS_BIND | MS_RDONLY | flags)
    return executable


def _drop_privileges(*, keeps_groups: bool, alone: bool) -> None:
    """Give up all that there is; ``alone``: there may be no other user to become."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if not keeps_groups:
        os.setgroups(())
    with contextlib.suppress(OSError):
        for capability in range(64):  # until there is no such
            prctl(PR_CAPBSET_DROP, capability)
    # An agent in a user namespace has not so many ids, an ordinary user perhaps his own alone.
    if not (_become(PAUSE_ID) or _become(NOBODY) or alone):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    with contextlib.suppress(OSError):  # Linux before 4.3
        prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    set_capabilities(0)
    prctl(PR_SET_NO_NEW_PRIVS, 1)


def _become(number: int) -> bool:
    """Take an id as user and group; False where the user namespace has no such."""
    try:
        os.setresgid(number, number, number)
        os.setresuid(number, number, number)
    except OSError as exc:
        if exc.errno != errno.EINVAL:
            raise
        return False
    return True


def _mount(source: bytes, target: bytes, kind: bytes, flags: int, data: bytes = b"") -> None:
    _call("mount", source, target, kind, ctypes.c_ulong(flags), data)


def _call(name: str, *arguments: object) -> None:
    """Call a function of the C library that returns 0 or sets errno; raises OSError."""
    if getattr(_libc, name)(*arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
