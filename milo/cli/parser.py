"""The arguments of the ``milo`` command. Each command's module is imported when it is run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import milo
from milo.cli.task_keys import add_task_keys
from milo.core.config.plugin_options import PluginOptions

DESCRIPTION: Final = """\
Milo is a Nomad task driver. Nomad's agent starts this program from its plugin directory and
runs jobs with driver = "milo". You can also run it by hand, with these commands.
"""

EXIT_STATUS: Final = """\
exit status:
  0    done
  1    failed; a message on stderr says why
  2    the command line is wrong
  130  interrupted by Ctrl-C
  141  the program that read the output ended first, as in: milo ps | head -1

milo run and milo exec return the exit code of the application or the command, or 128 plus
the number of the signal that ended it. milo run returns 1 instead of 0 if it could not write
all of the output.

Set MILO_DEBUG=1 in the environment to get a traceback with every error.
"""

SHELLS: Final = ("bash", "zsh", "fish")
TASK_HELP: Final = "the id or name of the task, or the id of its allocation; ids can be cut short"


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line.

    Each command sets ``run``, the function that does the work.
    """
    parser = argparse.ArgumentParser(
        prog="milo",
        description=DESCRIPTION,
        epilog=EXIT_STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"milo {milo.__version__}")
    commands = parser.add_subparsers(
        title="commands", dest="command", required=True, metavar="COMMAND"
    )
    for add in (
        *(_run, _ps, _logs, _stats, _exec, _stop),
        *(_install, _uninstall, _doctor, _job, _completion, _gc),
    ):
        add(commands)
    return parser


if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def _run(commands: Commands) -> None:
    run = commands.add_parser(
        "run",
        help="run a JAR as Nomad would, without Nomad",
        description="Run a JAR in a container and print its output as it comes. Everything after "
        "-- is passed to the application. An ordinary user's runs as himself, without limits.",
    )
    run.set_defaults(run=_do_run)
    run.add_argument("jar", metavar="APP.JAR")
    run.add_argument(
        "--name", default="", help="name to show in milo ps; default: the name of the JAR"
    )
    run.add_argument(
        "--memory",
        default="512m",
        metavar="SIZE",
        help="memory limit, such as 512m or 1.5g; default %(default)s",
    )
    run.add_argument(
        "--cpus", type=float, metavar="N", help="CPU limit in cores, such as 1.5; default: no limit"
    )
    run.add_argument(
        "--java",
        default="",
        metavar="JAVA",
        help='a version, such as 17 or ">= 21", or the directory of a JDK',
    )
    run.add_argument(
        "--class",
        dest="main_class",
        default="",
        help="class to run instead of the manifest's Main-Class",
    )
    run.add_argument(
        "--jvm-option",
        action="append",
        default=[],
        metavar="OPTION",
        help="option for the JVM, such as --jvm-option=-Xss1m; can be repeated",
    )
    run.add_argument(
        *("-e", "--env"),
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="set an environment variable; without =VALUE, pass on the one of this shell",
    )
    run.add_argument(
        "--user",
        default="",
        help="run as this user of the host; default nobody; without root, yourself",
    )
    run.add_argument(
        *("-m", "--mount"),
        action="append",
        default=[],
        metavar="SOURCE:TARGET[:rw]",
        help="mount a file or directory of the host; read-only unless :rw is given",
    )
    run.add_argument(
        "--read-only",
        action="store_true",
        help="no effect: the root file system is always read-only",
    )
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
        type=int,
        default=10,
        metavar="N",
        help="number of log files to keep; default %(default)s",
    )
    run.add_argument("-v", "--verbose", action="store_true", help="print what Milo decides and why")
    add_task_keys(run)


def _do_run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from milo.cli.run import run_jar

    return run_jar(options, rest)


def _ps(commands: Commands) -> None:
    ps = commands.add_parser(
        "ps",
        help="list the tasks of this host",
        description="List all Milo tasks on this host, started by Nomad or by milo run; as an "
        "ordinary user, those of your own milo run.",
    )
    ps.set_defaults(run=_do_ps)
    ps.add_argument("-a", "--all", action="store_true", help="include tasks that have ended")
    ps.add_argument("--json", action="store_true", help="print JSON, for scripts")
    _state_dir(ps)


def _do_ps(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from milo.cli.tasks import show_tasks

    return show_tasks(options)


def _logs(commands: Commands) -> None:
    logs = commands.add_parser(
        "logs",
        help="print the log of a task",
        description="Print the log of a task, from the files that Nomad's log collector or "
        "milo run --log-dir wrote. On a terminal, control characters are escaped, except for "
        "colours.",
    )
    logs.set_defaults(run=_do_logs)
    logs.add_argument("task", metavar="TASK", help=TASK_HELP)
    logs.add_argument(
        "-f", "--follow", action="store_true", help="keep printing until the task ends"
    )
    logs.add_argument(
        "--stderr", action="store_true", help="print standard error instead of standard output"
    )
    logs.add_argument("-n", "--lines", type=int, metavar="N", help="print only the last N lines")
    _state_dir(logs)


def _do_logs(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from milo.cli.logs import show_logs

    return show_logs(options)


def _stats(commands: Commands) -> None:
    stats = commands.add_parser(
        "stats",
        help="show the CPU and memory use of tasks",
        description="Show the CPU and memory use of tasks, as the kernel counts it.",
    )
    stats.set_defaults(run=_do_stats)
    stats.add_argument("task", metavar="TASK", nargs="?", default="", help=TASK_HELP)
    stats.add_argument("-f", "--follow", action="store_true", help="repeat until interrupted")
    stats.add_argument(
        "--interval",
        default="1s",
        metavar="TIME",
        help="time to measure over, such as 500ms; default %(default)s",
    )
    stats.add_argument("--json", action="store_true", help="print JSON, for scripts")
    _state_dir(stats)


def _do_stats(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from milo.cli.tasks import show_stats

    return show_stats(options)


def _exec(commands: Commands) -> None:
    execute = commands.add_parser(
        "exec",
        help="run a command in a task",
        description="Run a command in the container of a task, as the user of its application. "
        "The tools of its JDK, such as jcmd and jstack, are on the PATH.",
        epilog="Example: milo exec web -- jcmd 2 Thread.print",
    )
    execute.set_defaults(run=_do_exec)
    execute.add_argument("task", metavar="TASK", help=TASK_HELP)
    execute.add_argument(
        "words", metavar="COMMAND", nargs="*", help="put it after -- if it has options"
    )
    execute.add_argument(
        "-t", "--tty", dest="tty", action="store_true", help="give the command a terminal"
    )
    execute.add_argument(
        "-T", "--no-tty", dest="tty", action="store_false", help="do not give it a terminal"
    )
    execute.set_defaults(tty=None)
    _state_dir(execute)


def _do_exec(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from milo.cli.exec import execute

    return execute(options, rest)


def _stop(commands: Commands) -> None:
    stop = commands.add_parser(
        "stop",
        help="stop a task",
        description="Send a signal to a task, and SIGKILL if it does not end in time. Nomad "
        "restarts its own tasks as the restart block of the job says; to end one for good, stop "
        "the job.",
    )
    stop.set_defaults(run=_do_stop)
    stop.add_argument("task", metavar="TASK", help=TASK_HELP)
    stop.add_argument("--signal", default="SIGTERM", help="signal to send; default %(default)s")
    stop.add_argument(
        "--timeout", default="10s", metavar="TIME", help="time until SIGKILL; default %(default)s"
    )
    _state_dir(stop)


def _do_stop(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from milo.cli.tasks import stop_task

    return stop_task(options)


def _install(commands: Commands) -> None:
    install = commands.add_parser(
        "install",
        help="install milo in the plugin directory of a Nomad agent",
        description="Write the executable milo into the plugin directory of a Nomad agent. Run by "
        "root, it refuses if other users could change what the agent would run.",
    )
    install.set_defaults(run=_do_install)
    install.add_argument("plugin_dir", metavar="PLUGIN_DIR", help="created if it does not exist")


def _do_install(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from milo.cli.install import install

    return install(options.plugin_dir)


def _uninstall(commands: Commands) -> None:
    uninstall = commands.add_parser(
        "uninstall",
        help="remove milo from the plugin directory of a Nomad agent",
        description="Remove the executable that milo install wrote, and nothing else, and list "
        "the tasks that still run.",
    )
    uninstall.set_defaults(run=_do_uninstall)
    uninstall.add_argument(
        "plugin_dir", metavar="PLUGIN_DIR", help="the directory that milo was installed in"
    )
    _state_dir(uninstall)


def _do_uninstall(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from milo.cli.uninstall import uninstall

    return uninstall(options)


def _doctor(commands: Commands) -> None:
    doctor = commands.add_parser(
        "doctor",
        help="check this host and its Nomad agent, and say what to fix",
        description="Check the kernel, cgroups, crun, Java, seccomp and directories of this host, "
        "and the configuration, plugin directory, node and systemd unit of its Nomad agent. The "
        "exit status is 1 if a check failed. Without root, some checks are left out.",
    )
    doctor.set_defaults(run=_do_doctor)
    doctor.add_argument(
        "--config",
        action="append",
        default=[],
        metavar="PATH",
        help="a configuration file or directory of the agent; can be repeated; default: those "
        "that its systemd unit names, or /etc/nomad.d",
    )
    doctor.add_argument(
        "--address",
        default="",
        metavar="URL",
        help="address of a running agent; default $NOMAD_ADDR or http://127.0.0.1:4646",
    )
    doctor.add_argument(
        "--service",
        default="nomad",
        metavar="UNIT",
        help="systemd unit of the agent; default %(default)s",
    )
    doctor.add_argument("--json", action="store_true", help="print JSON, for scripts")


def _do_doctor(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from milo.cli.doctor.report import show_health

    return show_health(options)


def _job(commands: Commands) -> None:
    job = commands.add_parser(
        "job",
        help="print a job file that runs a JAR",
        description="Print a Nomad job file that runs a JAR. A local JAR is inspected for its main "
        "class and the Java version it needs; nothing is downloaded. Everything after -- becomes "
        "args, the arguments of the application.",
        epilog="Example: milo job app.jar --memory 1g -- --port 8080 > app.nomad.hcl",
    )
    job.set_defaults(run=_do_job)
    job.add_argument("jar", metavar="APP.JAR", help="path or http(s) URL of the JAR")
    job.add_argument("--name", default="", help="name of the job; default: the name of the JAR")
    job.add_argument(
        "--class", dest="main_class", default="", help="class to run instead of the Main-Class"
    )
    job.add_argument(
        *("-m", "--memory"),
        default="512m",
        metavar="SIZE",
        help="memory, such as 512m or 1g, or a number of MiB; default %(default)s",
    )
    job.add_argument("--cpu", type=int, default=500, metavar="MHZ", help="CPU; default %(default)s")
    job.add_argument("--count", type=int, default=1, metavar="N", help="number of instances")
    job.add_argument(
        "--service",
        action="store_true",
        help="write a service, which runs until stopped, instead of a batch job",
    )


def _do_job(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from milo.cli.job import print_job

    return print_job(options, rest)


def _completion(commands: Commands) -> None:
    completion = commands.add_parser(
        "completion",
        help="print a completion script for a shell",
        description="Print a script that lets a shell complete the commands and options of milo.",
        epilog="Example, for bash: milo completion bash > /etc/bash_completion.d/milo",
    )
    completion.set_defaults(run=_do_completion)
    completion.add_argument("shell", metavar="SHELL", choices=SHELLS, help=" or ".join(SHELLS))


def _do_completion(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from milo.cli.completion import print_completion

    return print_completion(build_parser(), options.shell)


def _gc(commands: Commands) -> None:
    gc = commands.add_parser(
        "gc",
        help="find what crashes left behind, and remove it",
        description="List the containers, task processes, cgroups, mounts and state directories "
        "that belong to no living allocation. As an ordinary "
        "user: what a killed milo run of yours has left.",
    )
    gc.set_defaults(run=_do_gc)
    gc.add_argument("--yes", action="store_true", help="remove what was found")
    _state_dir(gc)


def _do_gc(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from milo.cli.gc import collect_garbage

    return collect_garbage(options.state_dir, remove=options.yes)


def _state_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--state-dir",
        default=PluginOptions().state_dir,
        metavar="DIR",
        help="state_dir of the plugin's configuration; default %(default)s",
    )
