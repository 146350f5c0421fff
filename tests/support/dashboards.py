"""The dashboard in examples/, as its panels ask Prometheus."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

PATH: Final = Path(__file__).parents[2] / "examples/grafana-dashboard.json"


def panels() -> list[dict[str, Any]]:
    """Return all panels, rows included."""
    found: list[dict[str, Any]] = json.loads(PATH.read_text())["panels"]
    return found


def queries() -> list[str]:
    """Return the queries of all panels, with every task and a range in place of variables."""
    asked = [target["expr"] for panel in panels() for target in panel.get("targets", [])]
    every = [re.sub(r"\$(namespace|job|task)\b", ".*", query) for query in asked]
    return [query.replace("$__rate_interval", "1m") for query in every]


def variables() -> list[str]:
    """Return the queries of the variables."""
    listed = json.loads(PATH.read_text())["templating"]["list"]
    return [one["definition"] for one in listed if one["type"] == "query"]
