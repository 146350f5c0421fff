"""Tests for a machine of their own whose process 1 is systemd: `nox -s vm -- systemd`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import artifacts


@pytest.fixture(autouse=True, scope="session")
def in_the_machine() -> None:
    """They make units and users, and change sysctls."""
    if "MILO_IN_VM" not in os.environ or not Path("/run/systemd/system").exists():
        pytest.skip("only in the virtual machine with systemd: nox -s vm -- systemd")


@pytest.fixture(scope="session")
def jar_url(jar_dir: Path) -> Iterator[str]:
    """The base URL under which the test JARs are served."""
    with artifacts.serve(jar_dir) as url:
        yield url
