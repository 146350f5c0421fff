"""The tasks of this host that a command may mean."""

from __future__ import annotations

from argparse import Namespace
from typing import Final

from milo.cli.arguments import absolute
from milo.cli.output import warn
from milo.host import state_dirs
from milo.host.state_dirs import StateDirs
from milo.host.tasks import HostTask, list_tasks

SHOWN_ID: Final = 8
"""Characters of an id in a table; every command takes its beginning."""


def tasks_of_host(options: Namespace) -> list[HostTask]:
    """Return every task that a command may mean: for an ordinary user, those of that user alone."""
    return list_tasks(places_of_host(options).trusted)


def places_of_host(options: Namespace) -> StateDirs:
    """Return the state directories in which those tasks are; warns of what is not looked into."""
    named = absolute(options.state_dir)
    state_dirs.require_there(named)
    found = state_dirs.of_host(named)
    for problem in found.refused:
        warn(f"milo: {problem}")
    return found
