"""Executable JARs that no one here wrote, fetched by Maven with the machine's own settings."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.support.waiting import scaled

CACHE = Path(__file__).parents[2] / ".nox/maven"
FETCH_S = 180
"""A first fetch also brings Maven's plugin; an idle machine needs 10 s."""
BUILD_S = 600
"""A first one brings some hundred files; a busy machine needs 3 minutes."""
SHORT_RUN = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
"""For Maven's own JVM: a fetch takes 3 s of processor time in place of 6, most of it compiling."""
UNREACHED = ("Could not transfer", "Could not resolve", "Could not find artifact", "Unknown host")
"""What Maven says when a registry does not answer, or does not have something."""


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
    coordinates = f"{group}:{artifact}:{version}" + (f":jar:{classifier}" if classifier else "")
    CACHE.mkdir(parents=True, exist_ok=True)
    words = ("dependency:copy", f"-DoutputDirectory={CACHE}", f"-Dartifact={coordinates}")
    output = _run(CACHE, *words, wanted=coordinates, timeout_s=FETCH_S)
    if not target.exists():
        first = (output.strip().splitlines() or ["no message"])[0]
        raise NotObtainableError(f"mvn did not bring {coordinates}: {first[:200]}")
    return target


def build(source: Path, *goals: str) -> Path:
    """Return a copy of the project ``source`` in which Maven has reached the goals.

    It is kept, and made anew when the project has changed.

    Raises:
        NotObtainableError: Maven is missing, or cannot get what the project needs.
        AssertionError: the project cannot be built.
    """
    files = sorted(path for path in source.rglob("*") if path.is_file())
    digest = hashlib.sha256(repr(goals).encode())
    for path in files:
        digest.update(f"{path.relative_to(source)}\0".encode() + path.read_bytes())
    target = CACHE / f"{source.name}-{digest.hexdigest()[:16]}"
    if target.exists():
        return target
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        copy = Path(shutil.copytree(source, Path(scratch, source.name)))
        output = _run(copy, *goals, wanted=source.name, timeout_s=BUILD_S)
        if "[ERROR]" in output:
            if any(words in output for words in UNREACHED):
                first = next(line for line in output.splitlines() if "[ERROR]" in line)
                raise NotObtainableError(f"mvn cannot build {source.name}: {first[:300]}")
            raise AssertionError(output[-5000:])
        copy.rename(target)
    return target


def _run(directory: Path, *goals: str, wanted: str, timeout_s: float) -> str:
    """Run Maven and return what it printed."""
    if shutil.which("mvn") is None:
        raise NotObtainableError("there is no mvn here (Debian's package maven)")
    try:
        done = subprocess.run(
            ["mvn", "-B", "-q", *goals],
            cwd=directory,
            env={**os.environ, "MAVEN_OPTS": f"{SHORT_RUN} {os.environ.get('MAVEN_OPTS', '')}"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=scaled(timeout_s),
        )
    except subprocess.TimeoutExpired as error:
        raise NotObtainableError(f"mvn did not bring {wanted} in {timeout_s:g} s") from error
    return done.stdout.decode(errors="replace")
