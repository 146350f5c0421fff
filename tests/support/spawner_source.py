"""Spawners for the tests' drivers, forked from one process that has everything imported.

A driver that is not a plugin's executes its spawner, which then imports for 0.15 s, and for three
times as long where coverage looks on; a plugin's own is forked. Hundreds of tests have a driver.
"""

from __future__ import annotations

import atexit
import os
import resource
import signal
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Final

from milo.host import spawner_client
from milo.spawner_process import SpawnerProcess
from milo.unix_sockets import passed_descriptors, passing

ROOT: Final = Path(__file__).parents[2]
CODE: Final = (
    "import sys; sys.path.insert(0, sys.argv[1]);"
    " from tests.support.spawner_source import serve; serve(int(sys.argv[2]))"
)
EXECUTED: Final = spawner_client.CODE
"""What a spawner runs if no test has changed that."""


class _Source:
    """The process that spawners are forked from; it ends with this one."""

    def __init__(self) -> None:
        self._sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            words = [sys.executable, "-I", "-c", CODE, str(ROOT), str(theirs.fileno())]
            env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
            if measuring := os.environ.get("COVERAGE_PROCESS_CONFIG"):
                env["COVERAGE_PROCESS_CONFIG"] = measuring
            self._process = subprocess.Popen(
                words, env=env, cwd="/", pass_fds=[theirs.fileno()], start_new_session=True
            )

    def fork(self) -> SpawnerProcess:
        """Return a spawner; raises AssertionError where there is no source any more."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._sock.sendmsg([b"fork"], passing([theirs.fileno()]))
        answer = self._sock.recv(100)
        assert answer, "the process that spawners are forked from has ended"
        return SpawnerProcess(int(answer), ours)

    def close(self) -> None:
        """End it, and wait for that."""
        self._sock.close()
        self._process.wait()


@cache
def _source(_inherited: tuple[object, ...]) -> _Source:
    source = _Source()
    atexit.register(source.close)
    return source


def spawner() -> SpawnerProcess | None:
    """Return a spawner as one that this process executes would be; None: execute it.

    That is so where a test changes what it runs.
    """
    if spawner_client.CODE != EXECUTED:
        return None
    return _source(_inherited()).fork()


def _inherited() -> tuple[object, ...]:
    """Return what a process has of the one that starts it, as far as it matters to a spawner."""
    limits = (getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_"))
    return (
        os.getpid(),
        *(os.readlink(f"/proc/self/ns/{one}") for one in sorted(os.listdir("/proc/self/ns"))),
        *(Path(f"/proc/self/{one}").read_text() for one in ("cgroup", "oom_score_adj")),
        *map(resource.getrlimit, limits),
        *(os.getresuid(), os.getresgid(), tuple(os.getgroups())),
        *(os.getpriority(os.PRIO_PROCESS, 0), tuple(sorted(os.sched_getaffinity(0)))),
    )


def serve(fd: int) -> None:
    """Be the source: fork a spawner for each socket that comes, until the other end is closed."""
    from milo.spawner import serve as be_spawner
    from milo.spawner import settle

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    settle()
    with socket.socket(fileno=fd) as sock:
        while True:
            request, ancillary, _, _ = sock.recvmsg(100, socket.CMSG_SPACE(4))
            if not request:
                return
            [theirs] = passed_descriptors(ancillary)
            if (pid := os.fork()) == 0:
                sock.close()
                be_spawner(socket.socket(fileno=theirs))
            os.close(theirs)
            sock.send(str(pid).encode())
