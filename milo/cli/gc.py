"""``milo gc``: shows what no living allocation owns, and removes it when told to."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from typing import Final

import trio

from milo import namespaces
from milo.cli.arguments import WrongValueError, absolute
from milo.cli.caller import enter_to_remove
from milo.cli.gc_archives import collect_archives
from milo.cli.last_end import end_of
from milo.cli.output import progress, say, warn
from milo.cli.post_mortem import LABELS, dumps_of
from milo.cli.run_leftovers import GONE_S, POLL_S, ends_within, remove_run
from milo.cli.run_place import remove_directory
from milo.errors import TaskRunningError
from milo.host import state_dirs
from milo.host.leftovers import orphans
from milo.host.leftovers.orphans import Findings
from milo.host.leftovers.removal import Leftovers
from milo.host.leftovers.traces import mounts_below
from milo.host.spawner_client import SpawnerClient
from milo.host.task_processes import TaskProcesses
from milo.host.tasks import abandoned_runs, find_task, list_tasks
from milo.process_signals import signal_process
from milo.task.oci import cgroup_placement, cgroup_state

LOOKS: Final = 3
PAUSE_S: Final = 1.0
"""Between two looks, all of which have to agree: something may be on its way."""


def collect_garbage(state_dir: str, *, remove: bool, name: str = "", cache_dir: str = "") -> int:
    """Show the orphans below ``state_dir``, and with ``remove`` remove them.

    ``name`` is that of a task of ``milo run``: then nothing else is looked at. ``cache_dir`` is
    where startup archives are; empty for this user's own.
    Returns the exit status: 0, or 1 when something could not be removed, or was not looked into
    because others can change it.

    Raises:
        MiloError: it cannot be looked at.
    """
    runs = state_dirs.of_runs()
    data = () if name else state_dirs.left_data()
    ordinary = os.geteuid() != 0
    path = "" if name or ordinary else absolute(state_dir)  # else those of his own `milo run`
    if path:
        state_dirs.require_there(path)
    cache = "" if name else _cache(cache_dir)
    places = (path, state_dirs.run_directories()[0], state_dirs.data_directory(), cache)
    found = {place: state_dirs.refusal(place) for place in filter(None, places)}
    refused = {place: told for place, told in found.items() if told}
    for told in (*refused.values(), *runs.refused):
        warn(f"milo: {told}")
    # In his namespace an ordinary user would be spoken to as root.
    bases = _bases(runs.trusted, name)
    owners: tuple[int, ...] = ()
    if ordinary and remove:
        owners = enter_to_remove()
    left_out = bool(refused or runs.refused)
    status = int(left_out)
    if path and path not in refused:
        status |= trio.run(collect, path, remove)
    status |= trio.run(_runs, bases, data, remove, ordinary)
    if ordinary and not (bases or data):
        say(f"You have nothing {'else ' * left_out}to remove")
    if cache and cache not in refused:
        status |= collect_archives(cache, owners, remove=remove)
    return status


def _cache(asked: str) -> str:
    """Return where startup archives are; raises `WrongValueError` where ``asked`` is nowhere."""
    if not asked:
        return state_dirs.cache_directory()
    path = absolute(asked)
    if not os.path.isdir(path):
        raise WrongValueError("--cache-dir", f"there is no directory {path}", "the plugin's")
    return path


def _bases(runs: Sequence[str], name: str) -> list[str]:
    """Return the directories of each ``milo run`` that is over, or of the one with that name."""
    bases = abandoned_runs(runs)
    if name:
        task = find_task(name, list_tasks(runs))
        bases = [base for base in bases if base == os.path.dirname(task.state_dir)]
        if not bases:
            raise TaskRunningError(task.name, f"stop it first: milo stop {task.name}")
    return bases


async def _runs(bases: Sequence[str], data: Sequence[str], remove: bool, ordinary: bool) -> int:
    """Show, or remove, what a ``milo run`` has left that was killed or in the background.

    Nobody else would. ``data`` are directories that only have files. ``ordinary``: they are not
    root's.
    """
    status = 0
    for base in bases:
        ended, words = _abandoned_words(base)
        orphan = orphans.Orphan(base, words)
        if remove:
            status |= _report(orphan, await remove_run(base, ordinary=ordinary))
        else:
            _show(orphan, "ended" if ended else "orphan")
    for path in data:
        orphan = orphans.Orphan(path, "dumps, or other files, that an ended milo run has left")
        if remove:
            remove_directory(path)
            status |= _report(orphan, not os.path.lexists(path))
        else:
            _show(orphan, "ended")
    return status


def _show(orphan: orphans.Orphan, word: str) -> None:
    say(f"{word:8} {orphan.path}: {orphan.reason}. To remove it: milo gc --yes")


def _abandoned_words(base: str) -> tuple[bool, str]:
    """Return whether a ``milo run`` has ended by itself, and a description of what it left."""
    tasks = list_tasks([base])
    ended = bool(tasks) and all(task.exit is not None for task in tasks)
    words = "an ended milo run" if ended else "left by a milo run that was killed"
    for task in tasks:
        words += f", task {task.name!r}"
        if task.running and task.record is not None and task.record.container is not None:
            words += f"; its application is running (process {task.record.container.pid})"
        elif (end := end_of(task)) is not None and (dumps := dumps_of(task, end)):
            words += f", with its {' and its '.join(LABELS[key] for key in dumps)}"
    return ended, words


async def collect(state_dir: str, remove: bool) -> int:
    """Show what a driver has left below its ``state_dir``, or remove it; return the status."""
    with progress("Looking, three times"):
        found = orphans.look(state_dir)
        for _ in range(LOOKS - 1):
            if not found.orphans:
                break
            await trio.sleep(PAUSE_S)
            found = orphans.look(state_dir).also_in(found)
    for kept in found.kept:
        say(f"kept     {kept.path}: {kept.reason}")
    unusual = [orphan for orphan in found.orphans if not orphan.routine]
    if not remove:
        for orphan in unusual:
            say(f"orphan   {orphan.path}: {orphan.reason}")
    routine = len(found.orphans) - len(unusual)
    if routine:
        what = f"{routine} exit record{'s' if routine > 1 else ''} of removed allocations"
        say(f"removed  {what}" if remove else f"{what}: normal, and removed by the driver")
    if not unusual and not (remove and routine):
        say(f"Nothing to remove in {state_dir}")
        return 0
    if not remove:
        say(f"Found {len(unusual)}. To remove: milo gc --yes --state-dir {state_dir}")
        return 0
    return await _remove(state_dir, found)


async def _remove(state_dir: str, found: Findings) -> int:
    status = 0
    spawner = SpawnerClient()
    leftovers = Leftovers(TaskProcesses(spawner))
    try:
        for orphan in found.mounts:
            done = unmount(orphan.path)
            status |= _report(orphan, done)
        for orphan in found.directories:
            # What is mounted inside belongs to others, and removing would reach into it.
            if not any(point.startswith(f"{orphan.path}/") for point in mounts_below(state_dir)):
                await leftovers.remove(orphan.path, keep_exit=False)
            status |= _report(orphan, not os.path.lexists(orphan.path))
        for orphan, process in found.processes:
            gone = not signal_process(process, signal.SIGKILL)
            status |= _report(orphan, gone or await ends_within(process, GONE_S))
        for orphan in found.groups:
            status |= _report(orphan, await _group_removed(orphan.path))
    finally:
        spawner.close()
    return status


def unmount(point: str) -> bool:
    """Detach what is mounted at ``point``, following no symlink; False when that failed."""
    try:
        namespaces.unmount(point)
    except OSError:
        return False
    return True


async def _group_removed(path: str) -> bool:
    """Kill what is in a container's cgroups, and remove them once it has left them."""
    parent = os.path.dirname(path).strip("/")
    with trio.move_on_after(GONE_S):
        while True:
            cgroup_state.kill_remaining(path)
            # Nomad's groups above may have other tasks in them.
            remaining = cgroup_placement.remove_leftovers(path, parent)
            if not any(directory.endswith(path) for directory in remaining):
                return True
            await trio.sleep(POLL_S)
    return False


def _report(orphan: orphans.Orphan, done: bool) -> int:
    if not (orphan.routine and done):
        say(f"{'removed ' if done else 'FAILED  '} {orphan.path}: {orphan.reason}")
    return 0 if done else 1
