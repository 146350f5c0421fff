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

CNI_PLACES = ("/usr/lib/cni", "/opt/cni/bin")
CNI_PLUGINS = ("bridge", "firewall", "host-local", "loopback", "portmap", "ptp")
STATE_PLACES = ("/run/netns", "/var/lib/cni")
"""Where Nomad mounts network namespaces, and where CNI plugins note addresses in use."""


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


def cni_missing() -> str | None:
    """Return why no allocation can have a network of its own here, or None."""
    if reason := missing():
        return reason
    if shutil.which("iptables") is None:
        return "there is no iptables on PATH (./dev test installs it)"
    if cni_plugins() is None:
        return f"no CNI plugins in {' or '.join(CNI_PLACES)} (Debian: containernetworking-plugins)"
    tried = subprocess.run(
        ["unshare", "-n", "sh", "-ec", "ip link add name br0 type bridge; iptables -t nat -L"],
        capture_output=True,
        text=True,
    )
    if tried.returncode or not Path("/sys/module/bridge").exists():
        return f"the kernel has no bridges or no iptables: {tried.stderr.strip()}"
    return None


def cni_plugins() -> Path | None:
    """Return the directory that has all `CNI_PLUGINS`, or None."""
    for place in map(Path, CNI_PLACES):
        if all((place / name).exists() for name in CNI_PLUGINS):
            return place
    return None


@contextlib.contextmanager
def agents_network() -> Iterator[None]:
    """Be in a network of one's own, where an agent may make bridges, rules and namespaces."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(own_network())
        for place in STATE_PLACES:
            if not os.path.exists(place):
                os.makedirs(place)
                stack.callback(os.rmdir, place)
            stack.enter_context(private_mounts.small_tmpfs(Path(place)))
        yield
