"""The arguments of ``milo run``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from milo.cli.parsing import Parser, decimal_number, examples, whole_number

DEBUG_PORT: Final = "5005"
"""What IDEs suggest."""
JMX_PORT: Final = "9010"
RECORDING: Final = "recording.jfr"

_PORTS: Final = "The application uses the network of the host, so no port needs to be published"
_LOGS: Final = "The output can go to files: --log-dir DIR"
OTHERS: Final = {
    "-p": _PORTS,
    "--publish": _PORTS,
    "-P": _PORTS,
    "--port": _PORTS,
    "--ports": _PORTS,
    "--publish-all": _PORTS,
    "--expose": _PORTS,
    "--privileged": "Single capabilities: --cap-add NAME",
    "--entrypoint": "For another class: --class NAME",
    "--restart": "Under Nomad, a job's restart block does that",
    "--log-driver": _LOGS,
    "--log-opt": _LOGS,
    "--tmpfs": "For a /tmp in memory: --tmp-size SIZE",
    "--security-opt": "For a seccomp profile: --seccomp-profile FILE",
}
"""What docker and podman have, and ``milo run`` does otherwise."""

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[Parser]


def add_run(commands: Commands, *, keys: bool) -> None:
    """Add ``milo run``, with the arguments for ``keys`` of a job where they are wanted."""
    run = commands.add_parser(
        "run",
        help="run a JAR as Nomad would, without Nomad",
        description="Run a JAR in a container and print its output as it comes. All words after "
        "the JAR are the application's. Without root it runs as the user who starts it.",
        epilog=examples(
            "milo run app.jar --port 8080",
            "milo run -m 1g -v ./data:/data -e MODE=test app.jar",
            "milo run --java 21 --jvm-option -Xss1m app.jar",
            "milo run --watch --debug build/libs/app.jar",
            "milo run -d --name web app.jar",
        ),
    )
    run.set_defaults(run=_do_run, spell=str)
    run.meant = _meant
    run.others = OTHERS
    run.add_argument("jar", metavar="APP.JAR", help="the JAR to run")
    run.add_argument("words", metavar="ARGUMENT", nargs="*", default=[], help="of the application")
    run.add_argument(
        "--name",
        default="",
        help="name to show in milo ps; default: the name of the JAR, with a number where that is "
        "taken",
    )
    _add_limits(run)
    _add_java(run)
    _add_surroundings(run)
    _add_logs(run)
    run.add_argument(
        *("-d", "--detach"),
        action="store_true",
        help="run in the background and print the name: see milo ps, logs, stop and gc",
    )
    run.add_argument(
        *("-i", "--interactive"),
        action="store_true",
        help="pass on standard input; without it only what is no terminal is",
    )
    run.add_argument(
        *("-t", "--tty"),
        action="store_true",
        help="give the application a terminal; with -i, it gets every key of yours",
    )
    _add_tools(run)
    run.add_argument("--verbose", action="store_true", help="print what Milo decides and why (-v)")
    if keys:
        from milo.cli.task_keys import add_task_keys

        add_task_keys(run)


def _meant(option: str, value: str) -> str:
    """Return what a short option means that the first versions of Milo had for something else."""
    if option == "-m" and ":" in value:
        return "--mount"
    if option == "-v" and ":" not in value:
        return "--verbose"
    return option


def _add_limits(run: Parser) -> None:
    run.add_argument(
        *("-m", "--memory"),
        default="512m",
        metavar="SIZE",
        help="memory limit, such as 512m or 1.5g; default %(default)s",
    )
    run.add_argument(
        "--cpus",
        type=decimal_number,
        metavar="N",
        help="CPU limit in cores, such as 1.5; default: no limit",
    )


def _add_java(run: Parser) -> None:
    run.add_argument(
        "--java",
        default="",
        metavar="JAVA",
        help='a version, such as 17 or ">= 21", or the directory of a JDK',
    )
    run.add_argument(
        "--class",
        dest="main_class",
        metavar="NAME",
        default="",
        help="class to run instead of the manifest's Main-Class",
    )
    run.add_argument(
        "--jvm-option",
        action="append",
        default=[],
        metavar="OPTION",
        help="option for the JVM, such as --jvm-option -Xss1m; can be repeated",
    )


def _add_tools(run: Parser) -> None:
    for option, default, metavar, words in (
        ("--debug", DEBUG_PORT, "PORT", "let a debugger connect to this port of 127.0.0.1"),
        ("--jmx", JMX_PORT, "PORT", "let JMX clients connect to this port of 127.0.0.1"),
        (
            "--jfr",
            RECORDING,
            "FILE",
            "make a flight recording of the whole run (with --watch, of the last)",
        ),
    ):
        run.add_argument(
            option,
            nargs="?",
            const=default,
            default="",
            metavar=metavar,
            help=f"{words}, as {option}={metavar}; default with {option} alone: {default}",
        )
    run.add_argument("--watch", action="store_true", help="start again when the JAR has changed")


def _add_surroundings(run: Parser) -> None:
    run.add_argument(
        *("-e", "--env"),
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="set an environment variable; without =VALUE, pass on the one of this shell",
    )
    run.add_argument(
        "--env-file",
        action="append",
        default=[],
        metavar="FILE",
        help="read environment variables from a file with lines NAME=VALUE",
    )
    run.add_argument(
        *("-u", "--user"),
        default="",
        metavar="USER",
        help="run as this user of the host, or USER:GROUP; default nobody, without root yourself",
    )
    run.add_argument(
        *("-v", "--volume"),
        action="append",
        default=[],
        metavar="SOURCE:TARGET[:ro]",
        help="mount a file or directory of the host, for reading and writing unless :ro is given",
    )
    run.add_argument(
        "--mount",
        action="append",
        default=[],
        metavar="SOURCE:TARGET[:rw]",
        help="the same, read-only unless :rw is given; or type=bind,source=...,target=...,ro",
    )
    run.add_argument(
        *("--net", "--network"),
        dest="network",
        default="host",
        choices=("host", "none"),
        help="the network of the host, which is the default, or none",
    )
    run.add_argument(
        "--tmp-size",
        default="",
        metavar="SIZE",
        help="keep /tmp in memory, with this size; default: on the disk, without a limit",
    )
    run.add_argument(
        "--read-only",
        action="store_true",
        help="no effect: the root file system is always read-only",
    )
    run.add_argument(
        "--rm", action="store_true", help="no effect: what ran in the foreground is always removed"
    )


def _add_logs(run: Parser) -> None:
    run.add_argument(
        "--log-dir",
        default="",
        metavar="DIR",
        help="also write the output to files in this directory",
    )
    run.add_argument(
        "--log-max-size",
        default="10m",
        metavar="SIZE",
        help="size at which a log file is rotated; default %(default)s",
    )
    run.add_argument(
        "--log-max-files",
        type=whole_number,
        default=10,
        metavar="N",
        help="number of log files to keep; default %(default)s",
    )


def _do_run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from milo.cli.run import run_jar

    return run_jar(options, rest)
