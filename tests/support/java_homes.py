"""The JDKs of this machine that a test can be run with."""

from __future__ import annotations

import os
from pathlib import Path


def all_homes() -> list[str]:
    """Return the homes of the JDKs below /usr/lib/jvm, symlinks resolved."""
    found = {os.path.realpath(path) for path in Path("/usr/lib/jvm").glob("*/bin/java")}
    return sorted({str(Path(path).parents[1]) for path in found})
