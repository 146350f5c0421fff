"""systemd's unit of a Nomad agent: its text, and what it means for tasks. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs

DEFAULT_KILL_MODE: Final = "control-group"
"""systemd.kill(5)."""


@attrs.frozen
class ServiceUnit:
    """The settings of a service that matter here; systemd's defaults where it says nothing."""

    name: str
    path: str = ""
    """The unit's file."""
    kill_mode: str = DEFAULT_KILL_MODE
    oom_score_adjust: int = 0
    user: str = ""
    """Empty is root."""
    exec_start: str = ""
    """The command line."""
    unread: tuple[str, ...] = ()
    """Files of the unit that could not be read, each with the reason."""


def parse_show(name: str, text: str) -> ServiceUnit | None:
    """Return what ``systemctl show`` printed, or None when there is no such unit."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition("=")
        values.setdefault(key, value)
    if values.get("LoadState") in (None, "not-found", "masked"):
        return None
    # ExecStart={ path=/usr/bin/nomad ; argv[]=/usr/bin/nomad agent -config /etc/nomad.d ; ... }
    _, _, command = values.get("ExecStart", "").partition("argv[]=")
    return ServiceUnit(
        name=name,
        path=values.get("FragmentPath", ""),
        kill_mode=values.get("KillMode") or DEFAULT_KILL_MODE,
        oom_score_adjust=_number(values.get("OOMScoreAdjust", "")),
        user=values.get("User", ""),
        exec_start=command.partition(" ;")[0],
    )


def parse_files(name: str, files: Sequence[tuple[str, str]]) -> ServiceUnit:
    """Return what unit files say: path and text of the unit, then of its drop-ins in order.

    As systemd.syntax(7) has it: the last assignment counts, an empty one takes back those
    before it, a line that ends in a backslash goes on.
    """
    values: dict[str, str] = {}
    for _, text in files:
        section = ""
        for line in _lines(text):
            if line.startswith("["):
                section = line
            elif section == "[Service]":
                key, equals, value = line.partition("=")
                if equals:
                    values[key.strip()] = value.strip()
    return ServiceUnit(
        name=name,
        path=files[0][0] if files else "",
        kill_mode=values.get("KillMode") or DEFAULT_KILL_MODE,
        oom_score_adjust=_number(values.get("OOMScoreAdjust", "")),
        user=values.get("User", ""),
        exec_start=values.get("ExecStart", "").lstrip("@-:+!"),
    )


def _lines(text: str) -> list[str]:
    result: list[str] = []
    held = ""
    for line in text.splitlines():
        if line.lstrip().startswith(("#", ";")):
            continue
        if line.endswith("\\"):
            held += line[:-1] + " "
            continue
        whole = (held + line).strip()
        held = ""
        if whole:
            result.append(whole)
    return result


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        return 0
