"""Makes text that others have chosen safe to show, since a terminal obeys control characters.

A tenant chooses the names of tasks, files and classes, what a JVM writes, and part of what crun
prints. All of it passes `printable` before it leaves Milo: in what the driver reports to Nomad
(`milo.core.report`, `milo.plugin.rpc`), in the agent's log (`milo.plugin.hclog`), in a task
process's log (`milo.task.journal`), and in what the commands print (`milo.cli.output`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

NAME_CHARS: Final = 100


def printable(text: str) -> str:
    r"""Return ``text`` in one line, whatever a terminal could obey in Python's escapes (``\x1b``).

    That is all that is no letter, mark, number, punctuation, symbol or blank: control characters
    and line ends, what changes the direction of writing, and bytes that are no UTF-8.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def shortened(text: str, chars: int = NAME_CHARS) -> str:
    """Return ``text`` as `printable` has it, of at most so many characters."""
    text = printable(text[: chars + 1])
    return text if len(text) <= chars else f"{text[: chars - 1]}…"


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """Return the end of a sentence that names the nearest of ``words``; empty if none is near."""
    import difflib  # where something was wrong; it is slow to load

    near = difflib.get_close_matches(word[:NAME_CHARS], list(words), 1)
    return f". Did you mean {near[0]}?" if near else ""
