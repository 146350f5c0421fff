"""Filters of system calls that crun has compiled, for the next containers with the same profile.

To compile one takes crun 3 of the 10 ms that it works on ``crun create``. The spawner keeps what
crun has made, in its memory alone: `KNOWN` is a part of every process that it forks. So a filter
comes from no file, is as old as the spawner at most, and goes with it.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping
from typing import Any, Final

import msgspec

KNOWN: Final[dict[str, bytes]] = {}
"""By `key_of`: what seccomp(2) takes."""
MAX_KNOWN: Final = 16
"""Of as many profiles, capabilities of tasks included. Then it begins anew."""
INSTRUCTION_BYTES: Final = 8
MAX_BYTES: Final = 4096 * INSTRUCTION_BYTES
"""BPF_MAXINSNS; linux/bpf_common.h."""
ANNOTATION: Final = "run.oci.seccomp_bpf_data"
"""crun(1): it takes this in the place of the profile, and puts it into the same file."""
FILE: Final = "seccomp.bpf"
"""In crun's directory of a container: the filter, which ``crun exec`` uses too."""
LIBRARIES: Final = "/etc/ld.so.cache"
"""Written anew whenever a library is installed, libseccomp say, which knows more calls then."""


def key_of(crun_path: str, profile: Mapping[str, Any] | None) -> str:
    """Return what two containers have in common whose filters are the same; empty for none.

    That is the OCI ``profile`` and what compiles it: crun, and the host's libraries. The kernel is
    the same as long as the spawner lives.
    """
    if profile is None:
        return ""
    try:
        files = [os.stat(path) for path in (crun_path, LIBRARIES)]
    except OSError:
        return ""  # without the linker's cache it is not known what the libraries are
    makers = [(one.st_dev, one.st_ino, one.st_size, one.st_mtime_ns) for one in files]
    return hashlib.sha256(msgspec.json.encode((makers, profile))).hexdigest()


def annotations_of(key: str) -> dict[str, str]:
    """Return the annotations of a container with which crun compiles nothing; none if it must."""
    found = KNOWN.get(key)
    return {} if found is None else {ANNOTATION: base64.b64encode(found).decode()}


def learn(key: str, fd: int) -> None:
    """Keep the filter that the file ``fd`` holds, if it is one. Raises nothing."""
    try:
        data = os.pread(fd, MAX_BYTES + 1, 0)
    except OSError:
        return
    if data and len(data) <= MAX_BYTES and len(data) % INSTRUCTION_BYTES == 0:
        if len(KNOWN) >= MAX_KNOWN:
            KNOWN.clear()
        KNOWN[key] = data
