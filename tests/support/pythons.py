"""The other Pythons of this machine, each with an environment of its own in .nox/pythons."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.support import debian

CHECKOUT = Path(__file__).parents[2]
CACHE = CHECKOUT / ".nox/pythons"
RELEASES = ("3.11", "3.12", "3.13", "3.14")


def found() -> dict[str, str]:
    """Return the path of a working interpreter for each release: on PATH, or made by pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    paths: dict[str, str] = {}
    for release in RELEASES:
        places = [shutil.which(f"python{release}"), *sorted(pyenv.glob(f"{release}.*/bin/python"))]
        for path in (str(place) for place in places if place):
            if release not in paths and _is(path, release):
                paths[release] = path
    return paths


def _is(path: str, release: str) -> bool:
    ask = "import sys, venv, ensurepip; print(*sys.version_info[:2], sep='.')"
    done = subprocess.run([path, "-I", "-c", ask], capture_output=True, text=True, check=False)
    return done.stdout.strip() == release


def environment(path: str) -> tuple[str, ...]:
    """Return the Python of an environment with Milo and its tools, made once for each project.

    Raises RuntimeError with pip's last words.
    """
    home = (
        CACHE
        / debian.run(path, "-I", "-c", "import platform; print(platform.python_version())").strip()
    )
    python = str(home / "bin/python")
    stamp = home / "pyproject.toml"
    wanted = (CHECKOUT / "pyproject.toml").read_bytes()
    if not stamp.exists() or stamp.read_bytes() != wanted:
        debian.run(path, "-m", "venv", "--clear", str(home))
        pip = (python, "-m", "pip", "install", "-q")
        debian.run(*pip, "pip>=25.1")
        debian.run(*pip, "--editable", ".", "--group", "dev", cwd=CHECKOUT)
        stamp.write_bytes(wanted)
    return (python,)
