"""The report of ``milo doctor``: what is checked in which order, and how it is shown."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import Final

import milo
from milo.cli.doctor import agent_api, agent_verdicts
from milo.cli.doctor import agent_facts as facts
from milo.cli.doctor.agent_config import AgentConfig
from milo.cli.doctor.directory_verdicts import check_data_dir
from milo.cli.doctor.finding import Finding, Verdict, count, worst
from milo.cli.doctor.host_facts import check_host, look_at
from milo.cli.doctor.metrics_check import check_metrics, look_at_port
from milo.cli.output import print_json, print_table, say
from milo.core.config.plugin_options import PluginOptions

MARKS: Final = {
    Verdict.OK: ("✓", "ok"),
    Verdict.WARNING: ("!", "!"),
    Verdict.FAILED: ("✗", "X"),
    Verdict.SKIPPED: ("-", "-"),
}
"""Of each, the second where the output cannot have the first."""


def show_health(options: Namespace) -> int:
    """Check everything and print it; return 1 when something failed, else 0."""
    findings = examine(
        configs=options.config,
        address=options.address or os.environ.get("NOMAD_ADDR") or agent_api.DEFAULT_ADDRESS,
        service=options.service,
    )
    verdict = worst(findings)
    if options.json:
        print_json(
            {
                "milo": milo.__version__,
                "verdict": verdict.value,
                "checks": [
                    {
                        "check": finding.check,
                        "verdict": finding.verdict.value,
                        "found": finding.found,
                        "fix": finding.fix or None,
                    }
                    for finding in findings
                ],
            }
        )
    else:
        _print(findings)
    return 1 if verdict is Verdict.FAILED else 0


def examine(*, configs: Sequence[str], address: str, service: str) -> list[Finding]:
    """Return all findings, those about the host first; about ``configs`` where they were named.

    ``configs``: the agent's configuration files and directories; none: where they usually are.
    """
    unit = facts.find_unit(service)
    files = facts.read_files(configs, unit)
    answer = agent_api.ask_agent(address)
    running = answer.config if answer.here else None
    agent: list[Finding] = []
    # What the next start of the agent will use is what an operator can still change.
    config = files.config or running
    plugin = PluginOptions()
    agent += agent_verdicts.check_configuration(config, files.looked, files.errors)
    if config is not None and config.client is not False:
        checked, plugin = agent_verdicts.check_options(config)
        plugin_dir = facts.look_at_plugin_dir(config.plugin_dir)
        agent += [
            agent_verdicts.check_block(config),
            *checked,
            *agent_verdicts.check_permitted(plugin),
            *check_metrics(plugin.metrics, look_at_port(plugin.metrics)),
            *agent_verdicts.check_plugin_dir(config, plugin_dir, milo.__version__),
        ]
    agent += agent_verdicts.check_agent(answer, files.config)
    if unit is not None:
        agent += agent_verdicts.check_service(unit)
    findings = check_host(plugin)
    for path in _data_dirs(config, running):
        findings += check_data_dir(look_at(path))
    return agent + findings if configs else findings + agent


def _data_dirs(*configs: AgentConfig | None) -> list[str]:
    return sorted({config.data_dir for config in configs if config and config.data_dir})


def _print(findings: Sequence[Finding]) -> None:
    fancy = _can_print("✓✗→")
    rows = []
    for finding in findings:
        rows.append([MARKS[finding.verdict][not fancy], finding.check, finding.found])
        if finding.fix:
            rows.append(["", "", f"{'→' if fancy else '->'} {finding.fix}"])
    print_table(("", "CHECK", "FOUND, AND WHAT TO DO"), rows)
    counts = count(findings)
    say(
        "",
        f"{counts[Verdict.OK]} fine, {counts[Verdict.WARNING]} warnings, "
        f"{counts[Verdict.FAILED]} failed, {counts[Verdict.SKIPPED]} not checked",
    )


def _can_print(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
