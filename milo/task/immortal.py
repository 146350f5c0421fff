"""Python's objects that are never freed, and whose references are not counted.

CPython counts the references to an object in the object, so reading it is writing to it. Since 3.12
it has immortal objects, whose counts it leaves alone (PEP 683). It makes few itself, and has no
function of Python's to make one; so the count is set here to the value that it gives to its own.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import types
from typing import Final

PASSING: Final = frozenset(
    {types.FrameType, types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType}
)
"""What runs, and must end: with it goes what it refers to."""
COUNT_BYTES: Final = 4
"""The lower half of the count is what decides. It begins an object in every build that has the
global interpreter lock, and addresses of objects are multiples of 16."""
_TRIALS: Final = 1000
_addressed = (ctypes.c_char * min(2**56, sys.maxsize // COUNT_BYTES * COUNT_BYTES)).from_address(0)
_memory = memoryview(_addressed).cast("B").cast("I")
"""All that a 64-bit processor can address, a number for each `COUNT_BYTES`."""


def make_all_immortal() -> int:
    """Let every object that there is live as long as this process; return how many were made so.

    0, and nothing is changed, where the interpreter does not count as it is supposed to here:
    before 3.12, in builds that lay out objects in another way, and in debug builds, which end
    where a string is immortal that they have not made so. That is tried out first.

    It is for a process that forks others, which then share the pages of these objects: nothing
    that is to be closed or freed by losing its last reference may be among them.
    """
    if not _can_be_made():
        return 0
    immortal = _count(None)
    made = 0
    gc.unfreeze()  # else they are not among the objects
    # What is in these lists cannot go before it is looked at.
    found = gc.get_objects()
    while found:
        new = []
        for one in found:
            place = id(one) // COUNT_BYTES
            # Not isinstance(), which asks the object: a proxy of what is gone raises an exception.
            if _memory[place] != immortal and type(one) not in PASSING:
                _memory[place] = immortal
                new.append(one)
        made += len(new)
        found = gc.get_referents(*new)
    return made


def _can_be_made() -> bool:
    """Whether a count lies where it is looked for, and one like None's is left alone."""
    # In 32 bits half of the addresses are beyond an index of Python's.
    if hasattr(sys, "gettotalrefcount") or sys.maxsize < 2**32:
        return False
    one = object()
    before = _count(one)
    references = [one] * _TRIALS
    if _count(one) != before + _TRIALS:
        return False
    del references
    immortal = _count(None)
    references = [None] * _TRIALS
    if _count(None) != immortal:
        return False
    _memory[id(one) // COUNT_BYTES] = immortal
    references = [one] * _TRIALS
    del references
    if _count(one) == immortal:
        return True
    _memory[id(one) // COUNT_BYTES] = before
    return False


def _count(one: object) -> int:
    return _memory[id(one) // COUNT_BYTES]
