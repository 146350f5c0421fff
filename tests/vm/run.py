"""Runs the integration and acceptance tests on cgroup v2, in a virtual machine.

    python -m tests.vm.run short [PYTEST'S ARGUMENTS ...]
    python -m tests.vm.run [full] [--resume | --since COMMIT] [PYTEST'S ARGUMENTS ...]
    python -m tests.vm.run systemd [--resume | --since COMMIT] [PYTEST'S ARGUMENTS ...]

``short`` runs the tests listed in `short.txt`; ``systemd`` those in `systemd.txt`, in a machine of
Debian's whose process 1 is systemd; else all are run but those in `left_out.txt`. With arguments of
one's own, those alone are run.

The report is ``.nox/reports/vm.xml``, unless ``--junitxml`` names another file; where no machine
can be run, it holds one skipped test with the reason. The full form takes hours. It and the one
with systemd keep each result in ``tests/vm/results.json``: with ``--resume`` they leave out what
has one of this commit, with ``--since`` what has one of COMMIT or of one after it.
``--kernel 6.12`` (or ``MILO_VM_KERNEL=6.12``) boots that series instead of this machine's own;
``--engine user`` (or ``MILO_VM_ENGINE=user``) a kernel in user mode, which is many times faster and
has one processor and no cpusets.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

from tests.support import agent, commits, nomads
from tests.support.machine_speed import time_scale
from tests.vm import images, kernel, long, machine, results, systemd, user_mode

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CACHE = ROOT / ".nox/vm"
REPORT = ROOT / ".nox/reports/vm.xml"
FORMS = ("short", "full", "systemd")
WITH_SYSTEMD = " with systemd"
"""What follows the kernel's release in the results."""
SCALE = 10
"""By how much bounds on time grow.

A JVM starts 30 to 40 times slower when all its instructions are emulated, yet most bounds here
are ten times what the thing takes on an idle machine. On a host that is slow itself, they grow by
that as well (`tests.support.machine_speed`).
"""
LIMIT_S = {True: 900, False: 3600}
"""How long pytest may take in the short form, twice what it takes, and in one machine of the full
one."""
TEST_S = {True: 300, False: 1200}
"""How long one test may take with its fixtures; the slowest of the short form takes 60 s."""


def listed(name: str) -> list[str]:
    """Return the test ids in a list: the first word of each line that is no comment."""
    lines = (HERE / name).read_text().splitlines()
    return [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]


def selection(
    form: str, with_agent: bool, engine: str = kernel.EMULATED, release: str = ""
) -> list[str]:
    """Return pytest's arguments that choose the tests of a form."""
    if form == "systemd":
        return listed("systemd.txt")
    if form == "short":
        chosen = listed("short.txt")
        return [one for one in chosen if with_agent or not one.startswith("tests/acceptance")]
    left_out = _without(listed("left_out.txt")) + impossible(engine, release)
    with_one = ["tests/conformance", "tests/acceptance"] if with_agent else []
    return ["tests/integration", *with_one, *left_out]


def impossible(engine: str, release: str = "") -> list[str]:
    """Return pytest's arguments that leave out what an engine cannot run, in all or one series."""
    if engine != kernel.USER:
        return []
    series = ".".join(release.split(".")[:2])
    of_series = f"left_out_user_{series}.txt"
    own = listed(of_series) if (HERE / of_series).exists() else []
    return _without([*listed("left_out_user.txt"), *own])


def _without(names: Sequence[str]) -> list[str]:
    # What a whole file imports may not be on the machine, so it is not even looked into. A
    # directory that is chosen by its name is not ignored, however.
    return [f"--{'ignore' if one.endswith('.py') else 'deselect'}={one}" for one in names]


def main() -> int:
    """Run it; the exit status is pytest's, 0 when no machine can be run, 70 when it broke."""
    signal.signal(signal.SIGTERM, _stop)
    parser = argparse.ArgumentParser(prog="tests.vm.run")
    parser.add_argument("form", nargs="?", choices=FORMS, default="full")
    since = parser.add_mutually_exclusive_group()
    since.add_argument("--resume", dest="since", action="store_const", const="HEAD")
    since.add_argument("--since", metavar="COMMIT")
    parser.add_argument("--kernel", default=os.environ.get("MILO_VM_KERNEL", ""))
    engine = os.environ.get("MILO_VM_ENGINE", kernel.EMULATED)
    parser.add_argument("--engine", choices=kernel.ENGINES, default=engine)
    parser.add_argument("--junitxml", type=Path, default=REPORT)
    options, words = parser.parse_known_args()
    report: Path = options.junitxml
    report.parent.mkdir(parents=True, exist_ok=True)
    report.unlink(missing_ok=True)
    CACHE.mkdir(parents=True, exist_ok=True)
    try:
        return _run(options, words, report)
    except kernel.CannotRunError as error:
        return _skip(str(error), report)


def _stop(number: int, frame: object) -> None:
    """Leave by an exception, so that the machine is ended on the way."""
    raise SystemExit(128 + number)


def _run(options: argparse.Namespace, words: list[str], report: Path) -> int:
    if reason := machine.missing(options.engine):
        raise kernel.CannotRunError(reason)
    with _locked(CACHE):
        if options.engine == kernel.USER:
            booted = user_mode.obtain(CACHE, options.kernel)
            user_mode.compile_preloaded(booted)
        else:
            booted = kernel.obtain(CACHE, options.kernel)
    name = booted.name + (WITH_SYSTEMD if options.form == "systemd" else "")
    place = CACHE / name.replace(" ", "-")
    place.mkdir(exist_ok=True)
    # Of machines of one name there is one at a time; those of other kernels run beside it.
    with _locked(place):
        return _boot(options, words, report, booted, name, place)


def _boot(
    options: argparse.Namespace,
    words: list[str],
    report: Path,
    booted: kernel.Kernel,
    name: str,
    place: Path,
) -> int:
    form: str = options.form
    short = form == "short"
    slower = time_scale()
    scale = SCALE * slower
    test_s = TEST_S[short] * slower
    if reason := agent.missing():
        print(f"vm: no test with an agent: {reason}", flush=True)
        nomad = None
    else:
        nomad = shutil.which(os.environ.get("NOMAD_BIN") or "nomad")
    used = [nomad] if nomad else []
    with_systemd = form == "systemd"
    if with_systemd:
        used = list(dict.fromkeys([*used, *nomads.found().values()]))
    paths = images.base_paths(used)
    commit = commits.current()
    with _locked(CACHE):
        disks = [
            images.base_image(CACHE, paths, "nomads" if with_systemd else "base"),
            images.tree_image(CACHE, place / "tree.squashfs"),
        ]
        if with_systemd:
            disks.append(systemd.root_image(CACHE))
        initial = systemd.initial_image(CACHE, booted) if with_systemd else None
    one = machine.Machine(
        kernel=booted,
        disks=tuple(disks),
        exchange=place / "exchange",
        memory_mib=machine.memory_mib(),
        initial=initial,
    )
    plan = {
        "engine": booted.engine,
        "root": str(ROOT),
        "modules": str(booted.modules or ""),
        "python": sys.executable,
        "nomad": nomad or "",
        "nomads": os.pathsep.join(used),
        "jars": str(ROOT / images.JARS),
        "scale": f"{scale:g}",
        "limit_s": f"{LIMIT_S[short] * slower:.0f}",
        "test_s": f"{test_s:.0f}",
        "memory": f"{one.memory_mib // 2}m",
    }
    common = [f"--timeout={test_s:.0f}", "--durations=15"]

    def boot(tests: list[str]) -> int | None:
        status = machine.run(one, plan, paths, [*common, *tests])
        agents = one.exchange / "agents"
        if agents.exists():
            shutil.copytree(agents, ROOT / ".nox/agents/vm", dirs_exist_ok=True)
        return status

    chosen = selection(form, nomad is not None, options.engine, booted.release)
    if words:
        chosen = [*words, *impossible(options.engine, booted.release)]
    if not short:
        counting = commits.since(options.since) if options.since else []
        tests = long.collected(chosen)
        if not words:
            results.count(name, len(tests))
        at = long.At(name, commit)
        return long.run(tests, at, counting, boot, one.exchange / "outcomes", report)
    status = boot(chosen)
    if (one.exchange / "report.xml").exists():
        shutil.copy(one.exchange / "report.xml", report)
    return 70 if status is None else status


@contextmanager
def _locked(place: Path) -> Iterator[None]:
    """Let no other run in where a directory is used."""
    with open(place / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _skip(reason: str, report: Path) -> int:
    print(f"THE TESTS ON CGROUP V2 ARE NOT RUN: {reason}", flush=True)
    suites = ElementTree.Element("testsuites")
    suite = ElementTree.SubElement(
        suites, "testsuite", name="vm", tests="1", failures="0", errors="0", skipped="1"
    )
    case = ElementTree.SubElement(suite, "testcase", classname="tests.vm", name="machine")
    ElementTree.SubElement(case, "skipped", message=f"NO TEST ON CGROUP V2 IS RUN: {reason}")
    ElementTree.ElementTree(suites).write(report, encoding="utf-8", xml_declaration=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
