"""One stream, or several, when nothing goes wrong."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest
import trio

from milo.task.logs.fifo import PIPE_BYTES
from milo.task.logs.pacer import STREAK
from milo.task.logs.pump import open_pipe
from milo.task.logs.pump_policy import PumpCounters
from tests.support.log_rig import Rig, running, settle


async def test_copies_from_reader_to_writer(tmp_path: Path) -> None:
    """Unit 3: the streamer copies from reader to writer correctly."""
    rig = Rig(tmp_path)
    rig.open_reader()
    async with running(rig):
        rig.write(b"Starting application...\n")
        await settle()
        assert rig.read() == b"Starting application...\n"
        rig.write(b"Processing...\n")
        rig.write(b"Processing...\n")
        await settle()
        assert rig.read() == b"Processing...\nProcessing...\n"
        counters = rig.pump.counters
        assert (counters.bytes_moved, counters.bytes_dropped) == (52, 0)
        rig.end_source()
    assert rig.events == []
    rig.close()


async def test_end_of_file_at_the_source(tmp_path: Path) -> None:
    """Unit 4: end of file at the source is handled: all is delivered, the pump returns."""
    rig = Rig(tmp_path)
    rig.open_reader()
    rig.write(b"last words")
    rig.end_source()
    async with running(rig):
        pass
    assert rig.read() == b"last words"
    assert rig.pump.counters == PumpCounters(bytes_moved=10)
    assert rig.events == []
    rig.close()


async def test_end_of_file_without_a_byte(tmp_path: Path) -> None:
    """A source that ends without output ends the pump, its FIFO opened all the same."""
    rig = Rig(tmp_path)
    rig.open_reader()
    rig.end_source()
    async with running(rig):
        pass
    assert rig.sink.fd is not None
    assert rig.pump.counters.bytes_moved == 0
    rig.close()


async def test_end_of_file_before_there_is_a_reader(tmp_path: Path, autojump_clock: Any) -> None:
    """The FIFO of a source that has ended is still opened once there is a reader: logmon
    counts itself running only while it reads both streams."""
    rig = Rig(tmp_path)
    rig.end_source()
    async with running(rig):
        await trio.sleep(3)
        rig.open_reader()
    assert rig.sink.fd is not None
    assert trio.current_time() == pytest.approx(3, abs=0.25)
    rig.close()


async def test_the_sink_stays_open(tmp_path: Path) -> None:
    """The pump's end is no end of file to logmon: the FIFO is its maker's to close."""
    rig = Rig(tmp_path)
    rig.open_reader()
    assert rig.reader is not None
    rig.end_source()
    async with running(rig):
        pass
    with pytest.raises(BlockingIOError):
        os.read(rig.reader, 1)
    rig.sink.close()
    assert os.read(rig.reader, 1) == b""
    rig.close()


async def test_utf8_is_preserved(tmp_path: Path, autojump_clock: Any) -> None:
    """Unit 5: UTF-8 is preserved, also where a chunk ends within a character."""
    rig = Rig(tmp_path)
    rig.open_reader()
    text = "Grüße, 世界, привет, 🚀 e\u0301\n".encode()
    got = b""
    async with running(rig):
        for byte in text:
            rig.write(bytes([byte]))
            got += await rig.read_exactly(1)  # each byte is a chunk of its own
            await trio.sleep(0.01)
        assert got == text
        # and where the chunk is as large as the pipe, which ends within a character
        large = ("ä世🚀" * 150_000).encode()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.write_all, large)
            assert await rig.read_exactly(len(large)) == large
        rig.end_source()
    rig.close()


async def test_every_byte_value(tmp_path: Path) -> None:
    """Bytes that are no text at all pass unchanged."""
    rig = Rig(tmp_path)
    rig.open_reader()
    data = bytes(range(256)) * 512
    async with running(rig):
        rig.write(data)
        rig.end_source()
        assert await rig.read_exactly(len(data)) == data
    rig.close()


async def test_several_streamers_at_once(tmp_path: Path) -> None:
    """Unit 6: several streamers at once do not interfere, not even when one of them is stuck."""
    rigs = [Rig(tmp_path, name=f"stream{index}") for index in range(8)]
    stuck = Rig(tmp_path, name="stuck")
    for rig in [*rigs, stuck]:
        rig.open_reader()
    generator = random.Random(6)
    sent = [generator.randbytes(generator.randrange(1, 4 * PIPE_BYTES)) for _ in rigs]
    got: dict[int, bytes] = {}

    async def feed(index: int) -> None:
        await rigs[index].write_all(sent[index])
        rigs[index].end_source()

    async def collect(index: int) -> None:
        got[index] = await rigs[index].read_exactly(len(sent[index]))

    async with running(*rigs, stuck):
        stuck.fill_fifo()
        stuck.write(b"waits")
        async with trio.open_nursery() as nursery:
            for index in range(len(rigs)):
                nursery.start_soon(feed, index)
                nursery.start_soon(collect, index)
        assert stuck.waiting_bytes == 5
        assert stuck.read()
        stuck.end_source()
    assert [got[index] for index in range(len(rigs))] == sent
    assert [rig.pump.counters.bytes_moved for rig in rigs] == [len(data) for data in sent]
    for rig in [*rigs, stuck]:
        assert rig.pump.counters.bytes_dropped == 0
        rig.close()


async def test_small_writes_are_gathered(tmp_path: Path, autojump_clock: Any) -> None:
    """Chunks that follow each other at once are gathered for about a millisecond."""
    rig = Rig(tmp_path)
    rig.open_reader()
    async with running(rig):
        for _ in range(STREAK + 8):
            rig.write(b"x" * 120)
            await settle()
        assert rig.waiting_bytes > 0  # the pump is in its pause
        await trio.sleep(0.01)
        assert rig.waiting_bytes == 0
        rig.end_source()
    assert rig.read() == b"x" * 120 * (STREAK + 8)
    rig.close()


async def test_others_get_their_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much there is to move, the pump lets other tasks run in between."""
    splice = os.splice
    chunks, turns = 0, []

    def little(source: int, sink: int, _count: int, *, flags: int) -> int:
        nonlocal chunks
        chunks += 1
        return splice(source, sink, 8 << 10, flags=flags)

    async def other() -> None:
        while chunks < 128:
            turns.append(chunks)
            await trio.lowlevel.checkpoint()

    monkeypatch.setattr(os, "splice", little)
    monkeypatch.setattr("milo.task.logs.pacer.SMALL_BYTES", 0)
    rig = Rig(tmp_path)
    rig.open_reader()
    rig.write(bytes(PIPE_BYTES))
    rig.end_source()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.pump.run)
        nursery.start_soon(other)
    assert len(set(turns)) >= 3
    rig.close()


def test_pipe_for_a_container() -> None:
    """The pipe is large, close-on-exec, and only the pump's end of it is non-blocking."""
    read_fd, write_fd = open_pipe()
    assert not os.get_blocking(read_fd)
    assert os.get_blocking(write_fd)
    assert not os.get_inheritable(read_fd)
    assert not os.get_inheritable(write_fd)
    assert os.write(write_fd, bytes(PIPE_BYTES)) == PIPE_BYTES
    os.close(read_fd)
    os.close(write_fd)
