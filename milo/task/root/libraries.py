"""Finds the libraries that a JDK loads from its host, as the dynamic linker would.

Nothing is executed (``ldd`` would execute), because a JDK may be a tenant's. A JDK that somebody
other than root can write is not trusted: it gets what any program finds in the system's own
library directories, no file that it names by a path, and none of its symlinks is followed out of
it.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from typing import Final

from milo import walk
from milo.core.container.elf import ElfFile, parse_elf
from milo.core.container.ld_cache import MAX_CACHE_BYTES, parse_ld_cache
from milo.core.container.mounts import is_inside
from milo.core.launch import JavaRuntime
from milo.errors import PathError, Reason
from milo.walk import Held, Kind

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
MAX_TREE_DEPTH: Final = 24


def host_libraries(java: JavaRuntime, *, beneath: str = "/") -> list[str]:
    """Return paths on the host of all that the JDK's files load from outside of it.

    Each is a path as the linker opens it, symlinks and all; a library that the host lacks (X11
    on a server) is left out, as only what needs it would miss it. On the way to a JDK that is
    not trusted no symlink is followed below ``beneath``. Takes 10 to 25 ms. Raises `PathError`
    when the JDK's own launcher cannot be read.
    """
    with walk.follow(java.home) if java.trusted else walk.hold(java.home, beneath=beneath) as home:
        return _Search(java, home).run()


def dynamic_linker(java: JavaRuntime, *, beneath: str = "/") -> tuple[str, ...]:
    """Return the host's paths that lead to the dynamic linker of a JDK: its symlinks, and it.

    Empty if it has none, or none of the system's. ``beneath`` is as in `host_libraries`.
    """
    with contextlib.suppress(PathError):
        if java.trusted:
            launcher = _parse_at(f"{java.home}/bin/java")
        else:
            with walk.hold(f"{java.home}/bin/java", beneath=beneath) as held:
                launcher = _parse(held)
        path = os.path.normpath(launcher.interpreter) if launcher is not None else ""
        if any(is_inside(path, directory) for directory in SYSTEM_DIRS):
            with walk.follow(path) as found:
                return (*found.links, found.path)
    return ()


class _Search:
    def __init__(self, java: JavaRuntime, home: Held) -> None:
        self.java = java
        self.home = home
        self.cache = parse_ld_cache(_read(LD_CACHE))
        self.found: dict[str, None] = {}
        self.pending: list[tuple[str, ElfFile]] = []
        self.known: set[str] = set()
        """Names that need no search: the JDK's own, and those that were found."""
        self.missed: set[tuple[str, tuple[str, ...]]] = set()

    def run(self) -> list[str]:
        path = f"{self.java.home}/bin/java"
        with self._own("bin/java") as held:
            launcher = _parse(held)
        if launcher is None:
            raise PathError(path, Reason.KIND, "no ELF executable")
        self.kind = launcher.kind
        self.defaults = tuple(self._default_dirs())
        objects = [(path, launcher)]
        for path, parsed in self._shared_objects():
            self.known.add(os.path.basename(path))
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

    def _own(self, path: str) -> Held:
        """Hold a file or directory of the JDK's; raises `PathError`."""
        if self.java.trusted:
            return walk.follow(f"{self.java.home}/{path}")
        return self.home.within(path)

    def _shared_objects(self) -> Iterator[tuple[str, ElfFile | None]]:
        """Yield the paths of the JDK's libraries, and what is in each, if that may be known.

        Symlinked directories are not entered.
        """
        for top in ("lib", "jre/lib"):
            with contextlib.suppress(PathError), self._own(top) as directory:
                for held in directory.tree(MAX_TREE, MAX_TREE_DEPTH, lambda _: None):
                    name = os.path.basename(held.path)
                    if not (name.endswith(".so") or ".so." in name):
                        continue
                    if held.kind is not Kind.SYMLINK:
                        yield held.path, _parse(held)
                    elif self.java.trusted:
                        yield held.path, _parse_at(held.path)
                    else:
                        yield held.path, None

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
        plain = os.path.normpath(path)
        if is_inside(plain, self.java.home):
            with contextlib.suppress(PathError), self._own(plain[len(self.java.home) :]):
                return True
            return False
        if not self._may_look(plain):
            return False
        with contextlib.suppress(PathError), walk.follow(path, Kind.FILE) as held:
            # only what everybody may read, so that no task sees what is root's alone
            if not self._may_look(held.path) or not held.status.st_mode & stat.S_IROTH:
                return False
            parsed = _parse(held)
            if parsed is not None and parsed.kind == self.kind:
                self.found[path] = None
                self.pending.append((path, parsed))
                return True
        return False

    def _may_look(self, path: str) -> bool:
        return self.java.trusted or any(is_inside(path, directory) for directory in SYSTEM_DIRS)


def _parse_at(path: str) -> ElfFile | None:
    with contextlib.suppress(PathError), walk.follow(path) as held:
        return _parse(held)
    return None


def _parse(held: Held) -> ElfFile | None:
    """Return what is in an ELF file; None when it is none that can be loaded."""
    if held.kind is not Kind.FILE:
        return None
    try:
        fd = held.open()
    except PathError:
        return None
    try:
        return parse_elf(lambda offset, size: os.pread(fd, size, offset))
    except (OSError, ValueError, OverflowError):
        return None
    finally:
        os.close(fd)


def _read(path: str) -> bytes:
    with contextlib.suppress(PathError), walk.follow(path) as held:
        return held.read(MAX_CACHE_BYTES)
    return b""
