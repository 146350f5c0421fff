"""What every suite shares: a place where crun works on hosts with hybrid cgroups, and JARs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support import jars, private_mounts


def pytest_configure() -> None:
    """Leave a hybrid host's cgroup v2 mount behind, for this process and its children only."""
    if os.geteuid() == 0:
        private_mounts.enter_if_hybrid()


@pytest.fixture(scope="session")
def jar_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with all test JARs, compiled for this run; skips where javac is missing."""
    if reason := jars.missing_tools():
        pytest.skip(reason)
    directory = tmp_path_factory.mktemp("jars")
    jars.build_all(directory)
    return directory
