"""Log lines with a level of hclog's, as task processes send them."""

from __future__ import annotations

import logging
from typing import Final

LEVELS: Final = {"trace": 5, "debug": 10, "info": 20, "warn": 30, "error": 40}

_log = logging.getLogger("milo.host")


def log(level: str, text: str, **fields: object) -> None:
    """Write a line to the agent's log; ``level`` is one of hclog's."""
    _log.log(LEVELS.get(level, logging.INFO), "%s", text, extra={"fields": fields})
