"""Where Milo keeps things, unless it is told otherwise. It imports nothing, for `milo --help`."""

from __future__ import annotations

from typing import Final

STATE_DIR: Final = "/run/milo"
CACHE_DIR: Final = "/var/cache/milo-startup"
