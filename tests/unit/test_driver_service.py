"""What the driver's service does beside converting."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import trio
import trio.testing

from milo.core.report import TaskEvent
from milo.host.events import Broadcast
from milo.plugin.driver_service import RESTORED_S, DriverService
from milo.wire.hashicorp.nomad.plugins.drivers import proto as drivers

RECOVERY_S = 20.0


class Registry:
    """One whose tasks tell something as soon as they are found again."""

    def __init__(self) -> None:
        self.broadcast: Broadcast[TaskEvent] = Broadcast()

    def tell(self, text: str) -> None:
        """Have a task tell something."""
        self.broadcast.publish(TaskEvent("a/b/c", "a", "b", text, 1.0))

    async def recover(self, task_id: str, driver_state: bytes) -> None:
        """Take long."""
        self.tell("kept")
        await trio.sleep(RECOVERY_S)

    def events(self) -> AsyncGenerator[TaskEvent, None]:
        """Yield what is told."""
        return self.broadcast.subscribe()


async def test_events_wait_until_nomads_client_knows_the_allocation(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Those of a recovery, and what comes meanwhile, in order; all others are told at once."""
    registry: Any = Registry()
    service = DriverService(registry, trio.Event())
    heard: list[tuple[str, float]] = []

    async def listen() -> None:
        async for event in service.task_events(drivers.TaskEventsRequest()):
            heard.append((event.message, round(trio.current_time() - began, 3)))

    async with trio.open_nursery() as nursery:
        began = trio.current_time()
        nursery.start_soon(listen)
        await trio.sleep(1)
        registry.tell("before")
        await trio.sleep(1)
        handle = drivers.TaskHandle(config=drivers.TaskConfig(id="a/b/c"))
        await service.recover_task(drivers.RecoverTaskRequest(handle=handle))
        registry.tell("meanwhile")
        await trio.sleep(100)
        registry.tell("after")
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    restored = 2 + RECOVERY_S + RESTORED_S
    assert heard == [
        ("before", 1),
        ("kept", restored),
        ("meanwhile", restored),
        ("after", 2 + RECOVERY_S + 100),
    ]
