"""One agent for the behaviours that are the client's, with two volumes of the host's."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import jar_url
from tests.support.agent import Agent, agent, missing

__all__ = ["jar_url"]


@pytest.fixture(scope="session")
def volume() -> Iterator[Path]:
    """A directory of the host's that every user can write to."""
    directory = Path(tempfile.mkdtemp(prefix="milo-volume-", dir="/tmp"))
    directory.chmod(0o777)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def client(volume: Path) -> Iterator[Agent]:
    """An agent with ``volume`` as the host volumes ``data`` and, read-only, ``fixed``."""
    if reason := missing():
        pytest.skip(f"NO TEST WITH A CLIENT IS RUN: {reason}")
    blocks = (
        f'host_volume "data" {{\n path = "{volume}"\n}}\n'
        f'host_volume "fixed" {{\n path = "{volume}"\n read_only = true\n}}\n'
    )
    with agent("conformance", client=blocks) as one:
        yield one
