"""Debian's packaged kernel, downloaded and unpacked below `.nox/vm`, never installed."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import attrs

from tests.support import debian

EMULATED = "emulated"
USER = "user"
ENGINES = (EMULATED, USER)
IN_USER_MODE = " in user mode"
META_PACKAGE = "linux-image-amd64"
DOWNLOAD_S = 300
SUITES = {"6.12": "trixie"}
"""Series of kernels to the release of Debian that has it, beside this machine's own."""


class CannotRunError(Exception):
    """This machine cannot run the virtual machine; says why."""


@attrs.frozen
class Kernel:
    """An unpacked kernel package."""

    release: str
    image: Path
    engine: str = EMULATED

    @property
    def modules(self) -> Path | None:
        """The directory that has ``lib/modules/RELEASE``; None: there are no modules."""
        place = self.image.parents[1]
        return place if (place / "lib/modules").exists() else None

    @property
    def name(self) -> str:
        """The release, and how it was run unless on an emulated processor."""
        return self.release if self.engine == EMULATED else f"{self.release}{IN_USER_MODE}"


def obtain(cache: Path, series: str = "") -> Kernel:
    """Return the kernel that the package lists offer, from ``cache`` or by downloading it.

    ``series`` such as 6.12: the one of that series, as long as it is in ``cache``. When there are
    no lists or no network, any kernel in ``cache`` will do. Raises `CannotRunError` when there is
    none.
    """
    if series:
        return _other(cache, series)
    package = _package()
    for directory in sorted(cache.glob("linux-image-*"), reverse=True):
        if package in (None, directory.name):
            return _unpacked(directory)
    if package is None:
        raise CannotRunError(f"apt offers no kernel (package {META_PACKAGE})")
    return _download(cache, package)


def _other(cache: Path, series: str) -> Kernel:
    for directory in sorted(cache.glob(f"linux-image-{series}.*"), reverse=True):
        return _unpacked(directory)
    if series not in SUITES:
        raise CannotRunError(f"no release of Debian is known to have a kernel {series}")
    with tempfile.TemporaryDirectory(dir=cache) as work:
        try:
            env = debian.lists(SUITES[series], Path(work))
        except RuntimeError as error:
            raise CannotRunError(str(error)) from error
        package = _offered(env)
        if package is None or not package.startswith(f"linux-image-{series}."):
            raise CannotRunError(f"Debian's {SUITES[series]} has {package}, not {series}")
        return _download(cache, package, env)


def _download(cache: Path, package: str, env: dict[str, str] | None = None) -> Kernel:
    """Download and unpack a package, and forget another of its series."""
    partial = cache / "partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    # apt downloads as a user of its own, which may not be able to write here: then it says so
    # in a warning and does it as root.
    run("apt-get", "-q", "download", package, cwd=partial, env=env)
    [archive] = partial.glob("*.deb")
    root = partial / "root"
    run("dpkg", "-x", str(archive), str(root))
    if not (root / "lib").exists():
        (root / "lib").symlink_to("usr/lib")
    # Neither busybox nor virtme-ng loads modules that are compressed so.
    if packed := [str(path) for path in root.rglob("*.ko.xz")]:
        run("xz", "-d", "-T0", *packed)
    run("depmod", "-b", str(root), _unpacked(root).release)
    series = ".".join(package.split(".")[:2])
    for old in cache.glob(f"{series}.*"):
        shutil.rmtree(old)
    root.rename(cache / package)
    shutil.rmtree(partial)
    return _unpacked(cache / package)


def _unpacked(root: Path) -> Kernel:
    [image] = (root / "boot").glob("vmlinuz-*")
    return Kernel(image.name.removeprefix("vmlinuz-"), image)


def _package() -> str | None:
    """Return the name of the package with the current kernel, which has its version in it."""
    if found := _offered():
        return found
    subprocess.run(["apt-get", "-qq", "update"], capture_output=True, timeout=DOWNLOAD_S)
    return _offered()


def _offered(env: dict[str, str] | None = None) -> str | None:
    command = ["apt-cache", "depends", META_PACKAGE]
    shown = subprocess.run(command, capture_output=True, text=True, env=env).stdout
    found = re.search(r"Depends: (linux-image-\d\S*)", shown)
    return found[1] if found else None


def run(
    *command: str,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    limit_s: float = DOWNLOAD_S,
) -> None:
    """Run a command; raises `CannotRunError` with its last words when it fails."""
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=limit_s,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotRunError(str(error)) from error
    if done.returncode != 0:
        raise CannotRunError(f"{' '.join(command)}: {done.stdout.strip()[-300:]}")
