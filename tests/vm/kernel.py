"""Debian's packaged kernel, downloaded and unpacked below `.nox/vm`, never installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import attrs

META_PACKAGE = "linux-image-amd64"
DOWNLOAD_S = 300


class CannotRunError(Exception):
    """This machine cannot run the virtual machine; says why."""


@attrs.frozen
class Kernel:
    """An unpacked kernel package."""

    release: str
    image: Path

    @property
    def modules(self) -> Path:
        """The directory that has the modules below ``lib/modules/RELEASE``."""
        return self.image.parents[1]


def obtain(cache: Path) -> Kernel:
    """Return the kernel that the package lists offer, from ``cache`` or by downloading it.

    When there are no lists or no network, any kernel in ``cache`` will do. Raises
    `CannotRunError` when there is none.
    """
    package = _package()
    for directory in sorted(cache.glob("linux-image-*"), reverse=True):
        if package in (None, directory.name):
            return _unpacked(directory)
    if package is None:
        raise CannotRunError(f"apt offers no kernel (package {META_PACKAGE})")
    target = cache / package
    partial = cache / "partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    # apt downloads as a user of its own, which may not be able to write here: then it says so
    # in a warning and does it as root.
    _run("apt-get", "-q", "download", package, cwd=partial)
    [archive] = partial.glob("*.deb")
    _run("dpkg", "-x", str(archive), str(partial / "root"))
    _run("depmod", "-b", str(partial / "root"), _unpacked(partial / "root").release)
    for old in cache.glob("linux-image-*"):
        shutil.rmtree(old)
    (partial / "root").rename(target)
    shutil.rmtree(partial)
    return _unpacked(target)


def _unpacked(root: Path) -> Kernel:
    [image] = (root / "boot").glob("vmlinuz-*")
    return Kernel(image.name.removeprefix("vmlinuz-"), image)


def _package() -> str | None:
    """Return the name of the package with the current kernel, which has its version in it."""
    for again in (False, True):
        if again:
            subprocess.run(["apt-get", "-qq", "update"], capture_output=True, timeout=DOWNLOAD_S)
        shown = subprocess.run(
            ["apt-cache", "depends", META_PACKAGE], capture_output=True, text=True
        ).stdout
        if found := re.search(r"Depends: (linux-image-\d\S*)", shown):
            return found[1]
    return None


def _run(*command: str, cwd: Path | None = None) -> None:
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=DOWNLOAD_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotRunError(str(error)) from error
    if done.returncode != 0:
        raise CannotRunError(f"{' '.join(command)}: {done.stdout.strip()[-300:]}")
