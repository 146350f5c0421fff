"""The verdicts of `milo doctor` about Nomad's agent: its configuration, node and service. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from milo.cli.doctor.agent_config import PLUGIN, AgentConfig, as_nomad_converts
from milo.cli.doctor.finding import Finding, Verdict, ok
from milo.cli.doctor.service_unit import ServiceUnit
from milo.core.config.options import options_of
from milo.core.config.plugin_options import (
    PluginOptions,
    parse_plugin_options,
    plugin_problems,
)
from milo.core.versions import version_numbers

MIN_NOMAD: Final = (1, 6)

BLOCK: Final = 'plugin "milo" { config { } }'


@attrs.frozen
class PluginDir:
    """What lies in an agent's plugin directory."""

    path: str
    exists: bool = False
    unreadable: str = ""
    """Why the directory, or the file ``milo`` in it, cannot be looked at."""
    is_directory: bool = True
    state: str = "missing"
    """Of the file ``milo`` in it: ``missing``, ``directory``, ``not executable``, ``dangling``
    or ``executable``."""
    similar: tuple[str, ...] = ()
    """Other names that were meant to be it, it seems."""
    dangling: tuple[str, ...] = ()
    """Symlinks that lead nowhere: Nomad's agent does not start with one."""
    elsewhere: tuple[str, ...] = ()
    """Where else there is an executable ``milo``, as in plugin directories of other agents."""
    version: str = ""
    """What it says its version is; empty when it was not asked."""
    changeable: str = ""
    """What another user than root can change of what the agent runs; it is not asked then."""
    problem: str = ""
    """Why it could not be asked, or did not answer."""


@attrs.frozen
class AgentAnswer:
    """What a running agent's HTTP API told."""

    address: str
    problem: str = ""
    """Why it told nothing; empty otherwise."""
    refused: bool = False
    """It is there, and wants a token."""
    version: str = ""
    config: AgentConfig | None = None
    driver: Mapping[str, Any] | None = None
    """The node's entry for this driver; None when the agent is no client."""
    is_client: bool = False
    here: bool = True
    """Whether the node is this host, as far as names tell."""
    node: str = ""


def check_configuration(
    config: AgentConfig | None, looked: Sequence[str], errors: Sequence[str]
) -> list[Finding]:
    """``config`` of files or of the API; ``looked``: where there was none."""
    name = "agent configuration"
    findings = [
        Finding(name, Verdict.FAILED, error, "Fix the file, or name others with --config")
        for error in errors
    ]
    if config is None:
        if not errors:
            findings.append(
                Finding(
                    name,
                    Verdict.SKIPPED,
                    f"none found in {', '.join(looked)}",
                    "Name the configuration files with --config, or a running agent with --address",
                )
            )
        return findings
    if config.client is False:
        findings.append(
            Finding(
                name,
                Verdict.WARNING,
                f"{config.source}: the agent is not a client, so it runs no tasks",
                "Run milo doctor on a client, or set client { enabled = true }",
            )
        )
    return findings or [ok(name, config.source)]


def check_block(config: AgentConfig) -> Finding:
    """Nomad 2.0 skips a plugin that no block names; so the block is asked for by every version."""
    if config.has_block:
        return ok("plugin block", f'plugin "{PLUGIN}" is in {config.source}')
    near = [name for name in config.other_blocks if PLUGIN in name.lower()]
    return Finding(
        "plugin block",
        Verdict.FAILED,
        f'{config.source} has no block plugin "{PLUGIN}"'
        + (f', only one for "{near[0]}"' if near else "")
        + ": Nomad skips the plugin",
        f"Add {BLOCK} to the agent's configuration and restart the agent",
    )


def check_options(config: AgentConfig) -> tuple[list[Finding], PluginOptions]:
    """Return whether the block's keys are valid, and their values; the defaults if not."""
    name = "plugin options"
    given = as_nomad_converts(config.options, PluginOptions)
    if problems := plugin_problems(given):
        return [
            Finding(
                name,
                Verdict.FAILED,
                f"{exc.key}: {exc.problem}. Nomad's agent does not start with it",
                f"Expected {exc.expected}",
            )
            for exc in problems
        ], PluginOptions()
    options = parse_plugin_options(given)
    # A running agent tells of every key, set or not.
    changed = [
        key
        for key, item in sorted(options_of(PluginOptions).items())
        if given.get(key) is not None and getattr(options, item.field) != item.default
    ]
    return [ok(name, ", ".join(changed) or "all defaults")], options


def check_permitted(options: PluginOptions) -> list[Finding]:
    """Tell an operator whose jobs can be root on the host."""
    if not options.insecure_java_driver_privileges:
        return []
    return [
        Finding(
            "plugin privileges",
            Verdict.WARNING,
            "insecure_java_driver_privileges = true: whoever may submit a job can be root on this "
            "host, as with Nomad's java driver",
            "Remove it, and permit by name what jobs need: see docs/migrate-from-java.md",
        )
    ]


def check_plugin_dir(config: AgentConfig, found: PluginDir, version: str) -> list[Finding]:
    """Whether the agent finds an executable ``milo``. ``version``: of the Milo that asks."""
    name = "plugin_dir"
    if not found.path:
        return [
            Finding(
                name,
                Verdict.FAILED,
                f"{config.source} sets neither plugin_dir nor data_dir",
                'Set plugin_dir = "/opt/nomad/plugins", then milo install /opt/nomad/plugins',
            )
        ]
    if found.unreadable:
        return [Finding(name, Verdict.SKIPPED, found.unreadable, "sudo milo doctor")]
    chosen = "" if config.plugin_dir_given else " (Nomad's default, below data_dir)"
    install = f"milo install {found.path}, and restart the agent"
    findings = [
        Finding(
            name,
            Verdict.FAILED,
            f"{found.path}/{link} is a broken symlink: Nomad's agent does not start",
            f"rm {found.path}/{link}",
        )
        for link in found.dangling
    ]
    problem = ""
    if found.exists and not found.is_directory:
        problem = f"{found.path}{chosen} is not a directory"
    elif not found.exists:
        problem = f"{found.path}{chosen} does not exist"
    elif found.state == "missing":
        problem = f"{found.path}{chosen} has no file named milo"
    elif found.state in ("directory", "not executable"):
        word = "a directory" if found.state == "directory" else "not executable"
        problem = f"{found.path}/milo is {word}, so Nomad skips it"
    if problem:
        if found.similar:
            problem += f"; {', '.join(found.similar)} does not count: the name must be exactly milo"
        if found.elsewhere:
            problem += (
                f"; there is one in {', '.join(found.elsewhere)}, which this agent does not read"
            )
            install = f'{install}; or set plugin_dir = "{found.elsewhere[0]}"'
        if found.state == "not executable":
            install = f"chmod 0755 {found.path}/milo, and restart the agent"
        findings.append(Finding(name, Verdict.FAILED, problem, install))
    elif found.changeable:
        findings.append(
            Finding(
                name,
                Verdict.FAILED,
                f"{found.changeable}, and Nomad's agent runs code from there as root",
                "Use chown -R root:root and chmod -R go-w, or install Milo where only root writes",
            )
        )
    elif found.problem:
        findings.append(
            Finding(name, Verdict.FAILED, f"{found.path}/milo: {found.problem}", install)
        )
    elif found.version and found.version != version:
        findings.append(
            Finding(
                name,
                Verdict.WARNING,
                f"{found.path}/milo has version {found.version}, and this is {version}",
                f"milo install {found.path}, and restart the agent, to use this one",
            )
        )
    return findings or [ok(name, f"{found.path}/milo" + (f", {version}" if found.version else ""))]


def check_agent(answer: AgentAnswer, files: AgentConfig | None) -> list[Finding]:
    """What the running agent says; ``files``: what is configured for its next start."""
    name = "agent"
    if answer.refused:
        return [
            Finding(
                name,
                Verdict.SKIPPED,
                f"{answer.address} refuses to answer: {answer.problem}",
                "Set NOMAD_TOKEN to a token that may read agent and node",
            )
        ]
    if answer.problem:
        return [
            Finding(
                name,
                Verdict.SKIPPED,
                f"no agent answers at {answer.address}: {answer.problem}",
                "Start the agent, or name another with --address",
            )
        ]
    findings = [check_version(answer)]
    if not answer.here:
        findings.append(
            Finding(
                name,
                Verdict.WARNING,
                f"{answer.address} is the agent of {answer.node}, another host",
                "Name this host's agent with --address; nothing else of {answer.node} is checked",
            )
        )
    if files and files.has_block and answer.config and answer.here and not answer.config.has_block:
        findings.append(
            Finding(
                name,
                Verdict.FAILED,
                f"the running agent has no plugin block, but {files.source} has one",
                "Restart the agent",
            )
        )
    if answer.is_client:
        findings.append(check_driver(answer.driver))
    return findings


def check_version(answer: AgentAnswer) -> Finding:
    """Nomad's own version."""
    text = f"Nomad {answer.version or 'of an unknown version'} at {answer.address}"
    if () < version_numbers(answer.version) < MIN_NOMAD:
        return Finding("agent", Verdict.FAILED, f"{text} is older than 1.6", "Update Nomad")
    return ok("agent", text)


def check_driver(driver: Mapping[str, Any] | None) -> Finding:
    """The node's own words about the driver."""
    name = "driver"
    if not driver or not driver.get("Detected"):
        return Finding(
            name,
            Verdict.FAILED,
            "the node does not list the driver milo"
            if not driver
            else f"the node has not detected it: {driver.get('HealthDescription') or 'no reason'}",
            "See plugin block and plugin_dir above. Restart the agent and search its log for "
            "plugin",
        )
    words = str(driver.get("HealthDescription") or "")
    if not driver.get("Healthy"):
        return Finding(
            name,
            Verdict.FAILED,
            f"unhealthy: {words.removeprefix('Error: ') or 'no reason given'}",
            "Fix that; the driver checks again every 30 s",
        )
    return ok(name, "healthy on this node")


def check_service(unit: ServiceUnit) -> list[Finding]:
    """What stopping or restarting the service does to tasks."""
    name = "service"
    findings = [Finding(name, Verdict.SKIPPED, one, "sudo milo doctor") for one in unit.unread]
    if unit.kill_mode not in ("process", "none"):
        findings.append(
            Finding(
                name,
                Verdict.FAILED,
                f"{unit.name} has KillMode={unit.kill_mode}: when the agent is stopped or "
                "restarted, systemd kills the process of every task",
                f"systemctl edit {unit.name}: [Service] KillMode=process (as in HashiCorp's own "
                "unit), then systemctl daemon-reload",
            )
        )
    if unit.kill_mode == "none":
        findings.append(
            Finding(
                name,
                Verdict.WARNING,
                f"{unit.name} has KillMode=none, which systemd has deprecated",
                f"systemctl edit {unit.name}: [Service] KillMode=process",
            )
        )
    if unit.user not in ("", "root", "0"):
        findings.append(
            Finding(
                name,
                Verdict.FAILED,
                f"{unit.name} runs as {unit.user}: a Nomad client with this driver needs root",
                f"systemctl edit {unit.name}: [Service] User=root",
            )
        )
    if unit.oom_score_adjust > 0:
        findings.append(
            Finding(
                name,
                Verdict.WARNING,
                f"{unit.name} has OOMScoreAdjust={unit.oom_score_adjust}: if memory runs out, "
                "the kernel kills the agent and task processes before others",
                f"systemctl edit {unit.name}: [Service] OOMScoreAdjust=-1000",
            )
        )
    return findings or [
        ok(
            name,
            f"{unit.name}: KillMode={unit.kill_mode}, so tasks survive the agent; "
            f"OOMScoreAdjust={unit.oom_score_adjust}, not inherited by tasks",
        )
    ]
