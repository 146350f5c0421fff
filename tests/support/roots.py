"""Machines with other releases of Debian: root file systems by debootstrap, and commands in them.

A command has mount and PID namespaces of its own, in which that file system is the root: no mount
and no process outlives it. A chroot would not do: the kernel makes no user namespace in one.

As a program it runs a command in the checkout of a machine that `./dev setup` has set up:
``python -m tests.support.roots debian-13 .venv/bin/python -V``.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support import debian

CHECKOUT = Path(__file__).parents[2]
CACHE = CHECKOUT / ".nox/roots"
REPORTS = CHECKOUT / ".nox/matrix"
"""At the same place in every machine."""
RELEASES: dict[str, tuple[str, ...]] = {
    "debian-12": ("bookworm",),
    "debian-12-unmerged": ("bookworm", "--no-merged-usr"),
    "debian-13": ("trixie",),
    "debian-14": ("forky",),
}
"""Name to the suite, and debootstrap's options."""
USER = "ann"
"""An ordinary user of each machine."""
HOMES = {"root": "/root", USER: f"/home/{USER}"}
CHECKOUTS = {"root": "/opt/milo", USER: f"/home/{USER}/milo"}
"""Root's is where others can read it: tests run it as an ordinary user."""
CERTIFICATES = "/opt/registries.crt"
"""A copy of what this machine's pip trusts."""
SCRIPTS = Path("/usr/share/debootstrap/scripts")
PIP_CACHE = "/opt/pip"
KEPT = (".venv", ".nox")
CLEAN_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def machine(name: str) -> Path:
    """Return where the machine's root file system is, or will be."""
    return CACHE / name / "machine"


def fresh(name: str) -> None:
    """Make the machine anew: what debootstrap leaves, an ordinary user, and two checkouts."""
    root, base = machine(name), CACHE / name / "base"
    if not base.exists():
        _debootstrap(name, base)
    shutil.rmtree(root, ignore_errors=True)
    debian.run("cp", "-a", str(base), str(root))
    debian.run("chroot", str(root), "useradd", "--create-home", "--shell", "/bin/sh", USER)
    for user in HOMES:
        put_checkout(name, user)


def _debootstrap(name: str, base: Path) -> None:
    """Raises RuntimeError."""
    if shutil.which("debootstrap") is None:
        raise RuntimeError(f"{name} cannot be made: there is no debootstrap")
    suite, *options = RELEASES[name]
    base.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=base.parent) as temporary:
        made = Path(temporary) / "base"
        # A debootstrap that is older than the release has no script of its name.
        script = SCRIPTS / (suite if (SCRIPTS / suite).exists() else "sid")
        words = ("debootstrap", "--variant=minbase", *options, suite, str(made), debian.mirror())
        # It mounts /proc and leaves it there; and nothing of it outlives a run that is ended.
        private = ("unshare", "--mount", "--propagation", "private", "--pid", "--fork")
        ended = ("--kill-child", "--mount-proc", "--", "nice", "-n", "5")
        debian.run(*private, *ended, *words, str(script))
        os.rename(made, base)


def put_checkout(name: str, user: str) -> None:
    """Put what git would commit here into the user's checkout; .venv and .nox stay."""
    target = machine(name) / CHECKOUTS[user][1:]
    target.mkdir(exist_ok=True)
    for entry in target.iterdir():
        if entry.name in KEPT:
            continue
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    command = ("git", "-C", str(CHECKOUT), "ls-files", "-zco", "--exclude-standard")
    for path in filter(None, debian.run(*command).split("\0")):
        if (CHECKOUT / path).exists():
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / path, target / path)
    if user != "root":
        debian.run("chroot", str(machine(name)), "chown", "-R", f"{user}:", CHECKOUTS[user])


def argv(name: str, *words: str, user: str = "root") -> list[str]:
    """Return the command line that runs ``words`` in the user's checkout on the machine."""
    return [
        *("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"),
        *(sys.executable, "-m", "tests.support.roots", "--in", name, user, *words),
    ]


def set_up(name: str) -> None:
    """Make sure that `./dev setup` was run by root on the machine, with this checkout.

    Raises RuntimeError with its last words.
    """
    if not (machine(name) / CHECKOUTS["root"][1:] / ".venv/bin/milo").exists():
        fresh(name)
    put_checkout(name, "root")
    debian.run(*argv(name, "./dev", "setup"), cwd=CHECKOUT)


def python(name: str) -> tuple[str, ...]:
    """Set the machine up, and return the words that run its Python in root's checkout there."""
    set_up(name)
    return tuple(argv(name, ".venv/bin/python"))


def _enter(root: Path, user: str) -> None:
    """Make ``root`` the root of this process, with what a machine has mounted."""
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    if certificates := os.environ.get("PIP_CERT"):
        shutil.copy(certificates, root / CERTIFICATES[1:])
    reports = root / str(REPORTS)[1:]
    reports.mkdir(parents=True, exist_ok=True)
    REPORTS.mkdir(parents=True, exist_ok=True)
    # What pip has once downloaded for a user of these machines is kept for all of them.
    kept = CACHE / "pip" / user
    kept.mkdir(parents=True, exist_ok=True)
    home = (root / HOMES[user][1:]).stat()
    os.chown(kept, home.st_uid, home.st_gid)
    cache = root / PIP_CACHE[1:]
    cache.mkdir(exist_ok=True)
    for words in (
        ("--bind", root, root),
        ("--bind", REPORTS, reports),
        ("--bind", kept, cache),
        ("-t", "proc", "proc", root / "proc"),
        ("-t", "sysfs", "sysfs", root / "sys"),
        ("--rbind", "/sys/fs/cgroup", root / "sys/fs/cgroup"),
        ("--rbind", "/dev", root / "dev"),
        ("-t", "tmpfs", "-o", "mode=755", "tmpfs", root / "run"),
    ):
        subprocess.run(["mount", *map(str, words)], check=True)
    subprocess.run(["pivot_root", ".", "mnt"], cwd=root, check=True)
    os.chdir("/")
    subprocess.run(["umount", "--lazy", "/mnt"], check=True)


def _environment(user: str) -> dict[str, str]:
    """Return what a shell of the user's has, with this machine's way to the registries."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if key.startswith(("MILO_", "PIP_")) or key.lower().endswith("_proxy") or key == "TERM"
    }
    kept.pop("PIP_FIND_LINKS", None)
    if "PIP_CERT" in kept:
        kept["PIP_CERT"] = CERTIFICATES
    kept["PIP_CACHE_DIR"] = PIP_CACHE
    return {**kept, "HOME": HOMES[user], "USER": user, "PATH": CLEAN_PATH, "LANG": "C.UTF-8"}


def _inside(name: str, user: str, words: list[str]) -> int:
    """Be process 1 of the machine: run the command, reap what others leave, return its status."""
    env = _environment(user)
    _enter(machine(name), user)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    who = (
        () if user == "root" else ("setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups")
    )
    child = os.posix_spawnp(
        "env",
        ["env", "--default-signal=INT", "-C", CHECKOUTS[user], *who, *words],
        env,
    )
    while True:
        pid, status = os.wait()
        if pid == child:
            return os.waitstatus_to_exitcode(status) % 256


def main() -> int:
    """Run what the command line says, as the module's words tell."""
    if sys.argv[1] == "--in":
        return _inside(sys.argv[2], sys.argv[3], sys.argv[4:])
    name, *words = sys.argv[1:]
    set_up(name)
    return subprocess.run(argv(name, *words), check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
