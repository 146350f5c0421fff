"""What a seccomp profile is called where it is configured: its path, or that there is none."""

from __future__ import annotations

from typing import Final

from milo.errors import ConfigError

UNCONFINED: Final = "unconfined"


def check_profile_name(key: str, value: str) -> str:
    """Return the name of a profile for a key; raises `ConfigError`."""
    if value != UNCONFINED and not value.startswith("/"):
        raise ConfigError(
            key,
            f"got {value[:80]!r}",
            'the absolute path of a seccomp profile (JSON), or "unconfined"',
        )
    return value
