"""JDKs of other Debian releases, downloaded with apt and laid out like an archive's.

Some need a newer C library than this machine has. So that they run all the same, each of these has
the library of its release beside it, in ``libc``. Nothing is installed: all is in .nox/jdks.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.support import debian
from tests.support.jdks import CACHE

SUITES = {"8": "sid", "11": "sid", "17": "bookworm", "21": "trixie"}
"""Feature release to the release of Debian that has it."""
LIBC = ("libc6", "libgcc-s1", "libstdc++6", "zlib1g")


def fetch(release: str) -> Path:
    """Return the home of a JDK of that feature release, downloaded once.

    Raises RuntimeError with the reason when it cannot be had.
    """
    home = CACHE / f"debian-{release}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"debian-{release}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be at it
        if not (home / "bin/java").exists():
            _make(release, home)
    return home


def _make(release: str, home: Path) -> None:
    with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
        work = Path(temporary)
        names = [f"openjdk-{release}-{kind}-headless" for kind in ("jre", "jdk")]
        debian.unpack(SUITES[release], [*names, *LIBC], work)
        [unpacked] = (work / "root/usr/lib/jvm").glob(f"java-{release}-openjdk-*")
        staged = work / "home"
        shutil.copytree(unpacked, staged, symlinks=True)
        _take_in_links(staged, work / "root")
        if not _runs(staged):
            if shutil.which("patchelf") is None:
                raise RuntimeError(f"a JDK {release} cannot be prepared: there is no patchelf")
            debian.carry_libraries(staged, home, work / "root")
        staged.chmod(0o755)
        os.rename(staged, home)
    _note_version(home)


def _take_in_links(home: Path, root: Path) -> None:
    """Replace each link out of the JDK by what it names, as the JDK's own archive has it."""
    for path in [path for path in home.rglob("*") if path.is_symlink()]:
        target = os.readlink(path)
        if target.startswith("/"):
            path.unlink()
            if (root / target[1:]).is_file():
                shutil.copy(root / target[1:], path)
        elif not path.exists():
            path.unlink()


def _runs(home: Path) -> bool:
    return subprocess.run([home / "bin/java", "-version"], capture_output=True).returncode == 0


def _note_version(home: Path) -> None:
    """Write the file ``release`` that an archive has, where Debian leaves it out."""
    if not (home / "release").exists():
        done = subprocess.run([home / "bin/java", "-version"], capture_output=True, text=True)
        if match := re.search(r'version "([^"]+)"', done.stderr):
            (home / "release").write_text(f'JAVA_VERSION="{match[1]}"\n')
