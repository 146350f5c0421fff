"""A small ``chroot_env`` for Nomad's ``java`` driver: the JDK, a shell and the probe's programs.

Nomad's own default takes in all of /usr, which is gigabytes to copy for each task.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

PROGRAMS = (
    *("sh", "mount", "umount", "unshare", "nsenter", "setpriv", "mknod", "dmesg", "chroot"),
    *("nice", "cut", "cp", "rm", "true", "perl"),
)
PLACES = ("/etc/ld.so.cache", "/etc/passwd", "/usr/lib/x86_64-linux-gnu/perl-base")


def entries(java: str = "") -> dict[str, str]:
    """Return what Nomad is to copy, from the host's path to that in the chroot.

    ``java`` is the path of the program; by default the one on PATH.
    """
    java = os.path.realpath(java or shutil.which("java") or "/usr/bin/java")
    home = str(Path(java).parents[1])
    files = {java, *Path(home, "lib").rglob("*.so")}
    found = {home: home, **{place: place for place in PLACES}}
    for link in Path(home).rglob("*"):  # Debian keeps a JDK's configuration in /etc
        target = os.path.realpath(link)
        if link.is_symlink() and target.startswith("/etc/java"):
            found[target] = target
    for name in PROGRAMS:
        if path := shutil.which(name):
            found[os.path.realpath(path)] = f"/bin/{name}"
            files.add(path)
    for path in sorted(map(str, files)):
        listed = subprocess.run(["ldd", path], capture_output=True, text=True).stdout
        for library in re.findall(r"(/\S+) \(0x", listed):
            if not library.startswith(home):
                # Nomad would link a symlink, and leave out what it leads to.
                found[os.path.realpath(library)] = library
    return found
