"""How long an RPC takes while a hundred tasks start, run, and stop at once.

The application does nothing, so that what takes the processors is Milo, crun and the kernel. Who
asks is a process of its own with a high priority: its own waiting for a processor is not meant.
What the driver waited, and what it worked, is the kernel's account of it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
from grpclib.client import Channel
from grpclib.exceptions import GRPCError

from milo.wire.hashicorp.nomad.plugins.drivers import proto as drivers
from tests.bench import client_group, stepped_plugin
from tests.bench.plugin_host import PluginHost, Process, Task, open_host
from tests.bench.start_bench import quantile
from tests.support import scripted_java

PAUSE_S: Final = 0.005
"""From an answer to the next question."""
PRIORITY: Final = -15
STOP_TIMEOUT_S: Final = 30.0
DOES_NOTHING: Final = "exec sleep 1000000"
PHASES: Final = ("start", "rest", "stop")
STEPS: Final = "steps"
"""The file in the base directory that the plugin writes its long steps to."""


@attrs.frozen
class Sample:
    """One InspectTask."""

    ended_at_s: float
    """time.monotonic()."""
    seconds: float
    client_waited_s: float
    """So long the asking process was ready to run, and had no processor."""
    driver_waited_s: float
    """The same of the driver, during this call."""
    driver_worked_s: float


async def measure(
    launcher: Path, base: Path, state: Path, jar: Path, *, count: int, rest_s: float
) -> dict[str, Any]:
    """Start ``count`` tasks at once, let them be for ``rest_s``, and stop all at once.

    ``launcher`` is of `stepped_plugin`, which writes to `STEPS` in ``base``. Returns ``tasks`` and,
    for each of `PHASES`: seconds, calls, p50_s, p99_s, max_s; worked_p99_s and worked_max_s, what
    the driver worked during a call, whatever it was; of the slowest hundredth of the calls the
    shares waited by the client, waited by the driver and worked by it; and the longest step of the
    loop.
    """
    home = scripted_java.make(base / "nothing", DOES_NOTHING)
    with client_group.as_on_a_client():
        async with open_host(launcher, base, state, java_home=str(home)) as host:
            tasks = [
                host.lay_out(jar, jvm_options=(), memory_mb=64, java_home=str(home))
                for _ in range(count)
            ]
            out = base / "samples"
            ids = [task.config.id for task in tasks]
            with asking(ids, out) as asker:
                asker.begin(host.process)
                marks = [time.monotonic()]
                await asyncio.gather(*(host.start(task, stats=True) for task in tasks))
                marks.append(time.monotonic())
                await asyncio.sleep(rest_s)
                marks.append(time.monotonic())
                await asyncio.gather(*(_stop(host, task) for task in tasks))
                marks.append(time.monotonic())
    samples = read(out)
    steps = stepped_plugin.read(base / STEPS)
    phases = {
        phase: phase_of(samples, steps, began_s, ended_s)
        for phase, began_s, ended_s in zip(PHASES, marks, marks[1:], strict=False)
    }
    return {"tasks": count, **phases}


async def _stop(host: PluginHost, task: Task) -> None:
    await host.stop(task, timeout_s=STOP_TIMEOUT_S)
    await host.end(task, force=False)


def phase_of(
    samples: Sequence[Sample], steps: Sequence[stepped_plugin.Step], began_s: float, ended_s: float
) -> dict[str, Any]:
    """Return what is told of the calls and steps that ended between two moments."""
    calls = [one for one in samples if began_s <= one.ended_at_s <= ended_s]
    took = [one.seconds for one in calls]
    slow = sorted(calls, key=lambda one: one.seconds)[-max(1, len(calls) // 100) :]
    slow_s = sum(one.seconds for one in slow)
    worked = [one.driver_worked_s for one in calls]
    longest = stepped_plugin.longest(steps, began_s, ended_s)
    return {
        "seconds": ended_s - began_s,
        "calls": len(calls),
        "p50_s": quantile(took, 0.5),
        "p99_s": quantile(took, 0.99),
        "max_s": max(took),
        "worked_p99_s": quantile(worked, 0.99),
        "worked_max_s": max(worked),
        "client_waited": sum(one.client_waited_s for one in slow) / slow_s,
        "driver_waited": sum(one.driver_waited_s for one in slow) / slow_s,
        "driver_worked": sum(one.driver_worked_s for one in slow) / slow_s,
        "longest_step": None if longest is None else attrs.asdict(longest),
    }


class Asker:
    """A process that asks for tasks, one after the other; made by `asking`."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self._popen = popen

    def begin(self, plugin: Process) -> None:
        """Have it ask ``plugin`` from now on; returns once there was a first answer."""
        assert self._popen.stdin is not None and self._popen.stdout is not None
        self._popen.stdin.write(f"{plugin.socket_path} {plugin.popen.pid}\n".encode())
        self._popen.stdin.flush()
        assert self._popen.stdout.readline() == b"asking\n"


@contextlib.contextmanager
def asking(ids: Sequence[str], out: Path) -> Iterator[Asker]:
    """Have a process that asks for tasks ``ids``, until the block is left; then ``out`` is there.

    It is ready when the block begins, and asks from `Asker.begin` on.
    """
    command = [sys.executable, "-m", "tests.bench.rpc_bench", str(out), *ids]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as popen:
        try:
            assert popen.stdout is not None and popen.stdout.readline() == b"ready\n"
            yield Asker(popen)
        finally:
            popen.send_signal(signal.SIGTERM)
    assert popen.returncode in (0, -signal.SIGTERM)  # the latter where it has not begun


def read(out: Path) -> list[Sample]:
    """Return the samples that a process has written."""
    return [Sample(*row) for row in json.loads(out.read_text())]


async def ask(socket_path: str, driver: int, ids: Sequence[str], out: Path) -> None:
    """Ask for one task after the other until SIGTERM, then write the samples to ``out``."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    client_group.leave()
    os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
    with contextlib.suppress(OSError):  # the session's own group of sched(7), where there is one
        Path("/proc/self/autogroup").write_text(str(PRIORITY))
    channel = Channel(path=socket_path)
    stub = drivers.DriverStub(channel)
    samples: list[Sample] = []
    number = 0
    while not ended.is_set():
        request = drivers.InspectTaskRequest(ids[number % len(ids)])
        before, driver_before = _schedule(os.getpid()), _schedule(driver)
        began_s = time.monotonic()
        with contextlib.suppress(GRPCError):  # it has not started, which is an answer too
            await stub.inspect_task(request)
        now_s = time.monotonic()
        after, driver_after = _schedule(os.getpid()), _schedule(driver)
        samples.append(
            Sample(
                now_s,
                now_s - began_s,
                client_waited_s=after[1] - before[1],
                driver_waited_s=driver_after[1] - driver_before[1],
                driver_worked_s=driver_after[0] - driver_before[0],
            )
        )
        if not number:
            print("asking", flush=True)
        number += 1
        await asyncio.sleep(PAUSE_S)
    channel.close()
    out.write_text(json.dumps([attrs.astuple(sample) for sample in samples]))


def _schedule(pid: int) -> tuple[float, float]:
    """Return how long a process's first thread has run, and waited to run, by the kernel."""
    ran, waited, _ = Path(f"/proc/{pid}/schedstat").read_text().split()
    return int(ran) / 1e9, int(waited) / 1e9


def main() -> None:
    """Be the process that asks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("ids", nargs="+")
    options = parser.parse_args()
    print("ready", flush=True)
    socket_path, driver = sys.stdin.readline().split()
    asyncio.run(ask(socket_path, int(driver), options.ids, options.out))


if __name__ == "__main__":
    main()
