"""What a task process has said while nobody was there to hear it, within bounds."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from milo.core import control
from milo.errors import ControlError

KEPT_EVENTS: Final = 10
"""As many as Nomad keeps of a task."""
KEPT_LINES: Final = 50
"""Those of a start are five; a plugin is away for seconds, but an agent may be for days."""
KEPT_LINES_BYTES: Final = 64 * 1024
"""Of all lines together, as they would be sent."""


class Missed:
    """The last events and the last log lines. Lines cost no event its place."""

    def __init__(self) -> None:
        self._events: deque[control.Event] = deque(maxlen=KEPT_EVENTS)
        self._lines: deque[tuple[control.Log, int]] = deque()
        """Each with its size."""
        self._bytes = 0
        self._left_out = 0

    def keep(self, message: control.Message) -> None:
        """Keep ``message`` if it is an event or a log line; the oldest give way."""
        if isinstance(message, control.Event):
            self._events.append(message)
        elif isinstance(message, control.Log):
            try:
                size = len(control.encode(message))
            except ControlError:
                return  # nor could it be sent
            self._lines.append((message, size))
            self._bytes += size
            while len(self._lines) > KEPT_LINES or self._bytes > KEPT_LINES_BYTES:
                self._bytes -= self._lines.popleft()[1]
                self._left_out += 1

    def put_back(self, messages: Iterable[control.Message]) -> None:
        """Keep ``messages``, which are older than all that is kept."""
        newer = [*self._events, *(line for line, _ in self._lines)]
        self._events.clear()
        self._lines.clear()
        self._bytes = 0
        for message in (*messages, *newer):
            self.keep(message)

    def take(self) -> list[control.Message]:
        """Return what is kept, and keep it no more; the first line says how many are missing."""
        lines = [line for line, _ in self._lines]
        if self._left_out:
            text = (
                f"{self._left_out} earlier lines are in the task's own log alone, task.log in its "
                "state directory"
            )
            lines.insert(0, control.Log(level="info", text=text))
        taken = [*self._events, *lines]
        self._events.clear()
        self._lines.clear()
        self._bytes = self._left_out = 0
        return taken
