"""The only module that reads /proc and /sys, and prctl(2). Linux only.

Tenants choose some of what stands there (names of processes, targets of descriptors, mounts), and
it may contain any byte. So it is read as bytes and within bounds, split only at the line feeds
that the kernel writes, and the kernel's escapes are decoded before it becomes text.
``str.splitlines`` is not used, because it also splits at other characters.

The driver and the task process both use it, because they may not import each other. For the files
of cgroups see `milo.cgroup_files`.
"""

from __future__ import annotations

import contextlib
import ctypes
import glob
import os
import re
import resource
import signal
import struct
import sys
from collections.abc import Iterator
from typing import Final

import attrs

from milo.core.records import ProcessId

if sys.platform != "linux":  # pragma: no cover
    raise ImportError("Milo runs on Linux only")

PR_SET_PDEATHSIG: Final = 1
PR_GET_PDEATHSIG: Final = 2
PR_SET_NAME: Final = 15
PR_SET_CHILD_SUBREAPER: Final = 36
CLONE_NEWNET: Final = 0x40000000
"""linux/sched.h"""
CAPABILITY_VERSION_3: Final = 0x20080522
"""linux/capability.h"""
IN_MODIFY: Final = 0x2
IN_OPEN: Final = 0x20
"""sys/inotify.h"""

TCP_LISTEN: Final = "0A"
"""include/net/tcp_states.h, as /proc/net/tcp writes it."""

MAX_FILE_BYTES: Final = 1 << 20
MAX_MOUNTINFO_BYTES: Final = 16 << 20
"""100,000 mounts, which is what sysctl fs.mount-max permits, have some 15 MiB."""
CHUNK_BYTES: Final = 1 << 16

_ESCAPE: Final = re.compile(rb"\\([0-3][0-7]{2})")

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> int:
    """Return what a function of the C library did; raises OSError when it says -1."""
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def prctl(option: int, argument: int | bytes) -> None:
    """Call prctl(2) with one argument; raises OSError."""
    _checked(_libc.prctl(option, argument, 0, 0, 0))


def enter_namespace(fd: int, kind: int) -> None:
    """Move the calling thread, and no other, to a namespace; setns(2). Raises OSError."""
    _checked(_libc.setns(fd, kind))


def become_subreaper() -> None:
    """Let orphaned descendants become this process's children (Linux 3.4 and later)."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)


def die_with(parent: int, number: int = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal as soon as ``parent`` has ended, perhaps now.

    ``parent`` is who made it: more exactly, the kernel looks at that one's thread.
    """
    prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def death_signal() -> int:
    """Return the signal of `die_with`; 0 without one. The kernel forgets it with the user."""
    _checked(_libc.prctl(PR_GET_PDEATHSIG, ctypes.byref(number := ctypes.c_int()), 0, 0, 0))
    return number.value


def set_process_name(name: str) -> None:
    """Set the name that ps and pgrep show; the kernel keeps 15 bytes of it."""
    prctl(PR_SET_NAME, name.encode())


# ---- files of the kernel's


def read(path: str, limit_bytes: int = MAX_FILE_BYTES) -> bytes | None:
    """Return what a file of the kernel's says, or None where that is nothing.

    None when there is no such file, the process or device that it tells of has gone, or the
    kernel refuses. What is longer than ``limit_bytes`` is cut after the last line that fits.
    """
    data = b""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            while len(data) <= limit_bytes and (part := os.read(fd, CHUNK_BYTES)):
                data += part
        finally:
            os.close(fd)
    except OSError:
        return None
    return data if len(data) <= limit_bytes else data[: data.rfind(b"\n", 0, limit_bytes) + 1]


def write(path: str, text: str) -> None:
    """Write to a file of the kernel's, all of ``text`` at once. Raises OSError with its path."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    except OSError as exc:
        raise OSError(exc.errno, exc.strerror, path) from exc
    finally:
        os.close(fd)


def open_notices(path: str, kinds: int) -> int:
    """Return a descriptor that becomes readable when such a thing happens to a file; inotify(7).

    Of the kernel's own files few tell of it: cgroup v2's ``memory.events`` does, by `IN_MODIFY`.
    Raises OSError.
    """
    fd = _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    try:
        _checked(_libc.inotify_add_watch(fd, os.fsencode(path), kinds))
    except OSError:
        os.close(fd)
        raise
    return fd


def lines(data: bytes | None) -> list[bytes]:
    """Return the lines of what `read` returned, without their line feeds."""
    return data.removesuffix(b"\n").split(b"\n") if data else []


# ---- processes


def pids() -> list[int]:
    """Return the ids of all processes."""
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def start_ticks(pid: int) -> int | None:
    """Return when ``pid`` started, in clock ticks since boot, or None when it does not run.

    A process and its start time together name one process for ever; field 22 of
    /proc/<pid>/stat. A zombie does not run.
    """
    fields = stat_fields(pid)
    return None if not fields or fields[0] in (b"Z", b"X") else int(fields[19])


def identify(pid: int) -> ProcessId | None:
    """Return the identity of the process ``pid``, or None when it does not run."""
    ticks = start_ticks(pid)
    return None if ticks is None else ProcessId(pid, ticks)


def this_process() -> ProcessId:
    """Return the identity of the calling process."""
    return ProcessId(os.getpid(), start_ticks(os.getpid()) or 0)


def lives(process: ProcessId | None) -> bool:
    """Whether this very process runs, and not a later one with its number; None does not."""
    return process is not None and start_ticks(process.pid) == process.start_ticks


def comm(pid: int) -> bytes:
    """Return the name of a process, which itself chooses it; empty when that has gone."""
    return (read(f"/proc/{pid}/comm") or b"").removesuffix(b"\n")


def command_line(pid: int) -> list[bytes]:
    """Return the words of a process's command line, as it shows them; none when it has gone."""
    return (read(f"/proc/{pid}/cmdline") or b"").split(b"\0")[:-1]


def thread_names(pid: int) -> Iterator[bytes]:
    """Yield the names of a process's threads, which it chooses itself; none when it has gone."""
    with contextlib.suppress(OSError), os.scandir(f"/proc/{pid}/task") as threads:
        for thread in threads:
            yield (read(f"{thread.path}/comm") or b"").removesuffix(b"\n")


def mapped_files(pid: int, limit_bytes: int = MAX_FILE_BYTES) -> bytes:
    """Return the beginning of /proc/<pid>/maps, to be searched for a file's name.

    Not to be taken apart: the kernel escapes no backslash in it, so that a name can be forged.
    """
    return read(f"/proc/{pid}/maps", limit_bytes) or b""


def listening_users(port: int) -> set[int]:
    """Return the users of all who listen at a TCP port, at whatever address of this host.

    A host of very many connections may have more than is looked at.
    """
    found = set()
    for name in ("tcp", "tcp6"):
        table = read(f"/proc/net/{name}") or b""
        for line in table.decode("ascii", "replace").splitlines()[1:]:
            fields = line.split()
            if len(fields) < 8 or fields[3] != TCP_LISTEN:
                continue
            if int(fields[1].rpartition(":")[2], 16) == port:
                found.add(int(fields[7]))
    return found


def parent(pid: int) -> int | None:
    """Return the parent of ``pid``, or None when that has gone; field 4 of /proc/<pid>/stat."""
    fields = stat_fields(pid)
    return int(fields[1]) if fields else None


def children(pid: int) -> list[int]:
    """Return the children of ``pid``. Looks through all of /proc, some 10 ms on a busy host."""
    return [found for found in pids() if parent(found) == pid]


def session(pid: int) -> int | None:
    """Return the session of ``pid``, or None when that has gone; getsid(2)."""
    try:
        return os.getsid(pid)
    except OSError:
        return None


def root(pid: int) -> str:
    """Return a path that leads to the root directory of ``pid``, in its mount namespace."""
    return f"/proc/{pid}/root"


def times_and_memory(pid: int) -> tuple[int, int, int]:
    """Return clock ticks in user and kernel mode, its ended children's too, and resident pages."""
    fields = stat_fields(pid)
    if not fields:
        return 0, 0, 0
    user, system, ended_user, ended_system = (int(field) for field in fields[11:15])
    return user + ended_user, system + ended_system, int(fields[21])


def open_pid_namespace(pid: int | str = "self") -> int:
    """Return a descriptor of the PID namespace that ``pid`` is in. Raises OSError."""
    return os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)


def work_dir(pid: int) -> str:
    """Return a path that leads to the working directory of ``pid``, wherever that is."""
    return f"/proc/{pid}/cwd"


def address_space_bytes() -> int:
    """Return the size of this process's address space, which RLIMIT_AS limits; proc(5)."""
    pages = int((read("/proc/self/statm") or b"0").split()[0])
    return pages * resource.getpagesize()


def set_oom_score_adj(pid: int, score: int) -> None:
    """Say how soon the OOM killer takes ``pid``, from -1000, never, to 1000. Raises OSError."""
    write(f"/proc/{pid}/oom_score_adj", str(score))


def stat_fields(pid: int) -> list[bytes]:
    """Return the fields of /proc/<pid>/stat from the third on; none when ``pid`` has gone.

    The second is the name in parentheses, which may hold blanks, parentheses and line feeds.
    """
    data = read(f"/proc/{pid}/stat") or b""
    return data[data.rindex(b")") + 2 :].split() if data else []


def trusted_users() -> tuple[int, ...]:
    """Return whom this process believes: root, and its own user."""
    return (0, os.geteuid())


# ---- descriptors


def descriptors(pid: int | str = "self") -> Iterator[tuple[str, str]]:
    """Yield each descriptor of a process: a path that opens the same, and what it names."""
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            path = f"/proc/{pid}/fd/{name}"
            with contextlib.suppress(OSError):
                yield path, os.readlink(path)


def open_descriptors() -> list[int]:
    """Return the descriptors that this process has open, and one that was open for looking."""
    return [int(name) for name in os.listdir("/proc/self/fd")]


def descriptor_path(fd: int) -> str:
    """Return a path that leads to what ``fd``, a descriptor of this process, has open."""
    return f"/proc/self/fd/{fd}"


def reopen(fd: int, flags: int) -> int:
    """Open anew what ``fd`` has open, which may be an O_PATH descriptor. Raises OSError."""
    return os.open(descriptor_path(fd), flags | os.O_CLOEXEC)


def unified_cgroup() -> str:
    """Return the v2 cgroup of this process, relative to the hierarchy's root; cgroups(7)."""
    for line in lines(read("/proc/self/cgroup")):
        if line.startswith(b"0::"):
            return os.fsdecode(line[3:])
    return ""


# ---- capabilities


def effective_capabilities() -> int:
    """Return the capabilities that this process has, as a bit mask; capabilities(7)."""
    return int(status_field(b"CapEff") or b"0", 16)


def bounding_capabilities() -> int:
    """Return the capabilities that this process and its children can ever have."""
    return int(status_field(b"CapBnd") or b"0", 16)


def has_capability(number: int) -> bool:
    """Whether this process effectively has a capability."""
    return bool(effective_capabilities() >> number & 1)


def number_inside(pid: int) -> int:
    """Return the number that a process has in its own PID namespace; 0 when it has gone."""
    found = status_field(b"NSpid", pid)
    return int(found.split()[-1]) if found else 0


def set_capabilities(mask: int) -> None:
    """Have just the capabilities of a bit mask, which this process has to have; capset(2).

    They are effective and permitted, and no program inherits them. Raises OSError.
    """
    low, high = mask & 0xFFFF_FFFF, mask >> 32
    header = struct.pack("=II", CAPABILITY_VERSION_3, 0)
    _checked(_libc.capset(header, struct.pack("=6I", low, low, 0, high, high, 0)))


def use_capabilities(mask: int | None) -> None:
    """Use just the capabilities of a bit mask, of those that this process has; None: all of them.

    It keeps them: capset(2). Raises OSError.
    """
    header, sets = struct.pack("=II", CAPABILITY_VERSION_3, 0), ctypes.create_string_buffer(24)
    _checked(_libc.capget(header, sets))
    _, low, low_inherited, _, high, high_inherited = struct.unpack("=6I", sets)
    used = (low | high << 32) & (-1 if mask is None else mask)
    new = (used & 0xFFFF_FFFF, low, low_inherited, used >> 32, high, high_inherited)
    _checked(_libc.capset(header, struct.pack("=6I", *new)))


def status_field(name: bytes, pid: int | str = "self") -> bytes | None:
    """Return a field of /proc/<pid>/status, of whose values the kernel escapes the line feeds."""
    for line in lines(read(f"/proc/{pid}/status")):
        key, _, value = line.partition(b":")
        if key == name:
            return value.strip()
    return None


# ---- mounts


@attrs.frozen
class Mount:
    """One mount, as /proc/<pid>/mountinfo tells of it; proc(5)."""

    device: str
    """``major:minor``."""
    root: str
    """What of the file system is mounted."""
    point: str
    options: tuple[str, ...]
    kind: str
    """The type of the file system."""
    super_options: tuple[str, ...]


def mounts(pid: int | str = "self") -> list[Mount]:
    """Return the mounts that a process sees, those on top last; none when it is gone."""
    return parse_mountinfo(read(f"/proc/{pid}/mountinfo", MAX_MOUNTINFO_BYTES))


def parse_mountinfo(data: bytes | None) -> list[Mount]:
    """Return the mounts in a file of the form of /proc/<pid>/mountinfo."""
    found = []
    for line in lines(data):
        fields = line.split(b" ")
        # The sixth and what follows up to a lone hyphen are optional fields.
        after = fields.index(b"-", 6) if b"-" in fields[6:] else len(fields)
        if len(fields) < after + 4:
            continue
        device, top, point, options = map(_unescaped, fields[2:6])
        kind, super_options = _unescaped(fields[after + 1]), _unescaped(fields[after + 3])
        found.append(
            Mount(
                device, top, point, tuple(options.split(",")), kind, tuple(super_options.split(","))
            )
        )
    return found


def _unescaped(field: bytes) -> str:
    r"""Undo the kernel's octal escapes, such as ``\040`` for a blank, among whatever bytes."""
    if b"\\" in field:
        field = _ESCAPE.sub(lambda octal: bytes([int(octal[1], 8)]), field)
    return os.fsdecode(field)


# ---- the host


def uid_map() -> str:
    """Return how the user ids of this process are mapped; user_namespaces(7)."""
    return os.fsdecode(read("/proc/self/uid_map") or b"")


def oom_score_adj() -> int:
    """Return how soon the OOM killer takes this process, as `set_oom_score_adj` sets it."""
    return int(read("/proc/self/oom_score_adj") or b"0")


def sysctl(name: str) -> str:
    """Return a setting of the kernel's; empty where it has none of that name."""
    data = read(f"/proc/sys/{name.replace('.', '/')}")
    return os.fsdecode(data or b"").strip()


def max_user_namespaces() -> str:
    """Return the limit on user namespaces; empty where the kernel has none."""
    return os.fsdecode(read("/proc/sys/user/max_user_namespaces") or b"")


def max_open_files() -> int:
    """Return the highest limit on descriptors that any process may have."""
    return int(read("/proc/sys/fs/nr_open") or b"0")


def thermal_throttle_directories() -> tuple[str, ...]:
    """Return what tells of the load of others; docker and podman mask it since 2025."""
    return tuple(sorted(glob.glob("/sys/devices/system/cpu/cpu[0-9]*/thermal_throttle")))


def core_mhz(sysfs: str = "/sys/devices/system/cpu", cpuinfo: str = "/proc/cpuinfo") -> float:
    """Return the speed of one core, averaged over all, in MHz; 0 when nothing tells.

    Nomad takes base_frequency, else cpuinfo_max_freq (client/lib/numalib), both in kHz; virtual
    machines have neither, and then /proc/cpuinfo says how fast a core was just now.
    """
    speeds = []
    names = os.listdir(sysfs) if os.path.isdir(sysfs) else []
    for name in (name for name in names if re.fullmatch(r"cpu[0-9]+", name)):
        for file in ("base_frequency", "cpuinfo_max_freq"):
            khz = read(f"{sysfs}/{name}/cpufreq/{file}") or b""
            if khz.strip().isdigit() and int(khz):
                speeds.append(int(khz) / 1000)
                break
    if not speeds:
        text = read(cpuinfo, MAX_MOUNTINFO_BYTES) or b""
        speeds = [float(speed) for speed in re.findall(rb"(?m)^cpu MHz\s*:\s*([0-9.]+)$", text)]
    return sum(speeds) / len(speeds) if speeds else 0.0


def has_ipv6() -> bool:
    """Whether this process's network has IPv6."""
    return os.path.exists("/proc/net/if_inet6")


def network_table(name: str) -> list[list[bytes]]:
    """Return the fields of a table of the calling thread's network namespace; proc_net(5)."""
    return [line.split() for line in lines(read(f"/proc/thread-self/net/{name}")) if line]
