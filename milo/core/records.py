"""The records of a task: the files in its state directory, and Nomad's task handle.

All of them are JSON with a version. A driver reads every version up to its own. Unknown keys are
ignored, so that a driver can read a newer Milo's record that has the same version number.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Final, TypeVar

import attrs
import msgspec

from milo.errors import NewerVersionError, StateError

RECORD_VERSION: Final = 1

TASK_FILE: Final = "task.json"
"""`TaskRecord`: who runs the task; rewritten when the container exists."""
LAUNCH_FILE: Final = "launch.json"
"""`milo.core.launch.Launch`: what to run."""
EXIT_FILE: Final = "exit.json"
"""`ExitRecord`: how it ended."""
CONTROL_SOCKET: Final = "control.sock"
LOG_FILE: Final = "task.log"
"""The task process's own messages, bounded."""
PREPARED_FILE: Final = "prepared.json"
"""`milo.task.preparer.Prepared`: what was decided about the task before its start."""
TIMELINE_FILE: Final = "timeline"
"""Which stream printed when; shared memory too, see `milo.core.timeline`."""
COUNTERS_FILE: Final = "counters"
"""How many bytes passed through the pumps; shared memory, see `milo.task.logs.byte_counts`."""
CRUN_LOG: Final = "crun.log"
PID_FILE: Final = "container.pid"

FIFO_SUFFIX: Final = ".fifo"
"""Ends the name of each FIFO among the descriptors that a driver keeps, as ``stdout.fifo``."""

SHORT_ID_CHARS: Final = 16

T = TypeVar("T")

Int32 = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]
"""What fits pid_t and a protocol buffer's int32: a record with more than that is damaged."""
Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


def short_id(task_id: str) -> str:
    """Return the name of a task's state directory and container: 16 hexadecimal digits.

    Nomad's ids (``<allocation>/<task>/<hash>``) have slashes and no bound on their length,
    while the path of a unix socket may not pass 107 bytes.
    """
    return hashlib.sha256(task_id.encode()).hexdigest()[:SHORT_ID_CHARS]


@attrs.frozen
class ProcessId:
    """A process that can be told from a later one with the same number."""

    pid: Int32
    start_ticks: Int64
    """Field 22 of /proc/<pid>/stat, in clock ticks since boot; proc(5)."""


@attrs.frozen
class SeenEnd:
    """How an application has ended, while its task process still has something to do."""

    exit_code: Int32
    signal: Int32
    at_s: float
    """Unix time."""


@attrs.frozen
class TaskRecord:
    """The identity of a running task."""

    task_id: str
    task_name: str
    alloc_id: str
    alloc_dir: str
    supervisor: ProcessId
    container: ProcessId | None = None
    container_id: str = ""
    cgroup_path: str = ""
    """As given to crun, relative to the hierarchy's root."""
    started_at_s: float = 0.0
    """Unix time; 0 while it has not started."""
    pipes: dict[str, Int64] = attrs.field(factory=dict)
    """Stream to the inode number of the container's pipe."""
    ended: SeenEnd | None = None
    """Written as it is seen: a successor knows it, which nothing tells how the container ended."""
    version: Int32 = RECORD_VERSION


@attrs.frozen
class StreamCounters:
    """What one pump has done so far."""

    bytes_moved: Int64 = 0
    bytes_dropped: Int64 = 0
    stalled_s: float = 0.0


@attrs.frozen
class MemoryPeak:
    """The memory of a container over its life; 0 is not known."""

    peak_bytes: Int64 = 0
    limit_bytes: Int64 = 0


@attrs.frozen
class LastFigures:
    """What a JVM had counted when it died, by its own account; None is not known.

    Of a JVM that ends at once nothing is known.
    """

    collector: str = ""
    heap_used_bytes: Int64 | None = None
    heap_committed_bytes: Int64 | None = None
    heap_max_bytes: Int64 | None = None
    metaspace_used_bytes: Int64 | None = None
    collections: Int64 | None = None
    collections_s: float | None = None
    threads: Int64 | None = None
    peak_threads: Int64 | None = None
    classes: Int64 | None = None


@attrs.frozen
class TaskNames:
    """Whose a task is. All are empty in what an older Milo has written, and the last three
    outside of Nomad."""

    task_name: str = ""
    alloc_id: str = ""
    job_name: str = ""
    group_name: str = ""
    alloc_name: str = ""
    """``job.group[index]``"""


@attrs.frozen
class ExitRecord:
    """How a task ended. It outlives what else there is of the task."""

    exit_code: Int32
    signal: Int32 = 0
    oom_killed: bool = False
    """The kernel has ended the application itself for memory."""
    oom_kills: Int32 = 0
    """How many processes of the container it has ended so, while that ran."""
    stop_killed: bool = False
    """The application was ended by the SIGKILL of a stop, or by one that was asked for."""
    stop_asked: bool = False
    """A stop had been asked for before it ended."""
    error: str = ""
    """Not empty: how it ended is not known, and why."""
    ended_at_s: float = 0.0
    """Unix time."""
    started_at_s: float = 0.0
    task_id: str = ""
    alloc_dir: str = ""
    stdout: StreamCounters = attrs.field(factory=StreamCounters)
    stderr: StreamCounters = attrs.field(factory=StreamCounters)
    memory: MemoryPeak = attrs.field(factory=MemoryPeak)
    crash: str = ""
    """What the JVM's own report of its crash says; see `milo.core.java.crash_report`."""
    java_oom: str = ""
    """The last OutOfMemoryError that the output named, as Java prints it; not the kernel's."""
    last_stderr_line: str = ""
    """The last line on standard error that is no stack frame, as far as Milo saw it."""
    recording: str = ""
    """What the paths of its flight recording begin with in the container; empty for none."""
    files: str = ""
    """What the paths of all that its JVM has written begin with there, unless its user chose."""
    figures: LastFigures = attrs.field(factory=LastFigures)
    thread_dump: bool = False
    """Whether the JVM was asked for its threads before the SIGKILL of a stop."""
    thread_dump_files: str = ""
    """What the files with them are called in the container; empty: they are in its log."""
    names: TaskNames = attrs.field(factory=TaskNames)
    version: Int32 = RECORD_VERSION

    @property
    def out_of_memory(self) -> bool:
        """What Nomad shows as OOM Killed: as with its own drivers, whomever the kernel has killed.

        But a SIGKILL of Milo's own is never told as the kernel's, whatever else it had killed.
        """
        return self.oom_killed or (self.oom_kills > 0 and not self.stop_killed)

    @property
    def successful(self) -> bool:
        """Whether the application itself ended with exit code 0."""
        return self.exit_code == 0 and self.signal == 0 and not self.error


@attrs.frozen
class Handle:
    """``TaskHandle.driver_state``: enough to find the task again after everything else died."""

    task_id: str
    state_dir: str
    supervisor: ProcessId
    container: ProcessId | None
    container_id: str
    started_at_s: float
    version: Int32 = RECORD_VERSION


class _Version(msgspec.Struct, frozen=True):
    """What is looked at first: the rest of a newer record may have any shape."""

    version: Int32 = RECORD_VERSION


def encode(record: object) -> bytes:
    """Return the JSON of a record."""
    return msgspec.json.encode(record)


def decode(data: bytes, kind: type[T], *, where: str) -> T:
    """Return the record that ``data`` holds.

    Raises:
        StateError: no JSON, wrong types, or no possible version.
        NewerVersionError: a version that this Milo does not know yet, whatever else it says.
    """
    try:
        version = msgspec.json.decode(data, type=_Version).version
        if version > RECORD_VERSION:
            raise NewerVersionError(where, version, RECORD_VERSION)
        if version < 1:
            raise StateError(where, f"it has version {version}, which no Milo has written")
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise StateError(where, f"it is no valid {kind.__name__}: {exc}") from exc
