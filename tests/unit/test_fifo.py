"""Nomad's FIFOs: what is opened, what is refused, and what is never touched."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from milo.errors import FifoError
from milo.task.logs import fifo
from milo.task.logs.fifo import (
    PIPE_BYTES,
    FifoSink,
    LogTarget,
    check_log_path,
    open_fifo_writer,
    raise_capacity,
    waiting_bytes,
    write_text,
)


@pytest.fixture
def alloc(tmp_path: Path) -> Path:
    """An allocation's directory with the directory of the logs in it."""
    (tmp_path / "alloc" / "logs").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def path(alloc: Path) -> Path:
    """A FIFO where Nomad makes it."""
    path = alloc / "alloc" / "logs" / ".app.stdout.fifo"
    os.mkfifo(path, 0o600)
    return path


def open_reader(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK)


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.fixture(autouse=True)
def no_descriptor_left() -> Iterator[None]:
    """Whatever a test does: no descriptor more or less afterwards."""
    before = descriptors()
    yield
    assert descriptors() == before


def refusal(path: Path | str, alloc: Path | str) -> str:
    """Both ways to the path refuse it, for the same reason; return that."""
    with pytest.raises(FifoError) as checked:
        check_log_path(str(path), beneath=str(alloc))
    with pytest.raises(FifoError) as opened:
        open_fifo_writer(str(path), beneath=str(alloc))
    assert checked.value.problem == opened.value.problem
    assert str(path) in str(opened.value)
    return opened.value.problem


async def test_opens_and_writes(alloc: Path, path: Path) -> None:
    """Unit 1: a FIFO writer opens and writes to a test FIFO."""
    reader = open_reader(path)
    sink = FifoSink(str(path), beneath=str(alloc))
    assert sink.try_open()
    assert sink.fd is not None
    assert not os.get_inheritable(sink.fd)
    assert not os.get_blocking(sink.fd)
    await sink.write_all(b"Starting application...\n")
    assert sink.fd is not None and waiting_bytes(sink.fd) == 24
    assert os.read(reader, 100) == b"Starting application...\n"
    sink.close()
    assert os.read(reader, 100) == b""
    os.close(reader)


async def test_broken_pipe_while_writing(alloc: Path, path: Path) -> None:
    """Unit 2: a broken pipe is handled gracefully: it is an error to catch, not a signal."""
    reader = open_reader(path)
    sink = FifoSink(str(path), beneath=str(alloc))
    assert sink.try_open()
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        await sink.write_all(b"nobody reads this")
    sink.close()


def test_no_reader_yet(alloc: Path, path: Path) -> None:
    """A FIFO without a reader is not opened, and nothing blocks."""
    assert open_fifo_writer(str(path), beneath=str(alloc)) is None
    sink = FifoSink(str(path), beneath=str(alloc))
    assert not sink.try_open()
    assert (sink.fd, sink.capacity) == (None, 0)
    assert not sink.has_reader()
    assert not sink.replaced()
    sink.close()


def test_check_does_not_open(alloc: Path, path: Path) -> None:
    """Checking a log path is no end of file to a reader that already waits."""
    reader = open_reader(path)
    assert check_log_path(str(path), beneath=str(alloc)) is LogTarget.FIFO
    writer = open_fifo_writer(str(path), beneath=str(alloc))
    assert writer is not None
    with pytest.raises(BlockingIOError):  # an end of file would be b""
        os.read(reader, 1)
    os.close(writer)
    os.close(reader)


def test_dev_null_is_no_fifo_but_fine() -> None:
    """/dev/null, which Nomad passes when log collection is disabled, needs no pump."""
    assert check_log_path("/dev/null", beneath="/nowhere") is LogTarget.DEV_NULL


def test_regular_file_is_left_alone(alloc: Path, path: Path) -> None:
    """A regular file in the FIFO's place is refused, and neither emptied nor created."""
    path.unlink()
    assert "does not exist" in refusal(path, alloc)
    assert not path.exists()
    path.write_text("precious")
    assert "a regular file" in refusal(path, alloc)
    assert path.read_text() == "precious"


def test_symlink_is_not_followed(alloc: Path, path: Path) -> None:
    """A symlink in the FIFO's place is refused, even one to a FIFO with a reader."""
    other = alloc / "other"
    path.rename(other)
    path.symlink_to(other)
    reader = open_reader(other)
    assert "symlink" in refusal(path, alloc)
    os.close(reader)


def test_directory_swapped_for_symlink(alloc: Path, path: Path, tmp_path: Path) -> None:
    """A directory on the way that a task replaced by a symlink is refused."""
    (tmp_path / "elsewhere").mkdir()
    os.mkfifo(tmp_path / "elsewhere" / path.name)
    path.parent.rename(alloc / "alloc" / "moved")
    path.parent.symlink_to(tmp_path / "elsewhere")
    assert "'logs'" in refusal(path, alloc)
    assert "symlink" in refusal(path, alloc)


def test_symlinks_above_are_the_operators(alloc: Path, path: Path, tmp_path: Path) -> None:
    """The trusted directory itself may be reached over symlinks."""
    link = tmp_path / "data"
    link.symlink_to(alloc)
    assert check_log_path(f"{link}/alloc/logs/{path.name}", beneath=f"{link}/") is LogTarget.FIFO


def test_paths_elsewhere_trust_their_parent(tmp_path: Path, path: Path) -> None:
    """A FIFO that does not lie below the trusted directory is found in its own."""
    assert check_log_path(str(path), beneath="/somewhere/else") is LogTarget.FIFO
    assert check_log_path(str(path), beneath="") is LogTarget.FIFO


@pytest.mark.parametrize("rest", ["alloc/../../x", "..", ".", ""])
def test_paths_that_lead_out(alloc: Path, rest: str) -> None:
    """A path that climbs, or names nothing, is refused without being looked up."""
    assert "plain path" in refusal(f"{alloc}/{rest}", alloc)


def test_root_as_the_parent() -> None:
    """A path directly below / is looked up in /."""
    assert "does not exist" in refusal("/no-such-fifo", "/alloc")
    assert "a directory" in refusal("/proc", "/alloc")


def test_devices_and_sockets(tmp_path: Path) -> None:
    """A device or a socket is named for what it is, and not opened."""
    assert "a character device" in refusal("/dev/zero", "/alloc")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        assert "a socket" in refusal(tmp_path / "s", tmp_path)


def test_other_errors_keep_the_systems_words(alloc: Path) -> None:
    """An error without a sentence of Milo's own is told in the system's."""
    assert "File name too long" in refusal(alloc / ("x" * 300), alloc)


def test_permission_denied() -> None:
    """A FIFO that may not be written to is refused with the user that may not."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        os.chmod(name, 0o755)
        path = f"{name}/fifo"
        os.mkfifo(path, 0o400)
        reader = open_reader(Path(path))
        uid = os.geteuid()
        if uid == 0:
            os.seteuid(65534)
        try:
            assert "permission denied for user id" in refusal(path, name)
        finally:
            os.seteuid(uid)
        os.close(reader)


def test_capacity_is_raised(alloc: Path, path: Path) -> None:
    """The FIFO is enlarged to 1 MiB, and never shrunk."""
    reader = open_reader(path)
    sink = FifoSink(str(path), beneath=str(alloc))
    assert sink.try_open()
    assert sink.fd is not None
    assert sink.capacity == fcntl.fcntl(sink.fd, fcntl.F_GETPIPE_SZ) == PIPE_BYTES
    assert raise_capacity(sink.fd, 4096) == PIPE_BYTES
    sink.close()
    os.close(reader)


def test_capacity_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the host allows less than is wanted, less is taken, in silence."""
    real = fcntl.fcntl
    most = 256 << 10

    def limited(fd: int, command: int, argument: Any = 0) -> Any:
        if command == fcntl.F_SETPIPE_SZ and argument > most:
            raise PermissionError
        return real(fd, command, argument)

    monkeypatch.setattr(fcntl, "fcntl", limited)
    read_fd, write_fd = os.pipe()
    assert raise_capacity(write_fd) == 256 << 10
    most = 0
    assert raise_capacity(write_fd) == 256 << 10
    os.close(read_fd)
    os.close(write_fd)


def test_the_pauses_between_two_attempts_grow() -> None:
    """From 10 ms to 250 ms."""
    pauses = fifo.growing_pauses()
    assert [next(pauses) for _ in range(7)] == [0.01, 0.02, 0.04, 0.08, 0.16, 0.25, 0.25]


async def test_writing_waits_while_full(alloc: Path, path: Path) -> None:
    """A text larger than the FIFO is written as the reader makes room."""
    reader = open_reader(path)
    sink = FifoSink(str(path), beneath=str(alloc))
    assert sink.try_open()
    data = os.urandom(3 * PIPE_BYTES)
    got = bytearray()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sink.write_all, data)
        while len(got) < len(data):
            await trio.lowlevel.wait_readable(reader)
            got += os.read(reader, 65536)
    assert got == data
    sink.close()
    os.close(reader)


def test_takes_an_open_descriptor_over(alloc: Path, path: Path) -> None:
    """A sink made from an open descriptor owns it and knows its FIFO."""
    reader = open_reader(path)
    fd = open_fifo_writer(str(path), beneath=str(alloc))
    assert fd is not None
    sink = FifoSink(str(path), beneath=str(alloc), fd=fd)
    assert sink.try_open()
    assert sink.fd == fd
    assert sink.has_reader()
    assert not sink.replaced()
    os.close(reader)
    assert not sink.has_reader()
    sink.close()


def test_opening_is_told(alloc: Path, path: Path) -> None:
    """Whoever keeps a duplicate of the descriptor hears of each FIFO that is opened."""
    opened: list[int | None] = []
    sink = FifoSink(str(path), beneath=str(alloc))
    sink.on_open = lambda: opened.append(sink.fd)
    assert not sink.try_open()
    reader = open_reader(path)
    assert sink.try_open()
    assert opened == [sink.fd]
    sink.close()
    os.close(reader)


def test_replaced_fifo(alloc: Path, path: Path) -> None:
    """A sink changes over to another FIFO only once that has a reader, and loses nothing."""
    reader = open_reader(path)
    sink = FifoSink(str(path), beneath=str(alloc))
    assert sink.try_open()
    assert sink.fd is not None
    os.write(sink.fd, b"not read yet")
    os.close(reader)
    path.unlink()
    with pytest.raises(FifoError, match="does not exist"):
        sink.replaced()
    os.mkfifo(path)
    assert sink.replaced()
    assert sink.reopen() is None
    assert sink.fd is not None and waiting_bytes(sink.fd) == 12
    reader = open_reader(path)
    assert sink.reopen() == 0
    assert not sink.replaced()
    assert os.read(reader, 100) == b"not read yet"
    sink.close()
    os.close(reader)


def test_replaced_fifo_that_is_full(alloc: Path, path: Path) -> None:
    """What finds no room in the new FIFO is counted as lost."""
    first = open_reader(path)
    sink = FifoSink(str(path), beneath=str(alloc))
    assert sink.try_open()
    assert sink.fd is not None
    os.write(sink.fd, bytes(5000))
    os.close(first)
    path.unlink()
    os.mkfifo(path)
    reader = open_reader(path)
    filler = open_fifo_writer(str(path), beneath=str(alloc))
    assert filler is not None
    raise_capacity(filler)
    assert os.write(filler, bytes(PIPE_BYTES)) == PIPE_BYTES
    assert sink.reopen() == 5000
    os.close(filler)
    sink.close()
    os.close(reader)


def test_replaced_fifo_with_a_slow_reader(alloc: Path, path: Path) -> None:
    """What the old FIFO holds is left to its reader, if it still has one."""
    slow = open_reader(path)
    sink = FifoSink(str(path), beneath=str(alloc))
    assert sink.try_open()
    assert sink.fd is not None
    os.write(sink.fd, b"for the old one")
    path.unlink()
    os.mkfifo(path)
    reader = open_reader(path)
    assert sink.reopen() == 0
    assert os.read(slow, 100) == b"for the old one"
    assert sink.fd is not None and waiting_bytes(sink.fd) == 0
    sink.close()
    assert sink.reopen() == 0
    sink.close()
    os.close(slow)
    os.close(reader)


@pytest.fixture
def pair(alloc: Path) -> tuple[Path, Path]:
    """The FIFOs of one task."""
    paths = (alloc / "alloc" / "logs" / "out", alloc / "alloc" / "logs" / "err")
    for path in paths:
        os.mkfifo(path)
    return paths


async def test_error_text(alloc: Path, pair: tuple[Path, Path]) -> None:
    """An error text is one line on stderr; both FIFOs see an end of file afterwards."""
    out, err = pair
    out_reader, err_reader = open_reader(out), open_reader(err)
    text = "Error: Artifact must be a .jar file, got: süß.py"
    assert await write_text(str(out), str(err), text, beneath=str(alloc))
    assert os.read(err_reader, 1000) == f"{text}\n".encode()
    assert os.read(err_reader, 1000) == b""
    assert os.read(out_reader, 1000) == b""
    os.close(out_reader)
    os.close(err_reader)


async def test_error_text_waits_for_both(
    alloc: Path, pair: tuple[Path, Path], autojump_clock: Any
) -> None:
    """The text is written only once both FIFOs have their reader."""
    out, err = pair
    result = []

    async def write() -> None:
        result.append(await write_text(str(out), str(err), "text", beneath=str(alloc)))

    async with trio.open_nursery() as nursery:
        err_reader = open_reader(err)
        nursery.start_soon(write)
        await trio.sleep(0.5)
        with pytest.raises(BlockingIOError):
            os.read(err_reader, 10)
        out_reader = open_reader(out)
    assert result == [True]
    assert os.read(err_reader, 10) == b"text\n"
    os.close(out_reader)
    os.close(err_reader)


async def test_error_text_without_reader(
    alloc: Path, pair: tuple[Path, Path], autojump_clock: Any
) -> None:
    """Without a reader the text is given up after the bound."""
    out, err = pair
    assert not await write_text(str(out), str(err), "text", beneath=str(alloc), timeout_s=2)
    assert trio.current_time() == pytest.approx(2)


async def test_error_text_with_broken_fifos(alloc: Path, pair: tuple[Path, Path]) -> None:
    """Trouble with stdout does not keep the text from stderr; trouble there is no error."""
    out, err = pair
    reader = open_reader(err)
    out.unlink()
    assert await write_text(str(out), str(err), "text", beneath=str(alloc))
    assert await write_text("/dev/null", str(err), "more", beneath=str(alloc))
    assert os.read(reader, 100) == b"text\nmore\n"
    os.close(reader)
    err.unlink()
    err.write_text("")
    assert not await write_text("/dev/null", str(err), "text", beneath=str(alloc))
    assert not await write_text("/dev/null", "/dev/null", "text", beneath=str(alloc))
    assert stat.S_ISREG(err.stat().st_mode)
