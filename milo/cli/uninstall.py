"""``milo uninstall``: takes away what ``milo install`` has put into a plugin directory."""

from __future__ import annotations

import os
from argparse import Namespace
from typing import Final

from milo import walk
from milo.cli.arguments import absolute
from milo.cli.executable import FileAccessError, read_executable, what_is_at
from milo.cli.output import say
from milo.errors import ConfigError
from milo.host import state_dirs
from milo.host.tasks import HostTask, list_tasks

ADVICE: Final = """\
Remove the block plugin "milo" from the agent's configuration and restart the agent. Until then the
agent keeps using the driver that it started.
"""
RUNNING: Final = """\
These tasks are still running, and keep running without the driver:
{tasks}
To end them, stop their jobs before you restart the agent (nomad job stop JOB). After that, only
milo stop TASK ends them, and milo gc --yes removes what is left.
"""


def uninstall(options: Namespace) -> int:
    """Remove ``PLUGIN_DIR/milo`` and say what still runs; returns the exit status.

    Raises:
        ConfigError: there is no such file, it is not Milo's, or another user could exchange it:
            nothing is removed then.
        FileAccessError: it cannot be removed.
    """
    plugin_dir = absolute(options.plugin_dir)
    path = os.path.join(plugin_dir, "milo")
    of_root = os.geteuid() == 0 and os.path.isdir(plugin_dir)
    if of_root and (problem := walk.writable_by_others(plugin_dir)):
        raise ConfigError(
            "PLUGIN_DIR",
            f"{problem}, and so could change what is removed",
            f"a directory that root alone can change; or remove {path} by hand",
        )
    try:
        what = read_executable(path)
        if what is not None:
            os.unlink(path)
    except FileNotFoundError as exc:
        raise ConfigError(
            "PLUGIN_DIR", f"there is no {path}", "the agent's plugin_dir, which milo doctor shows"
        ) from exc
    except NotADirectoryError as exc:
        raise ConfigError(
            "PLUGIN_DIR", f"{options.plugin_dir} is not a directory", "the agent's plugin_dir"
        ) from exc
    except OSError as exc:
        if not os.path.islink(path) and not os.path.isdir(path):
            raise FileAccessError(path, "removed", exc) from exc
        what = None
    if what is None:
        raise ConfigError(
            "PLUGIN_DIR",
            f"{path} is {what_is_at(path)}, not written by milo install. It was not removed",
            "a directory that milo was installed in; or remove the file by hand",
        )
    say(f"Removed {path}, {what}.", *ADVICE.rstrip().split("\n"))
    if os.geteuid() != 0:
        say("To see which tasks are still running: sudo milo ps")
        return 0
    if tasks := _running(options.state_dir):
        lines = "\n".join(
            f"    {task.id}  {task.name}  allocation {task.alloc_id[:8]}" for task in tasks
        )
        say(*RUNNING.format(tasks=lines).rstrip().split("\n"))
    else:
        say("No Milo tasks are running on this host.")
    return 0


def _running(state_dir: str) -> list[HostTask]:
    """Return the tasks that Nomad has started and that still run."""
    places = state_dirs.of_drivers(absolute(state_dir)).trusted
    return [task for task in list_tasks(places) if task.running or task.supervised]
