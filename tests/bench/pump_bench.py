"""The log pump in figures: throughput, CPU and latency, side by side with doing without it.

``python -m tests.bench.pump_bench [--quick] [--pumps N]`` prints JSON. Needs ``cc``: the
writers and readers are a small C program (pump_tool.c), since anything slower would be what
is measured. Each pump runs in a forked process of its own, as in production.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import trio

from milo.task.logs.fifo import PIPE_BYTES, FifoSink, open_fifo_writer, raise_capacity
from milo.task.logs.idle_wait import IdleWait
from milo.task.logs.pump import Pump, open_pipe
from milo.task.logs.pump_policy import PumpPolicy

GIB = 1 << 30
WAYS = ("none", "c splice", "pump", "loop", "c loop")
"""No pump at all, the least that moves bytes without a copy, Milo's pump, a Trio loop of read and
write, the same loop in C."""
PACED_WAYS = ("none", "c splice", "splice", "pump")
"""The latency's: no pump, the least that moves a line, the same in Trio, and Milo's pump."""


def build_tool(directory: str) -> str:
    """Compile pump_tool.c into ``directory``. Raises RuntimeError where there is no cc."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise RuntimeError("the pump bench needs a C compiler: apt-get install gcc libc6-dev")
    tool = f"{directory}/pump_tool"
    source = Path(__file__).with_name("pump_tool.c")
    subprocess.run([compiler, "-O2", "-o", tool, str(source)], check=True)
    return tool


def throughput(tool: str, way: str, write_bytes: int, seconds: float) -> dict[str, float]:
    """Write for ``seconds``, ``write_bytes`` at a time, through a FIFO one ``way``.

    Returns bytes_per_s as the reader saw them and cpu_s_per_gib of the process between.
    """
    with tempfile.TemporaryDirectory() as directory:
        path, reader_fd, writer_fd = _fifo(directory, "fifo")
        reader = subprocess.Popen([tool, "read"], stdin=reader_fd, stdout=subprocess.PIPE)
        if way == "none":
            between, target = None, writer_fd
        else:
            source, target = open_pipe()
            between = _start_between(tool, way, path, source, writer_fd, [target])
            os.close(source)
            os.close(writer_fd)
        os.close(reader_fd)
        command = [tool, "write", str(write_bytes), str(seconds)]
        writer = subprocess.Popen(command, stdout=target, stderr=subprocess.PIPE)
        os.close(target)
        cpu_s = 0.0 if between is None else _cpu_of(between)
        _, written = writer.communicate()
        assert writer.returncode == 0
        output, _ = reader.communicate()
        moved, took_s = output.split()
        assert int(moved) == int(written)
        return {
            "bytes_per_s": int(moved) / float(took_s),
            "cpu_s_per_gib": cpu_s * GIB / int(moved),
        }


def latency(
    tool: str, pumps: int, *, lines_per_s: float = 1000, seconds: float = 10, way: str = "pump"
) -> dict[str, float]:
    """Send time-stamped lines, ``lines_per_s`` for each of ``pumps`` streams, one of `PACED_WAYS`.

    Returns the delay from write to readable at the FIFO in milliseconds (p50_ms, p99_ms,
    p999_ms, max_ms); how many lines a second each stream really got (sent_per_s), as the one
    writer of all, who ends after ``seconds``, may not keep up; and the pumps' processor time
    together, of one processor, from when the first line was sent until the last one had been read
    (cpu_share).
    """
    children: list[int] = []
    readers: list[int] = []
    writers: list[int] = []
    with tempfile.TemporaryDirectory() as directory:
        for index in range(pumps):
            path, reader_fd, writer_fd = _fifo(directory, f"fifo{index}")
            readers.append(reader_fd)
            if way != "none":
                source, target = open_pipe()
                unwanted = [*readers, *writers, target]
                children.append(_start_between(tool, way, path, source, writer_fd, unwanted))
                os.close(source)
                os.close(writer_fd)
                writer_fd = target
            writers.append(writer_fd)
        for reader_fd, writer_fd in zip(readers, writers, strict=True):
            # Once it is through, the pump has started, which is not what is measured.
            os.write(writer_fd, b"\n")
            assert os.read(reader_fd, 1) == b"\n"
        before_s = sum(map(_cpu_so_far, children))
        collector = subprocess.Popen(
            [tool, "collect", *map(str, readers)], pass_fds=readers, stdout=subprocess.PIPE
        )
        count = str(int(lines_per_s * seconds))
        began_s = time.perf_counter()
        stamper = subprocess.Popen(
            [tool, "stamp", str(lines_per_s), count, *map(str, writers)],
            pass_fds=writers,
            stdout=subprocess.PIPE,
        )
        for fd in (*readers, *writers):
            os.close(fd)
        output, _ = collector.communicate()
        took_s = time.perf_counter() - began_s
        sent, sending_s = stamper.communicate()[0].split()
        assert stamper.returncode == 0
        cpu_s = sum(map(_cpu_of, children)) - before_s
    delays = sorted(int(line) / 1e6 for line in output.split())
    assert len(delays) == int(sent)

    def quantile(part: float) -> float:
        return delays[min(int(part * len(delays)), len(delays) - 1)]

    return {
        "p50_ms": quantile(0.5),
        "p99_ms": quantile(0.99),
        "p999_ms": quantile(0.999),
        "max_ms": delays[-1],
        "sent_per_s": int(sent) / pumps / float(sending_s),
        # Of the time that it took, which is more than ``seconds`` where the pumps are late.
        "cpu_share": cpu_s / took_s,
    }


def compare_throughput(
    tool: str,
    *,
    sizes: Sequence[int] = (120, 4096, 65536),
    seconds: float = 2.0,
    rounds: int = 5,
    ways: Sequence[str] = WAYS,
) -> list[dict[str, Any]]:
    """Measure every way for every size of write, in turns; medians of ``rounds`` runs.

    Each row has the ratios to no pump (``of_none``) and the pump's CPU of the loop's.
    """
    rows = []
    for size in sizes:
        results: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way in ways:
                results[way].append(throughput(tool, way, size, seconds))
        medians = {
            way: {
                key: statistics.median(result[key] for result in results[way])
                for key in ("bytes_per_s", "cpu_s_per_gib")
            }
            for way in ways
        }
        for way in ways:
            row: dict[str, Any] = {"write_bytes": size, "way": way, **medians[way]}
            row["of_none"] = row["bytes_per_s"] / medians["none"]["bytes_per_s"]
            if way != "none" and "loop" in ways:
                row["cpu_of_loop"] = row["cpu_s_per_gib"] / medians["loop"]["cpu_s_per_gib"]
            rows.append(row)
    return rows


def compare_latency(
    tool: str, *, pumps: Sequence[int] = (1, 10), seconds: float = 5, rounds: int = 3
) -> list[dict[str, Any]]:
    """Measure the latency with and without pumps in turns, for each number of them.

    Each figure is the median of ``rounds`` runs.
    """
    rows: list[dict[str, Any]] = []
    for count in pumps:
        runs: dict[str, list[dict[str, float]]] = {"none": [], "pump": []}
        for _ in range(rounds):
            for way, results in runs.items():
                results.append(latency(tool, count, seconds=seconds, way=way))
        rows += [
            {
                "pumps": count,
                "way": way,
                **{key: statistics.median(run[key] for run in results) for key in results[0]},
            }
            for way, results in runs.items()
        ]
    return rows


def _fifo(directory: str, name: str) -> tuple[str, int, int]:
    """Make a FIFO; return its path, a non-blocking read end and a write end that blocks."""
    path = f"{directory}/{name}"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    writer = open_fifo_writer(path, beneath=directory)
    assert writer is not None
    raise_capacity(writer)
    os.set_blocking(reader, True)
    os.set_blocking(writer, True)
    return path, reader, writer


def _start_between(
    tool: str, way: str, path: str, source: int, sink: int, unwanted: Sequence[int]
) -> int:
    if way in ("c loop", "c splice"):
        os.set_blocking(source, way == "c loop")
        os.set_blocking(sink, True)
        work = _program_between([tool, "copy" if way == "c loop" else "splice"], source, sink)
    elif way == "pump":
        work = _pump_between(path, source, sink)
    elif way == "splice":
        work = _splice_between(source, sink)
    else:
        work = _loop_between(source, sink)
    return _fork(work, unwanted)


def _program_between(argv: list[str], source: int, sink: int) -> Callable[[], None]:
    def work() -> None:
        os.dup2(source, 0)
        os.dup2(sink, 1)
        os.execv(argv[0], argv)

    return work


def _pump_between(path: str, source: int, fd: int) -> Callable[[], None]:
    def work() -> None:
        os.set_blocking(fd, False)
        sink = FifoSink(path, beneath=os.path.dirname(path), fd=fd)
        pump = Pump("stdout", source, sink, PumpPolicy(), lambda _event: None)
        trio.run(pump.run, instruments=[IdleWait()])

    return work


def _splice_between(source: int, sink: int) -> Callable[[], None]:
    async def move() -> None:
        flags = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
        while True:
            await trio.lowlevel.wait_readable(source)
            if not os.splice(source, sink, PIPE_BYTES, flags=flags):
                return

    def work() -> None:
        os.set_blocking(sink, True)
        trio.run(move)

    return work


def _loop_between(source: int, sink: int) -> Callable[[], None]:
    async def loop() -> None:
        while True:
            await trio.lowlevel.wait_readable(source)
            data = os.read(source, 65536)
            if not data:
                return
            while data:
                try:
                    data = data[os.write(sink, data) :]
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(sink)

    def work() -> None:
        os.set_blocking(sink, False)
        trio.run(loop)

    return work


def _fork(work: Callable[[], None], unwanted: Sequence[int]) -> int:
    """Do ``work`` in a child that does not hold the descriptors ``unwanted``."""
    pid = os.fork()
    if pid:
        return pid
    try:
        for fd in unwanted:
            os.close(fd)
        work()
        os._exit(0)
    finally:
        os._exit(1)


def _cpu_of(pid: int) -> float:
    """Wait for the child ``pid`` and return the CPU seconds it used."""
    _, status, usage = os.wait4(pid, 0)
    assert status == 0
    return usage.ru_utime + usage.ru_stime


def _cpu_so_far(pid: int) -> float:
    """Return the CPU seconds that the only thread of a running process has used."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def _versions() -> Iterator[tuple[str, str]]:
    yield "kernel", platform.release()
    yield "python", platform.python_version()
    yield "trio", trio.__version__
    yield "cpus", str(os.cpu_count())


def main() -> None:
    """Print everything as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short runs, one of each")
    parser.add_argument("--pumps", type=int, nargs="*", default=[1, 10])
    parser.add_argument("--only", choices=["throughput", "latency"])
    options = parser.parse_args()
    report: dict[str, Any] = {"machine": dict(_versions())}
    seconds, rounds = (0.3, 1) if options.quick else (2.0, 5)
    with tempfile.TemporaryDirectory() as directory:
        tool = build_tool(directory)
        if options.only != "latency":
            report["throughput"] = compare_throughput(tool, seconds=seconds, rounds=rounds)
        if options.only != "throughput":
            length = 1 if options.quick else 5
            report["latency"] = compare_latency(
                tool, pumps=options.pumps, seconds=length, rounds=rounds
            )
    json.dump(report, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
