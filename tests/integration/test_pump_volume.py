"""A pump in a process of its own, a gibibyte, and what that leaves in memory."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
import zlib
from pathlib import Path

from milo.task.logs.pump import open_pipe

GIB = 1 << 30
BLOCK = os.urandom(64 << 10) * 4

PUMP = """
import sys, trio
from milo.task.logs.fifo import FifoSink
from milo.task.logs.pump import Pump
from milo.task.logs.pump_policy import PumpPolicy

async def main() -> None:
    sink = FifoSink(sys.argv[2], beneath=sys.argv[3])
    pump = Pump("stdout", int(sys.argv[1]), sink, PumpPolicy(), lambda event: None)
    await pump.run()
    print(pump.counters.bytes_moved, pump.counters.bytes_dropped)
    sink.close()

trio.run(main)
"""


def resident_bytes(pid: int) -> int:
    """How much of the process lies in memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_memory_stays_flat(tmp_path: Path) -> None:
    """At most 1 MiB more is resident while 1 GiB passes, and every byte arrives in order."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    source, target = open_pipe()
    command = [sys.executable, "-c", PUMP, str(source), str(path), str(tmp_path)]
    process = subprocess.Popen(command, pass_fds=[source], stdout=subprocess.PIPE)
    os.close(source)
    os.write(target, b"warm")
    assert select.select([reader], [], [], 30)[0]
    os.set_blocking(reader, True)
    assert os.read(reader, 4) == b"warm"
    before = resident_bytes(process.pid)

    def write() -> None:
        for _ in range(GIB // len(BLOCK)):
            os.write(target, BLOCK)
        os.close(target)

    writer = threading.Thread(target=write)
    writer.start()
    most, total, checksum = before, 0, 0
    while data := os.read(reader, 1 << 20):
        total += len(data)
        checksum = zlib.crc32(data, checksum)
        most = max(most, resident_bytes(process.pid))
    writer.join()
    os.close(reader)
    output, _ = process.communicate()
    expected = 0
    for _ in range(GIB // len(BLOCK)):
        expected = zlib.crc32(BLOCK, expected)
    assert output.split() == [str(GIB + 4).encode(), b"0"]
    assert (total, checksum) == (GIB, expected)
    assert most - before <= 1 << 20
