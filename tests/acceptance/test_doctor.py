"""`milo doctor` beside a real agent."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import pytest

from tests.support.agent import MILO, Agent, agent, free_ports
from tests.support.waiting import scaled


def doctor(one: Agent, *words: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Return the exit status and the findings by their check; of several the worst."""
    done = subprocess.run(
        [MILO, "doctor", "--json", "--service=none", "--address", one.nomad.address, *words],
        capture_output=True,
        text=True,
        check=False,
    )
    order = ("ok", "skipped", "warning", "failed")
    found = sorted(json.loads(done.stdout)["checks"], key=lambda one: order.index(one["verdict"]))
    return done.returncode, {one["check"]: one for one in found}


def test_a_healthy_agent(dev_agent: Agent) -> None:
    """Asked for by its address alone, or with its files: everything is found and fine."""
    for words in ((), ("--config", str(dev_agent.config))):
        status, found = doctor(dev_agent, *words)
        assert status == 0, found
        for name in ("agent", "driver", "plugin block", "plugin options", "plugin_dir"):
            assert found[name]["verdict"] == "ok", found[name]
        assert str(dev_agent.plugin_dir) in found["plugin_dir"]["found"]
        assert "Nomad 2" in found["agent"]["found"] or "Nomad 1" in found["agent"]["found"]
        assert str(dev_agent.state_dir) in found["state_dir"]["found"]
        assert "data_dir" in found


@pytest.mark.parametrize("option", ["pids_limit = -5", "pids_limt = 5", 'allow_caps = "chown"'])
def test_a_wrong_option_is_found_before_it_stops_the_agent(dev_agent: Agent, option: str) -> None:
    """Nomad's agent does not start with it; milo doctor --config reports it first of all."""
    before = 'plugin "milo" {\n config {\n'
    text = dev_agent.config.read_text().replace(before, f"{before}{option}\n")
    config = dev_agent.base / "wrong"
    config.mkdir()
    (config / "agent.hcl").write_text(text.replace("/data", "/other-data"))
    ports = "".join(
        f" {name} = {port}\n"
        for name, port in zip(("http", "rpc", "serf"), free_ports(), strict=True)
    )
    (config / "ports.hcl").write_text(f"ports {{\n{ports}}}\n")
    try:
        done = subprocess.run(
            [dev_agent.nomad.binary, "agent", "-bind=127.0.0.1", f"-config={config}"],
            capture_output=True,
            text=True,
            timeout=scaled(60),
        )
        assert done.returncode == 1 and "plugin configurations failed" in done.stdout + done.stderr
        words = [str(MILO), "doctor", "--json", "--service=none", f"--config={config}"]
        found = json.loads(subprocess.run(words, capture_output=True).stdout)["checks"]
        failed = [one for one in found if one["verdict"] == "failed"]
        assert failed[0]["check"] == "plugin options"
        assert "Nomad's agent does not start with it" in failed[0]["found"]
    finally:
        shutil.rmtree(config)
        shutil.rmtree(dev_agent.base / "other-data", ignore_errors=True)


def test_values_in_quotes_are_no_fault() -> None:
    """Nomad converts them as it reads its configuration, and milo doctor does as well."""
    with agent("quotes", milo={"pids_limit": "512", "userns": "false"}) as one:
        _, found = doctor(one, "--config", str(one.config))
        assert found["plugin options"]["verdict"] == "ok", found["plugin options"]


def test_files_that_the_agent_has_not_read(dev_agent: Agent) -> None:
    """What is configured for its next start is what is judged."""
    config = dev_agent.base / "other.hcl"
    config.write_text(f'plugin_dir = "{dev_agent.base}/elsewhere"\n')
    try:
        status, found = doctor(dev_agent, "--config", str(config))
        assert status == 1
        assert found["plugin block"]["verdict"] == "failed"
        assert "does not exist" in found["plugin_dir"]["found"]
        assert found["driver"]["verdict"] == "ok"
    finally:
        config.unlink()
        shutil.rmtree(dev_agent.base / "elsewhere", ignore_errors=True)
