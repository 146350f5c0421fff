"""`milo doctor` beside a real agent."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

from tests.support.agent import MILO, Agent


def doctor(agent: Agent, *words: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Return the exit status and the findings by their check; of several the worst."""
    done = subprocess.run(
        [MILO, "doctor", "--json", "--service=none", "--address", agent.nomad.address, *words],
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
