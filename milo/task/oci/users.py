"""Resolves the job's user against the host's user database."""

from __future__ import annotations

import grp
import os
import pwd
from typing import Final

from milo.core.config.rules import DEFAULT_USER
from milo.core.container.spec import User
from milo.errors import UserError

MAX_ID: Final = 2**32 - 2
"""The largest user or group id; 2**32 - 1 means "no change" to the kernel."""


def resolve_user(text: str) -> User:
    """Return who the application runs as.

    ``text`` is the job's ``user``: empty for `DEFAULT_USER`, a name or an id of the host, or
    ``user:group`` with either as name or id. A name comes with its supplementary groups, as at
    a login. Ids that the host does not know are taken only as ``uid:gid``, where nothing is
    left to look up.

    Raises:
        UserError: not on this host.
    """
    wanted = text or DEFAULT_USER
    name, colon, group = wanted.partition(":")
    entry = _find_user(name)
    if entry is None and not (name.isdecimal() and colon and group.isdecimal()):
        raise UserError(
            wanted, "this host has no such user. Create it there, or set the task's user to another"
        )
    uid = int(name) if entry is None else entry.pw_uid
    if colon:
        gid = _find_group(group, wanted)
    elif entry is not None:
        gid = entry.pw_gid
    if max(uid, gid) > MAX_ID:
        raise UserError(wanted, f"an id may not be larger than {MAX_ID}")
    groups: tuple[int, ...] = ()
    if entry is not None:
        groups = tuple(sorted({*os.getgrouplist(entry.pw_name, gid)} - {gid}))
    return User(uid, gid, groups, "" if entry is None else entry.pw_name)


def group_name(gid: int) -> str:
    """Return the host's name of a group, or ``group<gid>``."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return f"group{gid}"


def _find_user(text: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(int(text)) if text.isdecimal() else pwd.getpwnam(text)
    except (KeyError, OverflowError, ValueError):
        return None


def _find_group(text: str, wanted: str) -> int:
    if text.isdecimal():
        return int(text)
    try:
        return grp.getgrnam(text).gr_gid
    except (KeyError, ValueError) as exc:
        raise UserError(wanted, f"this host has no group {text!r}") from exc
