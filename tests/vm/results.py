"""How each test last ended in the machine: `tests/vm/results.json`, by kernel and by pytest's id.

The file is part of the repository, so that another machine can go on where this one ended.
"""

from __future__ import annotations

import datetime
import fcntl
import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import attrs

from tests.support.commits import ROOT

FILE = ROOT / "tests/vm/results.json"
REASON_CHARS = 300
HUNG = "hung"
"""The outcome of a test that ended neither by itself nor at its limit."""


@attrs.frozen
class Result:
    """How one test ended."""

    outcome: str
    """passed, failed, skipped or hung."""
    seconds: float
    reason: str
    commit: str
    """Abbreviated; with a ``+`` when the tree was changed."""
    date: str
    """ISO 8601, UTC."""


Results = dict[str, dict[str, Result]]


def load() -> Results:
    """Return all results: of the kernel's name, of the test."""
    return {
        kernel: {
            f"{file}::{name}": Result(*line)
            for file, tests in files.items()
            for name, line in tests.items()
        }
        for kernel, files in _read().get("results", {}).items()
    }


def counts() -> dict[str, int]:
    """Return of each kernel's name how many tests its full form has."""
    return dict(_read().get("counts", {}))


def store(kernel: str, new: dict[str, Result]) -> None:
    """Add results of a kernel's, or replace them."""
    with _alone():
        known = load()
        _write(counts(), {**known, kernel: {**known.get(kernel, {}), **new}})


def count(kernel: str, tests: int) -> None:
    """Note how many tests a kernel's full form has."""
    with _alone():
        _write({**counts(), kernel: tests}, load())


@contextmanager
def _alone() -> Iterator[None]:
    """Let another run wait that would change the file, too."""
    directory = os.open(FILE.parent, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def _read() -> dict[str, Any]:
    return json.loads(FILE.read_text()) if FILE.exists() else {}


def _write(tests: dict[str, int], known: Results) -> None:
    """Write it, each result on a line of its own, as it is part of the repository."""
    kernels = {}
    for kernel, found in known.items():
        files: dict[str, dict[str, str]] = {}
        for test, result in found.items():
            file, _, name = test.partition("::")
            files.setdefault(file, {})[name] = json.dumps(attrs.astuple(result))
        kernels[kernel] = _braced({file: _braced(of, 3) for file, of in files.items()}, 2)
    of_all = {"counts": json.dumps(tests, sort_keys=True), "results": _braced(kernels, 1)}
    partial = FILE.with_suffix(".partial")
    partial.write_text(_braced(of_all, 0) + "\n")
    partial.rename(FILE)


def _braced(values: dict[str, str], depth: int) -> str:
    """Return an object in JSON, of values that are JSON already, in the order of its keys."""
    lines = [f"{' ' * depth} {json.dumps(key)}: {value}" for key, value in sorted(values.items())]
    return "{\n" + ",\n".join(lines) + f"\n{' ' * depth}}}"


def read(outcomes: Path, commit: str) -> tuple[dict[str, Result], str]:
    """Return what `tests.vm.live` has noted, and the test that had begun and not ended, if any."""
    found: dict[str, Result] = {}
    running = ""
    for line in outcomes.read_text().splitlines() if outcomes.exists() else []:
        noted = json.loads(line)
        test = noted.pop("test")
        running = "" if noted else test
        if noted:
            noted["reason"] = noted["reason"][:REASON_CHARS]
            found[test] = Result(commit=commit, date=today(), **noted)
    return found, running


def report(file: Path, ended: dict[str, Result]) -> None:
    """Write results as a report of pytest's, each with its commit."""
    counts = Counter(one.outcome for one in ended.values())
    bad = len(ended) - counts["passed"] - counts["skipped"]
    suites = ElementTree.Element("testsuites")
    suite = ElementTree.SubElement(suites, "testsuite", name="vm", tests=str(len(ended)))
    suite.attrib |= {"failures": str(bad), "errors": "0", "skipped": str(counts["skipped"])}
    for test, one in ended.items():
        path, _, name = test.partition("::")
        module = path.removesuffix(".py").replace("/", ".")
        case = ElementTree.SubElement(suite, "testcase", classname=module, name=name)
        case.attrib |= {"time": str(one.seconds), "commit": one.commit}
        if one.outcome != "passed":
            kind = "skipped" if one.outcome == "skipped" else "failure"
            ElementTree.SubElement(case, kind, message=one.reason)
    file.parent.mkdir(parents=True, exist_ok=True)
    ElementTree.ElementTree(suites).write(file, encoding="utf-8", xml_declaration=True)


def today() -> str:
    """Return the date as results have it."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()
