"""trio-asyncio and its event loop, on each Python that Milo runs on.

Everything that needs trio-asyncio takes it from here. Its release 0.16 replaces Python's functions
that say which loop runs. Since 3.12 ``asyncio.current_task`` asks the interpreter, and since 3.14
all of asyncio's tasks do, so the interpreter is told. 3.14 also has two names no more, or as
private ones, that this release asks for.
"""

from __future__ import annotations

import asyncio
import sys
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_LACKS_NAMES = sys.version_info >= (3, 14)
_ASKS_INTERPRETER = sys.version_info >= (3, 12)

with warnings.catch_warnings():
    # Event loop policies are deprecated; trio-asyncio has one.
    warnings.simplefilter("ignore", DeprecationWarning)
    if _LACKS_NAMES:
        for _place, _name, _value in (
            (asyncio.events, "BaseDefaultEventLoopPolicy", "_BaseDefaultEventLoopPolicy"),
            (asyncio, "AbstractChildWatcher", None),
        ):
            if not hasattr(_place, _name):
                setattr(_place, _name, getattr(_place, _value) if _value else object)
    import trio_asyncio

__all__ = ["open_loop", "trio_asyncio"]


@asynccontextmanager
async def open_loop() -> AsyncIterator[trio_asyncio.TrioEventLoop]:
    """Run an event loop of asyncio's in this Trio task, as `trio_asyncio.open_loop` does."""
    async with trio_asyncio.open_loop() as loop:
        if not _ASKS_INTERPRETER:
            yield loop
            return
        # No other loop ever runs in this thread.
        asyncio._set_running_loop(loop)
        try:
            yield loop
        finally:
            asyncio._set_running_loop(None)
