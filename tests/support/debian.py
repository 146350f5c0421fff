"""Packages of other Debian releases than this machine's: downloaded with apt, not installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

LOADER = "ld-linux-x86-64.so.2"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
DOWNLOAD_S = 1800
"""Also for debootstrap, which takes three minutes, and ten beside much other work."""


def mirror() -> str:
    """Return the address from which this machine's apt has Debian's archive.

    Raises RuntimeError where it has none.
    """
    targets = run("apt-get", "indextargets", "--format", "$(REPO_URI)")
    found = next((line for line in targets.splitlines() if line.endswith("/debian/")), None)
    if found is None:
        raise RuntimeError("apt has no source of Debian's")
    return found


def lists(suite: str, work: Path) -> dict[str, str]:
    """Return an environment in which apt knows that suite alone, with lists of its own in ``work``.

    Raises RuntimeError.
    """
    for name in ("state/lists/partial", "cache/archives/partial", "debs"):
        (work / name).mkdir(parents=True)
    (work / "state/status").touch()
    (work / "sources.list").write_text(f"deb [signed-by={KEYRING}] {mirror()} {suite} main\n")
    (work / "apt.conf").write_text(
        f'Dir::Etc::sourcelist "{work}/sources.list";\nDir::Etc::sourceparts "/dev/null";\n'
        f'Dir::State "{work}/state";\nDir::State::status "{work}/state/status";\n'
        f'Dir::Cache "{work}/cache";\nDir::Cache::archives "{work}/debs";\n'
        'Acquire::Languages "none";\nAPT::Sandbox::User "root";\n'
    )
    env = {**os.environ, "APT_CONFIG": str(work / "apt.conf")}
    run("apt-get", "-qq", "update", env=env)
    return env


def unpack(suite: str, packages: list[str], work: Path, *, needs: bool = False) -> None:
    """Download packages of a suite, and unpack them all in ``work/root``.

    ``needs``: with what they depend on, as on a machine with nothing installed. apt has lists of
    its own for this. Raises RuntimeError.
    """
    env = lists(suite, work)
    whole = "-qq -y --no-install-recommends --download-only install"
    how = whole.split() if needs else ["-qq", "download"]
    run("apt-get", *how, *packages, env=env, cwd=work / "debs")
    for archive in sorted((work / "debs").glob("*.deb")):
        run("dpkg", "-x", str(archive), str(work / "root"))


def carry_libraries(staged: Path, home: Path, root: Path) -> None:
    """Put the libraries of ``root`` in ``staged/libc``, and have each program and library use them.

    ``home`` is where ``staged`` will be.
    """
    library = staged / "libc"
    library.mkdir()
    for directory in ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"):
        for path in (root / directory).glob("*.so*"):
            shutil.copy(path, library / path.name)
    for path in staged.rglob("*"):
        if path.is_symlink() or not path.is_file() or path.parent == library:
            continue
        with path.open("rb") as file:
            if file.read(4) != b"\x7fELF":
                continue
        if _has_loader(path):
            run("patchelf", "--set-interpreter", str(home / "libc" / LOADER), str(path))
        own = run("patchelf", "--print-rpath", str(path)).strip()
        paths = ":".join(part for part in (own, str(home / "libc")) if part)
        run("patchelf", "--force-rpath", "--set-rpath", paths, str(path))


def _has_loader(path: Path) -> bool:
    done = subprocess.run(["patchelf", "--print-interpreter", str(path)], capture_output=True)
    return done.returncode == 0


def run(*command: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Run a command and return what it prints. Raises RuntimeError with its last words."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DOWNLOAD_S,
    )
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip())[-300:]
        raise RuntimeError(f"{' '.join(command)}: {said}")
    return done.stdout
