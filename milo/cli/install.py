"""``milo install``: an executable for Nomad's plugin directory."""

from __future__ import annotations

import os
import sys
from typing import Final

from milo import walk
from milo.cli.arguments import absolute
from milo.cli.executable import (
    Executable,
    FileAccessError,
    changeable_by_others,
    own_archive,
    own_packages,
    what_is_at,
    write_executable,
)
from milo.cli.output import say
from milo.errors import ConfigError, MiloError

ADVICE: Final = """\
Installed {path}. Add this to the agent's configuration and restart the agent:

    plugin_dir = "{plugin_dir}"

    plugin "milo" {{
      config {{
      }}
    }}

Nomad 2.0 skips plugins that no plugin block names. To check before and after the restart:

    milo doctor
"""


class ChangeableError(MiloError):
    """Another user than root could change what the agent is to run as root."""

    def __init__(self, problem: str) -> None:
        self.problem = problem
        super().__init__(
            f"Error: {problem}. Nomad's agent would run code from there as root, so only root may "
            "be able to change it. Use chown -R root:root and chmod -R go-w, or install the "
            "self-contained file that ./dev build makes"
        )


def install(plugin_dir: str) -> int:
    """Write ``PLUGIN_DIR/milo`` and say what to configure; returns the exit status.

    Raises:
        ConfigError: the path is no directory.
        ChangeableError: root runs it, and others could change what it would install.
        FileAccessError: it cannot be written.
    """
    plugin_dir = absolute(plugin_dir)
    path = os.path.join(plugin_dir, "milo")
    replaced = what_is_at(path)
    os.umask(0o022)
    if os.geteuid() == 0:
        _require_roots_own(plugin_dir)
    try:
        os.makedirs(plugin_dir, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as exc:
        place = exc.filename or plugin_dir
        raise ConfigError("PLUGIN_DIR", f"{place} is not a directory", "a directory") from exc
    except OSError as exc:
        raise FileAccessError(plugin_dir, "made", exc) from exc
    try:
        write_executable(path)
    except OSError as exc:
        raise FileAccessError(path, "written", exc) from exc
    if replaced:
        say(f"Replaced {replaced}. Running tasks keep running, and the new driver finds them.", "")
    say(*ADVICE.format(path=path, plugin_dir=plugin_dir).rstrip().split("\n"))
    return 0


def _require_roots_own(plugin_dir: str) -> None:
    executable = Executable()
    if not own_archive():
        executable = Executable(sys.executable, own_packages())
    there = plugin_dir
    while not os.path.lexists(there):
        there = os.path.dirname(there)
    if problem := walk.writable_by_others(there) or changeable_by_others(executable):
        raise ChangeableError(problem)
