"""What a task sees and may do, told by a probe inside of it and compared with a table."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from milo.core.config.plugin_options import PluginOptions
from tests.support import scripted_java, security_probe, security_table
from tests.support.driver_rig import DriverRig, open_rig
from tests.support.java_homes import all_homes
from tests.support.userns import NEEDS_USERNS
from tests.support.waiting import fail_after

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="containers need root"),
    pytest.mark.skipif(not all_homes(), reason="there is no JDK (./dev setup installs it)"),
]


async def probe(rig: DriverRig, jar_dir: Path, **config: Any) -> dict[str, str]:
    """Run the probe in a task beside another one's secrets, and return its facts."""
    other = rig.task(None, name="other", readers=False)
    neighbour = Path(other.request.task_dir) / "secrets/token"
    security_probe.plant(neighbour, 0o644)
    (rig.state_dir).mkdir(exist_ok=True)
    in_state = rig.state_dir / "token"
    security_probe.plant(in_state)
    for name in ("client", "server"):
        (rig.base / name).mkdir(mode=0o700)
        security_probe.plant(rig.base / name / "state.db")
    security_probe.plant(rig.base / "agent.hcl", 0o644)
    secrets = {
        "agent-configuration": rig.base / "agent.hcl",
        "nomad-client-state": rig.base / "client",
        "nomad-server-state": rig.base / "server",
        "planted-in-state": in_state,
        "state-directory": rig.state_dir,
        "other-allocation": neighbour,
    }
    with security_probe.host(rig.base, secrets) as host:
        task = rig.task(jar_dir / security_probe.JAR, **config)
        Path(task.request.shared_dir).chmod(0o777)  # as Nomad does
        launch = attrs.evolve(task.request, env={**task.request.env, **host.environment()})
        security_probe.let_go(task.local)
        await rig.registry.start(launch)
        with fail_after(120):
            await rig.registry.wait(task.id)
            await task.read()
    in_state.unlink()
    return security_probe.parse(task.out.text.decode() + task.err.text.decode())


COLUMNS = {
    "milo_host": (PluginOptions(), {"rootfs": "host"}),
    "milo_minimal": (PluginOptions(), {"rootfs": "minimal"}),
    "milo_userns": (PluginOptions(userns=True), {"rootfs": "host"}),
}


@pytest.mark.parametrize(
    "column", ["milo_host", "milo_minimal", pytest.param("milo_userns", marks=NEEDS_USERNS)]
)
async def test_security_table_of_a_container(column: str, jar_dir: Path) -> None:
    """Every fact that a task finds about its confinement is the table's, no more and no less."""
    options, config = COLUMNS[column]
    async with open_rig(attrs.evolve(options, java_home=all_homes()[0])) as rig:
        facts = await probe(rig, jar_dir, **config)
    security_table.check(
        facts,
        column,
        hierarchy=security_probe.hierarchy(),
        agent=security_probe.agents_limits(),
    )


READ_NEIGHBOUR = (
    'case "$*" in *stay) echo ready; exec sleep 4103;; esac\n'
    "for one in /proc/[0-9]*/root/secrets/token; do [ -s $one ] && echo token; done 2>/dev/null\n"
    "echo end"
)


@pytest.mark.parametrize(("pid_mode", "told"), [("private", 0), ("host", 1)])
async def test_with_the_hosts_pids_tasks_of_one_user_are_open(
    tmp_path: Path, jar_dir: Path, pid_mode: str, told: int
) -> None:
    """A task's secrets are safe from another one of its user, unless that sees the host's PIDs.

    `docs/security.md` tells operators so.
    """
    home = scripted_java.make(tmp_path / "jdk", READ_NEIGHBOUR)
    plugin = PluginOptions(java_home=str(home), allow_host_namespaces=True)
    async with open_rig(plugin) as rig:
        neighbour = rig.task(jar_dir / "hello.jar", args=["stay"])
        security_probe.plant(Path(neighbour.request.task_dir) / "secrets/token", 0o644)
        await rig.registry.start(neighbour.request)
        await trio.to_thread.run_sync(neighbour.out.wait_for, b"ready")
        task = rig.task(jar_dir / "hello.jar", pid_mode=pid_mode)
        await rig.registry.start(task.request)
        with fail_after(60):
            await rig.registry.wait(task.id)
            await task.read()
        words = task.out.text.decode().split()
        assert words[-1:] == ["end"]
        assert min(len(words) - 1, 1) == told
