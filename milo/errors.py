"""Milo's exceptions.

Every exception has its data as attributes, so that callers need not read its text. ``str(error)``
is the sentence that a user of Nomad sees: what was wrong, what was expected and what to do.
"""

from __future__ import annotations

import enum


class MiloError(Exception):
    """Base of everything Milo raises on purpose.

    ``recoverable`` tells Nomad whether repeating StartTask may help: the restart policy
    applies to a recoverable error, while a fatal one fails the task at once.
    """

    recoverable = False


class ConfigError(MiloError):
    """A key of the task's or the plugin's configuration has a value that is not valid."""

    def __init__(self, key: str, problem: str, expected: str) -> None:
        self.key = key
        self.problem = problem
        self.expected = expected
        super().__init__(f"Error: Invalid value for {key}: {problem}. Expected {expected}.")


class ArtifactError(MiloError):
    """The application's JAR cannot be found or cannot be run."""

    def __init__(self, text: str, *, path: str = "") -> None:
        self.path = path
        super().__init__(f"Error: {text}")


class AccessError(MiloError):
    """The task's user may not use what its application needs."""

    def __init__(self, text: str, *, path: str) -> None:
        self.path = path
        """What is in the way, in the container."""
        super().__init__(f"Error: {text}")


class JavaError(MiloError):
    """No Java runtime fits."""

    recoverable = True

    def __init__(self, text: str) -> None:
        super().__init__(f"Error: {text}")


class NoJavaError(JavaError):
    """The host has no Java runtime at all."""

    def __init__(self) -> None:
        super().__init__("No Java runtime found on host. Please install Java to use Milo driver.")


class UserError(MiloError):
    """The job's user does not exist on the host, or may not be used."""

    def __init__(self, user: str, problem: str) -> None:
        self.user = user
        self.problem = problem
        super().__init__(f"Error: The task cannot run as user {user!r}: {problem}")


class CrunError(MiloError):
    """A crun command failed; its own words are in the text."""

    recoverable = True

    def __init__(self, command: str, status: str, output: str) -> None:
        self.command = command
        self.status = status
        self.output = output
        words = output.strip() or "it printed nothing"
        super().__init__(f"Error: crun {command} failed ({status}): {words}")


class CrunMissingError(MiloError):
    """crun is not installed where it is looked for."""

    recoverable = True

    def __init__(self, path: str) -> None:
        self.path = path
        super().__init__(
            f"Error: crun was not found at {path!r}. "
            "Install the package crun, or set crun_path in the plugin's configuration."
        )


class PauseProcessError(MiloError):
    """Process 1 of the container's PID namespace cannot be made, or has ended too early."""

    recoverable = True

    def __init__(self, problem: str) -> None:
        self.problem = problem
        super().__init__(f"Error: The container's pause process cannot be used: {problem}")


class FifoError(MiloError):
    """A log FIFO that Nomad names cannot be written to."""

    def __init__(self, path: str, problem: str) -> None:
        self.path = path
        self.problem = problem
        super().__init__(f"Error: Cannot open the log FIFO {path}: {problem}")


class NetworkError(MiloError):
    """The network that Nomad made for the allocation cannot be joined.

    Not recoverable: Nomad makes it once an allocation, so only another allocation helps.
    """

    def __init__(self, path: str, problem: str) -> None:
        self.path = path
        self.problem = problem
        super().__init__(
            f"Error: The allocation's network namespace {path!r} {problem}. Nomad makes it once "
            "an allocation: have another one placed, with nomad alloc stop"
        )


class Reason(enum.Enum):
    """Why a path was not followed to its end."""

    MISSING = enum.auto()
    NOT_DIRECTORY = enum.auto()
    """A part on the way is no directory: a symlink that is not followed, say."""
    SYMLINK = enum.auto()
    """The end is a symlink, which is not followed."""
    KIND = enum.auto()
    """The end is of another kind than was asked for."""
    OUTSIDE = enum.auto()
    """It leads out of where it may lead."""
    TOO_LONG = enum.auto()
    """More symlinks, directories or entries than are looked at."""
    NOT_PLAIN = enum.auto()
    """It names nothing, climbs by ``..``, or holds what no path can."""
    REFUSED = enum.auto()
    """The kernel refuses; `PathError.errno` says why."""


class PathError(MiloError):
    """`milo.walk` has not followed a path. Who asked says, in another error, what that means."""

    def __init__(self, part: str, reason: Reason, words: str, errno: int = 0) -> None:
        self.path = part
        """What was asked for."""
        self.part = part
        """The part of it that was refused: its place on the host, as far as that is known."""
        self.reached = part
        """Where it leads, without symlinks as far as there is anything."""
        self.reason = reason
        self.words = words
        """What is wrong with the part: ``it is ...``."""
        self.errno = errno
        """The kernel's, or 0."""
        super().__init__(f"Error: {part}: {words}")


class StateError(MiloError):
    """The state directory cannot be used, or what it holds is not readable."""

    recoverable = True

    def __init__(self, path: str, problem: str) -> None:
        self.path = path
        self.problem = problem
        super().__init__(f"Error: Cannot use the state in {path}: {problem}")


BELIEVED = "Only what root alone can change is believed"


class UntrustedStateError(StateError):
    """Others than root, or than the user who asks, can change what is there."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(path, f"{problem}. {BELIEVED}")


class NewerVersionError(StateError):
    """A newer Milo wrote it, or serves it: it is left as it is, for that Milo."""

    recoverable = False

    def __init__(self, path: str, version: int, known: int) -> None:
        self.version = version
        self.known = known
        super().__init__(
            path,
            f"it has version {version}, and this Milo knows 1 to {known}. "
            "Run at least the Milo that started the task",
        )


class ControlError(MiloError):
    """A task process or the spawner does not answer as the control protocol says."""

    recoverable = True


class SpawnerError(ControlError):
    """No task process can be forked. That says nothing about an application that runs."""

    def __init__(self, problem: str) -> None:
        self.problem = problem
        super().__init__(f"Error: {problem}")


class NoAnswerError(ControlError):
    """A task process is there, and does not answer in time: it is stopped, or stuck."""


class TaskNotFoundError(MiloError):
    """No task with this id is known."""

    def __init__(self, task_id: str) -> None:
        self.task_id = task_id
        super().__init__(f"Error: No task {task_id!r} is known to this driver")


class TaskEndedError(MiloError):
    """The task has ended, and nothing runs in it any more."""

    def __init__(self, task: str, consequence: str) -> None:
        self.task = task
        super().__init__(f"Error: Task {task!r} has ended, so {consequence}")


class TaskRunningError(MiloError):
    """The task is running, which the request does not allow."""

    def __init__(self, task_id: str, request: str) -> None:
        self.task_id = task_id
        super().__init__(f"Error: Task {task_id!r} is running; {request}")


class TaskStartError(MiloError):
    """StartTask failed inside the task process; the text is that process's own."""

    def __init__(self, text: str, *, recoverable: bool) -> None:
        self.recoverable = recoverable
        super().__init__(text)
