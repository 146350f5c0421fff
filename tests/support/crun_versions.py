"""Versions of crun that Debian has and this machine has not, each with its libraries beside it."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from tests.support import debian

CACHE = Path(__file__).parents[2] / ".nox/crun"
SUITES = ("trixie", "sid")
"""The releases of Debian; the last one has the newest there is."""


def fetch(suite: str) -> Path:
    """Return the directory that holds that release's ``crun``, downloaded once.

    Raises RuntimeError with the reason when it cannot be had.
    """
    home = CACHE / suite
    if (home / "crun").exists():
        return home
    if shutil.which("patchelf") is None:
        raise RuntimeError(f"the crun of {suite} cannot be prepared: there is no patchelf")
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
        work = Path(temporary)
        debian.unpack(suite, ["crun"], work, needs=True)
        staged = work / "home"
        staged.mkdir(mode=0o755)
        shutil.copy(work / "root/usr/bin/crun", staged)
        debian.carry_libraries(staged, home, work / "root")
        os.rename(staged, home)
    return home
