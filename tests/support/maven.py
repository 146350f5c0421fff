"""Executable JARs that no one here wrote, fetched by Maven with the machine's own settings."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

CACHE = Path(__file__).parents[2] / ".nox/maven"
FETCH_S = 180
"""A first fetch also brings Maven's plugin; an idle machine needs 10 s."""


class NotObtainableError(Exception):
    """Maven is missing, or did not get the JAR; says why."""


def fetch(group: str, artifact: str, version: str, classifier: str = "") -> Path:
    """Return the JAR with these coordinates, from the cache or through Maven.

    Raises `NotObtainableError` when it is not to be had.
    """
    name = f"{artifact}-{version}{f'-{classifier}' if classifier else ''}.jar"
    target = CACHE / name
    if target.exists():
        return target
    if shutil.which("mvn") is None:
        raise NotObtainableError("there is no mvn here (Debian's package maven)")
    CACHE.mkdir(parents=True, exist_ok=True)
    command = ["mvn", "-B", "-q", "dependency:copy", f"-DoutputDirectory={CACHE}"]
    coordinates = f"{group}:{artifact}:{version}" + (f":jar:{classifier}" if classifier else "")
    try:
        done = subprocess.run(
            [*command, f"-Dartifact={coordinates}"],
            cwd=CACHE,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=FETCH_S,
        )
    except subprocess.TimeoutExpired as error:
        raise NotObtainableError(f"mvn did not bring {coordinates} in {FETCH_S} s") from error
    if not target.exists():
        first = (done.stdout.decode(errors="replace").strip().splitlines() or ["no message"])[0]
        raise NotObtainableError(f"mvn did not bring {coordinates}: {first[:200]}")
    return target
