"""Runs a command and reaps what loses its parent meanwhile, as an init does.

virtme-ng's init reaps nothing while a script runs. Nomad waits for a log collector that it did
not start itself until its process id is free, and would wait for ever.
"""

from __future__ import annotations

import ctypes
import os
import sys

PR_SET_CHILD_SUBREAPER = 36  # Linux: sys/prctl.h


def main() -> int:
    """Run the command line's words; return their exit status as a shell does."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    child = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ)
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
