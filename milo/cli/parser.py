"""The arguments of the ``milo`` command. Each command's module is imported when it is run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import milo
from milo.cli.task_keys import add_task_keys
from milo.core.config.plugin_options import PluginOptions

DESCRIPTION: Final = """\
Milo is a Nomad task driver: Nomad's agent starts this program by itself, from its plugin
directory, and runs jobs with driver = "milo" in it. Started by hand it is this command.
"""

EXIT_STATUS: Final = """\
exit status:
  0    done
  1    not done; a sentence on stderr says why
  2    the command line is wrong
  130  ended by Ctrl-C
  141  the program that read the output ended first, as in: milo ps | head -1

milo run and milo exec return the exit code of the application or the command, or 128 and
the number of the signal that ended it. When milo run could not write all output, it returns
1 instead of 0.

MILO_DEBUG=1 in the environment adds a traceback to every error.
"""

SHELLS: Final = ("bash", "zsh", "fish")
TASK_HELP: Final = "its id, its allocation's, or its name; the beginning of an id will do"


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line.

    Each command sets ``run``, the function that does the work, and ``needs_root`` where only
    root can do it.
    """
    parser = argparse.ArgumentParser(
        prog="milo",
        description=DESCRIPTION,
        epilog=EXIT_STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(needs_root=False)
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
        help="run a JAR as Nomad would have it run, without Nomad",
        description="Run a JAR in a container; its output comes as it is printed. Needs root. "
        "What follows -- is given to the application.",
    )
    run.set_defaults(run=_do_run, needs_root=True)
    run.add_argument("jar", metavar="APP.JAR")
    run.add_argument("--name", default="", help="for milo ps; default the JAR's")
    run.add_argument(
        "--memory",
        default="512m",
        metavar="SIZE",
        help="limit, such as 512m or 1.5g; default %(default)s",
    )
    run.add_argument("--cpus", type=float, metavar="N", help="limit, such as 1.5; default none")
    run.add_argument(
        "--java",
        default="",
        metavar="JAVA",
        help='a version such as 17 or ">= 21", or a JDK\'s home',
    )
    run.add_argument("--class", dest="main_class", default="", help="instead of the Main-Class")
    run.add_argument("--jvm-option", action="append", default=[], metavar="OPTION")
    run.add_argument(
        *("-e", "--env"),
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="without =VALUE: as here",
    )
    run.add_argument("--user", default="", help="user of the host to run as; default nobody")
    run.add_argument(
        *("-m", "--mount"),
        action="append",
        default=[],
        metavar="SOURCE:TARGET[:rw]",
        help="show a file or directory of the host in the container; read-only without :rw",
    )
    run.add_argument("--read-only", action="store_true", help="no effect: the root always is")
    run.add_argument("--log-dir", default="", metavar="DIR", help="keep the output in files there")
    run.add_argument("--log-max-size", default="10m", metavar="SIZE", help="default %(default)s")
    run.add_argument(
        "--log-max-files", type=int, default=10, metavar="N", help="default %(default)s"
    )
    run.add_argument("-v", "--verbose", action="store_true", help="say what Milo decides")
    add_task_keys(run)


def _do_run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from milo.cli.run import run_jar

    return run_jar(options, rest)


def _ps(commands: Commands) -> None:
    ps = commands.add_parser(
        "ps",
        help="list the tasks of this host",
        description="List every task of Milo's on this host, whoever started it: Nomad, or "
        "milo run. Needs root.",
    )
    ps.set_defaults(run=_do_ps, needs_root=True)
    ps.add_argument("-a", "--all", action="store_true", help="those that have ended, too")
    ps.add_argument("--json", action="store_true", help="for scripts")
    _state_dir(ps)


def _do_ps(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from milo.cli.tasks import show_tasks

    return show_tasks(options)


def _logs(commands: Commands) -> None:
    logs = commands.add_parser(
        "logs",
        help="print what a task has printed",
        description="Print a task's log, from the files of Nomad's log collector or of "
        "milo run --log-dir. Needs root.",
    )
    logs.set_defaults(run=_do_logs, needs_root=True)
    logs.add_argument("task", metavar="TASK", help=TASK_HELP)
    logs.add_argument("-f", "--follow", action="store_true", help="go on until the task ends")
    logs.add_argument("--stderr", action="store_true", help="its standard error")
    logs.add_argument("-n", "--lines", type=int, metavar="N", help="the last N lines only")
    _state_dir(logs)


def _do_logs(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from milo.cli.logs import show_logs

    return show_logs(options)


def _stats(commands: Commands) -> None:
    stats = commands.add_parser(
        "stats",
        help="show what tasks use",
        description="Show processor and memory use, as the kernel counts it. Needs root.",
    )
    stats.set_defaults(run=_do_stats, needs_root=True)
    stats.add_argument("task", metavar="TASK", nargs="?", default="", help=TASK_HELP)
    stats.add_argument("-f", "--follow", action="store_true", help="again and again")
    stats.add_argument(
        "--interval",
        default="1s",
        metavar="TIME",
        help="between two looks, such as 500ms; default %(default)s",
    )
    stats.add_argument("--json", action="store_true", help="for scripts")
    _state_dir(stats)


def _do_stats(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from milo.cli.tasks import show_stats

    return show_stats(options)


def _exec(commands: Commands) -> None:
    execute = commands.add_parser(
        "exec",
        help="run a command in a task",
        description="Run a command in a task's container, as its application's user; jcmd, "
        "jstack and the like of its JDK are found by name. Needs root.",
        epilog="Example: milo exec web -- jcmd 2 Thread.print",
    )
    execute.set_defaults(run=_do_exec, needs_root=True)
    execute.add_argument("task", metavar="TASK", help=TASK_HELP)
    execute.add_argument("words", metavar="COMMAND", nargs="*", help="better after --")
    execute.add_argument("-t", "--tty", dest="tty", action="store_true", help="with a terminal")
    execute.add_argument("-T", "--no-tty", dest="tty", action="store_false", help="without one")
    execute.set_defaults(tty=None)
    _state_dir(execute)


def _do_exec(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from milo.cli.exec import execute

    return execute(options, rest)


def _stop(commands: Commands) -> None:
    stop = commands.add_parser(
        "stop",
        help="stop a task",
        description="Stop a task: a signal, and SIGKILL later. Nomad starts a task of its own "
        "again, as the job's restart block says: stop the job there. Needs root.",
    )
    stop.set_defaults(run=_do_stop, needs_root=True)
    stop.add_argument("task", metavar="TASK", help=TASK_HELP)
    stop.add_argument("--signal", default="SIGTERM", help="default %(default)s")
    stop.add_argument(
        "--timeout", default="10s", metavar="TIME", help="until SIGKILL; default %(default)s"
    )
    _state_dir(stop)


def _do_stop(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from milo.cli.tasks import stop_task

    return stop_task(options)


def _install(commands: Commands) -> None:
    install = commands.add_parser("install", help="put milo into a Nomad agent's plugin directory")
    install.set_defaults(run=_do_install)
    install.add_argument("plugin_dir", metavar="PLUGIN_DIR", help="made if there is none")


def _do_install(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from milo.cli.install import install

    return install(options.plugin_dir)


def _uninstall(commands: Commands) -> None:
    uninstall = commands.add_parser(
        "uninstall",
        help="take milo out of a Nomad agent's plugin directory",
        description="Remove the executable that milo install has put into a plugin directory, "
        "and nothing else; say which tasks still run.",
    )
    uninstall.set_defaults(run=_do_uninstall)
    uninstall.add_argument(
        "plugin_dir", metavar="PLUGIN_DIR", help="the one that milo install was given"
    )
    _state_dir(uninstall)


def _do_uninstall(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from milo.cli.uninstall import uninstall

    return uninstall(options)


def _doctor(commands: Commands) -> None:
    doctor = commands.add_parser(
        "doctor",
        help="check this host and its Nomad agent, and say what to do",
        description="Check kernel, cgroups, crun, Java, seccomp, directories, and Nomad's agent: "
        "its configuration, plugin directory, node and systemd unit. The exit status is 1 when "
        "something has failed. Without root it checks less.",
    )
    doctor.set_defaults(run=_do_doctor)
    doctor.add_argument(
        "--config",
        action="append",
        default=[],
        metavar="PATH",
        help="a configuration file or directory of the agent, again for others; default: what "
        "the agent's systemd unit names, or /etc/nomad.d",
    )
    doctor.add_argument(
        "--address",
        default="",
        metavar="URL",
        help="of a running agent; default $NOMAD_ADDR or http://127.0.0.1:4646",
    )
    doctor.add_argument(
        "--service", default="nomad", metavar="UNIT", help="systemd unit; default %(default)s"
    )
    doctor.add_argument("--json", action="store_true", help="for scripts")


def _do_doctor(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from milo.cli.doctor.report import show_health

    return show_health(options)


def _job(commands: Commands) -> None:
    job = commands.add_parser(
        "job",
        help="print a job file that runs a JAR",
        description="Print a Nomad job file that runs a JAR. A local JAR is looked into, for the "
        "class that it runs and the Java that it needs; nothing is fetched.",
        epilog="Example: milo job app.jar --memory 1024 > app.nomad.hcl",
    )
    job.set_defaults(run=_do_job)
    job.add_argument("jar", metavar="APP.JAR", help="a path, or an http(s) URL")
    job.add_argument("--name", default="", help="of the job; default the JAR's")
    job.add_argument("--memory", type=int, default=512, metavar="MIB", help="default %(default)s")
    job.add_argument("--cpu", type=int, default=500, metavar="MHZ", help="default %(default)s")
    job.add_argument("--count", type=int, default=1, metavar="N", help="how many instances")
    job.add_argument(
        "--service", action="store_true", help="runs until it is stopped; else it runs once"
    )


def _do_job(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from milo.cli.job import print_job

    return print_job(options)


def _completion(commands: Commands) -> None:
    completion = commands.add_parser(
        "completion",
        help="print a script for a shell's completion",
        description="Print a script with which a shell completes milo's commands and options.",
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
        help="show what crashes have left behind, and remove it",
        description="Show the containers, task processes, cgroups, mounts and state directories "
        "that no living allocation owns. Needs root.",
    )
    gc.set_defaults(run=_do_gc, needs_root=True)
    gc.add_argument("--yes", action="store_true", help="remove them")
    _state_dir(gc)


def _do_gc(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from milo.cli.gc import collect_garbage

    return collect_garbage(options.state_dir, remove=options.yes)


def _state_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--state-dir",
        default=PluginOptions().state_dir,
        metavar="DIR",
        help="as in the plugin's configuration; default %(default)s",
    )
