"""Reports the driver's health and attributes, and whatever changes on the host later."""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import AsyncGenerator, Mapping
from typing import Final

import trio

import milo
from milo import proc
from milo.core.config.plugin_options import PluginOptions
from milo.core.container import crun_holes, userns
from milo.core.container.crun import version_from_output
from milo.core.container.profile_name import UNCONFINED
from milo.core.launch import JavaRuntime
from milo.core.report import Fingerprint
from milo.errors import CrunMissingError, NoJavaError
from milo.host.java import places
from milo.host.java.finder import JavaFinder
from milo.host.programs import FALLBACK_PATH, ChangeableProgramError, trusted_program

PERIOD_S: Final = 30.0
CRUN_TIMEOUT_S: Final = 30.0
MAX_OUTPUT_BYTES: Final = 4096
ATTRIBUTES: Final = {
    "driver.milo": ("bool", "The plugin is loaded; it need not be healthy.", "1"),
    "driver.milo.version": ("string", "Milo's version.", "0.1.0"),
    "driver.milo.crun.version": ("string", "crun's version.", "1.14.1"),
    "driver.milo.java.version": ("string", "The version of the default Java.", "21.0.7"),
    "driver.milo.java.versions": (
        "string",
        "The versions of all Java runtimes that were found, with commas between them, the default "
        "first.",
        "21.0.7,17.0.15",
    ),
    "driver.milo.java.MAJOR": (
        "string",
        "For each feature release that is there, such as `driver.milo.java.17`: its version; of "
        "several the one that is preferred.",
        "17.0.15",
    ),
    "driver.milo.userns": (
        "bool",
        "Tasks run in user namespaces: the plugin's configuration says so, and this client can.",
        "false",
    ),
}
"""What a healthy driver adds to a node, for docs/reference: type, description, example."""

_log = logging.getLogger(__name__)


class Fingerprinter:
    """Looks for crun and Java, and says when the answer has changed."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._options = PluginOptions()
        self._finder = JavaFinder()
        self._crun_outputs: dict[tuple[str, int, int], str] = {}
        self._crun_warning = ""
        self._javas: tuple[JavaRuntime, ...] = ()
        self._problems: tuple[str, ...] = ()
        self._named: set[str] = set()
        self._userns_problem = ""
        self._changed = trio.Event()

    def configure(self, options: PluginOptions) -> None:
        """Use ``options``, and look again at once."""
        self._options = options
        self._javas = ()
        self._changed.set()

    def note_start(self, timings_s: Mapping[str, float]) -> None:
        """Log how long the steps of a start took, in their order; `nox -s bench` reads it."""
        _log.debug(
            "a task started", extra={"fields": {k: f"{v:.4f}" for k, v in timings_s.items()}}
        )

    async def javas(self) -> tuple[JavaRuntime, ...]:
        """Return the Java runtimes of the host, the default one first.

        What the last fingerprint found is used again while it is all still there: a look at
        every JDK's files costs 10 to 30 ms, which each StartTask would pay.
        """
        if not self._javas or not all(
            os.access(f"{java.home}/bin/java", os.X_OK) for java in self._javas
        ):
            await self._find()
        return self._javas

    async def _find(self) -> None:
        self._javas = await self._finder.find(self._options.java_home, self._environ)
        if self._finder.problems != self._problems:
            self._problems = self._finder.problems
            for problem in self._problems:
                _log.warning("a Java runtime is not used: %s", problem)

    async def fingerprint(self) -> Fingerprint:
        """Look once."""
        await self._find()
        javas = self._javas
        try:
            crun = trusted_program(self._options.crun_path, self._environ)
        except ChangeableProgramError as exc:
            return Fingerprint("unhealthy", str(exc))
        output = await self._crun_output(crun) if crun else ""
        version = version_from_output(output)
        if not crun:
            return Fingerprint("unhealthy", str(CrunMissingError(self._options.crun_path)))
        if not version:
            return Fingerprint(
                "unhealthy",
                f"Error: {crun} --version does not answer like crun. "
                "Install the package crun, or set crun_path in the plugin's configuration.",
            )
        needs_seccomp = self._options.seccomp_profile != UNCONFINED
        if problem := crun_holes.crun_problem(version, output, needs_seccomp=needs_seccomp):
            return Fingerprint("unhealthy", f"Error: {crun}: {problem}. Install another crun.")
        self._warn_of_crun(version)
        if not javas:
            words = str(NoJavaError())
            if unused := self._unused_java_home():
                words += f" The Java that java_home names is not used: {unused}"
            return Fingerprint("unhealthy", words)
        unused = self._unused_java_home()
        return Fingerprint(
            "healthy",
            f"Healthy, but the Java that java_home names is not used: {unused}"
            if unused
            else "Healthy",
            {
                "driver.milo": True,
                "driver.milo.version": milo.__version__,
                "driver.milo.crun.version": version,
                "driver.milo.userns": self._maps_ids(),
                **self._java_attributes(),
            },
        )

    def _unused_java_home(self) -> str:
        """Return why the plugin's java_home is not used; empty when it is, or is not set."""
        named = f"{places.CONFIGURED} "
        problem = next((text for text in self._finder.problems if text.startswith(named)), "")
        return problem.removeprefix(named)

    def _warn_of_crun(self, version: str) -> None:
        """Say once what is known to be wrong with this crun, if Milo can do nothing about it."""
        words = crun_holes.crun_warning(version, userns=self._options.userns)
        if words and words != self._crun_warning:
            _log.warning("%s", words)
        self._crun_warning = words

    def _maps_ids(self) -> bool:
        """Whether tasks run in user namespaces: asked for, and possible here."""
        if not self._options.userns:
            return False
        problem = userns.host_problem(
            os.uname().release,
            proc.uid_map(),
            proc.max_user_namespaces(),
        )
        if problem and problem != self._userns_problem:
            _log.warning("no task can start, because userns = true: %s", problem)
        self._userns_problem = problem
        return not problem

    def _java_attributes(self) -> dict[str, str]:
        """Return the attributes of all Javas; those of one that is gone are empty.

        Nomad's client deletes a node's attribute when its value becomes empty, and keeps one
        that is no longer named (client/node_updater.go).
        """
        javas = self._javas
        majors = {f"driver.milo.java.{java.major}": java.version for java in reversed(javas)}
        self._named |= majors.keys()
        return {
            "driver.milo.java.version": javas[0].version,
            "driver.milo.java.versions": ",".join(java.version for java in javas),
            **dict.fromkeys(sorted(self._named), ""),
            **majors,
        }

    async def watch(self) -> AsyncGenerator[Fingerprint, None]:
        """Yield the fingerprint now, and again whenever it has changed."""
        last: Fingerprint | None = None
        while True:
            self._changed = trio.Event()
            found = await self.fingerprint()
            if found != last:
                last = found
                yield found
            with trio.move_on_after(PERIOD_S):
                await self._changed.wait()

    async def _crun_output(self, crun: str) -> str:
        """Return what ``crun --version`` prints, run once for each file; empty if it is no crun."""
        try:
            found = os.stat(crun)
        except OSError:
            return ""
        key = (crun, found.st_ino, found.st_mtime_ns)
        if key not in self._crun_outputs:
            try:
                with trio.fail_after(CRUN_TIMEOUT_S):
                    done = await trio.run_process(
                        [crun, "--version"],
                        capture_stdout=True,
                        stderr=subprocess.DEVNULL,
                        env={"PATH": FALLBACK_PATH},
                        check=False,
                    )
            except (OSError, trio.TooSlowError):
                return ""
            output = done.stdout[:MAX_OUTPUT_BYTES].decode(errors="replace")
            if not version_from_output(output):
                return ""
            self._crun_outputs[key] = output
        return self._crun_outputs[key]
