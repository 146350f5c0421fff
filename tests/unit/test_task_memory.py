"""The tool that says what a task process holds tells pages apart by what became of them."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal

from tools import task_memory
from tools.task_memory import PAGE, Account, Process, account, state, table

WORD = 8


def test_pages_are_told_apart_by_what_was_written_to_them() -> None:
    """Of a child that writes to pages which it shares with its parent, and to one of its own."""
    memory = mmap.mmap(-1, 5 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for page in range(4):
        memory[page * PAGE] = 1
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        memory[0] = 2
        memory[0] = 1
        memory[PAGE] = 7
        memory[2 * PAGE : 2 * PAGE + WORD] = bytes([255] * WORD)
        memory[4 * PAGE] = 1
        os.write(writer, b"x")
        signal.pause()
        os._exit(1)
    try:
        os.read(reader, 1)
        with Process(pid) as child, Process(os.getpid()) as parent:
            entries = child.entries(address, address + 5 * PAGE)
            states = [
                state(address + number * PAGE, entry, child, parent)
                for number, entry in enumerate(entries)
            ]
            whole = account(pid, os.getpid())
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)
    assert states == ["same again", "counts", "more", "shared", "new"]
    assert {kind for kind, _ in whole.pages} <= set(task_memory.KINDS)
    assert whole.pages[task_memory.OBJECTS, "counts"] >= PAGE
    assert whole.pages[task_memory.CODE, "shared"] > 0


def test_the_table_has_the_mean() -> None:
    """In KiB, with a sum of every column."""
    total = Account()
    for size in (PAGE, 3 * PAGE):
        one = Account()
        one.pss[task_memory.HEAP] = size
        one.pages[task_memory.HEAP, "counts"] = size
        total.add(one)
    rows = table(total, 2).splitlines()
    assert rows[3] == "| the C library's heap (malloc) | 8 | 0 | 8 | 0 | 0 | 0 |"
    assert rows[-1] == "| **all** | 8 | 0 | 8 | 0 | 0 | 0 |"
