"""JDKs of other Debian releases, downloaded with apt and laid out like an archive's.

They need a newer C library than this machine may have. So that they run all the same, each has the
library of its release beside it, in ``libc``. Nothing is installed: all is in .nox/jdks.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.support.jdks import CACHE

SUITES = {"8": "sid", "21": "trixie"}
"""Feature release to the release of Debian that has it."""
LIBC = ("libc6", "libgcc-s1", "libstdc++6", "zlib1g")
LOADER = "ld-linux-x86-64.so.2"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
DOWNLOAD_S = 600


def fetch(release: str) -> Path:
    """Return the home of a JDK of that feature release, downloaded once.

    Raises RuntimeError with the reason when it cannot be had.
    """
    home = CACHE / f"debian-{release}"
    if (home / "bin/java").exists():
        return home
    if shutil.which("patchelf") is None:
        raise RuntimeError(f"a JDK {release} cannot be prepared: there is no patchelf")
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
        work = Path(temporary)
        names = [f"openjdk-{release}-{kind}-headless" for kind in ("jre", "jdk")]
        _unpack(SUITES[release], [*names, *LIBC], work)
        [unpacked] = (work / "root/usr/lib/jvm").glob(f"java-{release}-openjdk-*")
        staged = work / "home"
        shutil.copytree(unpacked, staged, symlinks=True)
        _take_in_links(staged, work / "root")
        _carry_libc(staged, home, work / "root")
        staged.chmod(0o755)
        os.rename(staged, home)
    _note_version(home)
    return home


def _unpack(suite: str, packages: list[str], work: Path) -> None:
    """Download packages of a suite with apt's lists of their own, and unpack them all."""
    targets = _run("apt-get", "indextargets", "--format", "$(REPO_URI)")
    mirror = next((line for line in targets.splitlines() if line.endswith("/debian/")), None)
    if mirror is None:
        raise RuntimeError("apt has no source of Debian's")
    for name in ("state/lists/partial", "cache/archives/partial", "debs"):
        (work / name).mkdir(parents=True)
    (work / "sources.list").write_text(f"deb [signed-by={KEYRING}] {mirror} {suite} main\n")
    (work / "apt.conf").write_text(
        f'Dir::Etc::sourcelist "{work}/sources.list";\nDir::Etc::sourceparts "/dev/null";\n'
        f'Dir::State "{work}/state";\nDir::Cache "{work}/cache";\n'
        'Acquire::Languages "none";\nAPT::Sandbox::User "root";\n'
    )
    env = {**os.environ, "APT_CONFIG": str(work / "apt.conf")}
    _run("apt-get", "-qq", "update", env=env)
    _run("apt-get", "-q", "download", *packages, cwd=work / "debs", env=env)
    for archive in sorted((work / "debs").glob("*.deb")):
        _run("dpkg", "-x", str(archive), str(work / "root"))


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


def _carry_libc(staged: Path, home: Path, root: Path) -> None:
    """Put the C library beside the JDK, and have each of its programs and libraries use it."""
    library = staged / "libc"
    library.mkdir()
    for path in (root / "usr/lib/x86_64-linux-gnu").glob("*.so*"):
        shutil.copy(path, library / path.name)
    for path in staged.rglob("*"):
        if path.is_symlink() or not path.is_file() or path.parent == library:
            continue
        with path.open("rb") as file:
            if file.read(4) != b"\x7fELF":
                continue
        if _has_loader(path):
            _run("patchelf", "--set-interpreter", str(home / "libc" / LOADER), str(path))
        own = _run("patchelf", "--print-rpath", str(path)).strip()
        paths = ":".join(part for part in (own, str(home / "libc")) if part)
        _run("patchelf", "--force-rpath", "--set-rpath", paths, str(path))


def _has_loader(path: Path) -> bool:
    done = subprocess.run(["patchelf", "--print-interpreter", str(path)], capture_output=True)
    return done.returncode == 0


def _note_version(home: Path) -> None:
    """Write the file ``release`` that an archive has, where Debian leaves it out."""
    if not (home / "release").exists():
        done = subprocess.run([home / "bin/java", "-version"], capture_output=True, text=True)
        if match := re.search(r'version "([^"]+)"', done.stderr):
            (home / "release").write_text(f'JAVA_VERSION="{match[1]}"\n')


def _run(*command: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DOWNLOAD_S,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()[-300:]}")
    return done.stdout
