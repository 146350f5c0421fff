"""Signal names."""

from __future__ import annotations

import signal

import pytest

from milo.core.signals import parse_signal, signal_name
from milo.errors import ConfigError
from tests.support.nomad_signals import NOMADS


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("SIGTERM", 15),
        ("sigint", 2),
        ("TERM", 15),
        ("15", 15),
        (" SIGUSR1 ", 10),
        ("SIGIOT", 6),
        ("SIGRTMIN", 34),
        ("RTMIN+3", 37),
        ("SIGRTMAX-1", 63),
        ("64", 64),
    ],
)
def test_a_signal_is_known_by_its_name_or_number(name: str, number: int) -> None:
    """Names count in either case, with or without SIG, and so does a number."""
    assert parse_signal(name) == number


@pytest.mark.parametrize(
    "name",
    [
        "",
        "SIG",
        "SIGNULL",
        "0",
        "-9",
        "32",
        "65",
        "999",
        "SIGFOO",
        "SIG_DFL",
        "RTMIN+31",
        "RTMAX+1",
    ],
)
def test_what_is_no_signal_is_refused(name: str) -> None:
    """A name or number that no process can be sent is a ConfigError for the key given."""
    with pytest.raises(ConfigError) as caught:
        parse_signal(name, "kill_signal")
    assert caught.value.key == "kill_signal"
    assert "no signal of this host" in str(caught.value)


def test_every_signal_survives_the_way_to_its_name_and_back() -> None:
    """The name of each signal of the host is one that parses to the same number."""
    for number in signal.valid_signals():
        assert parse_signal(signal_name(number)) == number


def test_a_number_without_a_name_is_still_told() -> None:
    """The name of an unknown number says the number."""
    assert signal_name(32) == "signal 32"
    assert signal_name(9) == "SIGKILL"


def test_every_name_of_nomads_can_be_sent_but_one() -> None:
    """All that Nomad offers as kill_signal are signals of this host, except for SIGNULL."""
    assert len(NOMADS) == len(set(NOMADS)) == 28
    for name in NOMADS:
        if name == "SIGNULL":
            with pytest.raises(ConfigError):
                parse_signal(name)
        else:
            assert parse_signal(name) == signal.Signals[name]
