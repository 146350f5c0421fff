"""Looks through a JDK's files: who can write them, and where their symlinks lead.

Plain file system reads, bounded, for a thread of their own. Nothing is executed here.
"""

from __future__ import annotations

import os
import re
import stat

import attrs

from milo import proc, walk
from milo.errors import PathError, Reason
from milo.walk import Held, Kind

MAX_FILES = 20_000
"""JDK 17 and 25 have about 500 files; an application's own tree below one is no JDK."""
MAX_DEPTH = 24

_JAVA_NAME = re.compile(r"java|jdk|jre", re.IGNORECASE)


@attrs.frozen
class Rules:
    """What is trusted and what may be bound; tests have their own."""

    owners: tuple[int, ...] = attrs.field(factory=proc.trusted_users)
    """The users who alone may be able to write."""
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
    """Why somebody other than `Rules.owners` could change it; empty when nobody can."""
    binds: tuple[str, ...]
    """Host paths outside of it that its symlinks lead to and that are safe to bind."""
    files: int
    newest_ns: int
    """The latest change (ctime) of any of its files."""


def survey(home: str, rules: Rules) -> Survey:
    """Look through the tree of ``home``, which has no symlinks in its own path.

    Once somebody else is found to have write access, nothing outside of the tree is looked
    through. Raises `PathError` when ``home`` itself cannot be read.
    """
    look = _Look(rules)
    look.check_chain(home)
    pending = [home]
    seen = {home}
    binds: list[str] = []
    while pending:
        root = pending.pop()
        for target in sorted(look.external_links(root)):
            if _within(target, home) or target.startswith(rules.ignored):
                continue
            real, kind = _follow(target)
            if not real:
                continue
            look.check_chain(target)
            bind = bind_for(target, rules)
            if bind and not _within(home, bind):
                binds.append(bind)
                real_bind, kind_of_bind = _follow(bind)
                if kind_of_bind is Kind.DIRECTORY:
                    real, kind = real_bind, kind_of_bind
            if look.distrust or kind is not Kind.DIRECTORY or real in seen:
                continue
            seen.add(real)
            pending.append(real)
    return Survey(look.distrust, _outermost(binds), look.files, look.newest_ns)


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
        if count == len(parts) or (
            _JAVA_NAME.search(parts[count - 1]) and _follow(path)[1] is Kind.DIRECTORY
        ):
            break
    try:
        with walk.follow(path) as held:
            if not held.path.startswith(rules.bindable):
                return ""
            kind, mode = held.kind, held.status.st_mode
    except PathError:
        return ""
    if kind is Kind.DIRECTORY:
        named = _JAVA_NAME.search(os.path.basename(path))
        readable = named and mode & stat.S_IROTH and mode & stat.S_IXOTH
    else:
        readable = kind is Kind.FILE and mode & stat.S_IROTH
    return path if readable and not _writable(path, rules) else ""


class _Look:
    """Looks through trees one after the other, within one bound for all."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.distrust = ""
        self.files = 0
        self.newest_ns = 0

    def check_chain(self, path: str) -> None:
        self.distrust = self.distrust or _writable(path, self.rules)

    def external_links(self, root: str) -> set[str]:
        """Return where symlinks in the tree lead, as far as that is outside of it."""
        found: set[str] = set()
        with walk.follow(root) as top:
            for held in top.tree(MAX_FILES - self.files, MAX_DEPTH, self._note):
                self.files += 1
                self._note_file(held)
                if held.kind is Kind.SYMLINK:
                    target = os.path.join(os.path.dirname(held.path), held.target())
                    target = os.path.normpath(target)
                    if not _within(target, root):
                        found.add(target)
        return found

    def _note(self, problem: PathError) -> None:
        self.distrust = self.distrust or (
            f"{problem.part} holds too many files to check"
            if problem.reason is Reason.TOO_LONG
            else f"{problem.part} cannot be read ({problem.words})"
        )

    def _note_file(self, held: Held) -> None:
        if _within(held.path, self.rules.top):
            problem = walk.others_write(held.path, held.status, self.rules.owners)
            self.distrust = self.distrust or problem
        self.newest_ns = max(self.newest_ns, held.status.st_ctime_ns)


def _writable(path: str, rules: Rules) -> str:
    return walk.writable_by_others(path, owners=rules.owners, top=rules.top)


def _follow(path: str) -> tuple[str, Kind | None]:
    """Return where a path leads on the host, and what is there; empty when it leads nowhere."""
    try:
        with walk.follow(path) as held:
            return held.path, held.kind
    except PathError:
        return "", None


def _within(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def _outermost(paths: list[str]) -> tuple[str, ...]:
    """Return the paths in order, without those that lie in another one."""
    kept: list[str] = []
    for path in sorted(set(paths)):
        if not any(_within(path, other) for other in kept):
            kept.append(path)
    return tuple(kept)
