"""The project's sessions. `./dev` makes the environment that they share, and calls them.

Every session works in the interpreter of `.venv`: making one environment a session would
cost minutes and gain nothing, as all of them need Milo with the same dependencies.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import nox
from nox.command import CommandFailed

ROOT = Path(__file__).parent
VENV_PYTHON = ROOT / ".venv/bin/python"
PYTHON = str(VENV_PYTHON if VENV_PYTHON.exists() else sys.executable)
WORK = ROOT / ".nox"
SUITES = ("unit", "integration", "conformance", "acceptance")
MEASURED = ("unit", "integration")
"""The suites that coverage is judged by. The others take Milo as its users have it: measured, each
of its processes takes about twice its time."""
REPORTED = (*SUITES, "vm")
NO_MACHINE = "NO TEST ON CGROUP V2 IS RUN"
"""How the one skipped test of the suite `vm` says that no virtual machine can be run here."""
MAX_FAILURES = 40
"""How many failed tests the last lines name: whoever sees only the end of the output sees them."""
SIDE_BY_SIDE = ("-n", "2", "--dist", "worksteal")
"""How a whole suite is run: each of two processes begins with one half of it. What measures is
marked `alone`."""
FILE_BY_FILE = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")
"""The same for tests that share an agent with the others of their file."""
WITH_AGENTS = ("-n", "3", *FILE_BY_FILE[2:])
"""The same for tests that wait for an agent, or for time to pass, more than they compute."""
HOW = {
    "unit": SIDE_BY_SIDE,
    "integration": SIDE_BY_SIDE,
    "conformance": FILE_BY_FILE,
    "acceptance": WITH_AGENTS,
}
"""How each suite is run as a whole."""
MARK = "pytest.mark.alone"
NOT_ALONE = ("-m", "not alone")
PRIVATE = ("-m", "tests.support.private_mounts")
"""Runs a command where a hybrid host's cgroup v2 mount is out of sight: crun refuses hybrid."""

TOTAL_PERCENT = 90
WHOLE = ("milo/task/logs/fifo.py", "milo/task/logs/pump.py")
"""The modules that move log bytes: every line and branch of them is tested."""

_beside: dict[str, subprocess.Popen[bytes]] = {}
"""What `test` has started beside other sessions, by the name of the session that waits for it."""
_apart: dict[str, list[str]] = {}
"""The suites whose tests marked `alone` are left to the session of that name, by `test`, each with
the files that have some."""

nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", *SUITES]


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff's rules, its formatting, mypy's strict mode, and vulture for code that nobody uses."""
    session.run(PYTHON, "-m", "ruff", "check", external=True)
    session.run(PYTHON, "-m", "ruff", "format", "--check", external=True)
    session.run(PYTHON, "-m", "mypy", external=True)
    session.run(PYTHON, "-m", "vulture", external=True)


@nox.session
def protos(session: nox.Session) -> None:
    """Generate milo/wire from protos/ again."""
    session.run(PYTHON, "tools/gen_protos.py", "milo/wire", *session.posargs, external=True)


@nox.session
def unit(session: nox.Session) -> None:
    """Tests that need neither root nor other programs."""
    _pytest(session, "unit")


@nox.session
def integration(session: nox.Session) -> None:
    """Tests with the real crun, real FIFOs and real JVMs."""
    if _apart:
        # Its tests wait for an agent more than they compute, and none of both measures anything.
        words = (*HOW["acceptance"], *NOT_ALONE)
        _begin("acceptance", "-m", "nox", "--no-venv", "-s", "acceptance", "--", *words)
    _pytest(session, "integration")


@nox.session
def conformance(session: nox.Session) -> None:
    """The behaviours of Nomad's own drivers: see tests/conformance/README.md."""
    _pytest(session, "conformance")


@nox.session
def acceptance(session: nox.Session) -> None:
    """Tests against a Nomad agent that they start and stop themselves."""
    if not _has_ended(session, "acceptance"):
        _pytest(session, "acceptance")


@nox.session
def alone(session: nox.Session) -> None:
    """The tests that are marked `alone`, of all suites, with nothing beside them."""
    failed = []
    for suite, files in _measuring().items():
        try:
            _pytest(session, suite, "-m", "alone", *files, part="-alone")
        except CommandFailed:
            failed.append(suite)
    if failed:
        session.error(f"failed: {', '.join(failed)}")


@nox.session
def vm(session: nox.Session) -> None:
    """Tests on cgroup v2, in a virtual machine: short | full | systemd [--resume] [TEST ...]."""
    if _has_ended(session, "vm"):
        return
    command = (PYTHON, "-m", "tests.vm.run", *session.posargs)
    # Long enough for the machine and its files to be put away.
    session.run(*command, external=True, interrupt_timeout=30, terminate_timeout=30)


@nox.session
def coverage(session: nox.Session) -> None:
    """Combine what the suites measured, report it, and hold it to the project's limits."""
    if not all(_all_passed(suite) for suite in SUITES):
        session.skip("coverage is judged only when every suite was run and passed")
    env = {"COVERAGE_FILE": str(WORK / "combined")}
    command = (PYTHON, "-m", "coverage")
    found = sorted(str(path) for path in WORK.glob("coverage-*"))
    session.run(*command, "combine", "--quiet", "--keep", *found, env=env, external=True, log=False)
    report = (*command, "report", "--show-missing")
    session.run(*report, "--skip-covered", f"--fail-under={TOTAL_PERCENT}", env=env, external=True)
    session.run(*report, f"--include={','.join(WHOLE)}", "--fail-under=100", env=env, external=True)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure, side by side, and write docs/benchmarks.md.

    With ``-- startup`` second starts, with ``-- drivers`` Nomad's java and raw_exec drivers too.
    """
    module, words = "tests.bench.run", session.posargs
    if words[:1] in (["startup"], ["drivers"]):
        module, words = f"tests.bench.{words[0]}_bench", words[1:]
    session.run(PYTHON, *PRIVATE, PYTHON, "-m", module, *words, external=True)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Fuzz what reads bytes from outside: [--seconds N] for each of the targets [TARGET ...]."""
    seconds, names = "60", []
    arguments = iter(session.posargs)
    for argument in arguments:
        if argument == "--seconds":
            seconds = next(arguments, seconds)
        else:
            names.append(argument)
    session.run(PYTHON, "-m", "pip", "install", "-q", "--group", "fuzz", external=True)
    known = [path.name for path in sorted((ROOT / "tests/data/fuzz").iterdir())]
    for name in names or known:
        corpus = WORK / "fuzz" / name
        corpus.mkdir(parents=True, exist_ok=True)
        session.run(
            *(PYTHON, "-m", "tests.fuzz.run", name, str(corpus), f"tests/data/fuzz/{name}"),
            *(f"-max_total_time={seconds}", "-timeout=10", "-rss_limit_mb=1024", "-verbosity=0"),
            "-print_final_stats=1",
            external=True,
        )


@nox.session
def chaos(session: nox.Session) -> None:
    """Kill, stop and pause everything around printing tasks, and account for each line."""
    session.run(PYTHON, *PRIVATE, PYTHON, "-m", "tests.chaos.run", *session.posargs, external=True)


@nox.session
def matrix(session: nox.Session) -> None:
    """Try the parts that this machine has, and write docs/compatibility.md: [--help]."""
    command = (PYTHON, "-m", "tests.matrix.run")
    session.run(*command, *session.posargs, external=True)


@nox.session
def soak(session: nox.Session) -> None:
    """Tasks that come and go for an hour, and figures that must not grow: [--minutes N]."""
    session.run(PYTHON, *PRIVATE, PYTHON, "-m", "tests.soak.run", *session.posargs, external=True)


@nox.session
def leak(session: nox.Session) -> None:
    """What 300 tasks and 50 recoveries leave behind: nothing. `integration` has a short form."""
    command = (PYTHON, "-m", "pytest", "-s", "tests/integration/test_leaks.py")
    session.run(*command, *session.posargs, env={"MILO_FULL": "1"}, external=True)


@nox.session
def build(session: nox.Session) -> None:
    """Build dist/: the wheel, and dist/milo, one file that runs in any Python: [--update]."""
    session.run(PYTHON, "tools/build_executable.py", *session.posargs, external=True)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation as a site, into .nox/site; a link that leads nowhere fails it."""
    # What it would print is an advertisement of the theme's.
    env = {"NO_MKDOCS_2_WARNING": "1"}
    session.run(PYTHON, "-m", "mkdocs", "build", "--strict", "--quiet", env=env, external=True)


@nox.session
def demo(session: nox.Session) -> None:
    """Run a streaming JAR with the driver's own code, without Nomad; [--nomad]: `milo demo`."""
    milo = str(Path(PYTHON).with_name("milo"))
    words = session.posargs
    if "--nomad" in words:
        words = ["demo", *(word for word in words if word != "--nomad")]
    else:
        jar = WORK / "jars/streaming-test.jar"
        session.run(PYTHON, "-m", "tests.support.jars", str(jar), external=True, silent=True)
        words = ["run", *words, str(jar)]
    session.log("Ctrl-C stops it")
    private = PRIVATE if os.geteuid() == 0 else ()  # an ordinary user's run uses no cgroups
    # Ctrl-C reaches Milo as well, which stops the container and logs its last words: nox's
    # own patience of 0.3 s would kill it in the middle of that.
    session.run(
        *(PYTHON, *private, milo, *words),
        external=True,
        interrupt_timeout=60,
        terminate_timeout=60,
    )


@nox.session
def test(session: nox.Session) -> None:
    """All that this machine can run, then a plain account of it."""
    shutil.rmtree(WORK / "reports", ignore_errors=True)
    WORK.mkdir(exist_ok=True)
    _apart.update(_measuring())
    # It takes little more than one core, and nothing beside it measures: that comes last.
    _begin("vm", "-m", "tests.vm.run", "short")
    beside = ("lint", "docs", "unit", "conformance", "integration")
    for name in (*beside, "vm", "acceptance", "alone", "coverage", "summary"):
        session.notify(name)


@nox.session
def summary(session: nox.Session) -> None:
    """Say plainly what passed, what failed and what was skipped; used by `test`."""
    passed = failed = skipped = 0
    problems: list[str] = []
    failures: list[str] = []
    for suite in REPORTED:
        counts, reasons = _outcome(suite)
        if counts is None:
            problems.append(f"{suite}: did not run to its end")
            continue
        session.log("%s: %d passed, %d failed, %d skipped", suite, *counts)
        for reason, times in sorted(reasons.items()):
            session.log("%s: skipped %d: %s", suite, times, reason)
        for path in _reports(suite):
            failures += _failures(path)
        passed, failed, skipped = (
            one + other for one, other in zip((passed, failed, skipped), counts, strict=True)
        )
        excused = {
            "acceptance": _nomad() is None,
            "conformance": _nomad() is None,
            "vm": any(reason.startswith(NO_MACHINE) for reason in reasons),
        }
        if counts[0] == 0 and not excused.get(suite):
            problems.append(f"{suite}: not one test passed")
    if not _nomad():
        session.log("There is no nomad on PATH nor in NOMAD_BIN: no acceptance test was run")
    print(f"{passed} passed, {failed} failed, {skipped} skipped", flush=True)
    for line in failures[:MAX_FAILURES]:
        print(f"FAILED {line}", flush=True)
    if len(failures) > MAX_FAILURES:
        print(f"and {len(failures) - MAX_FAILURES} more", flush=True)
    if problems:
        session.error("; ".join(problems))


def _all_passed(suite: str) -> bool:
    counts, _ = _outcome(suite)
    return counts is not None and counts[0] > 0 and counts[1] == 0


def _nomad() -> str | None:
    return shutil.which(os.environ.get("NOMAD_BIN") or "nomad")


def _begin(name: str, *words: str) -> None:
    """Run Python with ``words`` beside the sessions until that of this name waits for it."""
    with _log(name).open("wb") as log:
        _beside[name] = subprocess.Popen((PYTHON, *words), stdout=log, stderr=log)


def _has_ended(session: nox.Session, name: str) -> bool:
    """Wait for what runs beside and show what it has printed; return False if nothing does."""
    if name not in _beside:
        return False
    with _beside.pop(name) as process:
        status = process.wait()
    sys.stdout.write(_log(name).read_text(errors="replace"))
    sys.stdout.flush()
    if status:
        session.error(f"{name} ended with {status}")
    return True


def _log(name: str) -> Path:
    return WORK / f"{name}.log"


def _measuring() -> dict[str, list[str]]:
    """Return the suites that have tests marked `alone`, each with the files that have some."""
    found: dict[str, list[str]] = {}
    for suite in SUITES:
        for path in sorted((ROOT / "tests" / suite).glob("test_*.py")):
            if MARK in path.read_text():
                found.setdefault(suite, []).append(str(path.relative_to(ROOT)))
    return found


def _pytest(session: nox.Session, suite: str, *words: str, part: str = "") -> None:
    """Run a suite; or a ``part`` of it that pytest's ``words`` choose, with a report of its own."""
    WORK.mkdir(exist_ok=True)
    data = WORK / f"coverage-{suite}{part}"
    report = WORK / f"reports/{suite}{part}.xml"
    for path in (*report.parent.glob(f"{report.stem}*.xml"), *WORK.glob(f"{data.name}*")):
        path.unlink(missing_ok=True)
    if not words:
        most = NOT_ALONE if suite in _apart else ()
        words = (f"tests/{suite}", *(session.posargs or (*HOW[suite], *most)))
    # Of a short name: pytest's own leaves too little of the 107 bytes of a unix socket's path.
    with tempfile.TemporaryDirectory(prefix="m", ignore_cleanup_errors=True) as place:
        measuring = ("-m", "coverage", "run") if suite in MEASURED else ()
        session.run(
            *(PYTHON, *measuring, "-m", "pytest"),
            *(f"--junitxml={report}", f"--basetemp={place}/t"),
            *words,
            env={"COVERAGE_FILE": str(data)},
            external=True,
        )


def _reports(suite: str) -> list[Path]:
    """Return the reports of a suite: one, and another where `alone` has run, or is to run."""
    whole, part = (WORK / f"reports/{suite}{part}.xml" for part in ("", "-alone"))
    return [whole, part] if suite in _apart or part.exists() else [whole]


def _outcome(suite: str) -> tuple[tuple[int, int, int] | None, dict[str, int]]:
    """Return (passed, failed, skipped) of a suite, and how often each reason to skip occurs."""
    passed = failed = skipped = 0
    reasons: Counter[str] = Counter()
    for path in _reports(suite):
        counts, found = _read_report(path)
        if counts is None:
            return None, {}
        passed, failed, skipped = (
            one + other for one, other in zip((passed, failed, skipped), counts, strict=True)
        )
        reasons.update(found)
    return (passed, failed, skipped), reasons


def _failures(path: Path) -> list[str]:
    """Return a line for each failed test of a report: its name and its failure's first line."""
    lines = []
    for case in ElementTree.parse(path).iter("testcase"):  # noqa: S314  # our own file
        for entry in (*case.findall("failure"), *case.findall("error")):
            name = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"
            first = entry.get("message", "").partition("\n")[0]
            lines.append(f"{name}: {first}"[:300])
    return lines


def _read_report(path: Path) -> tuple[tuple[int, int, int] | None, dict[str, int]]:
    """Return (passed, failed, skipped) and how often each reason to skip occurs."""
    try:
        suite = ElementTree.parse(path).getroot().find("testsuite")  # noqa: S314  # our own file
    except (OSError, ElementTree.ParseError):
        return None, {}
    if suite is None:
        return None, {}
    failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
    skipped = int(suite.get("skipped", 0))
    reasons: dict[str, int] = {}
    for entry in suite.iter("skipped"):
        reason = entry.get("message", "no reason given")
        reasons[reason] = reasons.get(reason, 0) + 1
    return (int(suite.get("tests", 0)) - failed - skipped, failed, skipped), reasons
