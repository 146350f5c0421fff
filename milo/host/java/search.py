"""Looks for the host's Java runtimes in a process of its own, for ``milo run``.

It looks beside what else has to be done before a start, and believes what their ``release`` files
say: to run each of them would take longer than all the rest. And it stays outside of an ordinary
user's namespaces: in there all users but one are the same, so that nobody can tell root's files.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import trio

from milo.core.launch import JavaRuntime
from milo.errors import TaskStartError
from milo.host.fork import Fork
from milo.host.java.finder import JavaFinder


class JavaSearch(Fork):
    """A search that begins when this is made, with what `JavaFinder.find` takes."""

    def __init__(self, configured_home: str, environ: Mapping[str, str]) -> None:
        def find() -> bytes:
            found = trio.run(JavaFinder(runs=False).find, configured_home, environ)
            return msgspec.json.encode(found)

        super().__init__("milo-java", find)

    async def javas(self) -> tuple[JavaRuntime, ...]:
        """Return what `JavaFinder.find` does; once.

        Raises:
            TaskStartError: the process was killed.
        """
        try:
            return msgspec.json.decode(await self.result(), type=tuple[JavaRuntime, ...])
        except msgspec.DecodeError as exc:
            raise TaskStartError(
                "Error: The process that looks for Java was killed", recoverable=True
            ) from exc
