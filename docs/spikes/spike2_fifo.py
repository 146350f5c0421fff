"""Spike 2: how FIFOs behave with concurrent readers and writers.

Prints what it measured, as lines of ``question: answer``. Needs no root and changes nothing
that lasts. Run it with ``.venv/bin/python``. The report is 2-fifo-concurrency.md.
"""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import random
import select
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable

NONBLOCK = os.O_NONBLOCK | os.O_CLOEXEC
FLAGS = os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE
MIB = 1 << 20


def say(question: str, answer: object) -> None:
    """Print one result."""
    print(f"{question}: {answer}", flush=True)


def result(call: Callable[[], object]) -> object:
    """What ``call`` returns, or the name of the error it ends with."""
    try:
        return call()
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def poll_of(fd: int) -> str:
    """The poll state of a descriptor, by name."""
    poll = select.poll()
    poll.register(fd, select.POLLIN | select.POLLOUT)
    bits = dict(poll.poll(0)).get(fd, 0)
    names = ("POLLIN", "POLLOUT", "POLLERR", "POLLHUP")
    return "+".join(name for name in names if bits & getattr(select, name)) or "nothing"


def pair(path: str) -> tuple[int, int]:
    """A new FIFO at ``path``: its reader and its writer, both non-blocking."""
    if os.path.lexists(path):
        os.unlink(path)
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | NONBLOCK)
    return reader, os.open(path, os.O_WRONLY | NONBLOCK)


def child(work: Callable[[], None]) -> int:
    """Run ``work`` in a process of its own."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return pid


def close(*fds: int) -> None:
    """Close descriptors."""
    for fd in fds:
        os.close(fd)


def opening(path: str) -> None:
    """Who waits for whom."""
    os.mkfifo(path)
    say(
        "open to write, non-blocking, no reader",
        result(lambda: os.open(path, os.O_WRONLY | NONBLOCK)),
    )
    opened: list[int] = []
    thread = threading.Thread(target=lambda: opened.append(os.open(path, os.O_RDONLY)))
    thread.start()
    began = time.monotonic()
    writer = None
    while writer is None:
        answer = result(lambda: os.open(path, os.O_WRONLY | NONBLOCK))
        writer = answer if isinstance(answer, int) else None
    thread.join()
    say(
        "a reader that hangs in open(), as logmon does",
        f"counts as a reader; the writer was in after {1e3 * (time.monotonic() - began):.1f} ms",
    )
    say("then, before a byte was written, that reader polls as", poll_of(opened[0]))
    held = os.open(path, os.O_PATH)
    close(writer)
    say("after the only writer closed, read gives", result(lambda: os.read(opened[0], 1)))
    writer = os.open(path, os.O_WRONLY | NONBLOCK)
    os.write(writer, b"again")
    say("a second writer, same reader, read gives", os.read(opened[0], 9))
    say("an O_PATH descriptor keeps the end of file away", "no")
    close(writer, held, opened[0])


def leaving(path: str) -> None:
    """Readers that go and come back."""
    reader, writer = pair(path)
    os.write(writer, b"unread")
    os.close(reader)
    say("reader gone, write gives", result(lambda: os.write(writer, b"x")))
    say("reader gone, the writer polls as", poll_of(writer))
    epoll = select.epoll()
    epoll.register(writer, select.EPOLLOUT)
    began, turns = time.monotonic(), 0
    while time.monotonic() - began < 0.1:
        turns += len(epoll.poll(1))
    say("reader gone, epoll for writing returns", f"at once: {turns * 10} times a second")
    epoll.close()
    reader = os.open(path, os.O_RDONLY | NONBLOCK)
    say("the next reader, the writer having stayed, reads", os.read(reader, 99))
    os.write(writer, b"unread")
    os.close(reader)
    os.close(writer)
    reader = os.open(path, os.O_RDONLY | NONBLOCK)
    say("the next reader, the writer gone as well, reads", result(lambda: os.read(reader, 99)))
    os.close(reader)
    reader, writer = pair(path)
    while result(lambda: os.write(writer, bytes(65536))) != "EAGAIN":
        pass
    say("full, with a reader, the writer polls as", poll_of(writer))
    os.close(reader)
    say("full, without a reader, the writer polls as", poll_of(writer))
    os.close(writer)


def splicing(path: str) -> None:
    """What splice from a pipe to a FIFO tells, and what it hides."""

    def attempt(source: int, sink: int) -> object:
        return result(lambda: os.splice(source, sink, MIB, flags=FLAGS))

    reader, writer = pair(path)
    source, target = os.pipe()
    say("splice, source empty, reader present", attempt(source, writer))
    os.close(reader)
    say("splice, source empty, reader gone", attempt(source, writer))
    os.write(target, b"x")
    say("splice, source has bytes, reader gone", attempt(source, writer))
    reader = os.open(path, os.O_RDONLY | NONBLOCK)
    say("splice, reader back", attempt(source, writer))
    while result(lambda: os.write(writer, bytes(65536))) != "EAGAIN":
        pass
    os.close(target)
    say("splice, source ended and empty, FIFO full", attempt(source, writer))
    say("and the source polls as", poll_of(source))
    os.read(reader, MIB)
    say("splice, source ended and empty, FIFO with room", attempt(source, writer))
    close(source, reader, writer)
    reader, writer = pair(path)
    slots = fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, MIB) // 4096
    source, target = os.pipe()
    count = 0
    while os.write(target, b"x" * 120) and attempt(source, writer) == 120:
        count += 1
    say(f"splices of 120 bytes that fit into a FIFO of {slots} pages", count)
    while result(lambda: os.read(reader, MIB)) != "EAGAIN":
        pass
    count = 0
    while result(lambda: os.write(writer, b"x" * 120)) == 120:
        count += 1
    say("writes of 120 bytes that fit into it", count)
    close(source, target, reader, writer)


def many_writers(path: str, size: int, lines: int = 20_000) -> None:
    """Several processes write lines of one size at once."""
    reader, writer = pair(path)
    os.set_blocking(writer, True)

    def write(letter: int) -> None:
        os.close(reader)
        for _ in range(lines):
            os.write(writer, bytes([letter]) * (size - 1) + b"\n")

    pids = [child(lambda letter=letter: write(letter)) for letter in b"abcd"]  # type: ignore[misc]
    os.close(writer)
    os.set_blocking(reader, True)
    with os.fdopen(reader, "rb", buffering=MIB) as file:
        torn = sum(len(set(line)) > 2 or len(line) != size for line in file)
    for pid in pids:
        os.waitpid(pid, 0)
    say(f"4 writers, {4 * lines} lines of {size} bytes, torn or mixed lines", torn)


def many_readers(path: str, lines: int = 100_000) -> None:
    """Two processes read one FIFO."""
    reader, writer = pair(path)
    os.set_blocking(writer, True)
    os.set_blocking(reader, True)
    counts = os.pipe()

    def read() -> None:
        os.close(writer)
        total = 0
        while data := os.read(reader, 4096):
            total += len(data)
        os.write(counts[1], b"%d\n" % total)

    pids = [child(read) for _ in range(2)]
    os.close(reader)
    for _ in range(lines):
        os.write(writer, b"x" * 100)
    os.close(writer)
    for pid in pids:
        os.waitpid(pid, 0)
    got = [int(part) for part in os.read(counts[0], 999).split()]
    say("2 readers, bytes that each got", f"{got}; in all {sum(got)} of {lines * 100}")
    close(*counts)


def hand_over(path: str, seconds: float, seed: int) -> None:
    """Two splicing processes at a time on one pipe; kill one at random, start another."""
    reader, writer = pair(path)
    source, target = os.pipe()
    for fd in (writer, target):
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, MIB)
    os.set_blocking(source, False)
    stop = time.monotonic() + seconds
    report = os.pipe()

    def write() -> None:
        close(source, reader, writer)
        number, slowest = 0, 0.0
        while time.monotonic() < stop:
            for _ in range(50):
                began = time.monotonic()
                os.write(target, b"%09d %s\n" % (number, b"." * 90))
                slowest = max(slowest, time.monotonic() - began)
                number += 1
            time.sleep(0.001)
        os.write(report[1], b"%d %f" % (number, slowest))

    def splice(*unwanted: int) -> None:
        close(*unwanted)
        poll = select.poll()
        poll.register(source, select.POLLIN)
        while True:
            try:
                if os.splice(source, writer, MIB, flags=FLAGS) == 0:
                    return
            except BlockingIOError:
                poll.poll(5)

    received = 0
    wrong = 0
    ended = threading.Event()

    def read() -> None:
        nonlocal received, wrong
        os.set_blocking(reader, True)
        with os.fdopen(reader, "rb", buffering=MIB) as file:
            for line in file:
                wrong += int(line[:9]) != received
                received += 1
        ended.set()

    producer = child(write)
    splicers = [child(lambda: splice(target, reader)) for _ in range(2)]
    close(target)
    thread = threading.Thread(target=read)
    thread.start()
    generator, kills = random.Random(seed), 0
    while time.monotonic() < stop - 0.2:
        time.sleep(generator.uniform(0, 0.1))
        victim = splicers.pop(generator.randrange(2))
        os.kill(victim, signal.SIGKILL)
        os.waitpid(victim, 0)
        kills += 1
        splicers.append(child(lambda: splice(reader)))
    os.waitpid(producer, 0)
    for pid in splicers:
        os.waitpid(pid, 0)
    close(source, writer)
    thread.join()
    sent, slowest = os.read(report[0], 99).split()
    say(
        f"2 splicers at a time, {kills} of them killed with SIGKILL (seed {seed})",
        f"{int(sent)} lines sent, {received} received, {wrong} out of place; "
        f"the writer's longest wait {1e3 * float(slowest):.1f} ms",
    )
    close(*report)


def replacing(path: str) -> None:
    """Another FIFO at the path; the size of a FIFO."""
    reader, writer = pair(path)
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, MIB)
    say("the size set at the writer, seen at the reader", fcntl.fcntl(reader, fcntl.F_GETPIPE_SZ))
    os.write(writer, bytes(100_000))
    say(
        "shrinking it below what it holds gives",
        result(lambda: fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 65536)),
    )
    os.unlink(path)
    os.mkfifo(path)
    os.write(writer, b"x")
    say("path replaced: the old pair still works", len(os.read(reader, MIB)) == 100_001)
    same = os.path.samestat(os.fstat(writer), os.stat(path))
    say("path replaced: fstat and stat are the same", same)
    os.write(writer, b"orphaned")
    os.close(reader)
    rescue = os.open(f"/proc/self/fd/{writer}", os.O_RDONLY | NONBLOCK)
    say("what an orphaned FIFO holds, read over /proc/self/fd", os.read(rescue, 99))
    close(rescue, writer)
    reader, writer = pair(path)
    say("a new pair on a path starts with the size", fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ))
    close(reader, writer)


def main() -> None:
    """Ask everything."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 30.0
    say("versions", f"Linux {platform.release()}, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/fifo"
        opening(path)
        leaving(path)
        splicing(path)
        for size in (120, 4096, 10_000):
            many_writers(path, size)
        many_readers(path)
        replacing(path)
        hand_over(path, seconds, seed=2)


if __name__ == "__main__":
    main()
