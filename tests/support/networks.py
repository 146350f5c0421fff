"""Network namespaces for tests: nothing of the machine's own network is changed."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from milo.proc import CLONE_NEWNET, enter_namespace
from tests.support import private_mounts


def missing() -> str | None:
    """Return why network namespaces cannot be made here, or None."""
    for program in ("ip", "unshare", "nsenter"):
        if shutil.which(program) is None:
            return f"there is no {program} on PATH (Debian: iproute2, util-linux)"
    tried = subprocess.run(["unshare", "-n", "true"], capture_output=True, text=True)
    return None if tried.returncode == 0 else f"no network namespaces: {tried.stderr.strip()}"


@contextlib.contextmanager
def namespace(path: Path) -> Iterator[Path]:
    """Make an empty network namespace, held by a mount at ``path`` as Nomad holds its own.

    The mount is this process's and its children's alone.
    """
    private_mounts.enter()
    path.touch()
    subprocess.run(["unshare", f"--net={path}", "true"], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=False)


def inside(path: Path, *commands: str) -> None:
    """Run ``ip`` in the namespace at ``path``, once for each command's words."""
    for command in commands:
        subprocess.run(["nsenter", f"--net={path}", "--", "ip", *command.split()], check=True)


@contextlib.contextmanager
def own_network() -> Iterator[None]:
    """Move this thread, and what it starts meanwhile, to a network with only a loopback device."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        with subprocess.Popen(
            ["unshare", "-n", "sh", "-c", "ip link set lo up && echo up && read -r _"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as holder:
            assert holder.stdin is not None and holder.stdout is not None
            assert holder.stdout.readline() == b"up\n"
            fd = os.open(f"/proc/{holder.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            holder.stdin.close()
        try:
            enter_namespace(fd, CLONE_NEWNET)
        finally:
            os.close(fd)
        yield
    finally:
        enter_namespace(before, CLONE_NEWNET)
        os.close(before)


@contextlib.contextmanager
def in_place_of(path: str, content: Path) -> Iterator[None]:
    """Show ``content`` at the path of another file, to this process and its children alone."""
    private_mounts.enter()
    real = os.path.realpath(path)
    subprocess.run(["mount", "--bind", content, real], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", real], check=True)
