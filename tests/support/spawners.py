"""Spawners whose task processes have shorter timeouts, so that tests need not wait for them."""

from __future__ import annotations

import pytest

from milo.host import spawner_client


def patch(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Run the Python ``code`` in every spawner executed from now on, before it serves."""
    before, after = spawner_client.CODE.split("; from ", 1)
    monkeypatch.setattr(spawner_client, "CODE", f"{before}; {code}; from {after}")
