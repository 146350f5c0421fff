"""The arguments of the ``milo`` command. Each command's module is imported when it is run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import milo
from milo.cli.parsing import TASK_HELP, Parser, add_state_dir, examples, whole_number
from milo.cli.run_parser import add_run
from milo.core.config.places import CACHE_DIR

DESCRIPTION: Final = """\
Milo is a Nomad task driver. Nomad's agent starts this program from its plugin directory and
runs jobs with driver = "milo". You can also run it by hand, with these commands.
"""

EXIT_STATUS: Final = """\
exit status:
  0    done
  1    failed; a message on stderr says why
  2    the command line is wrong: an option, or a value that none of its kind can be
  130  interrupted by Ctrl-C
  141  the program that read the output ended first, as in: milo ps | head -1

milo run and milo exec return the exit code of the application or the command, or 128 plus
the number of the signal that ended it. milo run returns 1 instead of 0 if it could not write
all of the output, or the recording of --jfr.

Set MILO_DEBUG=1 in the environment to get a traceback with every error.
"""

DUMPS: Final = ("threads", "heap", "jfr")
OTHERS: Final = {
    "help": "For help: milo --help",
    **dict.fromkeys(("list", "ls", "status"), "To list tasks: milo ps"),
    "top": "For the use of CPU and memory: milo stats",
    **dict.fromkeys(("start", "java"), "To run a JAR: milo run APP.JAR"),
    **dict.fromkeys(("kill", "rm"), "To end a task: milo stop; to remove what it left: milo gc"),
}
"""Commands of other programs."""
SHELLS: Final = ("bash", "zsh", "fish")


def build_parser(command: str | None = None) -> Parser:
    """Return the parser of the whole command line.

    ``command`` is the one that is meant, where that is known: the others are not there then, as
    each takes time. Each command sets ``run``, the function that does the work.
    """
    parser = Parser(prog="milo", description=DESCRIPTION, epilog=EXIT_STATUS)
    parser.others = OTHERS
    parser.add_argument("--version", action="version", version=f"milo {milo.__version__}")
    commands = parser.add_subparsers(
        title="commands", dest="command", required=True, metavar="COMMAND"
    )
    others = {
        add.__name__.removeprefix("_").replace("_", "-"): add
        for add in (
            *(_ps, _logs, _stats, _exec, _dump, _post_mortem, _stop),
            *(_install, _uninstall, _doctor, _demo, _job, _completion, _gc, _version),
        )
    }
    if command not in others:
        add_run(commands, keys=command in (None, "run"))
    if command != "run":
        for add in [others[command]] if command in others else others.values():
            add(commands)
    return parser


if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[Parser]


def _ps(commands: Commands) -> None:
    ps = commands.add_parser(
        "ps",
        help="list the tasks of this host",
        description="List all Milo tasks on this host, started by Nomad or by milo run; as an "
        "ordinary user, those of your own milo run.",
        epilog=examples("milo ps", "milo ps --all --json | jq -r '.[].task'"),
    )
    ps.set_defaults(run=_do_ps)
    ps.add_argument(
        "-a",
        "--all",
        action="store_true",
        help="include tasks that have ended, and how; those of "
        "Nomad until it removes their allocation",
    )
    ps.add_argument("--json", action="store_true", help="print JSON, for scripts")
    add_state_dir(ps)


def _do_ps(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from milo.cli.ps import show_tasks

    return show_tasks(options)


def _logs(commands: Commands) -> None:
    logs = commands.add_parser(
        "logs",
        help="print the log of a task",
        description="Print standard output and standard error of a task in order of time, from the "
        "files that Nomad's log collector or milo run wrote. Of a job with several tasks on this "
        "host, all are printed, each line behind the name of its task. On a terminal, control "
        "characters are escaped, except for colours.",
        epilog=examples("milo logs web", "milo logs -f -n 20 web", "milo logs --stderr web"),
    )
    logs.set_defaults(run=_do_logs)
    logs.add_argument("task", metavar="TASK", help=TASK_HELP)
    logs.add_argument(
        "-f", "--follow", action="store_true", help="keep printing until the task ends"
    )
    logs.add_argument("--stdout", action="store_true", help="print standard output only")
    logs.add_argument("--stderr", action="store_true", help="print standard error only")
    logs.add_argument(
        *("-n", "--lines", "--tail"),
        type=whole_number,
        metavar="N",
        help="print only the last N lines of each task",
    )
    logs.add_argument(
        "--since", default="", metavar="TIME", help="print what is younger, such as 90s or 2h"
    )
    add_state_dir(logs)


def _do_logs(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from milo.cli.logs import show_logs

    return show_logs(options)


def _stats(commands: Commands) -> None:
    stats = commands.add_parser(
        "stats",
        help="show the CPU and memory use of tasks",
        description="Show the CPU and memory use of tasks, as the kernel counts it: of all, or of "
        "those of a job.",
        epilog=examples("milo stats", "milo stats -f --interval 5s web"),
    )
    stats.set_defaults(run=_do_stats)
    stats.add_argument("task", metavar="TASK", nargs="?", default="", help=TASK_HELP)
    often = stats.add_mutually_exclusive_group()
    often.add_argument("-f", "--follow", action="store_true", help="repeat until interrupted")
    often.add_argument("--no-stream", action="store_true", help="print once, which is the default")
    stats.add_argument(
        "--interval",
        default="1s",
        metavar="TIME",
        help="time to measure over, such as 500ms; default %(default)s",
    )
    stats.add_argument("--json", action="store_true", help="print JSON, for scripts")
    add_state_dir(stats)


def _do_stats(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from milo.cli.stats import show_stats

    return show_stats(options)


def _exec(commands: Commands) -> None:
    execute = commands.add_parser(
        "exec",
        help="run a command in a task",
        description="Run a command in the container of a task, as the user of its application. "
        "The tools of its JDK, such as jcmd and jstack, are on the PATH. All words after TASK are "
        "the command's.",
        epilog=examples("milo exec web ls -la /local", "milo exec web jcmd 2 VM.flags"),
    )
    execute.set_defaults(run=_do_exec)
    execute.add_argument("task", metavar="TASK", help=TASK_HELP)
    execute.add_argument("words", metavar="COMMAND", nargs="*", help="with its own arguments")
    execute.add_argument(
        "-t", "--tty", dest="tty", action="store_true", help="give the command a terminal"
    )
    execute.add_argument(
        "-T", "--no-tty", dest="tty", action="store_false", help="do not give it a terminal"
    )
    execute.set_defaults(tty=None)
    execute.add_argument(
        "-i", "--interactive", action="store_true", help="no effect: input is always passed on"
    )
    add_state_dir(execute)


def _do_exec(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from milo.cli.exec import execute

    return execute(options, rest)


def _dump(commands: Commands) -> None:
    dump = commands.add_parser(
        "dump",
        help="get a thread dump, a heap dump or a flight recording of a task",
        description="Have the JVM of a task write a thread dump, a heap dump or a flight "
        "recording, with the tools of its own JDK, and put the file here.",
        epilog=examples(
            "milo dump threads web",
            "milo dump heap web web.hprof",
            "milo dump jfr --duration 1m web web.jfr",
        ),
    )
    dump.set_defaults(run=_do_dump)
    dump.add_argument("what", metavar="WHAT", choices=DUMPS, help=", ".join(DUMPS))
    dump.add_argument("task", metavar="TASK", help=TASK_HELP)
    dump.add_argument(
        "file",
        metavar="FILE",
        nargs="?",
        default="",
        help="a new file; default: threads are printed, others go to TASK-TIME.hprof or .jfr",
    )
    dump.add_argument(
        "--duration",
        metavar="TIME",
        help="make a flight recording of so long; default: the one that runs along with the task "
        "(flight_recorder), of its last minutes, or one of 30s",
    )
    add_state_dir(dump)


def _do_dump(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from milo.cli.dump import dump

    return dump(options)


def _post_mortem(commands: Commands) -> None:
    found = commands.add_parser(
        "post-mortem",
        help="show what is known of a task that has died",
        description="Show how a task has ended: its exit, memory, last heap and threads, the end "
        "of its standard error, and where its dumps are.",
        epilog=examples("milo post-mortem web", "milo post-mortem --json web | jq .heap"),
    )
    found.set_defaults(run=_do_post_mortem)
    found.add_argument("task", metavar="TASK", help=TASK_HELP)
    found.add_argument("--json", action="store_true", help="print JSON, for scripts")
    add_state_dir(found)


def _do_post_mortem(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from milo.cli.post_mortem import show_end

    return show_end(options)


def _stop(commands: Commands) -> None:
    stop = commands.add_parser(
        "stop",
        help="stop a task",
        description="Send a signal to a task, and SIGKILL if it does not end in time. Nomad "
        "restarts its own tasks as the restart block of the job says; to end one for good, stop "
        "the job. A task without its task process is stopped, too, and cleaned up.",
        epilog=examples("milo stop web", "milo stop --signal SIGINT --timeout 1m web"),
    )
    stop.set_defaults(run=_do_stop)
    stop.add_argument("task", metavar="TASK", help=TASK_HELP)
    stop.add_argument("--signal", default="SIGTERM", help="signal to send; default %(default)s")
    stop.add_argument(
        *("-t", "--timeout", "--time"),
        default="10s",
        metavar="TIME",
        help="time until SIGKILL; default %(default)s",
    )
    add_state_dir(stop)


def _do_stop(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from milo.cli.stop import stop_task

    return stop_task(options)


def _install(commands: Commands) -> None:
    install = commands.add_parser(
        "install",
        help="install milo in the plugin directory of a Nomad agent",
        description="Write the executable milo into the plugin directory of a Nomad agent. Run by "
        "root, it refuses if other users could change what the agent would run.",
        epilog=examples("milo install /opt/nomad/plugins"),
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
        epilog=examples("milo uninstall /opt/nomad/plugins"),
    )
    uninstall.set_defaults(run=_do_uninstall)
    uninstall.add_argument(
        "plugin_dir", metavar="PLUGIN_DIR", help="the directory that milo was installed in"
    )
    add_state_dir(uninstall)


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
        epilog=examples("milo doctor", "milo doctor --config /etc/nomad.d --json"),
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


def _demo(commands: Commands) -> None:
    demo = commands.add_parser(
        "demo",
        help="serve a sample JAR and its job file",
        description="Serve a sample JAR and its job file over HTTP on 127.0.0.1, and say how to "
        "run it on your Nomad agent. With --agent run it on an agent that is started for it, and "
        "ended with everything that belongs to it. Ctrl-C ends the demo.",
        epilog=examples("milo demo", "sudo milo demo --agent", "milo demo --write ."),
    )
    demo.set_defaults(run=_do_demo)
    demo.add_argument(
        "--agent", action="store_true", help="start a Nomad agent for the demo; needs root"
    )
    demo.add_argument(
        "--port",
        type=whole_number,
        metavar="N",
        help="serve at this port; default: 8000, if it is free",
    )
    demo.add_argument(
        "--write", default="", metavar="DIR", help="write both files to this directory, and end"
    )


def _do_demo(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from milo.cli.demo.show import demo

    return demo(options)


def _job(commands: Commands) -> None:
    job = commands.add_parser(
        "job",
        help="print a job file that runs a JAR",
        description="Print a Nomad job file that runs a JAR. A local JAR is inspected for its main "
        "class and the Java version it needs; nothing is downloaded. Everything after -- becomes "
        "args, the arguments of the application.",
        epilog=examples(
            "milo job app.jar > app.nomad.hcl",
            "milo job app.jar --service --memory 1g -- --port 8080 > app.nomad.hcl",
        ),
    )
    job.set_defaults(run=_do_job)
    job.strange_hint = ". Arguments of the application stand after --"
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
    job.add_argument(
        "--cpu", type=whole_number, default=500, metavar="MHZ", help="CPU; default %(default)s"
    )
    job.add_argument(
        "--count", type=whole_number, default=1, metavar="N", help="number of instances"
    )
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
        epilog=examples(
            "milo completion bash > /etc/bash_completion.d/milo",
            "milo completion zsh > /usr/local/share/zsh/site-functions/_milo",
            "milo completion fish > /etc/fish/completions/milo.fish",
        ),
    )
    completion.set_defaults(run=_do_completion)
    completion.add_argument("shell", metavar="SHELL", choices=SHELLS, help=" or ".join(SHELLS))


def _do_completion(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from milo.cli.completion import print_completion

    return print_completion(options.shell)


def _gc(commands: Commands) -> None:
    gc = commands.add_parser(
        "gc",
        help="find what crashes left behind, and remove it",
        description="List the containers, task processes, cgroups, mounts and state directories "
        "that belong to no living allocation, and what a killed milo run has left; as an "
        "ordinary user, what one of yours has left.",
        epilog=examples("milo gc", "milo gc --yes", "milo gc --yes NAME"),
    )
    gc.set_defaults(run=_do_gc)
    gc.add_argument(
        "task",
        metavar="TASK",
        nargs="?",
        default="",
        help="an ended or killed milo run, and only it",
    )
    gc.add_argument("--yes", action="store_true", help="remove what was found")
    gc.add_argument(
        "--cache-dir",
        default="",
        metavar="DIR",
        help=f"the plugin's cache_dir, where that is not the default {CACHE_DIR}",
    )
    add_state_dir(gc)


def _do_gc(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from milo.cli.gc import collect_garbage

    return collect_garbage(
        options.state_dir, remove=options.yes, name=options.task, cache_dir=options.cache_dir
    )


def _version(commands: Commands) -> None:
    version = commands.add_parser("version", help="print the version of milo")
    version.set_defaults(run=_do_version)


def _do_version(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from milo.cli.output import say

    say(f"milo {milo.__version__}")
    return 0
