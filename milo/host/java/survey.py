"""Looks through a JDK's files: who can write them, and where their symlinks lead.

Plain file system reads, bounded, for a thread of their own. Nothing is executed here.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator

import attrs

MAX_FILES = 20_000
"""JDK 17 and 25 have about 500 files; an application's own tree below one is no JDK."""
MAX_DEPTH = 24
_MAX_LINKS = 40

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_JAVA_NAME = re.compile(r"java|jdk|jre", re.IGNORECASE)


@attrs.frozen
class Rules:
    """What is trusted and what may be bound; tests have their own."""

    owner: int = 0
    """The user who alone may be able to write."""
    top: str = "/"
    """Nothing above this directory is checked."""
    bindable: tuple[str, ...] = (
        "/etc/",
        "/opt/",
        "/usr/lib/jvm/",
        "/usr/local/",
        "/usr/share/",
        "/var/lib/",
    )
    """Below these a JDK's symlinks may lead for the container to see the target; never to
    the directories themselves, and nowhere else (/root, /home, /proc …)."""
    ignored: tuple[str, ...] = ("/usr/share/doc/", "/usr/share/man/", "/usr/share/javadoc/")
    """No JVM reads these."""


@attrs.frozen
class Survey:
    """What a JDK's tree looks like."""

    distrust: str
    """Why somebody other than `Rules.owner` could change it; empty when nobody can."""
    binds: tuple[str, ...]
    """Host paths outside of it that its symlinks lead to and that are safe to bind."""
    files: int
    newest_ns: int
    """The latest change (ctime) of any of its files."""


def survey(home: str, rules: Rules) -> Survey:
    """Look through the tree of ``home``, which has no symlinks in its own path.

    Once somebody else is found to have write access, nothing outside of the tree is looked
    through. Raises `OSError` when ``home`` itself cannot be read.
    """
    walk = _Walk(rules)
    walk.check_chain(home)
    pending = [home]
    seen = {home}
    binds: list[str] = []
    while pending:
        root = pending.pop()
        for target in sorted(walk.external_links(root)):
            if _within(target, home) or target.startswith(rules.ignored):
                continue
            real = _real(target)
            if not real:
                continue
            walk.check_chain(target)
            bind = bind_for(target, rules)
            if bind and not _within(home, bind):
                binds.append(bind)
            directory = bind if bind and os.path.isdir(bind) else real
            if walk.distrust or not os.path.isdir(directory) or _real(directory) in seen:
                continue
            seen.add(_real(directory))
            pending.append(_real(directory))
    return Survey(walk.distrust, _outermost(binds), walk.files, walk.newest_ns)


def bind_for(target: str, rules: Rules) -> str:
    """Return the path to bind so that ``target`` is seen in the container; empty for none.

    That is the first directory on the way to it that is named after Java, so that a file
    that is replaced by another is still seen, or else the file alone. All of it must be
    readable by everyone and writable by the owner alone: so it shows a task nothing that
    the host's users could not read, and nobody can exchange it.
    """
    root = next((root for root in rules.bindable if target.startswith(root)), "")
    if not root or target.startswith(rules.ignored):
        return ""
    parts = target[len(root) :].split("/")
    for count in range(1, len(parts) + 1):
        path = root + "/".join(parts[:count])
        if count == len(parts) or (_JAVA_NAME.search(parts[count - 1]) and os.path.isdir(path)):
            break
    real = _real(path)
    if not real or not any(real.startswith(allowed) for allowed in rules.bindable):
        return ""
    try:
        mode = os.stat(real).st_mode
    except OSError:
        return ""
    if stat.S_ISDIR(mode):
        named = _JAVA_NAME.search(os.path.basename(path))
        readable = named and mode & stat.S_IROTH and mode & stat.S_IXOTH
    else:
        readable = stat.S_ISREG(mode) and mode & stat.S_IROTH
    return path if readable and not writable_by_others(path, rules) else ""


def writable_by_others(path: str, rules: Rules) -> str:
    """Return what another than the owner can change on the way to a file; empty for none.

    That is the file, every directory on the way, and the same for every symlink met, below
    `Rules.top`. POSIX access lists need no look of their own: their mask is what the group's
    bits show.
    """
    pending = path.split("/")[::-1]
    at = "/"
    links = 0
    try:
        if problem := _distrust(at, os.lstat(at), rules):
            return problem
        while pending:
            name = pending.pop()
            if name in ("", ".", ".."):
                at = os.path.dirname(at) if name == ".." else at
                continue
            at = os.path.join(at, name)
            found = os.lstat(at)
            if problem := _distrust(at, found, rules):
                return problem
            if stat.S_ISLNK(found.st_mode):
                links += 1
                if links > _MAX_LINKS:
                    return f"{path} leads through more than {_MAX_LINKS} symlinks"
                target = os.readlink(at)
                pending += target.split("/")[::-1]
                at = "/" if target.startswith("/") else os.path.dirname(at)
    except OSError as error:
        return f"{at} cannot be read ({error.strerror})"
    return ""


class _Walk:
    """Walks trees one after the other, within one bound for all."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.distrust = ""
        self.files = 0
        self.newest_ns = 0

    def check_chain(self, path: str) -> None:
        self.distrust = self.distrust or writable_by_others(path, self.rules)

    def external_links(self, root: str) -> set[str]:
        """Return where symlinks in the tree lead, as far as that is outside of it."""
        found: set[str] = set()
        for path, status in self._files(root):
            self.distrust = self.distrust or _distrust(path, status, self.rules)
            self.newest_ns = max(self.newest_ns, status.st_ctime_ns)
            if stat.S_ISLNK(status.st_mode):
                try:
                    target = os.path.join(os.path.dirname(path), os.readlink(path))
                except OSError:
                    continue
                target = os.path.normpath(target)
                if not _within(target, root):
                    found.add(target)
        return found

    def _files(self, root: str) -> Iterator[tuple[str, os.stat_result]]:
        pending = [(root, 0)]
        while pending:
            directory, depth = pending.pop()
            try:
                entries = os.scandir(directory)
            except OSError as error:
                self.distrust = self.distrust or f"{directory} cannot be read ({error.strerror})"
                continue
            with entries:
                for entry in entries:
                    self.files += 1
                    if self.files > MAX_FILES or depth > MAX_DEPTH:
                        self.distrust = self.distrust or f"{root} holds too many files to check"
                        return
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue  # it is being replaced; the next look sees the new one
                    yield entry.path, status
                    if stat.S_ISDIR(status.st_mode):
                        pending.append((entry.path, depth + 1))


def _distrust(path: str, status: os.stat_result, rules: Rules) -> str:
    if not _within(path, rules.top):
        return ""
    if status.st_uid != rules.owner:
        return f"{path} belongs to the user {status.st_uid}"
    if status.st_mode & _OTHERS_WRITE and not stat.S_ISLNK(status.st_mode):
        return f"{path} can be written by others (mode {stat.S_IMODE(status.st_mode):o})"
    return ""


def _real(path: str) -> str:
    """Return the path with all symlinks resolved; empty when it leads nowhere."""
    try:
        return os.path.realpath(path, strict=True)
    except OSError:
        return ""


def _within(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def _outermost(paths: list[str]) -> tuple[str, ...]:
    """Return the paths in order, without those that lie in another one."""
    kept: list[str] = []
    for path in sorted(set(paths)):
        if not any(_within(path, other) for other in kept):
            kept.append(path)
    return tuple(kept)
