"""What a job brings beside ``local/``, and whom Nomad's own directories belong to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from milo.task.root import brought
from tests.support.launches import make_launch

NOBODY = 65534


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("name", ["dev", "proc", "private", "alloc"])
def test_what_nomad_unmounts_is_roots(tmp_path: Path, name: str) -> None:
    """Also where an artifact with ``chown = true`` has brought a directory of that name.

    In a sticky directory only its owner can rename it, for a symlink in its place.
    """
    launch = make_launch(alloc_dir=str(tmp_path))
    own = Path(launch.task_dir, name)
    own.mkdir(parents=True)
    own.chmod(0o750)
    os.chown(own, NOBODY, NOBODY)
    Path(launch.shared_dir).mkdir(exist_ok=True)
    brought.guard(launch)
    status = own.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (0, 0, 0o750)
    assert own.parent.stat().st_mode & 0o1000
