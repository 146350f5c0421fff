"""Finds the host's Java runtimes and learns their versions."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence

import attrs
import trio

from milo import walk
from milo.core.java.versions import JavaVersion, version_from_output, version_from_release
from milo.core.launch import JavaRuntime
from milo.errors import PathError
from milo.host.java.places import PLACES, Candidate, candidates
from milo.host.java.survey import Rules, Survey, survey

RUN_TIMEOUT_S = 30.0
"""``java -version`` takes 0.1 s here, 4 s in an emulated machine; over 10 s was seen on a host that
was short of all it has."""
RETRY_S = 60.0
"""From a look that failed to the next one at the same files; twice as long after each further one.

A host that was busy, or out of memory, at its boot would have lost that runtime for good.
"""
MAX_RETRY_S = 3600.0
MAX_OUTPUT_BYTES = 64 * 1024
MAX_RELEASE_BYTES = 64 * 1024
_AT_ONCE = 4

_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
"""No JAVA_TOOL_OPTIONS, JDK_JAVA_OPTIONS or LD_* of the agent's."""


@attrs.frozen
class _Known:
    """What was learned of a runtime, as long as its files stay as they were."""

    identity: tuple[object, ...]
    version: JavaVersion | None
    problem: str
    retry_s: float = 0.0
    """How long a problem is taken for granted; on `trio.current_time`'s clock until `until_s`."""
    until_s: float = math.inf


class JavaFinder:
    """Finds the host's Java runtimes; one instance remembers what it has learned.

    A runtime that root alone can change is run to learn its version, once if it answers. Of any
    other the ``release`` file is read, since whoever can write it could make root run anything.
    """

    def __init__(
        self,
        places: Sequence[tuple[str, str]] = PLACES,
        rules: Rules | None = None,
        timeout_s: float = RUN_TIMEOUT_S,
        *,
        runs: bool = True,
    ) -> None:
        """``runs``: ask each runtime itself, rather than its ``release`` file where it has one."""
        self._places = places
        self._rules = rules or Rules()
        self._timeout_s = timeout_s
        self._runs = runs
        self._known: dict[str, _Known] = {}
        self._lock = trio.Lock()
        self.problems: tuple[str, ...] = ()
        """One sentence for each candidate of the last `find` that is not among its results."""

    async def find(
        self, configured_home: str, environ: Mapping[str, str]
    ) -> tuple[JavaRuntime, ...]:
        """Return the host's runtimes in the order of preference; the first is the default.

        The order: ``configured_home`` (the plugin's java_home, or empty), JAVA_HOME of
        ``environ``, `PLACES` (of one directory: default-java, then the newest release first),
        ``java`` on PATH. Takes some milliseconds when nothing has changed since the last
        call, up to `RUN_TIMEOUT_S` otherwise. Raises nothing: `problems` tells what was left
        out. Cancellation ends what was started.
        """
        async with self._lock:
            found, problems = await trio.to_thread.run_sync(
                candidates, configured_home, environ, self._places, abandon_on_cancel=True
            )
            results: dict[str, JavaRuntime | str] = {}
            limiter = trio.CapacityLimiter(_AT_ONCE)
            async with trio.open_nursery() as nursery:
                for candidate in found:
                    nursery.start_soon(self._learn, candidate, results, limiter)
            ranked = []
            for candidate in found:
                result = results[candidate.home]
                if isinstance(result, JavaRuntime):
                    ranked.append((candidate.rank, -result.major, result))
                else:
                    problems.append(f"{candidate.source} {candidate.home}: {result}")
            homes = {candidate.home for candidate in found}
            self._known = {home: known for home, known in self._known.items() if home in homes}
            self.problems = tuple(problems)
            ranked.sort(key=lambda item: item[:2])
            return tuple(result for _, _, result in ranked)

    async def _learn(
        self,
        candidate: Candidate,
        results: dict[str, JavaRuntime | str],
        limiter: trio.CapacityLimiter,
    ) -> None:
        """Put the runtime, or what is wrong with it, into ``results``."""
        home = candidate.home
        async with limiter:
            try:
                tree = await trio.to_thread.run_sync(
                    survey, home, self._rules, abandon_on_cancel=True
                )
                identity = _identity(home, tree)
            except PathError as error:
                results[home] = f"it cannot be read: {error.words}"
                return
            known = self._known.get(home)
            if known is None or known.identity != identity:
                known = self._known[home] = await self._look(home, tree, identity, RETRY_S)
            elif trio.current_time() >= known.until_s:
                retry_s = min(2 * known.retry_s, MAX_RETRY_S)
                known = self._known[home] = await self._look(home, tree, identity, retry_s)
        if known.version is None:
            results[home] = known.problem
            return
        results[home] = JavaRuntime(
            home=home,
            version=known.version.text,
            major=known.version.major,
            source=candidate.source,
            binds=tree.binds,
            trusted=not tree.distrust,
            openj9=known.version.openj9,
        )

    async def _ask_trusted(self, home: str) -> JavaVersion:
        if not self._runs:
            with contextlib.suppress(ValueError):  # older ones of Debian have no such file
                return await _ask_release(home)
        return version_from_output(await _run(home, self._timeout_s))

    async def _look(
        self, home: str, tree: Survey, identity: tuple[object, ...], retry_s: float
    ) -> _Known:
        try:
            version = await (_ask_release(home) if tree.distrust else self._ask_trusted(home))
        except (OSError, ValueError) as error:
            problem = (isinstance(error, OSError) and error.strerror) or str(error)
            if tree.distrust:
                problem += f" (it is not run, because {tree.distrust})"
            return _Known(identity, None, problem, retry_s, trio.current_time() + retry_s)
        return _Known(identity, version, "")


async def _ask_release(home: str) -> JavaVersion:
    """Return the version in a runtime's ``release`` file; raises `ValueError`."""
    return version_from_release(
        await trio.to_thread.run_sync(_read_release, home, abandon_on_cancel=True)
    )


async def _run(home: str, timeout_s: float) -> str:
    """Return what the runtime prints about itself, standard error included.

    Raises `ValueError` when it fails, prints too much or takes longer than ``timeout_s``,
    and `OSError` when it cannot be started.
    """
    command = [f"{home}/bin/java", "-XshowSettings:properties", "-version"]
    output = bytearray()
    status = 0
    with trio.move_on_after(timeout_s) as scope:
        process = await trio.lowlevel.open_process(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_ENVIRONMENT,
            cwd="/",
            start_new_session=True,
        )
        try:
            assert process.stdout is not None
            async for chunk in process.stdout:
                output += chunk
                if len(output) > MAX_OUTPUT_BYTES:
                    raise ValueError(f"java -version printed more than {MAX_OUTPUT_BYTES} bytes")
            status = await process.wait()
        finally:
            await _end(process)
    if scope.cancelled_caught:
        raise ValueError(f"java -version did not end within {timeout_s:g} s")
    text = output.decode("utf-8", "replace")
    if status:
        last = (text.strip().splitlines() or ["it printed nothing"])[-1][:200]
        raise ValueError(f"java -version failed (exit code {status}): {last}")
    return text


async def _end(process: trio.Process) -> None:
    """Kill the process with its whole session, unless it has ended, and close its pipe."""
    with trio.CancelScope(shield=True):
        if process.returncode is None:
            # not yet reaped, so that its number cannot be another's
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        if process.stdout is not None:
            await process.stdout.aclose()


def _read_release(home: str) -> str:
    """Return the ``release`` file of a runtime that somebody other than root can change.

    So it may be anything: no symlink is followed out of the runtime, only a regular file is
    opened, and `MAX_RELEASE_BYTES` are read. Raises `ValueError`.
    """
    try:
        with walk.hold(home) as directory, directory.within("release", walk.Kind.FILE) as file:
            return file.read(MAX_RELEASE_BYTES).decode("utf-8", "replace")
    except PathError as exc:
        raise ValueError(f"its release file: {exc.words}") from exc


def _identity(home: str, tree: Survey) -> tuple[object, ...]:
    """Return a value that changes whenever the runtime may have become another one.

    The tree's own figures are part of it, so that a runtime that was looked at while its
    package was being unpacked is looked at again.
    """
    return (
        bool(tree.distrust),
        tree.files,
        tree.newest_ns,
        *(_file_identity(f"{home}/{name}") for name in ("bin/java", "release")),
    )


def _file_identity(path: str) -> tuple[int, ...] | None:
    try:
        with walk.follow(path) as held:
            found = held.status
    except PathError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
