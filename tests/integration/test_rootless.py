"""`milo run` and the commands as an ordinary user: a real one, made for these tests."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.leftovers import runs_in
from tests.support.ordinary_user import PYTHON, OrdinaryUser, copy_jars, ordinary_user, running
from tests.support.waiting import scaled, wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a user")


@pytest.fixture(scope="module")
def user() -> Iterator[OrdinaryUser]:
    """The user who runs Milo."""
    with ordinary_user(f"milot{os.getpid()}") as made:
        yield made


@pytest.fixture(scope="module")
def jars(user: OrdinaryUser, jar_dir: Path) -> Path:
    """The JARs, where the user can read them."""
    return copy_jars(user, jar_dir)


def test_the_user_goes_also_when_a_test_fails() -> None:
    """While processes of that user still end, which takes as long as their memory is large."""
    code = "import time; x = bytearray(300 << 20); print(flush=True); time.sleep(100)"
    name = f"milof{os.getpid()}"
    with contextlib.ExitStack() as ending:
        with contextlib.suppress(RuntimeError), ordinary_user(name) as made:
            words = ("setpriv", f"--reuid={name}", "--clear-groups", PYTHON, "-c", code)
            process = ending.enter_context(subprocess.Popen(words, stdout=subprocess.PIPE))
            assert process.stdout is not None and process.stdout.readline() and made.processes()
            raise RuntimeError
        assert process.wait(timeout=scaled(30)) == -signal.SIGKILL
        with pytest.raises(KeyError):
            pwd.getpwnam(name)


def shell(user: OrdinaryUser, jars: Path, script: str, *words: str, **env: Any) -> str:
    """Return what a shell prints in a container of the user's."""
    done = user.milo("run", *words, str(jars / "shell.jar"), "--", script, **env)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_output_and_exit_code(user: OrdinaryUser, jars: Path) -> None:
    """Both streams, the application's exit code and its signal; nothing is left."""
    done = user.milo("run", str(jars / "both.jar"), "--", "3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["out 0", "out 1", "out 2"]
    assert done.stderr.splitlines() == ["err 0", "err 1", "err 2"]
    assert user.milo("run", str(jars / "exit42.jar")).returncode == 42
    done = user.milo("run", str(jars / "shell.jar"), "--", "kill -9 $PPID")
    assert done.returncode == 128 + signal.SIGKILL
    wait_for("the end of all", lambda: not user.processes())
    assert runs_in(user.runtime_dir / "milo") == []
    assert os.listdir(user.home / ".local/state/milo") == []


def test_output_comes_as_it_is_printed(user: OrdinaryUser, jars: Path) -> None:
    """A line is there while the application goes on, and not when it ends."""
    with running(user, str(jars / "clock.jar")) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("tick")
        assert process.poll() is None


def test_the_application_is_the_user(user: OrdinaryUser, jars: Path) -> None:
    """It has his own id, no capability, a filter, and no way to more."""
    assert shell(user, jars, "id -un; id -u; id -g").splitlines() == [
        *(user.name, str(user.uid), str(user.uid))
    ]
    status = dict(
        line.split(":\t")
        for line in shell(user, jars, "grep -E 'Cap|NoNew|Seccomp:' /proc/self/status").splitlines()
    )
    assert {status.pop(key) for key in [key for key in status if key[:3] == "Cap"]} == {"0" * 16}
    assert status == {"NoNewPrivs": "1", "Seccomp": "2"}
    ways = "cat /proc/1/environ /proc/1/maps; readlink /proc/1/exe /proc/1/fd/0; ls /proc/1/root/"
    assert shell(user, jars, f"cat /proc/1/comm; {ways}; kill -9 1; cat /proc/1/comm") == (
        "milo-pause\nmilo-pause"
    )


def test_files_belong_to_the_user(user: OrdinaryUser, jars: Path) -> None:
    """Inside and outside they have the same owner; what is read-only stays so."""
    shared = _made(user, "shared")
    script = "echo in > /data/new && stat -c %u /data /data/new && touch /usr/no"
    done = user.milo("run", "--mount", f"{shared}:/data:rw", str(jars / "shell.jar"), "--", script)
    assert done.stdout.split() == [str(user.uid)] * 2, done.stderr
    assert "Read-only file system" in done.stderr and done.returncode == 1
    assert (shared / "new").stat().st_uid == user.uid
    read_only = f"{shared}:/data"
    done = user.milo("run", "--mount", read_only, str(jars / "shell.jar"), "--", "rm /data/new")
    assert "Read-only" in done.stderr and (shared / "new").exists()


def test_who_answers_an_abstract_socket_takes_it_for_the_user(
    user: OrdinaryUser, jars: Path
) -> None:
    """In the host's network, which is the default; with none of its own there is none to reach."""
    name = f"milo-test-{user.uid}-{os.getpid()}"
    script = (
        f'/usr/bin/python3 -c "import socket; s = socket.socket(socket.AF_UNIX); '
        f"s.connect('\\0{name}'); print('reached')\""
    )
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{name}")
        listener.listen()
        listener.settimeout(scaled(30))
        done = user.milo("run", str(jars / "shell.jar"), "--", script)
        assert done.stdout == "reached\n", done.stderr
        with listener.accept()[0] as peer:
            words = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        assert struct.unpack("3i", words)[1:] == (user.uid, user.uid)
        done = user.milo("run", "--net", "none", str(jars / "shell.jar"), "--", script)
        assert "Connection refused" in done.stderr and done.stdout == ""


def _made(user: OrdinaryUser, name: str) -> Path:
    (user.home / name).mkdir()
    return user.own(user.home / name)


def test_the_commands_from_another_shell(user: OrdinaryUser, jars: Path) -> None:
    """ps, logs, stats, exec and stop find the task; also where the variable is not set there."""
    logs = _made(user, "logs")
    with running(user, "--log-dir", str(logs), "--name", "watch", str(jars / "clock.jar")) as run:
        found = json.loads(user.milo("ps", "--json").stdout)
        assert [(task["task"], task["state"]) for task in found] == [("watch", "running")]
        wait_for("its output", lambda: "tick 0" in user.milo("logs", "watch").stdout)
        (stats,) = json.loads(user.milo("stats", "--json", "watch").stdout)
        assert stats["memory_bytes"] > 1 << 20 and stats["memory_limit_bytes"] is None
        assert stats["cpu_percent"] < 150
        done = user.milo("exec", "watch", "--", "sh", "-c", "id -u; echo err >&2; exit 3")
        assert (done.returncode, done.stdout, done.stderr) == (3, f"{user.uid}\n", "err\n")
        stopped = user.milo("stop", "watch")
        assert stopped.returncode == 0, stopped.stderr
        assert run.wait(timeout=scaled(30)) == 143
    assert "no Milo tasks" in user.milo("ps").stdout


def test_a_command_ends_with_its_client(user: OrdinaryUser, jars: Path) -> None:
    """Without a cgroup it is found by the container's PID namespace."""
    with running(user, "--name", "held", str(jars / "clock.jar")):
        words = ("exec", "held", "--", "sleep", "1234")
        client = subprocess.Popen(user.argv(*words), cwd="/", stdin=subprocess.DEVNULL)
        wait_for("the command", lambda: "sleep" in user.processes())
        client.kill()
        client.wait()
        wait_for("the command's end", lambda: "sleep" not in user.processes())


def test_without_a_login(user: OrdinaryUser, jars: Path) -> None:
    """Where no login has made a directory, one in /tmp will do, if it is the user's alone."""
    place = Path(f"/tmp/milo-{user.uid}")
    with running(user, "--name", "su", str(jars / "clock.jar"), XDG_RUNTIME_DIR=""):
        assert place.stat().st_mode & 0o777 == 0o700 and place.stat().st_uid == user.uid
        assert "su" in user.milo("ps").stdout
    shutil.rmtree(place)
    place.mkdir(mode=0o755)  # another user's, who waits for somebody to fall for it
    done = user.milo("run", str(jars / "hello.jar"), XDG_RUNTIME_DIR="")
    assert done.returncode == 1 and str(place) in done.stderr and done.stdout == ""
    place.rmdir()


def test_tasks_are_their_users_own(user: OrdinaryUser, jars: Path) -> None:
    """Another user neither sees nor reaches them, also when he names the directory."""
    with (
        ordinary_user(f"milou{os.getpid()}") as other,
        running(user, "--name", "secret", str(jars / "clock.jar")),
    ):
        (base,) = map(Path, runs_in(user.runtime_dir / "milo"))
        for words in (["ps"], ["ps", "--state-dir", str(base)]):
            assert "secret" not in other.milo(*words).stdout
        done = other.milo("exec", "--state-dir", str(base), "secret", "--", "id")
        assert done.returncode == 1 and done.stdout == ""


def test_a_killed_run_can_be_ended_and_removed(user: OrdinaryUser, jars: Path) -> None:
    """SIGKILL of `milo run` leaves a task that is shown, and that `milo gc` ends and removes."""
    with running(user, "--name", "orphan", str(jars / "clock.jar")) as run:
        supervisor = json.loads(user.milo("ps", "--json").stdout)[0]["supervisor_pid"]
        os.kill(supervisor, signal.SIGKILL)
        run.wait()
        wait_for("the state", lambda: "unsupervised" in user.milo("ps").stdout)
        done = user.milo("gc", "--yes")
        assert done.returncode == 0, done.stdout + done.stderr
        wait_for("the end of all", lambda: not user.processes())
        assert runs_in(user.runtime_dir / "milo") == []
        assert os.listdir(user.home / ".local/state/milo") == []
    for words in (["gc", "orphan"], ["gc", "--yes", "orphan"], ["stop", "orphan"]):
        assert "Those of Nomad are root's" in user.milo(*words).stderr, words


def test_another_user_by_subordinate_ids(user: OrdinaryUser, jars: Path) -> None:
    """Where /etc/subuid has some: root in there, and a stranger to the host's files outside."""
    if shutil.which("newuidmap") is None:
        pytest.skip("there is no newuidmap here (package uidmap)")
    shared = _made(user, "others")
    shared.chmod(0o777)
    mount = ("--user", "root", "-v", f"{shared}:/data")
    assert shell(user, jars, "id -u; id -G; touch /data/new", *mount).split() == ["0", "0"]
    assert (shared / "new").stat().st_uid > 65536
    assert shell(user, jars, "id -u; id -G").split() == [str(user.uid)] * 2
    assert os.listdir(user.home / ".local/state/milo") == []


def test_what_it_cannot_have_is_told(user: OrdinaryUser, jars: Path) -> None:
    """Another user, a namespace of the host's, a JAR that only others can read, limits."""
    hello = str(jars / "hello.jar")
    for words, expected in (
        (["--user", "400000:400000", hello], "without root, the application runs as the user"),
        (["--pid-mode", "host", hello], "no rights in the host's"),
        (["--ipc-mode", "host", hello], "no rights in the host's"),
    ):
        done = user.milo("run", *words)
        assert done.returncode == 1 and expected in done.stderr, words
    hidden = user.home / "hidden.jar"
    shutil.copy(hello, hidden)
    hidden.chmod(0o600)
    done = user.milo("run", str(hidden))
    assert done.returncode == 1 and "hidden.jar cannot be opened: permission denied" in done.stderr
    user.own(hidden).chmod(0)
    done = user.milo("run", str(hidden))
    assert f"belongs to {user.name}:" in done.stderr
    assert done.stderr.endswith(f"To let it: chmod u+r {hidden}\n")
    done = user.milo("run", "--memory", "200m", hello)
    assert done.returncode == 0 and "nothing holds the application" in done.stderr


NO_UNSHARE = """
import ctypes, os, struct, sys
libc = ctypes.CDLL(None)
number = {"x86_64": 272, "aarch64": 97}[os.uname().machine]
lines = ((0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x50001), (0x06, 0, 0, 0x7FFF0000))
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in lines))
program = struct.pack("HxxxxxxQ", len(lines), ctypes.addressof(code))
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program, 0, 0) == 0
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Has unshare(2) fail with EPERM, as the seccomp profiles of container engines do."""


def test_a_host_that_refuses_is_told(user: OrdinaryUser, jars: Path) -> None:
    """And what to do instead; nothing has been started."""
    done = user.milo("run", str(jars / "hello.jar"), prefix=(PYTHON, "-c", NO_UNSHARE))
    assert done.returncode == 1 and done.stdout == ""
    assert "the kernel refuses one: Operation not permitted" in done.stderr
    wait_for("the end of the search for Java", lambda: not user.processes())


def test_the_doctor_says_what_works_here(user: OrdinaryUser) -> None:
    """A container is tried as the user's own."""
    checks = json.loads(user.milo("doctor", "--json").stdout)["checks"]
    (found,) = [one for one in checks if one["check"] == "milo run"]
    assert found["verdict"] == "ok" and "works without root" in found["found"]
    wait_for("the end of all", lambda: not user.processes())


def test_the_doctor_leaves_nothing(user: OrdinaryUser) -> None:
    """Nor does it mind a crun of the user's own."""
    own = _made(user, "bin")
    crun = shutil.which("crun")
    assert crun is not None
    shutil.copy(crun, own / "crun")
    user.own(own / "crun")
    places = {"XDG_RUNTIME_DIR": str(_made(user, "login")), "XDG_STATE_HOME": f"{user.home}/a/b"}
    done = user.milo("doctor", "--json", PATH=f"{own}:/usr/bin:/bin", **places)
    found = {one["check"]: one for one in json.loads(done.stdout)["checks"]}
    assert found["crun"]["verdict"] == "ok" and str(own) in found["crun"]["found"]
    assert found["milo run"]["verdict"] == "ok"
    assert os.listdir(user.home / "login") == [] and not (user.home / "a").exists()


def test_data_is_safe_from_another_login(user: OrdinaryUser, jars: Path) -> None:
    """Which sees the directories of data, and not the records of what runs."""
    other = str(_made(user, "other-login"))
    with running(user, "--name", "unseen", str(jars / "clock.jar")) as run:
        assert "unseen" not in user.milo("ps", XDG_RUNTIME_DIR=other).stdout
        done = user.milo("gc", "--yes", XDG_RUNTIME_DIR=other)
        assert done.returncode == 0 and "nothing to remove" in done.stdout, done.stdout
        (data,) = (user.home / ".local/state/milo").iterdir()
        assert (data / "alloc-dir").is_dir() and run.poll() is None


def test_a_proc_of_which_parts_are_hidden_is_told(user: OrdinaryUser, jars: Path) -> None:
    """As in a container of docker, where the kernel gives no other /proc."""
    script = 'mount -t tmpfs none /proc/irq && exec "$@"'
    done = subprocess.run(
        [
            "unshare",
            "--mount",
            "sh",
            "-c",
            script,
            "sh",
            *user.argv("run", str(jars / "hello.jar")),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd="/",
        check=False,
        timeout=scaled(60),
    )
    assert done.returncode == 1 and "systempaths=unconfined" in done.stderr


def test_a_second_start_has_an_archive_of_the_users_own(user: OrdinaryUser, jars: Path) -> None:
    """What the first run has loaded is kept in the user's cache, for the next one."""
    jar = _made(user, "archived") / "hello.jar"  # which no other test has run
    jar.write_bytes((jars / "hello.jar").read_bytes())
    words = ("run", "--jvm-option=-Xlog:class+load", str(jar))
    found = []
    for _ in range(2):
        done = user.milo(*words)
        assert done.returncode == 0, done.stdout + done.stderr
        [line] = [line for line in done.stdout.splitlines() if "] Hello source: " in line]
        found.append(line.partition("Hello source: ")[2])
    assert found[0].startswith("file:/") and found[1].startswith("shared objects file")
    archives = (user.home / ".cache/milo-startup").glob("*/*.archive")
    assert {archive.stat().st_uid for archive in archives} == {user.uid}
