"""Records what one version of Milo writes down and says, for `tests/unit/test_versions.py`.

    python -m tests.support.private_mounts python -m tests.support.record_exchange

writes ``tests/data/v<RECORD_VERSION>/`` from a real task: one driver starts it, a second one
recovers it, looks at it, stops it and hears of its exit, through a relay that notes down each
message. To be run once for each version, before it is changed; what was recorded of an
earlier version stays as it is. Needs root, crun and a JDK.
"""

from __future__ import annotations

import array
import json
import os
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

import trio

from milo.core import control, records
from milo.core.records import ProcessId
from tests.support import jars
from tests.support.driver_rig import DriverRig, Task, open_rig

DATA = Path(__file__).parents[1] / "data"
ANCILLARY_BYTES = socket.CMSG_SPACE(16 * 4)


class Relay:
    """Stands between a driver and a task process and notes down what each of them says."""

    def __init__(self, state_dir: Path) -> None:
        self.lines: list[dict[str, Any]] = []
        self._path = state_dir / records.CONTROL_SOCKET
        self._real = state_dir / "real.sock"

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        self._path.rename(self._real)
        listener = trio.socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with listener:
            await listener.bind(str(self._path))
            listener.listen(1)
            task_status.started()
            driver, _ = await listener.accept()
            task = trio.socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with driver, task:
                await task.connect(str(self._real))
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._copy, "driver", driver, task)
                    await self._copy("task", task, driver)
                    nursery.cancel_scope.cancel()

    async def _copy(
        self, who: str, source: trio.socket.SocketType, target: trio.socket.SocketType
    ) -> None:
        while True:
            packet, rights, _, _ = await source.recvmsg(
                control.MAX_MESSAGE_BYTES, ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
            )
            if not packet:
                return
            fds = array.array("i")
            for _level, _kind, data in rights:
                fds.frombytes(data)
            line = {"from": who, "message": json.loads(packet), "descriptors": len(fds)}
            self.lines.append(line)
            await target.sendmsg([packet], rights)
            for fd in fds:
                os.close(fd)


def relocatable(value: Any, processes: dict[str, ProcessId], texts: dict[str, str]) -> Any:
    """Return ``value`` with placeholders for what another machine has of its own."""
    match value:
        case {"pid": pid, "start_ticks": ticks}:
            for name, process in processes.items():
                if (pid, ticks) == (process.pid, process.start_ticks):
                    return name
            return value
        case dict():
            return {key: relocatable(item, processes, texts) for key, item in value.items()}
        case list():
            return [relocatable(item, processes, texts) for item in value]
        case str():
            for text, name in texts.items():
                value = value.replace(text, name)
            return value
    return value


async def record(directory: Path) -> None:
    """Write one version's files into ``directory``."""
    with tempfile.TemporaryDirectory() as where:
        jars.build_all(Path(where))
        async with open_rig() as rig:
            task = rig.task(Path(where) / "clock.jar", args=["50", "0"])
            handle = await rig.registry.start(task.request)
            await trio.to_thread.run_sync(task.out.wait_for, b"tick 5 ")
            await _record_task(directory, rig, task, handle)


async def _record_task(directory: Path, rig: DriverRig, task: Task, handle: bytes) -> None:
    found = records.decode(handle, records.Handle, where="handle")
    assert found.container is not None
    state_dir = Path(found.state_dir)
    launch = json.loads((state_dir / records.LAUNCH_FILE).read_bytes())
    processes = {"@SUPERVISOR@": found.supervisor, "@CONTAINER@": found.container}
    texts = {
        str(rig.state_dir): "@STATE@",
        task.request.alloc_dir: "@ALLOC@",
        launch["crun_path"]: "@CRUN@",
    }
    relay = Relay(state_dir)
    kept = {}
    async with trio.open_nursery() as nursery:
        await nursery.start(relay.run)
        await rig.restart()
        await rig.registry.recover(task.id, handle)
        await rig.registry.inspect(task.id)
        for name in (records.LAUNCH_FILE, records.TASK_FILE):
            kept[name] = json.loads((state_dir / name).read_bytes())
        await rig.registry.signal(task.id, "SIGQUIT")
        await rig.registry.stop(task.id, "SIGTERM", 10.0)
        await rig.registry.wait(task.id)
    kept[records.EXIT_FILE] = json.loads((state_dir / records.EXIT_FILE).read_bytes())
    kept["handle.json"] = json.loads(handle)
    directory.mkdir(parents=True, exist_ok=True)
    for name, value in kept.items():
        text = json.dumps(relocatable(value, processes, texts), indent=2)
        (directory / name).write_text(text + "\n")
    lines = [json.dumps(relocatable(line, processes, texts)) for line in relay.lines]
    (directory / "exchange.jsonl").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    target = DATA / f"v{records.RECORD_VERSION}"
    trio.run(record, target)
    sys.stdout.write(f"wrote {target}\n")
