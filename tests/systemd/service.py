"""Nomad as a service of systemd's, with what HashiCorp's own unit says that matters to tasks."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import attrs

from tests.support.agent import READY_S, Agent
from tests.support.waiting import scaled, wait_for

UNIT = "nomad.service"
FILE = Path("/etc/systemd/system") / UNIT
TEXT = """
[Unit]
Description=Nomad, for a test
[Service]
Type=notify
ExecStart={binary} agent -bind=127.0.0.1 -network-interface=lo -config={config}
ExecReload=/bin/kill --signal HUP $MAINPID
KillMode=process
KillSignal=SIGINT
OOMScoreAdjust=-1000
LimitNOFILE=65536
LimitNPROC=infinity
TasksMax=infinity
Restart=on-failure
RestartSec=2
TimeoutStartSec={start_s}
StandardOutput=append:{log}
StandardError=append:{log}
"""


@attrs.define
class Service(Agent):
    """An agent that systemd starts and ends."""

    @property
    def binary(self) -> Path:
        """The Nomad that the unit starts."""
        return self.base / "nomad"

    def install(self, nomad: str) -> None:
        """Put another Nomad in its place, as a package does."""
        newer = self.binary.with_suffix(".new")
        shutil.copy(nomad, newer)
        os.replace(newer, self.binary)
        self.nomad = attrs.evolve(self.nomad, binary=nomad)

    def start(self) -> None:
        """Start the service, which is active once Nomad has said that it is ready."""
        if not self.binary.exists():
            self.install(self.nomad.binary)
            start_s = int(scaled(READY_S))
            words = {"binary": self.binary, "config": self.config, "log": self.log}
            FILE.write_text(TEXT.format(**words, start_s=start_s))
            systemctl("daemon-reload")
        self._have("start")

    def restart(self) -> None:
        """As an operator does after an upgrade."""
        self._have("restart")

    def _have(self, verb: str) -> None:
        # Nomad gives a plugin a minute to start, and ends itself where this processor takes longer:
        # then systemd starts it again.
        subprocess.run(["systemctl", verb, UNIT], capture_output=True)
        wait_for(f"{UNIT} to be active", lambda: show("ActiveState") == "active", 2 * READY_S)
        self.wait_ready()

    def kill(self) -> None:
        """End the agent by SIGKILL; systemd starts another."""
        before = show("MainPID")
        systemctl("kill", "--kill-whom=main", "--signal=KILL", UNIT)
        wait_for("another agent", lambda: show("MainPID") not in (before, "0"))
        self.wait_ready()

    def _end(self, number: signal.Signals) -> None:
        systemctl("stop", UNIT)

    def close(self) -> None:
        """End the service and remove it."""
        super().close()
        FILE.unlink(missing_ok=True)
        systemctl("daemon-reload")


def systemctl(*words: str) -> None:
    """Run systemctl, or raise AssertionError with what it and the unit say."""
    done = subprocess.run(["systemctl", *words], capture_output=True, text=True)
    if done.returncode != 0:
        status = subprocess.run(["systemctl", "status", UNIT], capture_output=True, text=True)
        raise AssertionError(f"systemctl {' '.join(words)}: {done.stderr}{status.stdout}")


def show(name: str) -> str:
    """Return a property of the service's."""
    command = ["systemctl", "show", "--value", "-p", name, UNIT]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
