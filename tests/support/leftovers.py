"""What a run left behind that it should not have: processes, mounts, cgroups and files."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from milo.cli.run_name import LOCKS
from milo.core.container.pause_program import NAME
from tests.support.private_mounts import HYBRID_MOUNT
from tests.support.waiting import scaled

KILL_S = 10.0


def runs_in(directory: Path | str) -> list[str]:
    """Return the directories of runs; what holds their names stays."""
    return [str(path) for path in Path(directory).iterdir() if path.name != LOCKS]


def processes(base: Path) -> list[str]:
    """Return a line for each process that works below ``base``, but for this one.

    It counts when its command line, environment, working directory, a descriptor or the
    source of a mount in its namespace lies there. A pause process has none of these but its
    command line, and not even that before it has become one: it counts when its parent has gone.
    """
    needle, found = os.fsencode(base), []
    own = (os.getpid(), os.readlink(b"/proc/self/ns/mnt"))
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        if pid == own[0]:
            continue
        place = b"/proc/%d" % pid
        try:
            used = _uses(place, needle, own[1])
            name = _read(place + b"/comm").decode(errors="replace").strip()
            if not used and name != NAME:
                continue
            words = _read(place + b"/cmdline").replace(b"\0", b" ").decode(errors="replace")
            if name == NAME and not words.startswith(NAME) and _parent(place) == 1:
                used = "an unfinished pause process"
        except OSError:
            continue
        if used:
            found.append(f"process {pid} {name} ({used}): {words[:200]}")
    return found


def staying(base: Path, patience_s: float = KILL_S) -> list[str]:
    """Return `processes`, but for those that end within ``patience_s`` seconds.

    A task process has the lock of its state directory until it has ended, which is after it has
    told how the task did; under coverage it has a file to write then.
    """
    return lasting(lambda: processes(base), patience_s)


def lasting(look: Callable[[], list[str]], patience_s: float = KILL_S) -> list[str]:
    """Return what ``look`` finds: nothing, or what is still there after ``patience_s`` seconds."""
    until_s = time.monotonic() + scaled(patience_s)
    while True:
        began_s = time.monotonic()
        if not (lines := look()) or (now_s := time.monotonic()) > until_s:
            return lines
        # What is to end needs the processor as well.
        time.sleep(max(0.02, now_s - began_s))


def kill(base: Path) -> None:
    """End every process that works below ``base``, but this one: for a run that has failed.

    Again for those that another one has made meanwhile.
    """
    until_s = time.monotonic() + KILL_S
    while (lines := processes(base)) and time.monotonic() < until_s:
        for line in lines:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(line.split()[1]), signal.SIGKILL)
        time.sleep(0.05)


def _parent(place: bytes) -> int:
    return int(_read(place + b"/stat").rpartition(b")")[2].split()[1])


def _uses(place: bytes, needle: bytes, own_mounts: bytes) -> str:
    # Without Path: each test looks at all processes, and most of that would be to make paths.
    for name in ("cmdline", "environ"):
        if needle in _read(b"%b/%b" % (place, name.encode())):
            return name
    if needle in os.readlink(place + b"/cwd"):
        return "cwd"
    for descriptor in os.listdir(place + b"/fd"):
        if needle in os.readlink(b"%b/fd/%b" % (place, descriptor)):
            return f"fd {descriptor.decode()}"
    if os.readlink(place + b"/ns/mnt") != own_mounts and needle in _read(place + b"/mountinfo"):
        return "mounts"
    return ""


def _read(path: bytes) -> bytes:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        pieces = []
        while piece := os.read(file, 1 << 16):
            pieces.append(piece)
        return b"".join(pieces)
    finally:
        os.close(file)


def mounts(base: Path) -> list[str]:
    """Return a line for each mount of this namespace on or from below ``base``."""
    table = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    return [f"mount {line}" for line in table.splitlines() if str(base) in line]


def mount_points(base: Path) -> list[str]:
    """Return the mount points of this namespace below ``base``, the innermost first."""
    table = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    points = [line.split()[4] for line in table.splitlines()]
    return sorted((point for point in points if point.startswith(f"{base}/")), reverse=True)


def cgroups(names: Iterable[str]) -> list[str]:
    """Return a line for each cgroup whose path contains one of ``names``."""
    wanted = list(names)
    return [f"cgroup {path}" for path in _cgroups() if any(name in path for name in wanted)]


def remove_cgroups(names: Iterable[str]) -> None:
    """Remove the cgroups whose path contains one of ``names``; who is in them is ending."""
    wanted, until_s = list(names), time.monotonic() + KILL_S
    while (lines := cgroups(wanted)) and time.monotonic() < until_s:
        for line in sorted(lines, reverse=True):
            # The files of a real one stay until it goes; what stands in for one has others.
            shutil.rmtree(line.removeprefix("cgroup "), ignore_errors=True)
        time.sleep(0.05)


def _cgroups() -> Iterator[str]:
    """Yield every cgroup of every hierarchy that is mounted in this namespace."""
    for line in Path("/proc/self/mounts").read_text(errors="surrogateescape").splitlines():
        _, top, kind, *_ = line.split()
        # The second is what stands in for a hybrid host's v2 (see `private_mounts`).
        if kind in ("cgroup", "cgroup2") or top == HYBRID_MOUNT:
            for path, _, _ in os.walk(top):
                yield path


def files(state_dir: Path) -> list[str]:
    """Return a line for each file below a plugin's state directory, but for exit records.

    Those outlive a task on purpose: the driver removes them once their allocation is gone.
    """
    return [
        f"file {path}"
        for path in sorted(state_dir.rglob("*"))
        if path.name != "exit.json" and not path.is_dir()
    ]
