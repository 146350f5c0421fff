"""A JDK whose ``java`` is a shell script: applications that do what no JVM can be asked to.

It starts in a millisecond, and the container around it is real.
"""

from __future__ import annotations

import os
from pathlib import Path

NOBODY = 65534


def make(home: Path, script: str) -> Path:
    """Write a JDK below ``home`` that runs ``script`` instead of a JVM, and return ``home``.

    It belongs to another user, so that Milo reads its release file and does not run it.
    """
    (home / "bin").mkdir(parents=True)
    java = home / "bin/java"
    java.write_text(f"#!/bin/sh\n{script}\n")
    (home / "release").write_text('JAVA_VERSION="17.0.1"\n')
    for path in (home, home / "bin", java):
        path.chmod(0o755)
        os.chown(path, NOBODY, NOBODY)
    return home
