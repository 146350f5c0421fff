"""What the commands on a client know of a job's task that does not run any more."""

from __future__ import annotations

import subprocess
import sys

from tests.support.agent import Agent
from tests.support.jobs import shell_job


def milo(agent: Agent, *words: str) -> tuple[int, str]:
    """Run a command on the agent's state directory; return its status and all it printed."""
    command, *rest = words
    done = subprocess.run(
        [sys.executable, "-m", "milo", command, "--state-dir", str(agent.state_dir), *rest],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_task_that_waits_for_its_restart(dev_agent: Agent, jar_url: str) -> None:
    """That is when somebody looks for it: it has a log and an exit code. So has a stopped one."""
    text = shell_job(jar_url, "waits", "echo why it failed >&2; exit 7", attempts=1)
    job = dev_agent.nomad.run(text.replace('delay = "1s"', 'delay = "600s"'))
    job.wait_event("Exit Code: 7")
    for _ in range(2):
        status, shown = milo(dev_agent, "ps", "--all")
        (row,) = [line for line in shown.splitlines() if "waits" in line]
        assert status == 0 and "exited (7)" in row and "g[0]" in row
        assert milo(dev_agent, "logs", "waits") == (0, "why it failed\n")
        status, shown = milo(dev_agent, "stats", "waits")
        assert status == 1 and "Its state: exited (7)" in shown
        assert "waits" not in milo(dev_agent, "ps")[1]
        job.stop()
    status, shown = milo(dev_agent, "logs", "neverwas")
    assert status == 1 and "nomad status neverwas" in shown
