"""What signals to ``milo run`` mean for its application."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import AsyncIterator, Iterator
from typing import Final, Protocol

import trio

from milo.cli.output import warn
from milo.errors import ControlError

PATIENCE_S: Final = 1.0
"""Before something is said of an application that has not ended."""
STOP_TIMEOUT_S: Final = 10.0
"""Between Ctrl-C and SIGKILL; a second Ctrl-C does not wait."""


class Stoppable(Protocol):
    """What runs: `milo.task.supervisor.Supervisor`."""

    def request_stop(self, signal: int, timeout_s: float) -> None:
        """Have it end by ``signal``, and by SIGKILL after ``timeout_s``."""

    def send_signal(self, signal: int) -> None:
        """Send it ``signal``; raises `ControlError` when it does not run."""


class Signals:
    """Those that this process gets, from `received` on; kept until `obey` is there."""

    def __init__(self, numbers: AsyncIterator[int]) -> None:
        self._numbers = numbers
        self.asked = 0
        """The first that has asked for the end; 0 for none."""

    @classmethod
    @contextlib.contextmanager
    def received(cls) -> Iterator[Signals]:
        """Receive them; a closed terminal is ignored under nohup(1)."""
        numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        with trio.open_signal_receiver(*numbers) as signals:
            yield cls(signals)

    async def obey(self, supervisor: Stoppable) -> None:
        """Stop at Ctrl-C, SIGTERM and a closed terminal, and kill at a Ctrl-C after one of these.

        The others may come twice at once, to this process and to its group: timeout(1) sends its
        signal so, and a shell its SIGHUP when the terminal is closed. Ctrl-\\ is for the JVM, which
        prints its threads.
        """
        async with trio.open_nursery() as nursery:
            async for number in self._numbers:
                if number == signal.SIGQUIT:
                    with contextlib.suppress(ControlError):  # it starts or ends just now
                        supervisor.send_signal(number)
                    continue
                again = self.asked != 0 and number == signal.SIGINT
                supervisor.request_stop(signal.SIGTERM, 0.0 if again else STOP_TIMEOUT_S)
                if number == signal.SIGINT and not again:
                    nursery.start_soon(_tell_patience)
                self.asked = self.asked or number


async def _tell_patience() -> None:
    """Say what else there is to do, where the application takes its time."""
    await trio.sleep(PATIENCE_S)
    warn(
        f"milo: SIGTERM was sent; the application is killed after {STOP_TIMEOUT_S:g} s, "
        "or at once by another Ctrl-C"
    )
