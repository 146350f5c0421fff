"""Where every ``milo`` begins: as Nomad's plugin, or as a command for people.

Imports nothing until it is known which: the plugin's start is timed.
"""

from __future__ import annotations


def main() -> None:
    """Be the plugin when Nomad's agent started this process, else the command."""
    from milo.plugin.handshake import is_plugin_start

    if is_plugin_start():
        from milo.plugin.main import run_plugin

        run_plugin()
    from milo.cli.main import run_command

    raise SystemExit(run_command())
