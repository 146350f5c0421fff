"""The root of ``rootfs = "minimal"``: only what a JVM loads from the host. No shell, no program.

Every file has the same path as on the host, so that the dynamic linker finds it with the host's
cache. The symlinks that lead to it are created again in the skeleton.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from typing import Final

from milo import walk
from milo.core.container.mounts import Bind, is_inside
from milo.core.launch import JavaRuntime
from milo.errors import ConfigError, PathError, Reason
from milo.task.root.libraries import MACHINE_DIRS, host_libraries
from milo.task.root.rootfs import HOST_ETC, HostView
from milo.walk import Kind

DATA: Final = (
    "/usr/lib/locale",
    "/usr/lib/ssl/cert.pem",
    "/usr/lib/ssl/certs",
    "/usr/lib/ssl/openssl.cnf",
    "/usr/local/share/ca-certificates",
    "/usr/local/share/fonts",
    "/usr/share/ca-certificates",
    "/usr/share/crypto-policies",
    "/usr/share/fontconfig",
    "/usr/share/fonts",
    "/usr/share/locale/locale.alias",
    "/usr/share/pki/ca-trust-source",
    "/usr/share/zoneinfo",
    *(f"/usr/lib/{machine}/gconv" for machine in MACHINE_DIRS.values()),
    "/usr/lib64/gconv",
    "/var/cache/fontconfig",
)
"""Data that a JVM or its C library reads: locales and character sets, certificates (Debian's
/etc/ssl/certs leads here), fonts and their index, time zones."""

NOT_NEEDED: Final = ("/etc/alternatives", "/etc/ld.so.conf", "/etc/ld.so.conf.d")
"""Of `rootfs.HOST_ETC`: names of programs, and what only ldconfig reads."""


def view_minimal(
    java: JavaRuntime, extra: Iterable[str], *, recursive: bool, beneath: str = "/"
) -> HostView:
    """Return what of this host a JVM on ``java`` needs; ``extra`` as in `rootfs.view_host`.

    ``beneath`` is the trusted directory above a JDK that the task brings with it. Takes 5 to
    30 ms, nearly all for the libraries.

    Raises:
        ConfigError: the JDK, or a path of ``extra``, does not exist or cannot be read.
    """
    view = _View(recursive=recursive)
    for path in sorted(extra):
        try:
            view.show(path)
        except PathError as exc:
            raise ConfigError(
                "java_home", f"{path}: {exc.words}", "a complete JDK that exists"
            ) from exc
    for path in (*HOST_ETC, *DATA):
        if path not in NOT_NEEDED:
            view.show_if_there(path)
    try:
        libraries = host_libraries(java, beneath=beneath)
    except PathError as exc:
        raise ConfigError(
            "java_home", f"{exc.part}: {exc.words}", "a JDK for this machine"
        ) from exc
    for path in libraries:
        view.show_if_there(path)
    return HostView(tuple(view.binds.values()), view.links)


class _View:
    """Collects binds, and the symlinks outside of them."""

    def __init__(self, *, recursive: bool) -> None:
        self.recursive = recursive
        self.binds: dict[str, Bind] = {}
        """By destination."""
        self.links: dict[str, str] = {}

    def show_if_there(self, path: str) -> None:
        with contextlib.suppress(PathError):
            self.show(path)

    def show(self, path: str) -> None:
        """Have ``path`` seen in the container as on the host. Raises `PathError`."""
        with walk.follow(path) as held:
            real, kind, links = held.path, held.kind, held.links
        if real == "/":
            raise PathError(path, Reason.OUTSIDE, "it leads to /")
        self.links |= {link: target for link, target in links.items() if not self._is_shown(link)}
        if self._is_shown(real):
            return
        directory = kind is Kind.DIRECTORY
        if directory:
            # what is in it is seen with it, links too
            for inner in [inner for inner in self.binds if is_inside(inner, real)]:
                del self.binds[inner]
            for inner in [inner for inner in self.links if is_inside(inner, real)]:
                del self.links[inner]
        elif kind is not Kind.FILE:
            raise PathError(path, Reason.KIND, "it is no file and no directory")
        self.binds[real] = Bind(
            real, real, directory=directory, recursive=self.recursive and directory
        )

    def _is_shown(self, path: str) -> bool:
        while path != "/":
            if path in self.binds:
                return True
            path = os.path.dirname(path)
        return False
