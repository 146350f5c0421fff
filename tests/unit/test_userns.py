"""User namespaces: the ids of a block, and what a host needs for them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milo.core.container import userns

WHOLE = "         0          0 4294967295\n"


@given(st.text())
def test_a_block_is_out_of_the_way(task_id: str) -> None:
    """Above all users and systemd's containers, below 2**31, and the same each time."""
    first = userns.first_id(task_id)
    assert first == userns.first_id(task_id)
    assert first >= userns.FIRST_ID
    assert first % userns.BLOCK_SIZE == 0
    assert first + userns.BLOCK_SIZE <= 2**31


def test_tasks_have_blocks_of_their_own() -> None:
    """Hundreds of tasks spread over the blocks."""
    assert len({userns.first_id(f"a/web/{n}") for n in range(300)}) > 280


@pytest.mark.parametrize(
    ("kernel", "uid_map", "most", "words"),
    [
        ("6.3", WHOLE, "96365\n", ""),
        ("6.1.0-18-amd64", WHOLE, "96365\n", "older than 6.3"),
        ("6.3.1-x", "0 100000 65536\n", "96365\n", "in a user namespace itself"),
        ("6.3.1-x", WHOLE, "0\n", "max_user_namespaces is 0"),
        ("6.3.1-x", WHOLE, "", "without user namespaces"),
    ],
)
def test_what_a_host_needs(kernel: str, uid_map: str, most: str, words: str) -> None:
    """The reason says what is missing, and is empty where nothing is."""
    problem = userns.host_problem(kernel, uid_map, most)
    assert words in problem
    assert bool(problem) == bool(words)


def test_ids_that_do_not_fit() -> None:
    """A block has 65536 ids, so larger ones of the host cannot be used in it."""
    assert userns.unmapped((0, 65535, 65536, 100000)) == [65536, 100000]
