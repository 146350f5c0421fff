"""Why cells are red, and what follows for users: one sentence a cell, shown on the page."""

from __future__ import annotations

from tests.matrix.results import Key

LIMITS: dict[Key, str] = {}
