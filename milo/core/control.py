"""The control protocol between a task process and its clients (driver, ``milo ps``).

Each task has one unix socket of the type SEQPACKET, so that one packet is one message and
descriptors arrive with their message. Each message is a JSON object with the key ``type``. The
client sends `Hello` first. The task process answers `Welcome`, and from then on sends events to
clients of the role ``driver``. Unknown keys are ignored; an unknown type is answered with an
error.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from milo.core.java.jvm_figures import JvmFigures
from milo.core.records import ExitRecord, Int32, Int64, ProcessId, StreamCounters
from milo.errors import ControlError

PROTOCOL_VERSION: Final = 1
MAX_MESSAGE_BYTES: Final = 64 * 1024
MAX_TEXT_CHARS: Final = 8 * 1024
"""Error texts are cut to this, so that a message always fits."""

Signal = Annotated[int, msgspec.Meta(ge=1, le=64)]
"""A signal's number; 64 is Linux's SIGRTMAX, signal(7)."""
StopSignal = Annotated[int, msgspec.Meta(ge=0, le=64)]
"""A signal's number, or `milo.core.signals.NO_SIGNAL`."""

ROLE_DRIVER: Final = "driver"
ROLE_OBSERVER: Final = "observer"
ROLE_EXEC: Final = "exec"
"""A connection for one command in the container: it ends with the connection, and hears of
nothing else."""


class Message(msgspec.Struct, frozen=True, tag_field="type", kw_only=True):
    """Base of all messages."""


# ---- from the client -----------------------------------------------------------------


class Hello(Message, frozen=True, tag="hello"):
    """The first message of a client."""

    version: Int32
    role: str
    keepers: bool = False
    """Whether the client, should it start a successor, takes the lock for that. No older Milo's
    does: beside such a driver a task has no keeper."""


class GetStatus(Message, frozen=True, tag="status"):
    """Ask for a `Status`."""

    seq: Int64
    figures: bool = False
    """Whether the JVM's figures are wanted too; an older Milo's task process gives none."""


class Stop(Message, frozen=True, tag="stop"):
    """Send ``signal``, and SIGKILL to the whole container ``timeout_s`` later."""

    seq: Int64
    signal: StopSignal
    timeout_s: float


class Kill(Message, frozen=True, tag="signal"):
    """Send ``signal`` to the application; no ladder."""

    seq: Int64
    signal: Signal


class GetDescriptors(Message, frozen=True, tag="descriptors"):
    """Ask for duplicates of the pipes' read ends and the FIFOs' write ends (SCM_RIGHTS)."""

    seq: Int64


class Exec(Message, frozen=True, tag="exec"):
    """Run a command in the container; the one request of a client of role ``exec``.

    Three descriptors come with it (SCM_RIGHTS): its standard input, output and error; none with
    ``tty``, where the answer brings the terminal's other end. A command line that is too long for
    a message comes in one more descriptor, the last, of a sealed memfd.
    """

    argv: tuple[str, ...]
    """Empty: what the memfd holds, each word with a NUL behind it."""
    tty: bool = False


class Keep(Message, frozen=True, tag="keep"):
    """Be kept by another process from now on: see `milo.task.keeper`.

    Its channel comes with the request (SCM_RIGHTS). It is answered by `Done`. A task process of an
    older Milo, whose `Welcome` names no keeper, does not know it.
    """

    seq: Int64
    pid: Int32
    """The keeper's."""


Request = Hello | GetStatus | Stop | Kill | GetDescriptors | Keep | Exec

# ---- from the task process -----------------------------------------------------------


class Welcome(Message, frozen=True, tag="welcome"):
    """The answer to `Hello`."""

    version: Int32
    supervisor: ProcessId
    long_commands: bool = False
    """Whether an `Exec` may come without its words. No older Milo says so."""
    keeper: Int32 | None = None
    """The process that forks a successor unasked, 0 where there is none; None: an older Milo's
    task process, which can have none."""


class Started(Message, frozen=True, tag="started"):
    """The application runs."""

    container: ProcessId
    container_id: str
    cgroup_path: str
    started_at_s: float
    timings_s: dict[str, float] = {}


class StartFailed(Message, frozen=True, tag="start_failed"):
    """The application never ran; the task process ends after this."""

    text: str
    recoverable: bool


class Exited(Message, frozen=True, tag="exited"):
    """The container is gone and its output delivered; the task process ends after this."""

    record: ExitRecord


class DescriptorsChanged(Message, frozen=True, tag="descriptors_changed"):
    """A driver that keeps duplicates of the descriptors should ask for them again."""


class Event(Message, frozen=True, tag="event"):
    """Something that the user of the task should see in ``nomad alloc status``."""

    text: str
    at_s: float


class Log(Message, frozen=True, tag="log"):
    """A line for the driver's log."""

    level: str
    text: str
    fields: dict[str, str] = {}
    at_s: float = 0.0
    """When it was said, since the epoch; 0 by an older Milo's task process."""


class Status(Message, frozen=True, tag="status_reply"):
    """The answer to `GetStatus`."""

    seq: int
    phase: str
    stdout: StreamCounters
    stderr: StreamCounters
    jvm: JvmFigures | None = None
    """Only where they were asked for, and there are any."""


class Descriptors(Message, frozen=True, tag="descriptors_reply"):
    """The answer to `GetDescriptors`: ``names`` says what each passed descriptor is."""

    seq: int
    names: tuple[str, ...]


class Done(Message, frozen=True, tag="done"):
    """The answer to `Stop` (accepted, not finished), `Kill` and `Keep`; no error is success."""

    seq: int
    error: str = ""


class ExecStarted(Message, frozen=True, tag="exec_started"):
    """The command runs."""

    process: ProcessId


class ExecEnded(Message, frozen=True, tag="exec_ended"):
    """The command has ended, or could not be run: then ``error`` says why.

    Without a process the exit code is a shell's: 127 not found, 126 not executable.
    """

    exit_code: int
    signal: int = 0
    error: str = ""


Notice = (
    Welcome
    | Started
    | StartFailed
    | Exited
    | DescriptorsChanged
    | Event
    | Log
    | Status
    | Descriptors
    | Done
    | ExecStarted
    | ExecEnded
)

_requests: Final = msgspec.json.Decoder(Request)
_notices: Final = msgspec.json.Decoder(Notice)


def encode(message: Message) -> bytes:
    """Return the packet of a message.

    Raises:
        ControlError: it is larger than `MAX_MESSAGE_BYTES`, or holds what JSON cannot.
    """
    try:
        packet = msgspec.json.encode(message)
    except (UnicodeEncodeError, OverflowError) as exc:
        raise ControlError(f"A control message cannot be encoded: {exc}") from exc
    if len(packet) > MAX_MESSAGE_BYTES:
        raise ControlError(
            f"A control message of {len(packet)} bytes is over the limit of {MAX_MESSAGE_BYTES}"
        )
    return packet


def fits(message: Message) -> bool:
    """Whether `encode` has no objection to the size of ``message``."""
    try:
        encode(message)
    except ControlError:
        return False
    return True


def decode_request(packet: bytes) -> Request:
    """Return the request in ``packet``; raises `ControlError` when it is none."""
    try:
        request: Request = _requests.decode(packet)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise ControlError(f"Not a request of the control protocol: {exc}") from exc
    return request


def decode_notice(packet: bytes) -> Notice:
    """Return the notice in ``packet``; raises `ControlError` when it is none."""
    try:
        notice: Notice = _notices.decode(packet)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise ControlError(f"Not a message of a task process: {exc}") from exc
    return notice


def cut(text: str) -> str:
    """Return ``text``, shortened to what fits into a message, and of valid characters.

    The name of a file, which comes from an artifact, may be no valid UTF-8.
    """
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= MAX_TEXT_CHARS else text[: MAX_TEXT_CHARS - 1] + "…"
