"""The Nomads of this machine: those in ``$NOMAD_BINS``, else ``nomad`` and ``nomad-*`` on PATH."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from tests.support.waiting import scaled

Version = tuple[int, ...]


def found() -> dict[str, str]:
    """Return version to path, the oldest first.

    ``NOMAD_BINS`` is a list of paths like PATH, and every one must be a Nomad: else RuntimeError.
    """
    if named := os.environ.get("NOMAD_BINS"):
        paths = [path for path in named.split(os.pathsep) if path]
    else:
        paths = _on_path()
    versions: dict[str, str] = {}
    for path in paths:
        if version := version_of(path):
            versions.setdefault(version, path)
        elif named:
            raise RuntimeError(f"{path} in NOMAD_BINS is no Nomad: `{path} version` names none")
    return dict(sorted(versions.items(), key=lambda item: numbers(item[0])))


def numbers(version: str) -> Version:
    """Return a version to compare by: 1.10.5 is newer than 1.8.4."""
    return tuple(int(number) for number in version.split("."))


def version_of(path: str) -> str:
    """Return the release that ``PATH version`` names, such as 1.6.10, or nothing."""
    try:
        done = subprocess.run([path, "version"], capture_output=True, text=True, timeout=scaled(30))
    except (OSError, subprocess.TimeoutExpired):
        return ""
    match = re.search(r"^Nomad v(\d+\.\d+\.\d+)", done.stdout)
    return match[1] if match else ""


def _on_path() -> list[str]:
    paths = [path for path in [shutil.which("nomad")] if path]
    for directory in os.get_exec_path():
        paths += sorted(
            str(path)
            for path in Path(directory).glob("nomad-[0-9]*")
            if os.access(path, os.X_OK) and path.is_file()
        )
    return paths
