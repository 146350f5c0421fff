"""Build ``dist/``: the wheel, and ``milo``, one file that needs a Python and nothing else.

Usage: python tools/build_executable.py [--update] [OUT_DIR]

The executable is a zip application (made by the standard library's ``zipapp``) with the packages
of Milo and all it needs. The wheels that hold C extensions are taken for every supported version
of CPython on both architectures and laid over each other: only their extensions differ, whose
file names carry version and architecture. ``tools/executable/`` has what runs first.

The same sources and lock give the same bytes. ``--update`` writes ``tools/executable.lock`` anew,
with today's releases.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipapp
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
LOCK: Final = ROOT / "tools/executable.lock"
LOCK_HEAD: Final = "# Written by: python tools/build_executable.py --update\n"
PYTHONS: Final = ("311", "312", "313", "314")
ARCHITECTURES: Final = ("x86_64", "aarch64")
GLIBC: Final = ("manylinux_2_28", "manylinux2014", "manylinux_2_17")
"""Wheels of these are taken: they run with glibc 2.28 (2018) and later."""
SUFFIXES: Final = tuple(
    f".cpython-{python}-{machine}-linux-gnu.so" for python in PYTHONS for machine in ARCHITECTURES
)
"""What an interpreter that can run the file says it loads as an extension."""
NEEDLESS: Final = re.compile(
    r"(^|/)(tests?|_tests|__pycache__)/|/_testcapi\.|\.(c|cc|cpp|h|hpp|pyx|pxd|pyi)$|\.dist-info/(RECORD|WHEEL)$"
)
"""Tests, sources of extensions and types: a third of all files. Licences stay."""

HEADER: Final = """\
/bin/sh
# Milo, the Nomad task driver: a zip archive that Python runs. -I: without PYTHON* variables and
# what is in the working directory; -S: without the host's own packages.
for name in python3 python3.14 python3.13 python3.12 python3.11; do
    if python=$(command -v "$name"); then exec "$python" -IS "$0" "$@"; fi
done
echo "milo: there is no python3 on PATH ($PATH); Python 3.11 or later is needed" >&2
exit 127
"""


def main() -> None:
    """Build both into the directory named on the command line, or ``dist``."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--update", action="store_true", help="write the lock anew, and end")
    parser.add_argument("out_dir", nargs="?", type=Path, default=ROOT / "dist")
    arguments = parser.parse_args()
    if arguments.update:
        LOCK.write_text(locked_now(), encoding="ascii")
        return
    out_dir: Path = arguments.out_dir
    out_dir.mkdir(parents=True, exist_ok=True)
    print(wheel := build_wheel(out_dir))
    with tempfile.TemporaryDirectory() as scratch:
        wheels = Path(scratch)
        download_locked(wheels)
        print(build_executable([wheel, *sorted(wheels.glob("*.whl"))], out_dir / "milo"))


def source_time() -> int:
    """Return SOURCE_DATE_EPOCH, else 2020-02-02, as hatchling does."""
    return int(os.environ.get("SOURCE_DATE_EPOCH") or 1580601600)


def build_wheel(out_dir: Path) -> Path:
    """Build Milo's wheel in an environment of its own, and return its path."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "build", "--wheel", "--outdir", scratch, str(ROOT)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        [wheel] = Path(scratch).glob("*.whl")
        return Path(shutil.move(wheel, out_dir / wheel.name))


def download_locked(directory: Path) -> None:
    """Download the wheels that the lock names, for each interpreter, checking their hashes."""
    locked = ("--no-deps", "--require-hashes", "-r", str(LOCK))
    for python in PYTHONS:
        for machine in ARCHITECTURES:
            _download(directory, python, machine, *locked)


def locked_now() -> str:
    """Return the text of a lock with the newest versions that Milo's needs allow."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        own = build_wheel(directory)
        _download(directory, PYTHONS[0], ARCHITECTURES[0], str(own))
        own.unlink()
        names = sorted({"==".join(path.name.split("-")[:2]) for path in directory.glob("*.whl")})
        for python in PYTHONS:
            for machine in ARCHITECTURES:
                _download(directory, python, machine, "--no-deps", *names)
        return LOCK_HEAD + "".join(f"{name}{''.join(_hashes(directory, name))}\n" for name in names)


def _hashes(directory: Path, name: str) -> Iterable[str]:
    for path in sorted(directory.glob(f"{name.replace('==', '-')}-*.whl")):
        yield f" \\\n    --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def _download(directory: Path, python: str, machine: str, *words: str) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--dest", str(directory), "--only-binary=:all:", "--implementation=cp"]
    command += [f"--python-version={python}", f"--abi=cp{python}", "--abi=abi3", "--abi=none"]
    command += [f"--platform={glibc}_{machine}" for glibc in GLIBC]
    subprocess.run([*command, *words], check=True)


def build_executable(wheels: Iterable[Path], target: Path) -> Path:
    """Pack the ``wheels`` and what unpacks them into the executable file ``target``.

    Raises:
        ValueError: two wheels hold a file of one name that differs.
    """
    files: dict[str, bytes] = {}
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            for info in archive.infolist():
                if info.is_dir() or NEEDLESS.search(info.filename):
                    continue
                data = archive.read(info)
                if files.setdefault(info.filename, data) != data:
                    raise ValueError(f"{wheel.name}: another wheel has a different {info.filename}")
    return pack(files, target)


def pack(files: dict[str, bytes], target: Path) -> Path:
    """Make the executable ``target``, which unpacks ``files`` and runs ``milo.entry``."""
    with tempfile.TemporaryDirectory() as scratch:
        packages, plain = Path(scratch, "packages.zip"), Path(scratch, "milo.zip")
        _write_zip(packages, files, zipfile.ZIP_DEFLATED)
        data = packages.read_bytes()
        build = {"ID": hashlib.sha256(data).hexdigest()[:20], "SUFFIXES": SUFFIXES}
        first = {path.name: path.read_bytes() for path in (ROOT / "tools/executable").glob("*.py")}
        first["milo_build.py"] = "".join(f"{k} = {v!r}\n" for k, v in build.items()).encode()
        _write_zip(plain, {**first, "packages.zip": data}, zipfile.ZIP_STORED)
        # To a new file: the old one may be running.
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        zipapp.create_archive(plain, temporary, interpreter=HEADER.rstrip())
        temporary.chmod(0o755)
        temporary.replace(target)
    return target


def _write_zip(path: Path, files: dict[str, bytes], compression: int) -> None:
    """Write a zip file whose bytes depend on names, contents and `source_time` alone."""
    # Years before 1980 cannot be written.
    at = time.gmtime(max(source_time(), 315532800))
    with zipfile.ZipFile(path, "w") as archive:
        for name in sorted(files):
            info = zipfile.ZipInfo(name, at[:6])
            info.external_attr = 0o100644 << 16
            archive.writestr(info, files[name], compression, 6)


if __name__ == "__main__":
    main()
