"""The arguments of the commands that prepare a host, and people, for Milo."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from milo.core.launch import PluginOptions

SHELLS: Final = ("bash", "zsh", "fish")

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def add_commands(commands: Commands) -> None:
    """Add each command's parser; ``run`` of what it parses does the work."""
    for add in (_uninstall, _doctor, _job, _completion):
        add(commands)


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
    uninstall.add_argument(
        "--state-dir",
        default=PluginOptions().state_dir,
        metavar="DIR",
        help="as in the plugin's configuration; default %(default)s",
    )


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

    return print_completion(options.shell)
