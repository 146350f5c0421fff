"""What a task sees and may do, told by a probe inside of it and compared with a table."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from milo.core.launch import PluginOptions
from milo.task import privileges
from tests.support import security_probe, security_table
from tests.support.driver_rig import DriverRig, open_rig
from tests.support.java_homes import all_homes
from tests.support.waiting import fail_after

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="containers need root"),
    pytest.mark.skipif(not all_homes(), reason="there is no JDK (./dev setup installs it)"),
]


async def probe(rig: DriverRig, jar_dir: Path, **config: Any) -> dict[str, str]:
    """Run the probe in a task beside another one's secrets, and return its facts."""
    other = rig.task(None, name="other", readers=False)
    neighbour = Path(other.launch.task_dir) / "secrets/token"
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
        Path(task.launch.shared_dir).chmod(0o777)  # as Nomad does
        launch = attrs.evolve(task.launch, env={**task.launch.env, **host.environment()})
        security_probe.let_go(task.local)
        await rig.registry.start(launch)
        with fail_after(120):
            await rig.registry.wait(task.id)
            await trio.to_thread.run_sync(task.out.wait_end)
    in_state.unlink()
    return security_probe.parse(task.out.text.decode() + task.err.text.decode())


needs_userns = pytest.mark.skipif(
    bool(privileges.userns_problem()), reason=f"no user namespaces: {privileges.userns_problem()}"
)
COLUMNS = {
    "milo_host": (PluginOptions(), {"rootfs": "host"}),
    "milo_minimal": (PluginOptions(), {"rootfs": "minimal"}),
    "milo_userns": (PluginOptions(userns=True), {"rootfs": "host"}),
}


@pytest.mark.parametrize(
    "column", ["milo_host", "milo_minimal", pytest.param("milo_userns", marks=needs_userns)]
)
async def test_security_table_of_a_container(column: str, jar_dir: Path) -> None:
    """Every fact that a task finds about its confinement is the table's, no more and no less."""
    options, config = COLUMNS[column]
    async with open_rig(options) as rig:
        facts = await probe(rig, jar_dir, **config)
    security_table.check(
        facts,
        column,
        hierarchy=security_probe.hierarchy(),
        agent=security_probe.agents_limits(),
    )
