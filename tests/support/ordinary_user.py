"""An ordinary user of the host, made for a test, and Milo as he runs it."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.support.waiting import scaled, wait_for

ROOT = Path(__file__).parents[2]
PYTHON = "/usr/bin/python{}.{}".format(*sys.version_info[:2])
"""The system's, with the modules of this environment: root's own interpreter may be hidden."""
CRUN = os.environ.get("MILO_TEST_CRUN", "")
"""The directory of the crun that is tried, where it is not the installed one."""
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
            "PATH": os.pathsep.join(filter(None, (CRUN, "/usr/local/bin:/usr/bin:/bin"))),
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
        return [name for _, state, name in _processes(self.uid) if state != "Z"]


def copy_jars(user: OrdinaryUser, jar_dir: Path) -> Path:
    """Return where the JARs of the tests are now, too, for the user to read."""
    copies = user.home / "jars"
    shutil.copytree(jar_dir, copies)
    copies.chmod(0o755)
    return copies


def interrupt(process: subprocess.Popen[str]) -> None:
    """End a run as Ctrl-C does."""
    process.send_signal(signal.SIGINT)


@contextlib.contextmanager
def running(
    user: OrdinaryUser,
    *words: str,
    end: Callable[[subprocess.Popen[str]], None] = interrupt,
    **env: Any,
) -> Iterator[subprocess.Popen[str]]:
    """Have ``milo run`` of this user run a JAR that goes on printing, and ``end`` it afterwards."""
    process = subprocess.Popen(
        user.argv("run", *words, **env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd="/",
    )
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert first.startswith("tick"), first + process.stdout.read()
        yield process
    finally:
        end(process)
        process.communicate(timeout=scaled(TIMEOUT_S))


def _processes(uid: int) -> Iterator[tuple[int, str, str]]:
    """Yield id, state and name of each process of a user; a bare machine has no ps."""
    for path in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            fields = dict(line.split(":\t", 1) for line in path.read_text().splitlines())
            if int(fields["Uid"].split()[0]) == uid:
                yield int(path.parent.name), fields["State"][0], fields["Name"]


def _is_packages(path: str) -> bool:
    return path.endswith("-packages")


@contextlib.contextmanager
def ordinary_user(name: str) -> Iterator[OrdinaryUser]:
    """Make a user, and remove him with all that is his; skip where that cannot be."""
    if os.geteuid() != 0 or not shutil.which("useradd"):
        pytest.skip("only root can make a user")
    subprocess.run(["useradd", "--create-home", "--shell", "/bin/sh", name], check=True)
    entry = pwd.getpwnam(name)
    uid = entry.pw_uid
    try:
        home = Path(entry.pw_dir)
        runtime = home / "run"
        runtime.mkdir(mode=0o700)
        user = OrdinaryUser(name, uid, home, runtime)
        user.own(runtime)
        if (tried := user.milo("--version")).returncode != 0:
            pytest.skip(f"an ordinary user cannot run this Milo: {tried.stderr.strip()[-200:]}")
        yield user
        # What a run that failed has started may take a moment to end.
        wait_for("the end of the user's processes", lambda: not user.processes())
    finally:
        wait_for(f"the removal of {name}", lambda: _is_removed(name, uid))
        shutil.rmtree(f"/tmp/milo-{uid}", ignore_errors=True)


def _is_removed(name: str, uid: int) -> bool:
    """End a user's processes and remove the user, which userdel refuses while one of them ends."""
    for pid, _, _ in _processes(uid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)
    subprocess.run(["userdel", "--remove", name], check=False, capture_output=True)
    try:
        pwd.getpwnam(name)
    except KeyError:
        return True
    return False
