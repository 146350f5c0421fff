"""A process in front of the one that works, so that being killed is a signal like the others."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable
from types import FrameType
from typing import Final

from milo.proc import die_with

SIGNALLED: Final = 128
"""Shells add it to the number of the signal that ended a program."""


def work_behind(heeded: Iterable[signal.Signals]) -> int | None:
    """Divide this process in two: who is called goes on in front, and a child does the work.

    The child gets every signal of ``heeded`` that the one in front gets, and SIGTERM when that
    one is killed. It has a session of its own, so that Ctrl-C reaches it once and not twice.

    Returns: None in the child; in front, once the child has ended, the exit status to end with.

    Raises:
        OSError: no process can be made.
    """
    front = os.getpid()
    # What comes before the child has its handlers is kept for it.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, heeded)
    child = os.fork()
    if child == 0:
        os.setsid()
        if signal.getsignal(signal.SIGTERM) is signal.SIG_IGN:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        die_with(front, signal.SIGTERM)
        return None

    def pass_on(number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    for number in heeded:
        signal.signal(number, pass_on)
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return SIGNALLED - status if status < 0 else status
