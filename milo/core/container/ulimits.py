"""A job's ``ulimit`` block: resource limits as Nomad's docker driver spells them. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from milo.errors import ConfigError

RLIM_INFINITY: Final = 2**64 - 1

NAMES: Final = {
    "as": "RLIMIT_AS",
    "core": "RLIMIT_CORE",
    "cpu": "RLIMIT_CPU",
    "data": "RLIMIT_DATA",
    "fsize": "RLIMIT_FSIZE",
    "locks": "RLIMIT_LOCKS",
    "memlock": "RLIMIT_MEMLOCK",
    "msgqueue": "RLIMIT_MSGQUEUE",
    "nice": "RLIMIT_NICE",
    "nofile": "RLIMIT_NOFILE",
    "nproc": "RLIMIT_NPROC",
    "rss": "RLIMIT_RSS",
    "rtprio": "RLIMIT_RTPRIO",
    "rttime": "RLIMIT_RTTIME",
    "sigpending": "RLIMIT_SIGPENDING",
    "stack": "RLIMIT_STACK",
}
"""getrlimit(2); sizes in bytes, times in seconds (rttime: microseconds)."""

SCHEDULING: Final = ("nice", "rtprio")
"""With these a task may outrun the host's own processes without the capability sys_nice."""

EXPECTED: Final = 'a number such as "4096", or "soft:hard"; "unlimited" or -1 for no limit'


def parse_ulimits(key: str, limits: Mapping[str, str]) -> dict[str, tuple[int, int]]:
    """Return OCI name to soft and hard limit.

    Raises:
        ConfigError: an unknown name, a value that is no limit, or a soft limit above the hard.
    """
    result: dict[str, tuple[int, int]] = {}
    for given, text in limits.items():
        name = given.lower().removeprefix("rlimit_")
        within = f"{key}.{given[:40]}"
        if name not in NAMES:
            raise ConfigError(within, "there is no such limit", "one of " + ", ".join(NAMES))
        if NAMES[name] in result:
            raise ConfigError(within, "it is given twice", "each limit once")
        words = text.split(":")
        if len(words) > 2:
            raise ConfigError(within, f"got {text[:40]!r}", EXPECTED)
        soft, hard = (_limit(within, word, text) for word in (words[0], words[-1]))
        if soft > hard:
            raise ConfigError(
                within, f"the soft limit of {text[:40]!r} is above the hard", EXPECTED
            )
        result[NAMES[name]] = (soft, hard)
    return result


def check_allowed(limits: Iterable[str], allowed_capabilities: Collection[str]) -> None:
    """Hold parsed limits to the plugin's ``allow_caps``.

    Raises:
        ConfigError: one that raises a task's priority, without the capability for it.
    """
    for name in SCHEDULING:
        if NAMES[name] in limits and not {"sys_nice", "all"} & {*allowed_capabilities}:
            raise ConfigError(
                f"ulimit.{name}",
                "it raises a task's priority over the host's own processes",
                "it only where the plugin's allow_caps holds sys_nice",
            )


def _limit(key: str, word: str, text: str) -> int:
    plain = word.strip().lower()
    if plain in ("unlimited", "-1"):
        return RLIM_INFINITY
    if not re.fullmatch(r"[0-9]{1,19}", plain):
        raise ConfigError(key, f"got {text[:40]!r}", EXPECTED)
    return int(plain)
