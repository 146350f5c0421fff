"""Finds the libraries that a JDK loads from its host, as the dynamic linker would.

Nothing is executed (``ldd`` would): a JDK may be a tenant's. Of one that somebody other than
root can write, no word is trusted either: it gets what any program finds in the system's own
library directories, and no file that it names by a path.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Final

from milo.core.container.elf import ElfFile, parse_elf
from milo.core.container.ld_cache import MAX_CACHE_BYTES, parse_ld_cache
from milo.core.container.mounts import is_inside
from milo.core.launch import JavaRuntime

LD_CACHE: Final = "/etc/ld.so.cache"
DEFAULT_DIRS: Final = ("/lib64", "/usr/lib64", "/lib", "/usr/lib", "/usr/local/lib")
"""ld.so(8); the last one is musl's. Debian's have a directory of the machine's in between."""
MACHINE_DIRS: Final = {3: "i386-linux-gnu", 62: "x86_64-linux-gnu", 183: "aarch64-linux-gnu"}
"""ELF machine to Debian's name of the architecture."""
SYSTEM_DIRS: Final = ("/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib32", "/usr/lib64")

ALWAYS: Final = (
    # glibc's own; before 2.34 these were apart, and old programs still ask for them
    *("libc.so.6", "libdl.so.2", "libm.so.6", "libpthread.so.0", "librt.so.1", "libutil.so.1"),
    *("libresolv.so.2", "libanl.so.1", "libnss_files.so.2", "libnss_dns.so.2"),
    # what native parts of applications (JNA, netty, RocksDB, Snappy) are linked with
    *("libgcc_s.so.1", "libstdc++.so.6", "libz.so.1", "libatomic.so.1", "libcrypt.so.1"),
    # opened by the JDK by their names when it draws text without a screen
    *("libfontconfig.so.1", "libfreetype.so.6"),
)
"""Shown besides what the JDK's files name, where the host has them."""

MAX_LIBRARIES: Final = 1000
MAX_TREE: Final = 20_000
"""As many entries of a JDK's ``lib`` are looked at; JDK 25 has about 200."""


def host_libraries(java: JavaRuntime) -> list[str]:
    """Return paths on the host of all that the JDK's files load from outside of it.

    Each is a path as the linker opens it, symlinks and all; a library that the host lacks (X11
    on a server) is left out, as only what needs it would miss it. Takes 10 to 25 ms. Raises
    `OSError` when the JDK's own launcher cannot be read.
    """
    return _Search(java).run()


class _Search:
    def __init__(self, java: JavaRuntime) -> None:
        self.java = java
        self.cache = parse_ld_cache(_read(LD_CACHE))
        self.found: dict[str, None] = {}
        self.pending: list[tuple[str, ElfFile]] = []
        self.known: set[str] = set()
        """Names that need no search: the JDK's own, and those that were found."""
        self.missed: set[tuple[str, tuple[str, ...]]] = set()

    def run(self) -> list[str]:
        launcher = _parse(f"{self.java.home}/bin/java", anybody=False)
        if launcher is None:
            raise FileNotFoundError(2, "no ELF executable", f"{self.java.home}/bin/java")
        self.kind = launcher.kind
        self.defaults = tuple(self._default_dirs())
        objects = [(f"{self.java.home}/bin/java", launcher)]
        for path, is_link in _shared_objects(self.java.home):
            self.known.add(os.path.basename(path))
            if is_link and not self.java.trusted:
                continue
            parsed = _parse(path, anybody=False)
            if parsed is not None and parsed.kind == self.kind:
                self.known.add(parsed.soname)
                objects.append((path, parsed))
        if launcher.interpreter:
            self._add(launcher.interpreter)
        for path, parsed in objects:
            self._need(path, parsed)
        for name in ALWAYS:
            self._search(name, ())
        while self.pending and len(self.found) < MAX_LIBRARIES:
            self._need(*self.pending.pop())
        return list(self.found)

    def _default_dirs(self) -> Iterator[str]:
        machine = MACHINE_DIRS.get(self.kind[2])
        for directory in DEFAULT_DIRS:
            if machine and directory in ("/lib", "/usr/lib"):
                yield f"{directory}/{machine}"
            yield directory

    def _need(self, path: str, parsed: ElfFile) -> None:
        directories = tuple(
            os.path.normpath(text.replace("${ORIGIN}", origin).replace("$ORIGIN", origin))
            for origin in (os.path.dirname(path),)
            for text in parsed.runpath or parsed.rpath
            if self.java.trusted and text.startswith(("/", "$ORIGIN", "${ORIGIN}"))
        )
        for name in parsed.needed:
            self._search(name, directories)

    def _search(self, name: str, directories: tuple[str, ...]) -> None:
        """Find what the loader would open for a DT_NEEDED of ``name``."""
        if name in self.known or (name, directories) in self.missed:
            return
        if not self._find(name, directories):
            self.missed.add((name, directories))
        else:
            # what is loaded once is there for all that ask for it by this name
            self.known.add(name)

    def _find(self, name: str, directories: tuple[str, ...]) -> bool:
        if "/" in name:
            return self.java.trusted and name.startswith("/") and self._add(name)
        if any(self._add(f"{directory}/{name}") for directory in directories):
            return True
        # All of the cache's: which one is taken depends on the processor, and one that the
        # cache names and that is missing is not looked for elsewhere.
        cached = [self._add(path) for path in self.cache.get(name, ())]
        return any(cached) or any(self._add(f"{directory}/{name}") for directory in self.defaults)

    def _add(self, path: str) -> bool:
        """Take the library at ``path`` if it is one that this JDK could load."""
        if path in self.found:
            return True
        if is_inside(os.path.normpath(path), self.java.home):
            return os.path.exists(path)
        parsed = _parse(path, anybody=True)
        if parsed is None or parsed.kind != self.kind:
            return False
        if not self.java.trusted:
            real = os.path.realpath(path)
            if not any(is_inside(real, directory) for directory in SYSTEM_DIRS):
                return False
        self.found[path] = None
        self.pending.append((path, parsed))
        return True


def _shared_objects(home: str) -> Iterator[tuple[str, bool]]:
    """Yield the paths of the JDK's libraries, and whether each is a symlink.

    Symlinked directories are not entered.
    """
    pending = [f"{home}/lib", f"{home}/jre/lib"]
    seen = 0
    while pending:
        try:
            entries = os.scandir(pending.pop())
        except OSError:
            continue
        with entries:
            for entry in entries:
                seen += 1
                if seen > MAX_TREE:
                    return
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                elif entry.name.endswith(".so") or ".so." in entry.name:
                    yield entry.path, entry.is_symlink()


def _parse(path: str, *, anybody: bool) -> ElfFile | None:
    """Return what is in the ELF file at ``path``; None when it is none that can be loaded.

    ``anybody``: only if everybody may read it, so that no task sees what is root's alone.
    """
    try:
        held = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None
    try:
        mode = os.fstat(held).st_mode
        # looked at before it is opened: to open a device may already do something
        if not stat.S_ISREG(mode) or (anybody and not mode & stat.S_IROTH):
            return None
        with open(f"/proc/self/fd/{held}", "rb", buffering=0) as file:
            fd = file.fileno()
            return parse_elf(lambda offset, size: os.pread(fd, size, offset))
    except (OSError, ValueError, OverflowError):
        return None
    finally:
        os.close(held)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(MAX_CACHE_BYTES)
    except OSError:
        return b""
