"""Runs the integration and acceptance tests on cgroup v2, in a virtual machine.

    python -m tests.vm.run [short] [PYTEST'S ARGUMENTS ...]

``short`` runs the tests listed in `short.txt`, else all are run but those in `left_out.txt`; with
arguments of one's own, those alone. The report is ``.nox/reports/vm.xml``. Where no machine can
be run, it holds one skipped test with the reason.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import signal
import sys
from pathlib import Path
from xml.etree import ElementTree

from tests.support import agent
from tests.vm import images, kernel, machine

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CACHE = ROOT / ".nox/vm"
REPORT = ROOT / ".nox/reports/vm.xml"
SCALE = 10
"""By how much bounds on time grow.

A JVM starts 30 to 40 times slower when all its instructions are emulated, yet most bounds here
are ten times what the thing takes on an idle machine.
"""
LIMIT_S = {True: 900, False: 10800}
"""How long pytest may take in the short form, and in the full one: twice what they take."""
TEST_S = {True: 300, False: 1200}
"""How long one test may take with its fixtures; the slowest of the short form takes 60 s."""


def listed(name: str) -> list[str]:
    """Return the test ids in a list: the first word of each line that is no comment."""
    lines = (HERE / name).read_text().splitlines()
    return [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]


def selection(short: bool, with_agent: bool) -> list[str]:
    """Return pytest's arguments that choose the tests of a form."""
    if short:
        chosen = listed("short.txt")
        return [one for one in chosen if with_agent or not one.startswith("tests/acceptance")]
    left_out = [f"--deselect={one}" for one in listed("left_out.txt")]
    with_one = ["tests/conformance", "tests/acceptance"] if with_agent else []
    return ["tests/integration", *with_one, *left_out]


def main() -> int:
    """Run it; the exit status is pytest's, 0 when no machine can be run, 70 when it broke."""
    signal.signal(signal.SIGTERM, _stop)
    parser = argparse.ArgumentParser(prog="tests.vm.run")
    parser.add_argument("form", nargs="?", choices=("short", "full"), default="full")
    options, words = parser.parse_known_args()
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.unlink(missing_ok=True)
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            return _run(options.form == "short", words)
        except kernel.CannotRunError as error:
            return _skip(str(error))


def _stop(number: int, frame: object) -> None:
    """Leave by an exception, so that the machine is ended on the way."""
    raise SystemExit(128 + number)


def _run(short: bool, words: list[str]) -> int:
    if reason := machine.missing():
        raise kernel.CannotRunError(reason)
    if reason := agent.missing():
        print(f"vm: no test with an agent: {reason}", flush=True)
        nomad = None
    else:
        nomad = shutil.which(os.environ.get("NOMAD_BIN") or "nomad")
    paths = images.base_paths(nomad)
    one = machine.Machine(
        kernel=kernel.obtain(CACHE),
        disks=(images.base_image(CACHE, paths), images.tree_image(CACHE)),
        exchange=CACHE / "exchange",
        memory_mib=machine.memory_mib(),
    )
    plan = {
        "root": str(ROOT),
        "modules": str(one.kernel.modules),
        "python": sys.executable,
        "nomad": nomad or "",
        "jars": str(ROOT / images.JARS),
        "scale": str(SCALE),
        "limit_s": str(LIMIT_S[short]),
        "memory": f"{one.memory_mib // 2}m",
    }
    options = [f"--timeout={TEST_S[short]}", "--durations=15"]
    chosen = words or selection(short, nomad is not None)
    status = machine.run(one, plan, paths, [*options, *chosen])
    agents = one.exchange / "agents"
    if agents.exists():
        shutil.copytree(agents, ROOT / ".nox/agents/vm", dirs_exist_ok=True)
    if (one.exchange / "report.xml").exists():
        shutil.copy(one.exchange / "report.xml", REPORT)
    return 70 if status is None else status


def _skip(reason: str) -> int:
    print(f"THE TESTS ON CGROUP V2 ARE NOT RUN: {reason}", flush=True)
    suites = ElementTree.Element("testsuites")
    suite = ElementTree.SubElement(
        suites, "testsuite", name="vm", tests="1", failures="0", errors="0", skipped="1"
    )
    case = ElementTree.SubElement(suite, "testcase", classname="tests.vm", name="machine")
    ElementTree.SubElement(case, "skipped", message=f"NO TEST ON CGROUP V2 IS RUN: {reason}")
    ElementTree.ElementTree(suites).write(REPORT, encoding="utf-8", xml_declaration=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
