"""Objects whose references are not counted, each time in an interpreter of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.support import pythons

ROOT: Final = Path(__file__).parents[2]
WITH: Final = sorted({path for release, path in pythons.found().items() if release != "3.11"})
"""The Pythons here that have immortal objects. The module needs nothing but Python itself."""
ALL: Final = sorted({sys.executable, *WITH})
NONE: Final = "there is no Python 3.12 or later here, and earlier ones have no immortal objects"
HEAD: Final = f"""\
import ctypes, gc, sys, weakref
sys.path.insert(0, {str(ROOT)!r})
import milo.task.immortal
from milo.task.immortal import make_all_immortal

class Thing:
    def __init__(self, name): self.name = name

def count(one): return ctypes.c_uint32.from_address(id(one)).value
"""


@pytest.fixture(params=WITH or [""])
def python(request: pytest.FixtureRequest) -> str:
    """Each Python that has immortal objects."""
    if not request.param:
        pytest.skip(NONE)
    return str(request.param)


def _run(python: str, code: str, *, before: str = "") -> str:
    words = [python, "-I", "-B", "-c", f"{before}\n{HEAD}{code}"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_what_there_is_is_no_longer_written_to_by_its_use(python: str) -> None:
    """Functions, code, their constants and names, types, instances, and what only C refers to."""
    assert (
        _run(
            python,
            """
old = Thing("a name of" + chr(32) + "its own")
kinds = [old, old.name, Thing, Thing.__init__, Thing.__init__.__code__,
         Thing.__init__.__code__.co_code, Thing.__init__.__code__.co_varnames, Thing.__mro__,
         sys.modules, weakref.ref(old)]
made = make_all_immortal()
assert made > 5_000, made
for kind in kinds:
    before = count(kind)
    more = [kind] * 100
    assert count(kind) == before == count(None), kind
    del more
    assert count(kind) == before, kind
    del kind
print("kept")
""",
        )
        == "kept\n"
    )


def test_what_comes_later_is_freed_as_ever(python: str) -> None:
    """By its count, and in a cycle by a collection, also where an immortal object had it."""
    assert (
        _run(
            python,
            """
old = Thing("old")
keeper = [old]
by_name = {}
make_all_immortal()
gc.freeze()
freed = []
def is_freed(one):
    weakref.finalize(one, freed.append, one.name)
late = Thing("late")
is_freed(late)
del late
cycle = Thing("cycle")
cycle.self = cycle
is_freed(cycle)
del cycle
old.late = Thing("of an old one")
is_freed(old.late)
del old.late
keeper.append(Thing("in an old list"))
is_freed(keeper[1])
keeper.clear()
for number in range(10_000):
    by_name[str(number)] = Thing(number)
by_name.clear()
gc.collect()
print(*sorted(freed), sep=", ")
""",
        )
        == "cycle, in an old list, late, of an old one\n"
    )


def test_the_interpreter_works_and_ends_as_before(python: str) -> None:
    """Classes, imports, exceptions and threads, collections meanwhile, and its own clean end."""
    assert _run(
        python,
        """
import threading
make_all_immortal()
gc.freeze()
import json, decimal, asyncio
class Child(Thing): pass
async def answer():
    await asyncio.sleep(0)
    return json.loads('{"a": [1, 2.5, null]}')
for _ in range(3):
    print(asyncio.run(answer()), Child("x").name, decimal.Decimal(1) / 8)
    gc.collect()
try:
    raise ValueError("told")
except ValueError as error:
    print(error)
thread = threading.Thread(target=print, args=("in a thread",))
thread.start()
thread.join()
""",
    ).splitlines() == ["{'a': [1, 2.5, None]} x 0.125"] * 3 + ["told", "in a thread"]


@pytest.mark.parametrize("python", ALL)
@pytest.mark.parametrize("word", ["None", "7", "2**32 - 1 - 10**6"])
def test_nothing_is_changed_where_counts_are_not_what_they_are_taken_for(
    python: str, word: str
) -> None:
    """As before Python 3.12, and in builds that put something else first."""
    assert (
        _run(
            python,
            f"""
milo.task.immortal._immortal_word = lambda: {word}
old = Thing("old")
before = count(old)
made = make_all_immortal()
more = [old] * 100
print(made, count(old) - before)
""",
        )
        == "0 100\n"
    )


def test_what_the_interpreter_takes_for_immortal_is_tried_out(python: str) -> None:
    """Python 3.14 looks at a flag, too. Without it counts fall, and this would have no end."""
    expected = "False" if _run(python, "print(sys.version_info >= (3, 14))") == "True\n" else "True"
    code = """
word = milo.task.immortal._immortal_word()
print(milo.task.immortal._is_left_alone(word & milo.task.immortal.COUNT))
assert milo.task.immortal._is_left_alone(word)
"""
    assert _run(python, code) == f"{expected}\n"


def test_what_refers_to_itself_and_is_made_by_c_has_an_end(python: str) -> None:
    """Functions of the C library, as a spawner has some, and what they refer to."""
    assert (
        _run(
            python,
            """
library = ctypes.CDLL(None, use_errno=True)
function = library.prctl
function.argtypes = (ctypes.c_int,)
assert make_all_immortal() > 5_000
before = count(function)
for _ in range(100):
    assert function in gc.get_referents(function), "by which it is found again"
print(count(function) - before, make_all_immortal() < 1_000)
""",
        )
        == "0 True\n"
    )


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="this Python has immortal objects")
def test_python_before_3_12_is_left_alone() -> None:
    """There a count of any value is a count."""
    code = "print(make_all_immortal(), sys.getrefcount(Thing('x')))"
    assert _run(sys.executable, code) == "0 1\n"


def test_a_proxy_of_what_is_gone_is_not_asked_what_it_is(python: str) -> None:
    """It raises an exception when it is used in any way, also by isinstance()."""
    assert (
        _run(
            python,
            """
gone = Thing("gone")
proxy = weakref.proxy(gone)
kept = [proxy]
del gone
assert make_all_immortal() > 5_000
assert count(proxy) == count(None)
print("made")
""",
        )
        == "made\n"
    )


def test_nothing_is_written_to_what_was_made(python: str) -> None:
    """Not by the references that the interpreter had of it meanwhile, as in Python 3.14."""
    assert (
        _run(
            python,
            """
objects = gc.get_objects()  # which live on
places = list(map(id, objects))
made = make_all_immortal()
wanted = count(None)
memory = milo.task.immortal._memory
print(sum(memory[place // 8] % 2**32 == wanted for place in places) > 0.99 * len(places))
""",
        )
        == "True\n"
    )


@pytest.mark.parametrize(
    "change",
    ["sys.gettotalrefcount = lambda: 0", "sys.maxsize = 2**31 - 1"],
    ids=["debug", "32bit"],
)
def test_debug_builds_and_those_of_32_bits_are_left_alone(python: str, change: str) -> None:
    """The first abort at a string of which they do not know that it is immortal.

    The second have addresses that are no index.
    """
    before = f"import sys\n{change}"
    assert _run(python, "print(make_all_immortal())", before=before) == "0\n"


def test_the_constants_of_code_are_among_what_is_made(python: str) -> None:
    """Nothing but the code refers to them, and it tells the collector of none."""
    assert (
        _run(
            python,
            """
def use():
    def inner(): return (2.5, "a b")
    return inner
made = make_all_immortal()
inner = next(one for one in use.__code__.co_consts if hasattr(one, "co_consts"))
kinds = [inner, inner.co_consts[-1], inner.co_consts[-1][0]]
print([count(kind) == count(None) for kind in kinds])
""",
        )
        == "[True, True, True]\n"
    )
