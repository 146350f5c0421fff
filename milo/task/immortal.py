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
WORD_BYTES: Final = 8
"""The count, and since 3.14 flags above it: it takes both to be immortal. They begin an object in
every build that has the global interpreter lock; addresses of objects are multiples of 16."""
COUNT: Final = 2**32 - 1
"""Its lower half is what decides."""
MOST_OF_TRACKED: Final = 50
"""Not more objects than so many for each that the collector knows are made so, where there are two:
it has an end, whatever happens."""
_USES: Final = 100
_addressed = (ctypes.c_char * min(2**56, sys.maxsize // WORD_BYTES * WORD_BYTES)).from_address(0)
_memory = memoryview(_addressed).cast("B").cast("Q")
"""All that a 64-bit processor can address, a number for each `WORD_BYTES`."""


def make_all_immortal() -> int:
    """Let every object that there is live as long as this process; return how many were made so.

    0, and nothing is changed, where the interpreter does not count as it is supposed to here:
    before 3.12, in builds that lay out objects in another way, and in debug builds, which end
    where a string is immortal that they have not made so. That is tried out first.

    It is for a process that forks others, which then share the pages of these objects: nothing
    that is to be closed or freed by losing its last reference may be among them.
    """
    word = _immortal_word()
    if word is None or not _is_left_alone(word):
        return 0
    immortal = word & COUNT
    made = 0
    gc.unfreeze()  # else they are not among the objects
    # What is in these lists cannot go before it is looked at.
    found = gc.get_objects()
    most = MOST_OF_TRACKED * len(found)
    while found and made < most:
        new = []
        for one in found:
            place = id(one) // WORD_BYTES
            # Not isinstance(), which asks the object: a proxy of what is gone raises an exception.
            if (old := _memory[place]) & COUNT != immortal and type(one) not in PASSING:
                _memory[place] = old & ~COUNT | word
                new.append(one)
        made += len(new)
        found = gc.get_referents(*new)
        # A code has no function of the collector's, so what it refers to is not among these.
        found.extend(one.co_consts for one in new if type(one) is types.CodeType)
    return made


def _immortal_word() -> int | None:
    """Return what begins an object that CPython has made immortal by itself; None: it has none.

    It does so with the names in code. None is immortal as well, but has flags of its own.
    """
    # In 32 bits half of the addresses are beyond an index of Python's.
    if hasattr(sys, "gettotalrefcount") or sys.maxsize < 2**32:
        return None
    [name] = compile("a_name_that_nothing_else_has", "", "eval").co_names
    word = _memory[id(name) // WORD_BYTES]
    references = [name] * _USES
    is_immortal = _memory[id(name) // WORD_BYTES] == word
    del references
    return word if is_immortal else None


def _is_left_alone(word: int) -> bool:
    """Whether an object that begins with ``word`` is not written to, whatever is done with it."""
    one = _Tried()
    place = id(one) // WORD_BYTES
    before = _memory[place]
    references = [one] * _USES
    if _memory[place] != before + _USES:
        return False
    del references
    _memory[place] = before & ~COUNT | word
    counted = _memory[place]
    references = [one] * _USES
    seen = {_memory[place]}
    del references
    for use in (_in_containers, _by_frames, _by_the_interpreter):
        for _ in range(_USES):
            use(one)
            seen.add(_memory[place])
    if seen == {counted}:
        return True
    _memory[place] = before
    return False


class _Tried:
    """Is what it refers to, as functions of the C library that ctypes has found are."""

    def __init__(self) -> None:
        self.itself = self


def _in_containers(one: _Tried) -> None:
    several = [one, one]
    several.append(several.pop())
    named = {"one": one, one: one}
    (*_, first), second = several, named.pop("one")
    several.extend(gc.get_referents(first, second))


def _by_frames(one: _Tried) -> None:
    def closure(other: object, *more: object, **named: object) -> object:
        return one if other is more else named["by_name"]

    closure(one.itself, one, by_name=one)
    [*(each for each in (one, one))]
    try:
        raise LookupError(one)
    except LookupError as error:
        isinstance(error.args[0], _Tried)


def _by_the_interpreter(one: _Tried) -> None:
    global _tried
    _tried = one
    gc.get_referents(_tried)
    hash(_tried)
    _tried.itself = _tried = one.itself
    del _tried


_tried: _Tried
