"""The start of every ``milo`` process, which is Nomad's plugin or a command for people.

Nothing of Milo's is imported until it is known which, because the plugin must start quickly.
"""

from __future__ import annotations

import gc
import os
import sys

OBJECTS = 10_000
"""Made before Python looks for garbage; its default is 700."""
INTERRUPTED = 130
"""128 and SIGINT's number, as a shell tells of a command that Ctrl-C has ended."""


def main() -> None:
    """Be the plugin when Nomad's agent started this process, else the command."""
    try:
        _start()
    except KeyboardInterrupt:  # while modules are imported; nothing has begun
        raise SystemExit(INTERRUPTED) from None


def _start() -> None:
    if sys.getfilesystemencoding() != "utf-8":
        # Names of files and tasks are UTF-8 for Nomad, and so for Milo, whatever the locale says.
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606
    from milo.plugin.handshake import is_plugin_start

    if is_plugin_start():
        from milo.plugin.main import run_plugin

        run_plugin()
    # Modules leave next to nothing to collect, and 1 of 20 of their time went into looking for it.
    gc.set_threshold(OBJECTS)
    from milo.cli.main import main as run_command

    raise SystemExit(run_command())
