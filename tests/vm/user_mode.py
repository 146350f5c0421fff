"""Debian's kernels in user mode (User-Mode Linux), downloaded and unpacked, never installed."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from tests.support import debian
from tests.vm.kernel import USER, CannotRunError, Kernel, run

SUITES = {"6.1": "bookworm", "6.12": "trixie", "7.2": "sid"}
"""Series of kernels to the release of Debian that packages it so."""
SOURCE = Path(__file__).with_name("xstate.c")
OWN = "6.1"
PACKAGE = "user-mode-linux"
C_LIBRARY = "lib/x86_64-linux-gnu"
"""Where Debian has what the program is linked with, from 13 on below /usr: it may be newer than
this machine's."""


def obtain(cache: Path, series: str = "") -> Kernel:
    """Return the kernel of a series, Debian 12's where none is named, from ``cache`` or downloaded.

    Raises `CannotRunError`.
    """
    series = series or OWN
    for root in sorted(cache.glob(f"{PACKAGE}-{series}.*"), reverse=True):
        return _unpacked(root)
    if series not in SUITES:
        raise CannotRunError(
            f"no release of Debian is known to have a kernel {series} in user mode"
        )
    with tempfile.TemporaryDirectory(dir=cache) as work:
        try:
            debian.unpack(SUITES[series], [PACKAGE, "libc6"], Path(work))
        except RuntimeError as error:
            raise CannotRunError(str(error)) from error
        unpacked = Path(work) / "root"
        [modules] = (unpacked / "usr/lib/uml/modules").iterdir()
        if not modules.name.startswith(f"{series}."):
            raise CannotRunError(f"Debian's {SUITES[series]} has {modules.name}, not {series}")
        root = Path(work) / f"{PACKAGE}-{modules.name}"
        (root / "boot").mkdir(parents=True)
        (unpacked / "usr/bin/linux.uml").rename(root / "boot/linux")
        (unpacked / "usr/lib/uml").rename(root / "lib")
        libraries = root / "libraries"
        libraries.mkdir()
        for name in ("libc.so.6", debian.LOADER):
            [file] = {
                *unpacked.glob(f"{C_LIBRARY}/{name}"),
                *unpacked.glob(f"usr/{C_LIBRARY}/{name}"),
            }
            shutil.copy(file, libraries)
        root.rename(cache / root.name)
    return _unpacked(cache / root.name)


def libraries(kernel: Kernel) -> Path:
    """Return the directory with the C library and the loader of an unpacked kernel."""
    return kernel.image.parents[1] / "libraries"


def preloaded(kernel: Kernel) -> Path:
    """Return the library that a kernel is started with: `xstate.c`."""
    return libraries(kernel).with_name("xstate.so")


def compile_preloaded(kernel: Kernel) -> None:
    """Make that library, with this machine's compiler. Raises `CannotRunError`."""
    preloaded(kernel).parent.mkdir(parents=True, exist_ok=True)
    run("cc", "-O1", "-shared", "-fPIC", "-o", str(preloaded(kernel)), str(SOURCE))


def _unpacked(root: Path) -> Kernel:
    return Kernel(root.name.removeprefix(f"{PACKAGE}-"), root / "boot/linux", USER)
