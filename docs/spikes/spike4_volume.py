"""Spike 4: large volumes through the log path.

Prints what it measured, as lines of ``question: answer``. Needs cc, no root. Run it with
``.venv/bin/python``; ``quick`` as the argument makes short runs. The report is
4-large-volumes.md.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from milo.task.logs import fifo, pacer, pump
from milo.task.logs.fifo import FifoSink
from milo.task.logs.pacer import Pacer
from milo.task.logs.pump_policy import PumpPolicy
from tests.bench import pump_bench

MIB = 1 << 20
ROUNDS = 3


def say(question: str, answer: object) -> None:
    """Print one result."""
    print(f"{question}: {answer}", flush=True)


def measure(tool: str, way: str, size: int, total: int) -> str:
    """Median throughput and CPU of one way."""
    runs = [pump_bench.throughput(tool, way, size, total) for _ in range(ROUNDS)]
    speed = statistics.median(run["bytes_per_s"] for run in runs) / 1e6
    cpu = statistics.median(run["cpu_s_per_gib"] for run in runs)
    return f"{speed:.0f} MB/s, {cpu:.2f} CPU s/GiB"


def ways(tool: str, share: float) -> None:
    """No pump, pump, and loops; with and without the pause."""
    pause_after = Pacer.pause_after
    for size, total in ((120, 256 * MIB), (4096, 2048 * MIB), (65536, 4096 * MIB)):
        total = int(total * share)
        for way in ("none", "pump", "loop", "c loop"):
            say(f"{size}-byte writes, {way}", measure(tool, way, size, total))
        Pacer.pause_after = lambda *_args, **_kwargs: 0.0  # type: ignore[method-assign]
        say(f"{size}-byte writes, pump without the pause", measure(tool, "pump", size, total))
        Pacer.pause_after = pause_after  # type: ignore[method-assign]


def small_pipes(tool: str, share: float) -> None:
    """The pause with pipes of 64 KiB, which the pump leaves out, and here is made to take."""
    raise_capacity = fifo.raise_capacity

    def unchanged(fd: int, wanted_bytes: int = 0) -> int:
        return raise_capacity(fd, 0)

    for module in (fifo, pump, pump_bench):
        module.raise_capacity = unchanged  # type: ignore[attr-defined]
    for large in (pacer.LARGE_PIPE_BYTES, 0):
        known, pacer.LARGE_PIPE_BYTES = pacer.LARGE_PIPE_BYTES, large
        for size in (120, 65536):
            total = int((128 if size == 120 else 1024) * MIB * share)
            name = "with" if large == 0 else "without"
            say(
                f"pipes of 64 KiB, {size}-byte writes, {name} pause",
                measure(tool, "pump", size, total),
            )
        pacer.LARGE_PIPE_BYTES = known
    for module in (fifo, pump, pump_bench):
        module.raise_capacity = raise_capacity  # type: ignore[attr-defined]


def both_streams(total: int) -> None:
    """Both pumps of a task in one process, both at once; its memory meanwhile."""
    with tempfile.TemporaryDirectory() as directory:
        sources, targets, paths, readers = [], [], [], []
        for name in ("stdout", "stderr"):
            path = f"{directory}/{name}"
            os.mkfifo(path)
            paths.append(path)
            source, target = pump.open_pipe()
            sources.append(source)
            targets.append(target)
            pid = os.fork()
            if pid == 0:
                for fd in targets:
                    os.close(fd)
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                os.execvp("cksum", ["cksum", path])
            readers.append(pid)
        child = os.fork()
        if child == 0:
            for fd in targets:
                os.close(fd)
            trio.run(_two_pumps, sources, paths, directory)
            os._exit(0)
        writers = []
        for target in targets:
            pid = os.fork()
            if pid == 0:
                for fd in (*sources, *(other for other in targets if other != target)):
                    os.close(fd)
                block = os.urandom(1 << 16)
                for _ in range(total // len(block)):
                    os.write(target, block)
                os._exit(0)
            writers.append(pid)
        for fd in (*sources, *targets):
            os.close(fd)
        began = time.monotonic()
        seen: list[int] = []
        while not (os.waitpid(child, os.WNOHANG)[0]):
            status = Path(f"/proc/{child}/status").read_text()
            seen += [int(line.split()[1]) for line in status.splitlines() if "VmRSS" in line]
            time.sleep(0.05)
        seconds = time.monotonic() - began
        for pid in (*writers, *readers):
            os.waitpid(pid, 0)
        say(
            f"2 streams of {total >> 20} MiB at once through one process",
            f"{2 * total / seconds / 1e6:.0f} MB/s in all (the readers are cksum); "
            f"resident from {min(seen[2:] or seen)} to {max(seen)} KiB",
        )


async def _two_pumps(sources: list[int], paths: list[str], directory: str) -> None:
    async with trio.open_nursery() as nursery:
        for source, path in zip(sources, paths, strict=True):
            sink = FifoSink(path, beneath=directory)
            nursery.start_soon(pump.Pump(path, source, sink, PumpPolicy(), lambda _event: None).run)


def slow_reader(total: int) -> None:
    """A reader of 20 MB/s: the writer is held up, nothing is lost, and the pump sleeps."""
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/fifo"
        os.mkfifo(path)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        source, target = pump.open_pipe()
        child = os.fork()
        if child == 0:
            os.close(target)
            os.close(reader)
            trio.run(_two_pumps, [source], [path], directory)
            os._exit(0)
        writer = os.fork()
        if writer == 0:
            os.close(source)
            for _ in range(total // 65536):
                os.write(target, bytes(65536))
            os._exit(0)
        os.close(source)
        os.close(target)
        got, began = 0, time.monotonic()
        while got < total:
            time.sleep(0.005)
            try:
                got += len(os.read(reader, 100_000))
            except BlockingIOError:
                continue
        seconds = time.monotonic() - began
        usage = os.wait4(child, 0)[2]
        os.waitpid(writer, 0)
        say(
            "a reader that is slower than the writer",
            f"{got} of {total} bytes at {got / seconds / 1e6:.0f} MB/s; the pump used "
            f"{100 * (usage.ru_utime + usage.ru_stime) / seconds:.1f} % of a CPU",
        )


def latencies(tool: str, seconds: float) -> None:
    """Delay of single lines beside the volume: it must not be what the throughput costs."""
    for row in pump_bench.compare_latency(tool, pumps=(1, 10), seconds=seconds, rounds=5):
        streams, way = row.pop("pumps"), row.pop("way")
        text = ", ".join(f"{key} {value:.3f}" for key, value in row.items())
        say(f"1,000 lines/s on {streams} streams, {way}", text)


def main() -> None:
    """Measure everything."""
    share = 0.1 if sys.argv[1:] == ["quick"] else 1.0
    say(
        "versions",
        f"Linux {platform.release()}, Python {platform.python_version()}, trio {trio.__version__}",
    )
    with tempfile.TemporaryDirectory() as directory:
        tool = pump_bench.build_tool(directory)
        ways(tool, share)
        small_pipes(tool, share)
        latencies(tool, 5 * share)
    both_streams(int(1024 * MIB * share))
    slow_reader(int(100 * MIB * share))


if __name__ == "__main__":
    main()
