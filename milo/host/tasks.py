"""Every task of this host, whoever started it: read from the state directories alone."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from typing import Final

import attrs

from milo.core import records
from milo.core.container.crun import CONTAINER_PREFIX
from milo.core.launch import Launch
from milo.core.text import did_you_mean, printable
from milo.errors import MiloError, StateError
from milo.host.state_store import StateStore
from milo.proc import lives

YOUNG_S: Final = 60.0
"""``milo run`` writes its first record long before."""


class NoSuchTaskError(MiloError):
    """No task of this host, or more than one, is meant."""

    def __init__(self, wanted: str, found: Iterable[HostTask], known: Iterable[str] = ()) -> None:
        self.wanted = wanted
        names = [
            f"{task.id} ({printable(task.full_name)}, allocation {task.alloc_id[:8]})"
            for task in found
        ]
        if names:
            text = f"{wanted!r} matches more than one task: {', '.join(names)}. Give one of the ids"
        else:
            near = did_you_mean(wanted, known)
            text = (
                f"no task on this host matches {wanted!r}. To list all tasks: milo ps --all{near}"
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
        return self.record.task_name if self.record is not None else ""

    @property
    def job_name(self) -> str:
        """Empty outside of Nomad."""
        return self.launch.job_name if self.launch is not None else ""

    @property
    def alloc_name(self) -> str:
        """The allocation's name, ``job.group[index]``; empty where it is not known."""
        return self.launch.alloc_name if self.launch is not None else ""

    @property
    def group(self) -> str:
        """The group's name, with the allocation's index where that is known."""
        if self.launch is None:
            return ""
        return self.alloc_name.removeprefix(f"{self.job_name}.") or self.launch.group_name

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
        return self.record.alloc_id if self.record is not None else ""

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
            if task.record is not None:
                tasks.append(task)
    return sorted(tasks, key=lambda task: task.record.started_at_s if task.record else 0.0)


def abandoned_runs(directories: Iterable[str]) -> list[str]:
    """Return those ``directories`` of a ``milo run`` whose process has gone without cleaning up.

    One without a readable record is taken for one only when it is a minute old.
    """
    found = []
    for base in directories:
        tasks = list_tasks([base])
        if tasks:
            abandoned = not any(task.supervised for task in tasks)
        else:
            abandoned = False
            with contextlib.suppress(OSError):
                abandoned = time.time() - os.lstat(base).st_mtime > YOUNG_S
        if abandoned:
            found.append(base)
    return found


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
    named = _running_first(task for task in everything if wanted in task.names)
    ids = [task for task in everything if wanted in (task.id, task.alloc_id)] or [
        task
        for task in everything
        if task.id.startswith(wanted) or task.alloc_id.startswith(wanted)
    ]
    matches = list({task.state_dir: task for task in named + _running_first(ids)}.values())
    if len(matches) != 1:
        known = [name for task in everything for name in task.names]
        raise NoSuchTaskError(wanted, matches, known)
    return matches[0]


def _running_first(tasks: Iterable[HostTask]) -> list[HostTask]:
    """Return those that have not ended, or else all of them."""
    found = list(tasks)
    return [task for task in found if task.exit is None] or found
