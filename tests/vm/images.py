"""What goes into the machine as disks: opening files of the host's own root takes it too long.

Two images. One holds what changes rarely: interpreter, virtual environment, JDKs, Nomad. The
other is the project's tree as it is now, with its modules compiled.
"""

from __future__ import annotations

import compileall
import hashlib
import os
import py_compile
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from tests.support import jars, jdks

ROOT = Path(__file__).parents[2]
PLACE = ROOT
"""Where the tree lies inside: at the same path."""
JARS = Path(".nox/vm/jars")
"""Where the tree has the compiled test programs: a Java compiler is slow inside."""
VENV = Path(sys.prefix)
JVMS = Path("/usr/lib/jvm")

NOT_NEEDED = (
    "atheris",
    "asan_with_fuzzer.so",
    "ubsan_with_fuzzer.so",
    "ubsan_cxx_with_fuzzer.so",
    "libclang_rt.fuzzer_no_main.a",
    "grpc",
    "grpc_tools",
    "mypy",
    "mypyc",
    "*__mypyc.*.so",
    "selenium",
    "virtualenv",
)
"""What no test in the machine imports of the virtual environment's packages."""
OUT_OF_TREE = (".git", ".nox", ".venv", "__pycache__", "*.egg-info", ".*_cache", ".hypothesis")


def base_paths(nomads: list[str]) -> list[Path]:
    """Return the absolute paths that go into the rarely changing image, none below another."""
    if sys.base_prefix == "/usr":
        interpreter = [Path(sysconfig.get_path("stdlib"))]
    else:
        base = Path(sys.base_prefix)
        interpreter = [path for path in (base / "bin", base / "lib") if path.is_dir()]
    # The machine has no network: what was downloaded here is all that there is inside. Each JDK by
    # itself, so that the directory of them can be written.
    cached = sorted(java.parents[1] for java in jdks.CACHE.glob("*/bin/java"))
    wanted = (VENV, *interpreter, JVMS, *cached, *map(Path, nomads))
    return [path for path in wanted if path.exists()]


def base_image(cache: Path, paths: list[Path], kind: str) -> Path:
    """Return an image of ``paths`` with their full names, built when any of them has changed.

    ``kind`` is the first word of its name; an older one of the kind is removed.
    """
    state = hashlib.sha256(repr(NOT_NEEDED).encode())
    for path in paths:
        _add_state(state, path)
    target = cache / f"{kind}-{state.hexdigest()[:16]}.squashfs"
    if not target.exists():
        for old in cache.glob(f"{kind}-*"):
            old.unlink()
        library = Path(sysconfig.get_path("stdlib"))
        packages = Path(sysconfig.get_path("purelib"))
        without = [packages / name for name in NOT_NEEDED]
        without += [library / name for name in ("test", "idlelib", "site-packages", "config-3.*")]
        without += [path for name in ("src.zip", "jmods") for path in JVMS.glob(f"*/lib/{name}")]
        without += list(JVMS.glob("*/jmods"))
        names = [str(path).lstrip("/") for path in without]
        squash(target, paths, ("-wildcards", "-e", *names))
    return target


def tree_image(cache: Path, target: Path) -> Path:
    """Make ``target`` an image of the tree as it is, with the compiled form of each module."""
    stage = cache / "tree"
    shutil.rmtree(stage, ignore_errors=True)
    shutil.copytree(ROOT, stage, symlinks=True, ignore=shutil.ignore_patterns(*OUT_OF_TREE))
    compileall.compile_dir(
        stage,
        quiet=2,
        stripdir=str(stage),
        prependdir=str(PLACE),
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
    if jars.missing_tools() is None:
        shutil.copytree(_jars(cache), stage / JARS)
    squash(target, [stage])
    shutil.rmtree(stage)
    return target


def _jars(cache: Path) -> Path:
    """Return a directory with the compiled test programs, made when a source has changed."""
    state = hashlib.sha256()
    for source in (ROOT / "tests/jars", Path(jars.__file__)):
        _add_state(state, source)
    target = cache / f"jars-{state.hexdigest()[:16]}"
    if not target.exists():
        for old in cache.glob("jars-*"):
            shutil.rmtree(old)
        partial = cache / "jars.partial"
        shutil.rmtree(partial, ignore_errors=True)
        jars.build_all(partial)
        partial.rename(target)
    return target


def _add_state(state: hashlib._Hash, top: Path) -> None:
    """Add the names, sizes and times of all files below ``top``; looking takes half a second."""
    for where, directories, names in os.walk(top):
        directories.sort()
        for name in sorted(names):
            path = os.path.join(where, name)
            status = os.lstat(path)
            state.update(f"{path} {status.st_size} {status.st_mtime_ns}\n".encode())
    if top.is_file():
        status = top.stat()
        state.update(f"{top} {status.st_size} {status.st_mtime_ns}\n".encode())


def squash(target: Path, sources: list[Path], options: tuple[str, ...] = ()) -> None:
    partial = target.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    # One source gives its content, several their whole paths. Not compressed: the emulated
    # processor would have to undo it.
    whole = ["-no-strip"] if len(sources) > 1 else []
    names = [str(path).lstrip("/") for path in sources] if whole else [str(sources[0])]
    subprocess.run(
        [
            *("mksquashfs", *names, str(partial), *whole, "-noappend", "-no-progress", "-quiet"),
            *("-noI", "-noD", "-noF", "-noX", *options),
        ],
        cwd="/",
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    partial.rename(target)
