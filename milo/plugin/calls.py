"""Counts the RPCs that this plugin has answered, for `milo.plugin.metrics`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import attrs


@attrs.define
class Call:
    """One RPC, by its name."""

    count: int = 0
    failures: int = 0
    seconds: float = 0.0
    """How long all its calls took together; 0 for those that last as long as a task."""


class Calls:
    """All RPCs since the plugin's start. Their names are those of protos/."""

    def __init__(self) -> None:
        self.by_name: dict[str, Call] = {}

    @contextlib.contextmanager
    def counted(self, name: str, *, timed: bool) -> Iterator[None]:
        """Count one call; what ends it with an exception is a failure, the client's end is none."""
        call = self.by_name.setdefault(name, Call())
        call.count += 1
        begun_s = time.monotonic()
        try:
            yield
        except Exception:
            call.failures += 1
            raise
        finally:
            if timed:
                call.seconds += time.monotonic() - begun_s
