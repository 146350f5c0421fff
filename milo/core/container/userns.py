"""User namespaces: which ids of the host a container's ids are, and what that requires. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

import attrs

from milo.core.versions import version_numbers

FIRST_ID: Final = 0x7000_0000
"""From here to 2**31 systemd's list of id ranges (UIDS-GIDS.md) has nobody's ids, and what
adduser and useradd give to users and their subordinate ids lies far below."""
BLOCK_SIZE: Final = 65_536
BLOCKS: Final = 4_095

PAUSE_ID: Final = FIRST_ID + BLOCK_SIZE * BLOCKS
"""Behind the blocks: user and group of the pause processes, on the host."""

MIN_KERNEL: Final = (6, 3)
"""Idmapped mounts came with 5.12, those of tmpfs, which Nomad mounts as secrets/, with 6.3."""


OVERFLOW_ID: Final = 65534
"""Who everybody is that has no id in a user namespace; /proc/sys/kernel/overflowuid."""
OWNERS_INSIDE: Final = (0, OVERFLOW_ID)
"""Whom a process trusts in the user namespace of an ordinary user: him, who is 0 there, and the
host's root, who is nobody there. So are others: they have to be told apart before it enters."""


@attrs.frozen
class IdRange:
    """So many ids in a row, as a user namespace maps them."""

    inside: int
    outside: int
    """In the namespace of whoever makes it."""
    size: int = 1


@attrs.frozen
class Ids:
    """The ids of a container's user namespace."""

    uids: tuple[IdRange, ...]
    gids: tuple[IdRange, ...]
    idmapped: bool = False
    """Whether files belong to the same ids in there as on the host, by idmapped mounts."""


def block(first: int) -> Ids:
    """Return the ids from 0 on, which stand for those of the host from ``first`` on."""
    ranges = (IdRange(0, first, BLOCK_SIZE),)
    return Ids(ranges, ranges, idmapped=True)


def own_ids(uid: int, gid: int, more_uids: int = 0, more_gids: int = 0) -> Ids:
    """Return the ids of an ordinary user, who is 0 where the container is made.

    Both namespaces together map him to himself, so that files need no mapping. ``more_uids`` and
    ``more_gids``: so many subordinate ids follow there, for the other users of the container.
    """
    return Ids(_around(uid, more_uids), _around(gid, more_gids))


def _around(own: int, more: int) -> tuple[IdRange, ...]:
    below = min(own, more)
    ranges = (
        IdRange(0, 1, below),
        IdRange(own, 0),
        IdRange(own + 1, below + 1, more - below),
    )
    return tuple(one for one in ranges if one.size)


def maps(ranges: tuple[IdRange, ...], number: int) -> bool:
    """Whether an id exists in a user namespace."""
    return any(one.inside <= number < one.inside + one.size for one in ranges)


def inside(ranges: tuple[IdRange, ...], number: int) -> int:
    """Return what an id outside of a user namespace is in it; one without is itself."""
    return next(
        (
            one.inside + number - one.outside
            for one in ranges
            if one.outside <= number < one.outside + one.size
        ),
        number,
    )


def outside(ranges: tuple[IdRange, ...], number: int) -> int:
    """Return what an id that exists in a user namespace is outside of it."""
    one = next(one for one in ranges if one.inside <= number < one.inside + one.size)
    return one.outside + number - one.inside


def subordinate(text: str, name: str, uid: int) -> tuple[int, int] | None:
    """Return the first id and the number of a user's in /etc/subuid or /etc/subgid; subuid(5)."""
    for line in text.splitlines():
        user, _, rest = line.partition(":")
        first, _, count = rest.partition(":")
        if user in (name, str(uid)) and first.isdecimal() and count.isdecimal() and int(count):
            return int(first), int(count)
    return None


def first_id(task_id: str) -> int:
    """Return the host's id that a task's 0 stands for; the next `BLOCK_SIZE` - 1 follow.

    Chosen by the task's id, so that nothing has to be kept: two of 100 tasks on one host share
    a block with a probability of about two thirds, and are then as far apart as all tasks are
    without user namespaces.
    """
    digest = hashlib.sha256(task_id.encode()).digest()
    return FIRST_ID + BLOCK_SIZE * (int.from_bytes(digest[:8]) % BLOCKS)


def unmapped(ids: Iterable[int]) -> list[int]:
    """Return those ids that no block has room for."""
    return [number for number in ids if number >= BLOCK_SIZE]


def host_problem(kernel: str, uid_map: str, max_namespaces: str) -> str:
    """Return why this host cannot give user namespaces, or an empty text.

    ``kernel`` is its release, as uname(2) says it, ``uid_map`` that of this process,
    ``max_namespaces`` the content of /proc/sys/user/max_user_namespaces, empty without such a
    file.
    """
    if not max_namespaces.strip():
        return "the kernel is built without user namespaces"
    if max_namespaces.strip() == "0":
        return "user.max_user_namespaces is 0"
    if uid_map.split() != ["0", "0", "4294967295"]:
        return "Nomad's agent is in a user namespace itself"
    if version_numbers(kernel) < MIN_KERNEL:
        return f"Linux {kernel} is older than 6.3, which maps the ids of a tmpfs"
    return ""
