"""Where the self-contained ``milo`` begins: in whatever Python 3 the host calls ``python3``.

Written for Python 3.6 too, so that an older ``python3`` can look for a newer one beside it.
"""

import _imp
import os
import subprocess
import sys

import milo_build

OTHERS = ("python3.14", "python3.13", "python3.12", "python3.11")
ASK = "import _imp; print(_imp.extension_suffixes()[0])"


def main():  # type: () -> None
    """Be Milo, here or in another interpreter of this host. Never returns."""
    if _imp.extension_suffixes()[0] in milo_build.SUFFIXES:
        import milo_unpack

        milo_unpack.enter(__loader__.archive)  # type: ignore[name-defined]
    for python in others():
        os.execv(python, [python, "-IS", *sys.argv])  # noqa: S606
    sys.exit(
        "milo: this file needs CPython 3.11 to 3.14 of a Linux with glibc on x86-64 or ARM64, "
        "and on PATH there is only {0} ({1}). Install one of these, or install Milo with pip "
        "or pipx.".format(sys.executable, sys.version.split()[0])
    )


def others():  # type: () -> list[str]
    """Return the interpreters on PATH that have a name of their own and fit."""
    found = []
    for directory in os.environ.get("PATH", os.defpath).split(os.pathsep):
        for name in OTHERS:
            path = os.path.join(directory, name)
            if directory and os.access(path, os.X_OK):
                try:
                    answer = subprocess.check_output([path, "-IS", "-c", ASK], timeout=20)
                except (OSError, subprocess.SubprocessError):
                    continue
                if answer.decode().strip() in milo_build.SUFFIXES:
                    found.append(path)
    return sorted(found, key=lambda path: OTHERS.index(os.path.basename(path)))


main()
