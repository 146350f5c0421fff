"""What a user does with Nomad: the ``nomad`` command, and the HTTP API behind the web UI."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPResponse
from pathlib import Path
from typing import IO, Any

import attrs

from tests.support.waiting import scaled, wait_for

READ_S = 30
"""How long a response may be silent; the API sends a heartbeat every 10 s to followers."""
_NAME = re.compile(r'^job "([^"]+)" \{', re.MULTILINE)
"""Of a job file; Nomad makes it the job's id."""
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@attrs.frozen
class Nomad:
    """One agent, seen from its HTTP address."""

    binary: str
    address: str
    token: str = ""
    """The secret of an ACL token, where the agent wants one."""

    def open(self, path: str, /, **query: object) -> HTTPResponse:
        """Send GET ``path`` with ``query``; the response streams when the API does.

        Raises urllib.error.HTTPError for any status but 2xx.
        """
        return self._send(f"{path}?{urllib.parse.urlencode(query)}", None)

    def put(self, path: str, body: object) -> Any:
        """Send PUT ``path`` with ``body`` as JSON, and return what it answers."""
        with self._send(path, json.dumps(body).encode()) as response:
            return json.load(response)

    def delete(self, path: str) -> Any:
        """Send DELETE ``path``, and return what it answers."""
        with self._send(path, None, "DELETE") as response:
            return json.load(response)

    def _send(self, path: str, body: bytes | None, method: str = "") -> HTTPResponse:
        request = urllib.request.Request(
            self.address + path,
            data=body,
            headers={"X-Nomad-Token": self.token} if self.token else {},
            method=method or ("GET" if body is None else "PUT"),
        )
        response: HTTPResponse = _OPENER.open(request, timeout=scaled(READ_S))
        return response

    def get(self, path: str, /, **query: object) -> Any:
        """Return what GET ``path`` answers, decoded from JSON."""
        with self.open(path, **query) as response:
            return json.load(response)

    def command(self, *words: str) -> tuple[list[str], dict[str, str]]:
        """Return the words and the environment that run ``nomad`` against this agent."""
        env = {**os.environ, "NOMAD_ADDR": self.address, "NOMAD_CLI_NO_COLOR": "1"}
        if self.token:
            env["NOMAD_TOKEN"] = self.token
        return [self.binary, *words], env

    def cli(self, *words: str, timeout_s: float = 60, check: bool = True) -> str:
        """Run the ``nomad`` command and return its stdout, exactly.

        Raises AssertionError with all that it printed when it fails and ``check`` is set.
        """
        return self.cli_bytes(*words, timeout_s=timeout_s, check=check).decode()

    def collect(self, directories: Callable[[], Collection[str]], timeout_s: float = 60) -> None:
        """Have what has ended collected, until ``directories`` names no allocation any more.

        More than once: what ends after a collection has begun waits for another one.
        """

        def collected() -> bool:
            self.cli("system", "gc")
            return not directories()

        try:
            wait_for("the allocation directories to go", collected, timeout_s, pause_s=1)
        except AssertionError as error:
            raise AssertionError(f"{error}; left: {', '.join(directories())}") from None

    def cli_bytes(self, *words: str, timeout_s: float = 60, check: bool = True) -> bytes:
        """As `cli`, without decoding."""
        command, env = self.command(*words)
        done = subprocess.run(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=scaled(timeout_s),
        )
        if check and done.returncode != 0:
            raise AssertionError(
                f"nomad {' '.join(words)} ended with {done.returncode}\n"
                f"{done.stdout.decode(errors='replace')}\n{done.stderr.decode(errors='replace')}"
            )
        return done.stdout

    def run(self, job_file: str, *options: str) -> Job:
        """Submit the job file's text with ``nomad job run``, without waiting for it to run."""
        with tempfile.NamedTemporaryFile("w", suffix=".nomad.hcl") as file:
            file.write(job_file)
            file.flush()
            return self.run_file(Path(file.name), "-detach", *options)

    def submit(self, job_file: str) -> Job:
        """Submit the job file's text over the HTTP API alone, which is sooner done than `run`."""
        job = self.put("/v1/jobs/parse", {"JobHCL": job_file, "Canonicalize": True})
        self.put("/v1/jobs", {"Job": job})
        return Job(self, job["ID"])

    def run_file(self, path: Path, *options: str) -> Job:
        """Run ``nomad job run OPTIONS PATH``."""
        named = _NAME.search(path.read_text())
        assert named, f"{path} holds no job"
        self.cli("job", "run", *options, str(path))
        return Job(self, named[1])

    def node(self) -> dict[str, Any]:
        """Return the one client node in full."""
        [stub] = self.get("/v1/nodes")
        node: dict[str, Any] = self.get(f"/v1/node/{stub['ID']}")
        return node

    def driver(self, name: str) -> dict[str, Any]:
        """Return what the node says of a driver: Detected, Healthy, HealthDescription ..."""
        found: dict[str, Any] = (self.node()["Drivers"] or {}).get(name) or {}
        return found


@attrs.frozen
class Job:
    """A submitted job of one group and one task, as all jobs here are."""

    nomad: Nomad
    id: str

    def status(self) -> str:
        """Return the job's status: pending, running or dead."""
        return str(self.nomad.get(f"/v1/job/{self.id}")["Status"])

    def allocations(self) -> list[dict[str, Any]]:
        """Return the job's allocations, the newest first."""
        found: list[dict[str, Any]] = self.nomad.get(f"/v1/job/{self.id}/allocations")
        return sorted(found, key=lambda alloc: -int(alloc["CreateIndex"]))

    def allocation(self, timeout_s: float = 20) -> str:
        """Wait until the job has an allocation and return the newest one's id."""
        found = wait_for(f"an allocation of {self.id}", self.allocations, timeout_s)
        return str(found[0]["ID"])

    def task(self) -> dict[str, Any]:
        """Return the state of the newest allocation's task: State, Failed, Events ..."""
        for alloc in self.allocations()[:1]:
            for state in (alloc["TaskStates"] or {}).values():
                found: dict[str, Any] = state
                return found
        return {}

    def events(self) -> list[str]:
        """Return the task's events as ``type: message`` lines, the oldest first."""
        return [
            f"{event['Type']}: {event['DisplayMessage']}" for event in self.task().get("Events", [])
        ]

    def wait_state(self, state: str, timeout_s: float = 60) -> dict[str, Any]:
        """Wait until the task is ``pending``, ``running`` or ``dead``, and return its state."""

        def probe() -> dict[str, Any] | None:
            task = self.task()
            return task if task.get("State") == state else None

        try:
            return wait_for(f"task of {self.id} to be {state}", probe, timeout_s)
        except AssertionError as error:
            raise AssertionError(f"{error}; events: {self.events()}") from None

    def wait_event(self, text: str, timeout_s: float = 60) -> str:
        """Wait until one of the task's events contains ``text``, and return that event."""

        def probe() -> str | None:
            return next((event for event in self.events() if text in event), None)

        try:
            return wait_for(f"an event with {text!r}", probe, timeout_s)
        except AssertionError as error:
            raise AssertionError(f"{error}; events: {self.events()}") from None

    def exit_code(self) -> int:
        """Return the exit code that Nomad shows in the last Terminated event."""
        ends = [event for event in self.task()["Events"] if event["Type"] == "Terminated"]
        return int(ends[-1]["Details"]["exit_code"])

    def logs(self, *options: str) -> bytes:
        """Return what ``nomad alloc logs`` prints; ``-stderr`` among ``options`` for stderr."""
        return self.nomad.cli_bytes("alloc", "logs", *options, self.allocation())

    def wait_logs(self, text: str, *options: str, timeout_s: float = 30) -> str:
        """Wait until ``nomad alloc logs`` shows ``text``, and return all that it shows."""
        shown = ""

        def probe() -> bool:
            nonlocal shown
            if self.task().get("State") not in ("running", "dead"):
                return False  # Nomad answers 404 until then.
            shown = self.logs(*options).decode(errors="replace")
            return text in shown

        try:
            wait_for(f"{text!r} in the logs of {self.id}", probe, timeout_s)
        except AssertionError as error:
            raise AssertionError(f"{error}; shown: {shown[-2000:]!r}, {self.events()}") from None
        return shown

    def wait_log(self, expected: bytes, *options: str, timeout_s: float = 15) -> None:
        """Wait until ``nomad alloc logs`` shows exactly ``expected``.

        Nomad's collector writes what it has read ten times a second, also when a task has ended.
        """
        shown = b""

        def probe() -> bool:
            nonlocal shown
            shown = self.logs(*options)
            return shown == expected

        try:
            wait_for(f"the whole log of {self.id}", probe, timeout_s)
        except AssertionError as error:
            text = f"{error}; expected {len(expected)} bytes that end with {expected[-1000:]!r}"
            text = f"{text}; shown are {len(shown)} that end with {shown[-1000:]!r}"
            raise AssertionError(f"{text}, {self.events()}") from None

    @contextmanager
    def follow(self, *options: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run ``nomad alloc logs -f`` while the context lasts; its stdout is a pipe."""
        command, env = self.nomad.command("alloc", "logs", "-f", *options, self.allocation())
        with subprocess.Popen(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process:
            try:
                yield process
            finally:
                process.terminate()

    def stop(self) -> None:
        """Stop the job and wait until its task has ended."""
        self.nomad.cli("job", "stop", "-detach", self.id)
        self.wait_state("dead")


def stdout_of(process: subprocess.Popen[bytes]) -> IO[bytes]:
    """Return the process's stdout pipe, for which mypy needs to know that there is one."""
    assert process.stdout is not None
    return process.stdout


def hcl(value: object) -> str:
    """Write a value in the language of job files; JSON is a part of it."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {hcl(item)}" for key, item in value.items()) + " }"
    return json.dumps(value)
