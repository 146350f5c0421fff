"""Which task processes are found by what the kernel shows of them."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from milo import proc
from milo.core.records import CONTROL_SOCKET
from milo.host.leftovers.traces import task_processes

HOLD = (
    "import sys; sys.path.insert(0, '.'); from milo import proc;"
    "proc.prctl(proc.PR_SET_NAME, {name!r}); print('ready', flush=True); sys.stdin.read()"
)


@contextlib.contextmanager
def holder(name: bytes, sock: socket.socket, *more: int) -> Iterator[int]:
    """Run a process with a name and a socket, and yield its id."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD.format(name=name)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=(sock.fileno(), *more),
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        try:
            yield process.pid
        finally:
            process.kill()


@pytest.fixture
def state_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state directory whose path is short enough for a socket's, and odd."""
    return tmp_path_factory.mktemp("ä\n b")


def bind(name: str | bytes) -> socket.socket:
    """Return a socket with an address."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.bind(name)
    return sock


def test_a_task_process_is_known_by_its_socket(state_dir: Path) -> None:
    """Also when its state directory has gone, with the log FIFOs that it has open."""
    directory = state_dir / "0123456789abcdef"
    directory.mkdir()
    path = directory / CONTROL_SOCKET
    fifo = state_dir / "fifo"
    os.mkfifo(fifo)
    opened = os.open(fifo, os.O_RDWR)
    with bind(str(path)) as sock, holder(b"milo-task", sock, opened) as pid:
        for _ in range(2):
            (found,) = task_processes(str(state_dir))
            assert found.identity == proc.identify(pid)
            assert (found.socket_path, found.fifos) == (str(path), (str(fifo),))
            shutil.rmtree(directory)
            directory.mkdir()
        assert list(task_processes(str(state_dir.parent))) == []
    os.close(opened)


@pytest.mark.parametrize("name", [b"milo-task\n", b"milo-task2", b"sh"])
def test_another_name_is_no_task_processes(name: bytes, state_dir: Path) -> None:
    """Only the whole name counts, and a line feed is a part of it."""
    (state_dir / "0123456789abcdef").mkdir()
    path = str(state_dir / "0123456789abcdef" / CONTROL_SOCKET)
    with bind(path) as sock, holder(name, sock):
        assert list(task_processes(str(state_dir))) == []


def test_an_abstract_name_gives_no_path(state_dir: Path) -> None:
    """Whatever lines a name makes in /proc/net/unix, for its own socket or for another one."""
    path = f"{state_dir}/0123456789abcdef/{CONTROL_SOCKET}"
    with bind(str(state_dir / "own")) as own:
        inode = os.fstat(own.fileno()).st_ino
        for name in (path, f"\n0: 2 0 10000 5 1 {inode} {path}"):
            with bind(f"\0{name}") as forged, holder(b"milo-task", own, forged.fileno()):
                assert list(task_processes(str(state_dir))) == []
