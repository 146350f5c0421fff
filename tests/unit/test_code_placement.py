"""Functions get code of their own place, and do what they did."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest

from milo.spawner import used_code
from milo.task import code_placement
from milo.task.code_placement import all_code, name_of, place_together

SOURCE = """\
def plain(one, two=2, *, three=3):
    return one + two + three

def maker(number):
    def made(more):
        return number + more
    return made

def generate(count):
    for number in range(count):
        yield number * number

async def wait():
    return "waited"

class Thing:
    def __init__(self):
        self.calls = 0

    @property
    def called(self):
        self.calls += 1
        return self.calls

    @classmethod
    def make(cls):
        return cls()

def unused():
    return lambda: "unused"

def twice(text):
    return list(map(lambda word: word * 2, text.split()))
"""


@pytest.fixture
def module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], dict[str, Any]]]:
    """Returns the names of a module with this source, that lies below ``sys.path``."""
    monkeypatch.syspath_prepend(tmp_path)
    kept = len(code_placement._kept)

    def load(source: str) -> dict[str, Any]:
        names: dict[str, Any] = {"__name__": "tried"}
        exec(compile(source, str(tmp_path / "tried.py"), "exec"), names)
        return names

    yield load
    del code_placement._kept[kept:]


def _tried(*names: str) -> list[str]:
    return [f"tried.py\t{name}" for name in names]


def test_they_do_what_they_did(module: Callable[[str], dict[str, Any]]) -> None:
    """Arguments, closures, generators, coroutines, methods, and what a function makes."""
    one = module(SOURCE)
    before = {name: one[name].__code__ for name in ("plain", "maker", "unused", "twice")}
    running = one["generate"](3)
    assert next(running) == 0
    made_before = one["maker"](1)
    names = _tried(
        *("plain", "maker", "maker.<locals>.made", "generate", "wait", "twice"),
        *("Thing.__init__", "Thing.called", "Thing.make", "twice.<locals>.<lambda>", "nothing"),
    )
    assert place_together([*names, "nowhere.py\tplain"]) == len(names) - 1
    assert one["plain"](1) == 6 and one["plain"](1, 1, three=1) == 3
    assert one["maker"](1)(2) == made_before(2) == 3
    assert list(running) == [1, 4] and list(one["generate"](3)) == [0, 1, 4]
    assert asyncio.run(one["wait"]()) == "waited"
    thing = one["Thing"].make()
    assert (thing.called, thing.called) == (1, 2)
    assert one["twice"]("a b") == ["aa", "bb"]
    assert one["unused"]()() == "unused"
    changed = {name for name, code in before.items() if one[name].__code__ is not code}
    assert changed == {"plain", "maker", "twice"}
    for name in changed:
        assert one[name].__code__ == before[name], "the same but for its place"


def test_they_lie_behind_each_other(module: Callable[[str], dict[str, Any]]) -> None:
    """In the order of the names, on as few pages as there can be."""
    every = 20
    source = "".join(f"def f{number}(a):\n    return a + {number}\n" for number in range(4000))
    names = module(source)
    wanted = [f"f{number}" for number in range(0, 4000, every)]

    def pages() -> int:
        return len({id(names[name].__code__) // 4096 for name in wanted})

    before = pages()
    assert place_together(_tried(*wanted)) == len(wanted)
    assert pages() <= before / 3, "those of the others lay between them"
    assert names["f20"](1) == 21


def test_equal_code_is_not_taken_for_the_same(module: Callable[[str], dict[str, Any]]) -> None:
    """Two functions of one text have each a code of its own, before and after."""
    one, two = module(SOURCE), module(SOURCE)
    assert one["plain"].__code__ == two["plain"].__code__
    place_together(_tried("plain"))
    assert one["plain"].__code__ is not two["plain"].__code__
    assert place_together([]) == 0


def test_all_code_is_that_of_functions_and_what_they_make(
    module: Callable[[str], dict[str, Any]],
) -> None:
    """Each once, also where two functions share it."""
    one = module(SOURCE)
    copy = FunctionType(one["maker"].__code__, {})
    found = list(all_code([one["maker"], copy]))
    assert [code.co_qualname for code in found] == ["maker", "maker.<locals>.made"]


def test_a_name_is_the_file_below_the_path_and_the_qualified_name() -> None:
    """The longest of the places that modules are looked for in."""
    code = used_code.__code__
    assert name_of(code) == "milo/spawner.py\tused_code"
    assert name_of(code.replace(co_filename="<made>")) == "<made>\tused_code"
    assert isinstance(code, CodeType)


def test_without_the_list_there_is_a_spawner(monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs memory and nothing else."""
    assert len(used_code()) > 500
    monkeypatch.setattr("milo.spawner.USED_CODE", "/nowhere/used_code.txt")
    assert used_code() == []
