"""An ordinary user of the host, made for a test, and Milo as he runs it."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.support.waiting import scaled, wait_for

ROOT = Path(__file__).parents[2]
PYTHON = "/usr/bin/python{}.{}".format(*sys.version_info[:2])
"""The system's, with the modules of this environment: root's own interpreter may be hidden."""
TIMEOUT_S = 60.0


@attrs.frozen
class OrdinaryUser:
    """A user of the host without any right beyond his own."""

    name: str
    uid: int
    home: Path
    runtime_dir: Path
    """As a login gives it: $XDG_RUNTIME_DIR."""

    def argv(self, *words: str, prefix: Sequence[str] = (), **env: Any) -> list[str]:
        """Return the command line of ``milo`` with ``words``, for root to execute.

        ``prefix`` is a command that runs it; an empty variable of ``env`` is left out.
        """
        modules = os.pathsep.join([str(ROOT), *filter(_is_packages, sys.path)])
        given = {
            "HOME": str(self.home),
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "PYTHONPATH": modules,
            "PYTHONDONTWRITEBYTECODE": "1",
            "XDG_RUNTIME_DIR": str(self.runtime_dir),
            **env,
        }
        return [
            *("setpriv", f"--reuid={self.name}", f"--regid={self.name}", "--init-groups"),
            *("env", "-i", *(f"{key}={value}" for key, value in given.items() if value)),
            *(*prefix, PYTHON, "-m", "milo", *words),
        ]

    def milo(
        self, *words: str, prefix: Sequence[str] = (), **env: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run ``milo`` as this user, and return what it printed."""
        return subprocess.run(
            self.argv(*words, prefix=prefix, **env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd="/",
            timeout=scaled(TIMEOUT_S),
            check=False,
        )

    def own(self, path: Path) -> Path:
        """Give a file or directory of the test's to this user."""
        shutil.chown(path, self.name, self.name)
        return path

    def processes(self) -> list[str]:
        """Return the names of this user's processes that run."""
        argv = ["ps", "-o", "stat=,comm=", "-U", str(self.uid)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        pairs = [line.split()[:2] for line in done.stdout.splitlines()]
        return [name for state, name in pairs if not state.startswith("Z")]


def _is_packages(path: str) -> bool:
    return path.endswith("-packages")


@contextlib.contextmanager
def ordinary_user(name: str) -> Iterator[OrdinaryUser]:
    """Make a user, and remove him with all that is his; skip where that cannot be."""
    if os.geteuid() != 0 or not shutil.which("useradd"):
        pytest.skip("only root can make a user")
    subprocess.run(["useradd", "--create-home", "--shell", "/bin/sh", name], check=True)
    try:
        entry = pwd.getpwnam(name)
        home = Path(entry.pw_dir)
        runtime = home / "run"
        runtime.mkdir(mode=0o700)
        user = OrdinaryUser(name, entry.pw_uid, home, runtime)
        user.own(runtime)
        if (tried := user.milo("--version")).returncode != 0:
            pytest.skip(f"an ordinary user cannot run this Milo: {tried.stderr.strip()[-200:]}")
        yield user
        # What a run that failed has started may take a moment to end.
        wait_for("the end of the user's processes", lambda: not user.processes())
    finally:
        for pid in subprocess.run(
            ["ps", "-o", "pid=", "-U", name], capture_output=True, text=True, check=False
        ).stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), 9)
        subprocess.run(["userdel", "--remove", name], check=False, capture_output=True)
        shutil.rmtree(f"/tmp/milo-{entry.pw_uid}", ignore_errors=True)
