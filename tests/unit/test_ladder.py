"""The stop ladder by a clock that jumps: what is sent, and asked for, when."""

from __future__ import annotations

import signal
from typing import Any

import attrs
import pytest
import trio

from milo.core.signals import NO_SIGNAL
from milo.task.ladder import StopLadder


@attrs.define
class Climbed:
    """What came when, in seconds after the first request. Stands in for a container."""

    begun: float = attrs.field(factory=trio.current_time)
    seen: list[tuple[float, str]] = attrs.field(factory=list)

    def _note(self, what: str) -> None:
        self.seen.append((round(trio.current_time() - self.begun, 3), what))

    def signal(self, number: int) -> None:
        self._note(signal.Signals(number).name)

    def kill(self) -> None:
        self._note("SIGKILL to all")

    def ask(self, sent: str) -> None:
        self._note(f"asked after {sent}")


async def climb(*requests: tuple[float, int, float]) -> list[tuple[float, str]]:
    """Climb with each request at its time: seconds, signal, timeout."""
    ladder, container = StopLadder(lambda level, text: None), Climbed()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ladder.climb, container, container.ask)
        for at_s, number, timeout_s in requests:
            await trio.sleep_until(container.begun + at_s)
            ladder.request(number, timeout_s)
    return container.seen


async def test_last_words_have_the_last_second(autojump_clock: Any) -> None:
    """They are asked for a second before the SIGKILL, which does not wait longer for them."""
    assert await climb((0, signal.SIGTERM, 5)) == [
        (0, "SIGTERM"),
        (4, "asked after SIGTERM"),
        (5, "SIGKILL to all"),
    ]


@pytest.mark.parametrize(("timeout_s", "asked_s"), [(2, 1), (1, 0.5), (0.2, 0.1)])
async def test_a_short_timeout_is_halved(
    timeout_s: float, asked_s: float, autojump_clock: Any
) -> None:
    """The application has the first half for itself."""
    seen = await climb((0, NO_SIGNAL, timeout_s))
    assert seen == [(asked_s, "asked after no signal"), (timeout_s, "SIGKILL to all")]


async def test_no_time_at_all_leaves_none_for_words(autojump_clock: Any) -> None:
    """Nothing is asked for, nor when a second stop has none."""
    assert await climb((0, signal.SIGTERM, 0)) == [(0, "SIGTERM"), (0, "SIGKILL to all")]
    assert await climb((0, signal.SIGTERM, 10), (1, signal.SIGINT, 0)) == [
        (0, "SIGTERM"),
        (1, "SIGINT"),
        (1, "SIGKILL to all"),
    ]


async def test_they_are_asked_for_once(autojump_clock: Any) -> None:
    """Whatever stops come while they are being said; the earlier deadline stays."""
    seen = await climb(
        (0, signal.SIGTERM, 5), (4.5, signal.SIGTERM, 10), (4.6, signal.SIGTERM, 0.3)
    )
    assert seen == [(0, "SIGTERM"), (4, "asked after SIGTERM"), (4.9, "SIGKILL to all")]


async def test_an_earlier_deadline_has_earlier_words(autojump_clock: Any) -> None:
    """Of two stops the earlier counts for them, too."""
    assert await climb((0, signal.SIGTERM, 60), (10, signal.SIGINT, 4)) == [
        (0, "SIGTERM"),
        (10, "SIGINT"),
        (13, "asked after SIGINT"),
        (14, "SIGKILL to all"),
    ]


@pytest.mark.parametrize(
    ("number", "said"), [(signal.SIGTERM, ["SIGTERM"]), (signal.SIGKILL, []), (NO_SIGNAL, ["no"])]
)
async def test_what_was_to_be_killed_has_outlived_nothing(
    number: int, said: list[str], autojump_clock: Any
) -> None:
    """That a timeout was not enough is said of an application that was asked to end."""
    told: list[str] = []
    ladder = StopLadder(lambda level, text: told.append(text))
    ladder.request(number, 0)
    await ladder.climb(Climbed())
    assert [text.partition(" after ")[2].split()[0].rstrip(":") for text in told] == said
