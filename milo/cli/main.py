"""The ``milo`` command: which module does the work."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from milo.cli.parser import build_parser
from milo.errors import MiloError

INTERRUPTED = 130
"""As a shell tells of a command that Ctrl-C has ended: 128 and SIGINT's number."""


class NotRootError(MiloError):
    """Tasks, and what they have left, are root's to see and to end."""

    def __init__(self, command: str) -> None:
        self.command = command
        super().__init__(f"Error: milo {command} needs root. Try: sudo milo {command}")


def run_command(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` and return the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    rest: list[str] = []
    if "--" in arguments:
        split = arguments.index("--")
        arguments, rest = arguments[:split], arguments[split + 1 :]
    parser = build_parser()
    if not arguments:
        parser.print_help()
        return 0
    options = parser.parse_args(arguments)
    try:
        if options.needs_root and os.geteuid() != 0:
            raise NotRootError(options.command)
        status: int = options.run(options, rest)
    except MiloError as exc:
        print(exc, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    return status
