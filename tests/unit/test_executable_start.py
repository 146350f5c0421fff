"""What the self-contained file says where the host's Python cannot run it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tools.build_executable import SUFFIXES

START = Path(__file__).parents[2] / "tools/executable/__main__.py"
AS_IN = """
import _imp, runpy, sys, types
_imp.extension_suffixes = lambda: [sys.argv[2]]
sys.modules["milo_build"] = types.SimpleNamespace(SUFFIXES=sys.argv[3:])
runpy.run_path(sys.argv[1])
"""
MUSL = ".cpython-312-x86_64-linux-musl.so"
"""As Alpine's python3 answers; its extension modules are of no use to another C library."""


def test_a_python_linked_with_musl(tmp_path: Path) -> None:
    """It is refused with what is needed instead, before anything is unpacked."""
    done = subprocess.run(
        [sys.executable, "-c", AS_IN, str(START), MUSL, *SUFFIXES],
        env={"PATH": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "needs CPython 3.11 to 3.14 of a Linux with glibc" in done.stderr
    assert os.listdir(tmp_path) == []


HOLD = """
import os, runpy, sys, types
sys.modules["milo_build"] = types.SimpleNamespace()
runpy.run_path(sys.argv[1])["_hold"](sys.argv[2])
for fd in (0, 1):
    try:
        os.fstat(fd)
    except OSError:
        continue
    os.write(2, b"taken")
"""


def test_no_closed_stream_is_taken(tmp_path: Path) -> None:
    """What is held for good would be read as standard input, or written as standard output."""
    unpack = START.with_name("milo_unpack.py")
    command = [sys.executable, "-c", HOLD, str(unpack), str(tmp_path)]
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$@" <&- >&-', "sh", *command],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
