"""The wheel and the self-contained file, built once for all suites from what is in the tree.

The file's own cache of unpacked packages is put beside it by each test (``MILO_CACHE_DIR``).
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path

import pytest

from tests.support.waiting import scaled
from tools import build_executable

ROOT = Path(__file__).parents[2]
DIST = ROOT / ".nox/packages"
KEPT = 3
"""So many builds are left there: other test runs may still use the last ones."""
BUILD_S = 600
"""The wheels of eight interpreters are downloaded; pip keeps what it has once seen."""


def built() -> Path:
    """Return a directory with the wheel and ``milo``, as ``nox -s build`` makes them.

    Skips the test when they cannot be built because no package registry answers.
    """
    directory = DIST / _state_of_the_tree()
    if not (directory / "milo").exists():
        directory.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "tools/build_executable.py", str(directory)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=scaled(BUILD_S))
        if done.returncode != 0:
            if reason := _registry_problem(directory):
                pytest.skip(f"NO PACKAGE IS TESTED: there is no package registry ({reason})")
            raise AssertionError((done.stdout + done.stderr).decode(errors="replace"))
        for old in sorted(DIST.iterdir(), key=lambda path: path.stat().st_mtime)[:-KEPT]:
            shutil.rmtree(old)
    return directory


def executable() -> Path:
    """Return the path of the self-contained file; skips as `built` does."""
    return built() / "milo"


def wheel() -> Path:
    """Return the path of the wheel; skips as `built` does."""
    [found] = built().glob("*.whl")
    return found


def packed_files(path: Path) -> dict[str, bytes]:
    """Return what the self-contained file ``path`` unpacks."""
    with zipfile.ZipFile(path) as outer, zipfile.ZipFile(BytesIO(outer.read("packages.zip"))) as it:
        return {name: it.read(name) for name in it.namelist()}


def another_version(path: Path, version: str, target: Path) -> Path:
    """Make ``target``: the self-contained file ``path`` as a Milo of another ``version``."""
    files = packed_files(path)
    text = files["milo/__init__.py"].decode()
    old = text.partition('__version__ = "')[2].partition('"')[0]
    files["milo/__init__.py"] = text.replace(f'"{old}"', f'"{version}"').encode()
    return build_executable.pack(files, target)


def _state_of_the_tree() -> str:
    digest = hashlib.sha256()
    for place in ("milo", "tools", "pyproject.toml", "README.md", "LICENSE"):
        path = ROOT / place
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and "__pycache__" not in file.parts:
                digest.update(f"{file.relative_to(ROOT)}\0".encode())
                digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _registry_problem(directory: Path) -> str:
    """Return pip's words if it cannot even get the build backend, else an empty text."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir"]
    command += ["--retries=0", "--timeout=10", f"--dest={directory}/probe", "hatchling"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=scaled(120))
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["pip failed"])[-1]
