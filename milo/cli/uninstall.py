"""``milo uninstall``: takes away what ``milo install`` has put into a plugin directory."""

from __future__ import annotations

import os
import re
import stat
import zipfile
from argparse import Namespace
from typing import Final

from milo.cli.arguments import absolute
from milo.errors import ConfigError, StateError
from milo.host.tasks import RUN_DIRECTORY, HostTask, list_tasks, state_dirs

MAX_LAUNCHER_BYTES: Final = 64 * 1024
"""Two paths and four lines."""

_LAUNCHER: Final = re.compile(
    rb"^#![^\n]*\n(?s:.*)import sys\nsys\.path\.insert\(0, ([^\n]*)\)\n"
    rb"from milo\.entry import main\nmain\(\)\n\Z"
)
_OWN_MODULES: Final = {"milo/entry.py", "milo_build.py"}
"""Both are in a self-contained executable."""

ADVICE: Final = """\
Take the block plugin "milo" out of the agent's configuration and restart the agent; a running
agent goes on with the driver that it has started.
"""
RUNNING: Final = """\
These tasks still run, and go on: the end of the driver means nothing to them.
{tasks}
To end them, stop their jobs before that restart (nomad job stop JOB). Afterwards only
milo stop TASK does; and milo gc --yes removes what is left.
"""


def made_by_milo(path: str) -> str:
    """Return what of Milo's the file is, for people; empty when it is something else.

    Raises:
        OSError: there is none, or it cannot be read.
    """
    held = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(held, "rb") as file:
        if not stat.S_ISREG(os.fstat(held).st_mode):
            return ""
        match = _LAUNCHER.match(file.read(MAX_LAUNCHER_BYTES))
        if match is not None:
            return f"the launcher of the Milo in {match[1].decode(errors='replace').strip(chr(39))}"
        try:
            with zipfile.ZipFile(file) as archive:
                return (
                    "Milo's self-contained executable"
                    if set(archive.namelist()) >= _OWN_MODULES
                    else ""
                )
        except (zipfile.BadZipFile, ValueError):
            return ""


def what_is_at(path: str) -> str:
    """Return what is at ``path``, for people, whatever it is; empty when nothing is."""
    try:
        return made_by_milo(path) or "a file that is not Milo's"
    except FileNotFoundError:
        return ""
    except OSError:
        return f"a symlink to {os.readlink(path)}" if os.path.islink(path) else "something else"


def uninstall(options: Namespace) -> int:
    """Remove ``PLUGIN_DIR/milo`` and say what still runs; returns the exit status.

    Raises:
        ConfigError: there is no such file, or it is not Milo's: nothing is removed then.
        StateError: it cannot be removed.
    """
    path = os.path.join(absolute(options.plugin_dir), "milo")
    try:
        what = made_by_milo(path)
        if what:
            os.unlink(path)
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise ConfigError(
            "PLUGIN_DIR", f"there is no {path}", "the agent's plugin_dir; milo doctor tells it"
        ) from exc
    except OSError as exc:
        if os.path.islink(path) or os.path.isdir(path):
            what = ""
        else:
            raise StateError(path, f"{exc.strerror}. Run it as a user who may write there") from exc
    if not what:
        raise ConfigError(
            "PLUGIN_DIR",
            f"{path} is {what_is_at(path)}, which milo install has not made, and it stays",
            "a directory that milo install was given; or remove that by hand",
        )
    print(f"{path} is removed: it was {what}.\n{ADVICE}", end="")
    if os.geteuid() != 0:
        print("Only root can see which tasks still run: sudo milo ps")
        return 0
    if tasks := _running(options.state_dir):
        lines = "\n".join(
            f"    {task.id}  {task.name}  allocation {task.alloc_id[:8]}" for task in tasks
        )
        print(RUNNING.format(tasks=lines), end="")
    else:
        print("No task of Milo's runs on this host.")
    return 0


def _running(state_dir: str) -> list[HostTask]:
    """Return the tasks that Nomad has started and that still run."""
    places = state_dirs(absolute(state_dir))
    nomads = [path for path in places if not path.startswith(f"{RUN_DIRECTORY}/")]
    return [task for task in list_tasks(nomads) if task.running or task.supervised]
