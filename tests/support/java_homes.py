"""The JDKs of this machine that a test can be run with."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path


def all_homes() -> list[str]:
    """Return the homes of the JDKs below /usr/lib/jvm, symlinks resolved."""
    found = {os.path.realpath(path) for path in Path("/usr/lib/jvm").glob("*/bin/java")}
    return sorted({str(Path(path).parents[1]) for path in found})


def is_packaged(home: str) -> bool:
    """Return whether a JDK belongs to a package of Debian's, and was not unpacked by hand."""
    if shutil.which("dpkg") is None:
        return False
    words = ("dpkg", "-S", f"{home}/bin/java")
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def copy_home(home: str, target: Path) -> None:
    """Make ``target`` the same JDK, of hard links where both are of one file system."""
    shutil.copytree(home, target, symlinks=True, copy_function=_link_or_copy)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError as exc:
        if exc.errno != errno.EXDEV:
            raise
        shutil.copy2(source, target)
