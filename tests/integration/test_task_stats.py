"""What TaskStats cost the driver and whether they are what the kernel says, over the real wire."""

from __future__ import annotations

import os
from datetime import timedelta

import pytest
import trio

from milo.wire.hashicorp.nomad.plugins.drivers import proto as drivers
from tests.support.go_client import open_client
from tests.support.stats_driver import cpu_s, open_driver, open_groups, sleepers

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes cgroups, which needs root")

DRIVER = "/hashicorp.nomad.plugins.drivers.proto.Driver"
TASKS = 100
WINDOW_S = 10
MAX_SHARE = 0.02
"""Of a core, the claim."""


def stats_of(task_id: str, interval_s: float) -> bytes:
    """Return a TaskStats request."""
    return bytes(drivers.TaskStatsRequest(task_id, timedelta(seconds=interval_s)))


@pytest.mark.timeout(120)
async def test_a_hundred_tasks_cost_little() -> None:
    """The statistics of 100 tasks, once a second, take the driver less than 2 % of a core."""
    with open_groups(TASKS) as groups, sleepers(groups):
        tasks = {f"task {number}": group.path for number, group in enumerate(groups)}
        with open_driver(tasks) as (driver, socket_path):
            async with open_client(socket_path, 100) as client:
                for task_id in tasks:
                    await client.call(f"{DRIVER}/WaitTask", bytes(drivers.WaitTaskRequest(task_id)))
                calls = [
                    await client.call(f"{DRIVER}/TaskStats", stats_of(task_id, 1.0))
                    for task_id in tasks
                ]
                await client.wait_messages(calls, 3)
                seen = len(calls[0].messages)
                before, pings = cpu_s(driver.pid), client.pings
                begun_s = trio.current_time()
                await client.wait_messages(calls, seen + WINDOW_S)
                share = (cpu_s(driver.pid) - before) / (trio.current_time() - begun_s)
                pings = client.pings - pings
                print(f"\n{TASKS} tasks cost the driver {share:.2%} of a core; {pings} pings")
                assert share < MAX_SHARE
