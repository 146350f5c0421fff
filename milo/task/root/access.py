"""Whether the task's user can use what its JVM is to open: asked of the kernel, not computed.

The driver reads everything, and the application may not: then Java says that a file is not there
which is, or that a class is unknown. So the preparer takes the user, the groups and the
capabilities that the application gets, and goes the way that it would go, by descriptors: owners,
modes, access lists and file servers then count as they do for the application. Above a mount
nothing counts, since the container does not go that way. Then it takes back what it was: a child
that is forked for this alone would cost a tenth of a start (6 ms of 60, measured).
"""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import shlex
import stat
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import attrs

from milo import proc, walk
from milo.core.config.task_options import TaskOptions
from milo.core.container import capabilities, userns
from milo.core.container.mounts import Bind, is_inside
from milo.core.container.spec import User
from milo.core.launch import Launch
from milo.core.text import shortened
from milo.errors import AccessError, PathError
from milo.namespaces import groups_are_kept
from milo.task.oci import users
from milo.walk import Held, Kind

OVERRIDES: Final = ("dac_override", "dac_read_search")
"""The capabilities that open files and directories whatever their modes say."""
REFUSALS: Final = (errno.EACCES, errno.EPERM)

_USES: Final = {
    (os.R_OK, False): "read",
    (os.R_OK, True): "read",
    (os.X_OK, False): "use",
    (os.X_OK, True): "enter",
}
"""By what is needed, and whether that is a directory and is itself in the way."""
_REMEDIES: Final = {
    "host": "Have the client's operator do: chmod -R a+rX {1}",
    "job": "Let the volume's files be read by that user, or set the task's user to theirs",
    "task": (
        "Set chown = true in the artifact block that brings it{0}, perms in a template, or the "
        "task's user to one who may use it"
    ),
}
"""By where it comes from. {0}: what else Nomad needs for that; {1}: the host's path."""


@attrs.frozen
class Need:
    """What the application is to do with a file or directory."""

    what: str
    """As the job calls it."""
    path: str
    """On the host, without symlinks."""
    use: int
    """``os.R_OK``: read it, or list it; ``os.X_OK``: execute it, or enter it."""


@attrs.frozen
class Identity:
    """Who a process is to the host's files."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    capabilities: int
    """A bit mask."""

    @classmethod
    def of(cls, user: User, granted: Iterable[str], first_id: int) -> Identity:
        """Return ``user`` with those of the ``granted`` capabilities that open files.

        With ``first_id``, as it is without idmapped mounts in a user namespace: a stranger.
        """
        if first_id:
            return cls(user.uid + first_id, user.gid + first_id, (), 0)
        mask = sum(1 << capabilities.KNOWN.index(name) for name in OVERRIDES if name in granted)
        return cls(user.uid, user.gid, user.groups, mask)

    @contextlib.contextmanager
    def assumed(self) -> Iterator[None]:
        """Be that to the files which the block uses; raises OSError.

        Root stays the saved user, which is the way back, and which keeps every other user's
        processes from looking into this one.
        """
        groups, group = os.getgroups(), os.getgid()
        keeps_groups = groups_are_kept()  # those that an ordinary user's application keeps as well
        parent, dies = os.getppid(), proc.death_signal()
        try:
            if not keeps_groups:
                os.setgroups(self.groups)
            os.setresgid(self.gid, self.gid, -1)
            os.setresuid(self.uid, self.uid, -1)
            proc.use_capabilities(self.capabilities)
            yield
        finally:
            proc.use_capabilities(None)
            os.setresuid(0, 0, -1)
            os.setresgid(group, group, -1)
            if not keeps_groups:
                os.setgroups(groups)
            if dies:
                proc.die_with(parent, dies)


def check(
    needs: Iterable[Need],
    binds: Sequence[Bind],
    launch: Launch,
    options: TaskOptions,
    user: User,
) -> None:
    """Refuse what the application, as ``user``, could not use; ``binds`` are its container's.

    Nothing is refused where it cannot be asked (Milo is not root).

    Raises:
        AccessError: with what is in the way, who owns it, and what to do.
    """
    if os.geteuid() != 0:
        return
    granted = capabilities.granted(options.cap_add, options.cap_drop, proc.bounding_capabilities())
    first_id = userns.first_id(launch.task_id) if launch.plugin.userns else 0
    own = _outside(user, launch.rights.ids) if launch.rights.ids else user
    # In a user namespace crun maps the ids of what is not the host's own.
    groups: dict[Identity, list[tuple[Need, Bind]]] = {}
    for need in needs:
        around = [bind for bind in binds if is_inside(need.path, bind.source)]
        if around:
            bind = max(around, key=lambda bind: len(bind.source))
            mapped = first_id if bind.origin == "host" else 0
            groups.setdefault(Identity.of(own, granted, mapped), []).append((need, bind))
    for identity, pairs in groups.items():
        for (need, bind), part in zip(pairs, _ask(identity, pairs, launch), strict=True):
            if part:
                raise _error(need, bind, part, launch, user)


def _outside(user: User, ids: userns.Ids) -> User:
    """Return who an ordinary user's container has as ``user`` is where Milo itself is."""
    return attrs.evolve(
        user,
        uid=userns.outside(ids.uids, user.uid),
        gid=userns.outside(ids.gids, user.gid),
        groups=tuple(userns.outside(ids.gids, group) for group in user.groups),
    )


def _ask(identity: Identity, pairs: Sequence[tuple[Need, Bind]], launch: Launch) -> list[str]:
    """Return, for each need, the path of what refuses ``identity``; empty where nothing does."""
    with contextlib.ExitStack() as stack:
        tops: dict[str, Held | None] = {}
        for _, bind in pairs:
            if bind.source not in tops:
                try:
                    top = stack.enter_context(_hold(bind.source, bind, launch))
                except PathError:
                    top = None  # gone meanwhile: the mount will say so
                tops[bind.source] = top
        with contextlib.suppress(OSError), identity.assumed():
            return [
                "" if (top := tops[bind.source]) is None else _refuses(top, need, bind)
                for need, bind in pairs
            ]
    return [""] * len(pairs)  # nothing is known: the application will say it


def _refuses(top: Held, need: Need, bind: Bind) -> str:
    """Return what does not let this process use what is needed, from the mount's ``top`` on."""
    at = top
    names = need.path[len(bind.source.rstrip("/")) :].split("/")
    with contextlib.ExitStack() as way:
        try:
            for name in filter(None, names):
                at = way.enter_context(at.enter(name))
            if need.use == os.X_OK:
                return "" if at.may(os.X_OK) else at.path
            if at.kind in (Kind.FILE, Kind.DIRECTORY):
                os.close(at.open(os.O_RDONLY))
        except PathError as exc:
            return at.path if exc.errno in REFUSALS else ""
    return ""


def _hold(path: str, bind: Bind, launch: Launch) -> Held:
    """Hold what is on the host at ``path``, which was found without symlinks."""
    return walk.follow(path) if bind.origin == "host" else walk.hold(path, beneath=launch.alloc_dir)


def _error(need: Need, bind: Bind, part: str, launch: Launch, user: User) -> AccessError:
    with _hold(part, bind, launch) as held:
        status, directory = held.status, held.kind is Kind.DIRECTORY
    shown = f"{bind.destination}{part[len(bind.source) :]}"
    named = "" if launch.user else f' and user = "{user.name}" in the task'
    remedy = _REMEDIES[bind.origin].format(named, part)
    uid, gid = status.st_uid, status.st_gid
    if launch.by_hand:
        letter = "x" if need.use == os.X_OK or (directory and part != need.path) else "r"
        remedy = f"To let it: chmod {_class(status, user, launch)}+{letter} {shlex.quote(part)}"
    if ids := launch.rights.ids:  # this process's namespace has other ids than the host
        uid, gid = userns.inside(ids.uids, uid), userns.inside(ids.gids, gid)
    return AccessError(
        f"User {_name(user.uid)} ({user.uid}:{user.gid}), as whom the task runs, cannot "
        f"{_USES[need.use, directory and part == need.path]} {need.what}: "
        f"{'the directory ' * directory}{shortened(shown)} has mode "
        f"{stat.S_IMODE(status.st_mode):04o} and belongs to {_name(uid)}:"
        f"{users.group_name(gid)}. {remedy}",
        path=shown,
    )


def _class(status: os.stat_result, user: User, launch: Launch) -> str:
    """Return which of a mode's three triples counts for ``user``, as chmod calls it."""
    own = _outside(user, launch.rights.ids) if launch.rights.ids else user
    if status.st_uid == own.uid:
        return "u"
    return "g" if status.st_gid in (own.gid, *own.groups) else "o"


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
