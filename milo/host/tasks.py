"""Every task of this host, whoever started it: read from the state directories alone."""

from __future__ import annotations

import contextlib
import os
import shlex
import time
from collections.abc import Iterable, Sequence
from typing import Final

import attrs

from milo.core import records
from milo.core.container.crun import CONTAINER_PREFIX
from milo.core.describe import exit_word
from milo.core.launch import Launch
from milo.core.text import did_you_mean, printable
from milo.errors import MiloError, NewerVersionError, StateError
from milo.host.state_store import StateStore
from milo.proc import lives

YOUNG_S: Final = 60.0
"""``milo run`` writes its first record long before."""
MAX_MATCHES: Final = 10
"""So many are named when a name is ambiguous."""


class NoSuchTaskError(MiloError):
    """No task of this host, or more than one, is meant."""

    def __init__(self, wanted: str, found: Iterable[HostTask], known: Iterable[str] = ()) -> None:
        self.wanted = wanted
        names = [
            f"{task.id} ({printable(task.full_name)}, allocation {task.alloc_id[:8]})"
            for task in found
        ]
        if names:
            listed = ", ".join(names[:MAX_MATCHES])
            if len(names) > MAX_MATCHES:
                listed += f" and {len(names) - MAX_MATCHES} more"
            text = f"{wanted!r} matches more than one task: {listed}. Give one of the ids"
        else:
            near = did_you_mean(wanted, known)
            more = "Those of Nomad are root's: sudo milo ps --all"
            if os.geteuid() == 0:
                asked = printable(shlex.quote(wanted))
                more = f"If it did not start, or Nomad has removed it: nomad status {asked}"
            text = (
                f"no task on this host matches {wanted!r}. To list all tasks: milo ps --all. "
                f"{more}{near}"
            )
        super().__init__(f"Error: {text}")


@attrs.frozen
class HostTask:
    """One task, as its state directory tells of it."""

    state_dir: str
    record: records.TaskRecord | None
    exit: records.ExitRecord | None
    launch: Launch | None

    @property
    def id(self) -> str:
        """The short id: the name of the state directory and of the container."""
        return os.path.basename(self.state_dir)

    @property
    def name(self) -> str:
        """The task's name in its job."""
        return self.record.task_name if self.record is not None else self._told.task_name

    @property
    def job_name(self) -> str:
        """Empty outside of Nomad."""
        return self._told.job_name

    @property
    def alloc_name(self) -> str:
        """The allocation's name, ``job.group[index]``; empty where it is not known."""
        return self._told.alloc_name

    @property
    def group_name(self) -> str:
        """The group's name in its job; empty outside of Nomad."""
        return self._told.group_name

    @property
    def group(self) -> str:
        """The group's name, with the allocation's index where that is known."""
        return self.alloc_name.removeprefix(f"{self.job_name}.") or self.group_name

    @property
    def _told(self) -> records.TaskNames:
        """What the launch says, or the exit record, all that DestroyTask leaves."""
        if self.launch is not None:
            return self.launch.names
        if self.exit is None:
            return records.TaskNames()
        if self.exit.names != records.TaskNames():
            return self.exit.names
        alloc_id, _, rest = self.exit.task_id.partition("/")  # of an older Milo
        return records.TaskNames(rest.rpartition("/")[0], alloc_id if rest else "")

    @property
    def full_name(self) -> str:
        """The names of allocation and task, as far as there are any."""
        return f"{self.alloc_name}/{self.name}" if self.alloc_name else self.name

    @property
    def names(self) -> tuple[str, ...]:
        """What people may call it, besides its ids."""
        container = f"{CONTAINER_PREFIX}{self.id}"
        known = (self.name, self.job_name, self.alloc_name, self.full_name, container)
        return tuple(name for name in dict.fromkeys(known) if name)

    @property
    def alloc_id(self) -> str:
        """Nomad's allocation; of ``milo run`` something of its own."""
        return self.record.alloc_id if self.record is not None else self._told.alloc_id

    @property
    def alloc_dir(self) -> str:
        """The allocation's directory, which may be gone."""
        found = self.record or self.exit
        return found.alloc_dir if found is not None else ""

    @property
    def started_at_s(self) -> float:
        """Unix time; 0 where it has not started, or that is not known."""
        found = self.record or self.exit
        return found.started_at_s if found is not None else 0.0

    @property
    def running(self) -> bool:
        """Whether the application's first process lives."""
        return self.exit is None and lives(self.record.container if self.record else None)

    @property
    def supervised(self) -> bool:
        """Whether its task process lives."""
        return lives(self.record.supervisor if self.record else None)

    @property
    def state(self) -> str:
        """``running``, ``starting``, ``exited``, ``unsupervised`` or ``lost``."""
        if self.exit is not None:
            return "exited"
        if self.running:
            return "running" if self.supervised else "unsupervised"
        return "starting" if self.supervised else "lost"

    @property
    def full_state(self) -> str:
        """The same, and of one that has exited, how."""
        return self.state if self.exit is None else f"{self.state} ({exit_word(self.exit)})"


def list_tasks(directories: Iterable[str]) -> list[HostTask]:
    """Return the tasks below these state directories, the oldest first.

    What cannot be read is left out, as is what is no more than a directory.
    """
    tasks = []
    for directory in directories:
        store = StateStore(directory)
        for path in store.directories():
            try:
                task = HostTask(
                    path, store.read_task(path), store.read_exit(path), store.read_launch(path)
                )
            except StateError:
                continue
            if task.record is not None or task.exit is not None:
                tasks.append(task)
    return sorted(tasks, key=lambda task: task.started_at_s)


def abandoned_runs(directories: Iterable[str]) -> list[str]:
    """Return those ``directories`` of a ``milo run`` whose process has gone without cleaning up.

    One without a readable record is taken for one only when it is a minute old, and never where a
    newer Milo has written the record: its task may run.
    """
    found = []
    for base in directories:
        tasks = list_tasks([base])
        if is_newer(base):
            abandoned = False
        elif tasks:
            abandoned = not any(task.supervised for task in tasks)
        else:
            abandoned = False
            with contextlib.suppress(OSError):
                abandoned = time.time() - os.lstat(base).st_mtime > YOUNG_S
        if abandoned:
            found.append(base)
    return found


def is_newer(directory: str) -> bool:
    """Whether a newer Milo has written the record of a task below ``directory``."""
    store = StateStore(directory)
    for path in store.directories():
        for read in (store.read_task, store.read_exit, store.read_launch):
            try:
                read(path)
            except NewerVersionError:
                return True
            except StateError:
                continue
    return False


def find_task(wanted: str, tasks: Iterable[HostTask]) -> HostTask:
    """Return the task that a person means: by a name, or by the beginning of its id.

    The names are those of `HostTask.names`: its own, its job's, its allocation's and its
    container's. Its id is Milo's own or that of its allocation. One that has ended is only meant
    when no other of that name, or with that id, fits. A name is the job author's to choose, and may
    be what an id of somebody else's begins with: then neither is taken for the other.

    Raises:
        NoSuchTaskError: none is, or several are.
    """
    everything = list(tasks)
    matches = _matches(wanted, everything)
    if len(matches) != 1:
        raise NoSuchTaskError(wanted, matches, _names(everything))
    return matches[0]


def find_tasks(wanted: str, tasks: Iterable[HostTask]) -> list[HostTask]:
    """Return the tasks that a person means, the oldest first: one, or several of one job.

    As `find_task`, but that a name may be of several tasks of the same job. Raises
    `NoSuchTaskError` where they are of several, or one is meant by its id.
    """
    everything = list(tasks)
    matches = _matches(wanted, everything)
    jobs = {task.job_name for task in matches}
    of_one_job = len(jobs) == 1 and jobs != {""} and all(wanted in one.names for one in matches)
    if not matches or (len(matches) > 1 and not of_one_job):
        raise NoSuchTaskError(wanted, matches, _names(everything))
    return matches


def last_end(task: HostTask, tasks: Iterable[HostTask]) -> HostTask | None:
    """Return the last instance of ``task`` that has ended; None where its allocation has none.

    Nomad restarts a task in its allocation, and each start is an instance of its own.
    """
    ended = [
        one
        for one in tasks
        if one.exit is not None and task.alloc_id == one.alloc_id and task.name == one.name
    ]
    return max(ended, key=lambda one: one.started_at_s) if ended and task.alloc_id else None


def _names(tasks: Iterable[HostTask]) -> list[str]:
    return [name for task in tasks for name in task.names]


def _matches(wanted: str, everything: Sequence[HostTask]) -> list[HostTask]:
    named = _running_first(task for task in everything if wanted in task.names)
    ids = [task for task in everything if wanted in (task.id, task.alloc_id)] or [
        task
        for task in everything
        if task.id.startswith(wanted) or task.alloc_id.startswith(wanted)
    ]
    return list({task.state_dir: task for task in named + _running_first(ids)}.values())


def _running_first(tasks: Iterable[HostTask]) -> list[HostTask]:
    """Return those that have not ended, or else all of them.

    But of several instances of an allocation's task only the last one: they have one log.
    """
    found = sorted(tasks, key=lambda task: task.started_at_s)
    running = [task for task in found if task.exit is None]
    return running or list({(task.alloc_id or task.id, task.name): task for task in found}.values())
