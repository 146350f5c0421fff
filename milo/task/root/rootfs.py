"""The container's root: parts of the host, mounted on an empty skeleton.

No file of the host is copied. ``/etc`` is the container's own and shows of the host's only what
`HOST_ETC` names, never the whole directory.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from typing import Final

import attrs

from milo import walk
from milo.core.container.mounts import Bind, is_inside, parents
from milo.errors import ConfigError, PathError

MERGED_DIRS: Final = ("/bin", "/lib", "/lib32", "/lib64", "/libx32", "/sbin")
"""Symlinks into /usr on a merged host, recreated as they are; else directories, bound."""

HOST_ETC: Final = (
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/ca-certificates.conf",
    "/etc/centos-release",
    "/etc/crypto-policies/back-ends",
    "/etc/crypto-policies/config",
    "/etc/debian_version",
    "/etc/fedora-release",
    "/etc/fonts",
    "/etc/gai.conf",
    "/etc/gss/mech.d",
    "/etc/krb5.conf",
    "/etc/krb5.conf.d",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/locale.alias",
    "/etc/localtime",
    "/etc/lsb-release",
    "/etc/mailcap",
    "/etc/mime.types",
    "/etc/networks",
    "/etc/os-release",
    "/etc/papersize",
    "/etc/pki/ca-trust/extracted",
    "/etc/pki/java",
    "/etc/pki/tls/cert.pem",
    "/etc/pki/tls/certs",
    "/etc/pki/tls/ct_log_list.cnf",
    "/etc/pki/tls/openssl.cnf",
    "/etc/protocols",
    "/etc/redhat-release",
    "/etc/rpc",
    "/etc/services",
    "/etc/ssl/cert.pem",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/system-release",
    "/etc/timezone",
    "/var/lib/ca-certificates",
)
"""Public everywhere: certificates (Debian, Fedora, SUSE), time zone, fonts, linker cache, what the
distribution is, Kerberos realms: what the JDK, glibc, OpenSSL, OSHI and fontconfig open (by strace,
and HotSpot's os_linux.cpp). /etc has private keys, a keytab and the machine's id beside these, so
only they are named."""

SKELETON_DIRS: Final = ("/dev", "/etc", "/proc", "/run", "/sys", "/usr", "/var")
SKELETON_LINKS: Final = {"/etc/mtab": "/proc/self/mounts", "/var/run": "/run", "/var/tmp": "/tmp"}  # noqa: S108


@attrs.frozen
class HostView:
    """The host's part of the container's root."""

    binds: tuple[Bind, ...]
    links: dict[str, str]
    """Path in the container to what the symlink there says."""


def view_host(extra: Iterable[str], *, recursive: bool) -> HostView:
    """Return what of this host the container shows, with the paths ``extra`` (the JDK) added.

    ``recursive``: what is mounted below these paths is shown too.

    Raises:
        ConfigError: a path of ``extra`` does not exist.
    """
    binds: list[Bind] = []
    links: dict[str, str] = {}

    def covered(path: str) -> bool:
        return any(is_inside(path, bind.destination) for bind in binds)

    def add(path: str, source: str, directory: bool) -> None:
        binds.append(Bind(source, path, directory=directory, recursive=recursive and directory))

    for path in ("/usr", *MERGED_DIRS, *HOST_ETC):
        # Half of them are of other distributions: to ask the kernel takes 2 µs, an error 22.
        if covered(path) or not os.path.lexists(path):
            continue
        with contextlib.suppress(PathError), walk.follow(path) as held:
            target = held.links.get(path)
            if target is not None and (path in MERGED_DIRS or _stays(held.path, binds)):
                links[path] = target
            else:
                add(path, held.path, held.kind is walk.Kind.DIRECTORY)
    for path in sorted(extra):
        if covered(path) or path in links:
            continue
        try:
            with walk.follow(path) as held:
                add(path, held.path, held.kind is walk.Kind.DIRECTORY)
        except PathError as exc:
            raise ConfigError("java_home", f"{path}: {exc.words}", "a complete JDK") from exc
    return HostView(tuple(binds), links)


def _stays(target: str, binds: list[Bind]) -> bool:
    """Whether what a symlink leads to is in the container, under the same path."""
    return any(bind.source == bind.destination and is_inside(target, bind.source) for bind in binds)


def write_skeleton(
    rootfs: str, binds: Iterable[Bind], links: dict[str, str], files: dict[str, str]
) -> None:
    """Make the root: directories, mount points, symlinks and the files of /etc.

    ``rootfs`` must not exist. Binds inside another bind are left out: their mount points are
    not in this tree. Modes are set without regard to the umask, since the agent's may be 077.

    Raises:
        OSError: the state directory's file system refuses.
    """
    skeleton = _Skeleton(rootfs)
    for path in SKELETON_DIRS:
        skeleton.directory(path)
    for bind in binds:
        if any(path in skeleton.points for path in parents(bind.destination)):
            continue
        if bind.directory:
            skeleton.directory(bind.destination)
        else:
            skeleton.file(bind.destination, "")
        skeleton.points.add(bind.destination)
    for path, text in files.items():
        if path not in skeleton.points and path not in links:  # else the job has its own there
            skeleton.file(path, text)
    for path, target in links.items():
        skeleton.directory(os.path.dirname(path))
        os.symlink(target, rootfs + path)


class _Skeleton:
    """Makes files and directories in a new directory, which nobody else can write to."""

    def __init__(self, top: str) -> None:
        os.mkdir(top)
        os.chmod(top, 0o755)  # noqa: S103 - the container's own root directory
        self.points: set[str] = set()
        """Mount points so far."""
        self._top = top
        self.made = {"/"}

    def directory(self, path: str) -> None:
        if path in self.made:
            return
        self.directory(os.path.dirname(path))
        os.mkdir(self._top + path)
        os.chmod(self._top + path, 0o755)  # noqa: S103 - a directory of the container's
        self.made.add(path)

    def file(self, path: str, text: str) -> None:
        self.directory(os.path.dirname(path))
        fd = os.open(self._top + path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            os.fchmod(fd, 0o644)
            view = memoryview(text.encode("utf-8", "surrogateescape"))
            while view:
                view = view[os.write(fd, view) :]
        finally:
            os.close(fd)
