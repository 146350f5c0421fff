"""The ``milo`` command: its arguments, and which module does the work."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import milo
from milo.core.launch import PluginOptions
from milo.errors import MiloError

DESCRIPTION = """\
Milo is a Nomad task driver: Nomad's agent starts this program by itself, from its plugin
directory, and runs jobs with driver = "milo" in it. Started by hand it is this command.
"""


def run_command(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` and return the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    application: list[str] = []
    if "--" in arguments:
        split = arguments.index("--")
        arguments, application = arguments[:split], arguments[split + 1 :]
    parser = build_parser()
    if not arguments:
        parser.print_help()
        return 0
    options = parser.parse_args(arguments)
    try:
        if options.command == "install":
            from milo.cli.install import install

            return install(options.plugin_dir)
        if options.command == "gc":
            from milo.cli.gc import collect_garbage

            return collect_garbage(options.state_dir, remove=options.yes)
        from milo.cli.run import run_jar

        return run_jar(options, application)
    except MiloError as exc:
        print(exc, file=sys.stderr)
        return 1


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command."""
    parser = argparse.ArgumentParser(
        prog="milo", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"milo {milo.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    install = commands.add_parser("install", help="put milo into a Nomad agent's plugin directory")
    install.add_argument("plugin_dir", metavar="PLUGIN_DIR")

    gc = commands.add_parser(
        "gc",
        help="show what crashes have left behind, and remove it",
        description="Show the containers, task processes, cgroups, mounts and state directories "
        "that no living allocation owns. Needs root.",
    )
    gc.add_argument("--yes", action="store_true", help="remove them")
    gc.add_argument(
        "--state-dir",
        default=PluginOptions().state_dir,
        metavar="DIR",
        help="as in the plugin's configuration; default %(default)s",
    )

    run = commands.add_parser(
        "run",
        help="run a JAR as Nomad would have it run, without Nomad",
        description="Run a JAR in a container; its output comes as it is printed. Needs root. "
        "What follows -- is given to the application.",
    )
    run.add_argument("jar", metavar="APP.JAR")
    run.add_argument("--memory", type=int, default=512, metavar="MIB", help="limit; default 512")
    run.add_argument("--java", default="", metavar="HOME", help="the JDK to use")
    run.add_argument("--env", action="append", default=[], metavar="NAME=VALUE")
    run.add_argument("--jvm-option", action="append", default=[], metavar="OPTION")
    run.add_argument("--user", default="", help="user of the host to run as; default nobody")
    return parser
