"""Jobs whose keys together would be more than their operator has switched on.

Each was tried with what the java driver's defaults let a job have, and worked.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import attrs

NOBODY = 65534
SLEEP = ("/bin/sleep", "1000")


@attrs.frozen
class Scene:
    """What is attacked: files that few may read, and processes of the host."""

    secret: Path
    of_root: subprocess.Popen[bytes]
    of_nobody: subprocess.Popen[bytes]
    of_daemon: subprocess.Popen[bytes]
    letter: Path
    """A file that the user daemon alone may read."""

    @property
    def arguments(self) -> list[str]:
        """Those of the attacking script, in the order of the fields."""
        processes = (self.of_root, self.of_nobody, self.of_daemon)
        return [str(self.secret), *(str(one.pid) for one in processes), str(self.letter)]


@contextmanager
def open_scene(directory: Path) -> Iterator[Scene]:
    """Set the scene; its processes are ended afterwards."""
    secret, letter = directory / "root-only", directory / "daemon-only"
    for file in (secret, letter):
        file.write_text("secret\n")
        file.chmod(0o600)
    daemon = pwd.getpwnam("daemon")
    os.chown(letter, daemon.pw_uid, daemon.pw_gid)
    with contextlib.ExitStack() as stack:
        processes = []
        for uid, gid in ((0, 0), (NOBODY, NOBODY), (daemon.pw_uid, daemon.pw_gid)):
            process = subprocess.Popen(SLEEP, user=uid, group=gid, extra_groups=[])
            stack.callback(process.wait)
            stack.callback(process.kill)
            processes.append(process)
        of_root, of_nobody, of_daemon = processes
        yield Scene(secret, of_root, of_nobody, of_daemon, letter)


@attrs.frozen
class KeyAttack:
    """A job, what it does, and what shows that it has done it."""

    config: Mapping[str, object]
    script: str
    """Its result is the task's file ``local/own``, or what it did to the scene."""
    worked: Callable[[Scene, Path], bool]
    """Of the scene, and ``local/own`` on the host."""
    still_needs: str
    """The plugin's key without which it is refused, even if each capability and the host's
    processes are permitted by themselves; empty for what is one capability's own."""
    user: str = ""


def _rewritten(scene: Scene, own: Path) -> bool:
    return scene.secret.read_text() == "owned\n"


def _letter_rewritten(scene: Scene, own: Path) -> bool:
    return scene.letter.read_text() == "owned\n"


def _killed(scene: Scene, own: Path) -> bool:
    return scene.of_root.wait(20) == -signal.SIGKILL


def _of_root(scene: Scene, own: Path) -> bool:
    return own.lstat().st_uid == 0


def _device(scene: Scene, own: Path) -> bool:
    return stat.S_ISCHR(own.lstat().st_mode)


def _set_user_id(scene: Scene, own: Path) -> bool:
    return own.lstat().st_uid == 0 and bool(own.lstat().st_mode & stat.S_ISUID)


def _set_group_id(scene: Scene, own: Path) -> bool:
    return own.lstat().st_gid == 0 and bool(own.lstat().st_mode & stat.S_ISGID)


def _file_capability(scene: Scene, own: Path) -> bool:
    return "security.capability" in os.listxattr(own)


COPY = "cp /usr/bin/true /local/own"
BECOME = 'import os; os.setuid(0); open("/local/own", "w")'
CAPABILITY = (
    "import os, struct; os.setxattr("
    '"/local/own", "security.capability", struct.pack("<5I", 0x02000001, 128, 0, 0, 0))'
)
KEY_ATTACKS = {
    "files of the host": KeyAttack(
        {"pid_mode": "host", "cap_add": ["dac_override"]},
        'echo owned >"/proc/$4/root$2"',
        _rewritten,
        "allow_caps_with_host_namespaces",
    ),
    "files of another user": KeyAttack(
        {"pid_mode": "host"},
        'echo owned >"/proc/$5/root$6"',
        _letter_rewritten,
        "allow_users_with_host_namespaces",
        user="daemon",
    ),
    "a process of root's": KeyAttack(
        {"pid_mode": "host", "cap_add": ["kill"]},
        'kill -9 "$3"',
        _killed,
        "allow_caps_with_host_namespaces",
    ),
    "user id 0": KeyAttack(
        {"cap_add": ["setuid"]}, f"python3 -c '{BECOME}'", _of_root, "allow_root"
    ),
    "a device node": KeyAttack({"cap_add": ["mknod"]}, "mknod /local/own c 1 3", _device, ""),
    "a set-user-ID program": KeyAttack(
        {"cap_add": ["chown", "fowner"]},
        f"{COPY}; chown 0:0 /local/own; chmod 4755 /local/own",
        _set_user_id,
        "allow_root",
    ),
    "a set-group-ID program": KeyAttack(
        {"cap_add": ["chown", "fsetid"]},
        f"{COPY}; chgrp 0 /local/own; chmod 2755 /local/own",
        _set_group_id,
        "allow_root",
    ),
    "a file capability": KeyAttack(
        {"cap_add": ["setfcap"]},
        f"{COPY}; python3 -c '{CAPABILITY}'",
        _file_capability,
        "allow_root",
    ),
}
