"""The log path with the real crun, real FIFOs and real JVMs, from StartTask on."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from milo.core.report import ExitResult
from tests.support.driver_rig import open_rig
from tests.support.waiting import fail_after, move_on_after

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")

GIB = 1 << 30


async def test_stdout_is_captured(jar_dir: Path) -> None:
    """Integration 7: StartTask captures what the application prints on stdout."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "hello.jar")
        await rig.registry.start(task.request)
        assert await rig.registry.wait(task.id) == ExitResult()
        await trio.to_thread.run_sync(task.out.wait_end)
        lines = task.out.text.decode().splitlines()
        assert len(lines) == 2


async def test_stderr_is_captured(jar_dir: Path) -> None:
    """Integration 8: StartTask captures what the application prints on stderr."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "both.jar", args=["10"])
        await rig.registry.start(task.request)
        await rig.registry.wait(task.id)
        await trio.to_thread.run_sync(task.err.wait_end)
        assert task.err.text.decode().splitlines() == [f"err {i}" for i in range(10)]


async def test_both_streams_are_captured_apart(jar_dir: Path) -> None:
    """Integration 9: both streams are captured at once, whole, in order and unmixed."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "both.jar", args=["5000"])
        await rig.registry.start(task.request)
        await rig.registry.wait(task.id)
        await trio.to_thread.run_sync(task.out.wait_end)
        await trio.to_thread.run_sync(task.err.wait_end)
        assert task.out.text.decode().splitlines() == [f"out {i}" for i in range(5000)]
        assert task.err.text.decode().splitlines() == [f"err {i}" for i in range(5000)]


async def test_output_arrives_in_real_time(jar_dir: Path) -> None:
    """Integration 10: a line is at the FIFO's reader within 250 ms of being printed."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "clock.jar", args=["100", "20"])
        await rig.registry.start(task.request)
        delays = []
        for number in range(20):
            await trio.to_thread.run_sync(task.out.wait_for, b"tick %d " % number)
            now_ms = time.time() * 1000
            if number < 19:  # the tick after it has not been printed yet, so this was live
                line = next(x for x in task.out.text.splitlines() if b"tick %d " % number in x)
                delays.append(now_ms - int(line.split()[2]))
        assert sorted(delays)[len(delays) // 2] < 250
        await rig.registry.wait(task.id)


async def test_large_volumes_neither_block_nor_deadlock(jar_dir: Path) -> None:
    """Integration 11: 1 GiB on each stream at once arrives whole, the task process staying flat."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "volume.jar", args=[str(GIB)])
        await rig.registry.start(task.request)
        supervisor = await rig.supervisor(task)
        before = _resident_bytes(supervisor)
        peak = before
        with move_on_after(120):
            while task.out.length < GIB // 2 or task.err.length < GIB // 2:
                peak = max(peak, _resident_bytes(supervisor))
                await trio.sleep(0.05)
        assert task.out.length >= GIB // 2 and task.err.length >= GIB // 2
        peak = max(peak, _resident_bytes(supervisor))
        assert (await rig.registry.wait(task.id)).exit_code == 0
        await trio.to_thread.run_sync(task.out.wait_end)
        await trio.to_thread.run_sync(task.err.wait_end)
        assert (task.out.length, task.err.length) == (GIB, GIB)
        assert task.out.digest.hexdigest() == _expected(b"o", GIB)
        assert task.err.digest.hexdigest() == _expected(b"e", GIB)
        assert peak - before <= 1 << 20, f"{peak - before} bytes more resident"


async def test_binary_data_passes_unchanged(jar_dir: Path) -> None:
    """Integration 12: every byte value passes unchanged on both streams."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "binary.jar", args=["4096"])
        await rig.registry.start(task.request)
        await rig.registry.wait(task.id)
        await trio.to_thread.run_sync(task.out.wait_end)
        await trio.to_thread.run_sync(task.err.wait_end)
        up = bytes(range(256)) * 4096
        assert task.out.digest.hexdigest() == hashlib.sha256(up).hexdigest()
        down = bytes(reversed(range(256))) * 4096
        assert task.err.digest.hexdigest() == hashlib.sha256(down).hexdigest()


async def test_start_does_not_wait_for_a_reader(jar_dir: Path) -> None:
    """A FIFO without a reader never blocks StartTask; a reader that comes later gets it all."""
    from tests.support.driver_rig import LogReader

    async with open_rig() as rig:
        task = rig.task(jar_dir / "clock.jar", args=["20", "0"], readers=False)
        with fail_after(10):
            await rig.registry.start(task.request)
        task.stdout = LogReader(Path(task.request.stdout_path))
        task.stderr = LogReader(Path(task.request.stderr_path))
        await trio.to_thread.run_sync(task.out.wait_for, b"tick 0 ")


async def test_disabled_collection_has_no_pump(jar_dir: Path) -> None:
    """With /dev/null as log paths the container gets /dev/null itself and runs to its end."""
    import attrs

    async with open_rig() as rig:
        task = rig.task(jar_dir / "both.jar", args=["10"], readers=False)
        launch = attrs.evolve(task.request, stdout_path="/dev/null", stderr_path="/dev/null")
        await rig.registry.start(launch)
        assert (await rig.registry.wait(task.id)).exit_code == 0
        status = await rig.registry.inspect(task.id)
        assert status.attributes["stdout.bytes_moved"] == "0"


def _resident_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


def _lines(stream: bytes) -> Iterator[bytes]:
    filler = b" " + b"." * 85 + b"\n"
    number = 0
    while True:
        block = b"".join(stream + b"%012d" % i + filler for i in range(number, number + 10000))
        number += 10000
        yield block


def _expected(stream: bytes, length: int) -> str:
    digest = hashlib.sha256()
    left = length
    for block in _lines(stream):
        digest.update(block[:left])
        left -= len(block)
        if left <= 0:
            return digest.hexdigest()
    raise AssertionError
