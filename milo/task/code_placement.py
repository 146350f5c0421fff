"""The code of functions that are used together, in pages of its own.

Python's interpreter writes into code as it runs it: counters, and the forms that fit what it has
met. So whoever runs a function copies the page that its code lies on, from the process that it was
forked from; and what is used of all modules lies scattered over all of them.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from operator import itemgetter
from types import CodeType, FunctionType
from typing import Final

SEPARATOR: Final = "\t"

_kept: Final[list[object]] = []
"""What was replaced, and what was needed for it. Freed, it would leave holes everywhere, and new
objects of the processes that are forked would go into them: one page copied for each, 0.8 MiB of a
task process (measured)."""


def name_of(code: CodeType) -> str:
    """Return what a code is called here: its file, below ``sys.path``, and its qualified name."""
    base = max(
        (f"{one}/" for one in sys.path if code.co_filename.startswith(f"{one}/")), default=""
    )
    return f"{code.co_filename.removeprefix(base)}{SEPARATOR}{code.co_qualname}"


def place_together(names: Sequence[str]) -> int:
    """Make new code for every function with one of ``names``, in their order, one behind the other.

    So it is for the functions that a function makes as it runs. Returns how many were made.

    Code that runs at the moment goes on as it is. What knows a function by its code does not know
    the new one: Trio does so to say whether Ctrl-C may interrupt it, which is nothing to a process
    that ignores SIGINT.
    """
    functions = all_functions()
    ranks = {name: rank for rank, name in enumerate(names)}
    ends = {name.partition(SEPARATOR)[2] for name in names}
    found = [
        (rank, code)
        for code in all_code(functions)
        if code.co_qualname in ends and (rank := ranks.get(name_of(code))) is not None
    ]
    wanted = [code for _, code in sorted(found, key=itemgetter(0))]
    # At its first use, what a code is made anew from is kept with it: bytes and tuples that would
    # lie between the new ones.
    for code in wanted:
        code.replace()
    placement = _Placement(map(id, wanted))
    for code in wanted:
        placement.of(code)
    _kept.append((names, ranks, ends, found, placement))
    for function in functions:
        if (code := function.__code__) is not (new := placement.of(code)):
            function.__code__ = new
    return len(wanted)


class _Placement:
    """New code for old. What is old must not go meanwhile, since it is known by its address."""

    def __init__(self, wanted: Iterable[int]) -> None:
        self._wanted = frozenset(wanted)
        self._known: dict[int, CodeType] = {}

    def of(self, code: CodeType) -> CodeType:
        """Return what to have instead, which may be the same."""
        if (known := self._known.get(id(code))) is not None:
            return known
        constants = tuple(
            self.of(one) if isinstance(one, CodeType) else one for one in code.co_consts
        )
        new = code
        if any(one is not two for one, two in zip(constants, code.co_consts, strict=True)):
            new = code.replace(co_consts=constants)
        elif id(code) in self._wanted:
            new = code.replace()
        self._known[id(code)] = new
        return new


def all_functions() -> list[FunctionType]:
    """The functions that there are. Nothing is frozen for the collector afterwards."""
    gc.unfreeze()  # else they are not among the objects
    return [one for one in gc.get_objects() if type(one) is FunctionType]


def all_code(functions: Collection[FunctionType]) -> Iterator[CodeType]:
    """The code of the functions, and of those that they make; each once."""
    seen: set[int] = set()
    waiting = [one.__code__ for one in functions]
    while waiting:
        code = waiting.pop()
        if id(code) not in seen:
            seen.add(id(code))
            yield code
            waiting.extend(one for one in code.co_consts if isinstance(one, CodeType))
