"""A spawner serves whatever becomes of what it does for the memory of those that it forks."""

from __future__ import annotations

from typing import Final

import pytest

from milo.core.spawning import RUN
from milo.errors import SpawnerError
from milo.host import spawner_client
from milo.host.spawner_client import SpawnerClient

FAILING: Final = (
    "import sys; sys.path.insert(0, sys.argv[1]); import milo.spawner;"
    "milo.spawner.{} = lambda *_: 1 / 0; milo.spawner.main()"
)


@pytest.mark.parametrize("name", ["place_together", "rehearse", "make_all_immortal"])
async def test_it_forks_when_that_fails(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """As where a C library tags addresses."""
    monkeypatch.setattr(spawner_client, "CODE", FAILING.format(name))
    client = SpawnerClient()
    try:
        assert await client.spawn(RUN, "/nowhere", []) > 0
    except SpawnerError as exc:
        pytest.fail(f"it has not served: {exc}")
    finally:
        client.close()
