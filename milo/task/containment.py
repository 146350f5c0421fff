"""Keeps a failure of a helper from ending the task.

A nursery ends with the first exception in it. So whatever runs beside the container, and is not
the container, runs in here (docs/architecture.md has the list).
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final

import trio

RETRY_S: Final = (1.0, 60.0)
"""The first pause and the longest: each is twice the one before."""

Log = Callable[[str, str], None]
"""Takes one of hclog's levels and a line."""


async def keep_running(
    what: str,
    run: Callable[[], Awaitable[None]],
    log: Log,
    *,
    retry_s: tuple[float, float] = RETRY_S,
    until: Callable[[], bool] = lambda: False,
) -> None:
    """Run ``run`` until it returns; when it fails, log that and run it again, after a pause.

    It is given up when it fails once ``until`` says so. Only cancellation gets out. ``what``
    begins the sentence in the log.
    """
    pause_s, last_s = retry_s
    while True:
        try:
            await run()
        except Exception as exc:
            if until():
                log("error", f"{what} failed ({fault(exc)}) and is given up")
                return
            log("error", f"{what} failed ({fault(exc)}); it is tried again in {pause_s:g} s")
        else:
            return
        await trio.sleep(pause_s)
        pause_s = min(2 * pause_s, last_s)


@contextmanager
def contained(what: str, log: Log) -> Iterator[None]:
    """Run the block as far as it gets; when it fails, log that and go on behind it."""
    try:
        yield
    except Exception as exc:
        log("error", f"{what} failed ({fault(exc)})")


def fault(exc: BaseException) -> str:
    """Return an exception with the place that raised it, in one line."""
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    frames = traceback.extract_tb(exc.__traceback__)
    place = f" in {os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""
    return f"{exc!r}{place}"
