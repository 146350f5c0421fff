"""`milo run` as an ordinary user with a systemd of his own, and on a host that forbids it."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.support.ordinary_user import OrdinaryUser, copy_jars, ordinary_user, running
from tests.support.waiting import wait_for

MIB = 1 << 20


@attrs.frozen
class LoggedIn(OrdinaryUser):
    """A user with a systemd of his own."""

    by_su: bool = True
    """Whether commands run in a session of his, else in the group of whoever starts them."""

    def argv(self, *words: str, prefix: Sequence[str] = (), **env: Any) -> list[str]:
        """As that of any user, in a login shell of his."""
        plain = OrdinaryUser.argv(self, *words, prefix=prefix, **env)
        if not self.by_su:
            return plain
        start = plain.index("env")
        return ["su", "--login", self.name, "-c", f"exec {shlex.join(plain[start:])}"]


@pytest.fixture(scope="module")
def user() -> Iterator[LoggedIn]:
    """The user, who lingers: his systemd runs without a login too."""
    with ordinary_user("milosu") as made:
        subprocess.run(["loginctl", "enable-linger", made.name], check=True)
        runtime = Path(f"/run/user/{made.uid}")
        try:
            wait_for("the user's bus", (runtime / "bus").exists, 60)
            yield LoggedIn(made.name, made.uid, made.home, runtime)
        finally:
            subprocess.run(["loginctl", "disable-linger", made.name], check=True)
            subprocess.run(["loginctl", "terminate-user", made.name], check=False)
            wait_for("the end of the user's systemd", lambda: not runtime.exists(), 60)


@pytest.fixture(scope="module")
def jars(user: LoggedIn, jar_dir: Path) -> Path:
    """The JARs, where the user can read them."""
    return copy_jars(user, jar_dir)


def cgroup_of(pid: int) -> Path:
    """Return the directory of a process's cgroup."""
    path = Path(f"/proc/{pid}/cgroup").read_text().strip().removeprefix("0::")
    return Path("/sys/fs/cgroup") / path.lstrip("/")


def scopes(user: LoggedIn) -> list[str]:
    """Return the scopes of Milo's that the user's systemd knows."""
    command = ["systemctl", "--user", f"--machine={user.name}@", "list-units", "--plain"]
    done = subprocess.run(
        [*command, "--no-legend", "--type=scope", "milo-run-*"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1]


@pytest.mark.parametrize("by_su", [True, False], ids=["session", "service"])
def test_limits_by_a_transient_scope(user: LoggedIn, jars: Path, by_su: bool) -> None:
    """Memory, CPU and processes are held by a group of the user's own, which goes with the task."""
    user = attrs.evolve(user, by_su=by_su)
    words = ("--name", "held", "--memory", "128m", "--cpus", "0.5", str(jars / "clock.jar"))

    def stop(_: subprocess.Popen[str]) -> None:
        """Without a signal: su(1) gives what it runs two seconds to end."""
        user.milo("stop", "held")

    with running(user, *words, end=stop):
        [task] = json.loads(user.milo("ps", "--json").stdout)
        place = cgroup_of(task["pid"])
        assert f"/user.slice/user-{user.uid}.slice/user@{user.uid}.service/" in f"{place}/"
        assert any(part.startswith("milo-run-") for part in place.parts)
        assert (place / "memory.max").read_text().strip() == str(128 * MIB)
        assert (place / "cpu.max").read_text().split()[0] == "50000"
        assert len(scopes(user)) == 1
        [stats] = json.loads(user.milo("stats", "--json", "held").stdout)
        assert stats["memory_limit_bytes"] == 128 * MIB
    wait_for("the end of the scope", lambda: not scopes(user))
    assert not place.exists()


def test_a_hog_is_killed(user: LoggedIn, jars: Path) -> None:
    """What takes more memory than its limit is killed, and told so; the host is left alone."""
    options = ("--jvm-option", "-Xmx32m", "--jvm-option", "-XX:MaxDirectMemorySize=4g")
    done = user.milo("run", "--memory", "128m", *options, str(jars / "native-hog.jar"))
    assert done.returncode == 128 + signal.SIGKILL, done.stderr
    assert "(OOM)" in done.stderr and "limit of 128 MiB" in done.stderr
    assert 0.9 * 128 <= int(done.stdout.split()[-1]) / 1024 <= 128


@pytest.mark.parametrize(
    ("name", "permitting", "told"),
    [
        ("kernel.unprivileged_userns_clone", "1", "kernel.unprivileged_userns_clone is 0"),
        ("user.max_user_namespaces", "15000", "user.max_user_namespaces permits no more"),
    ],
)
def test_a_host_that_forbids_it(
    user: LoggedIn, jars: Path, name: str, permitting: str, told: str
) -> None:
    """The message names the sysctl, and the line in it makes it work."""
    hello = str(jars / "hello.jar")
    before = sysctl("-n", name)
    sysctl("-w", f"{name}=0")
    try:
        done = user.milo("run", hello)
        assert done.returncode == 1 and done.stdout == ""
        fix = f"sysctl {name}={permitting}"
        assert told in done.stderr and f"sudo {fix}" in done.stderr
        sysctl(*fix.split()[1:])
        assert user.milo("run", hello).returncode == 0
    finally:
        sysctl("-w", f"{name}={before}")


def sysctl(*words: str) -> str:
    return subprocess.run(
        ["sysctl", *words], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_what_runs_in_the_background_outlives_the_login(user: LoggedIn, jars: Path) -> None:
    """Where the user lingers, `milo run -d` goes on when the last session has ended."""
    done = user.milo("run", "-d", "--name", "lasting", str(jars / "clock.jar"))
    assert done.returncode == 0, done.stderr
    wait_for("the end of the session", lambda: not sessions(user), 30)
    [task] = json.loads(user.milo("ps", "--json").stdout)
    assert (task["task"], task["state"]) == ("lasting", "running")
    assert user.milo("stop", "lasting").returncode == 0
    wait_for("the end of the scope", lambda: not scopes(user))


def sessions(user: LoggedIn) -> list[str]:
    done = subprocess.run(
        ["loginctl", "list-sessions", "--no-legend"], capture_output=True, text=True, check=True
    )
    return [line for line in done.stdout.splitlines() if user.name in line]
