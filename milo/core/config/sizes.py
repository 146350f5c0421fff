"""Sizes in bytes, as people write them: ``512m``, ``1.5g``. Pure."""

from __future__ import annotations

import re
from typing import Final

_SIZE: Final = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,3})?)\s*([kmgt]?)(?:i?b)?", re.ASCII)
_UNITS: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_MAX_BYTES: Final = 2**63 - 1


def parse_size(text: str, *, bare: bool = False) -> int:
    """Return the bytes of a size: ``64k``, ``512m``, ``1.5g``, ``2t``, in powers of 1024.

    Upper case, and a ``b`` or ``ib`` after the unit, say the same. A number without a unit is
    taken, as bytes, only with ``bare``: Nomad's ``memory`` counts in megabytes and Docker's
    ``shm_size`` in bytes, so that nobody can know what such a number means.

    Raises `ValueError`, whose text says what is wrong with ``text``.
    """
    match = _SIZE.fullmatch(text.strip().lower())
    if match is None:
        raise ValueError("it is no size")
    if not (match[2] or bare):
        raise ValueError('it has no unit, such as "m" or "g"')
    whole, _, fraction = match[1].partition(".")
    size = int(whole + fraction) * _UNITS[match[2]] // int(10 ** len(fraction))
    if size > _MAX_BYTES:
        raise ValueError("it is larger than any memory or disk")
    return size
