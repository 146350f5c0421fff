"""What this machine has of each dimension."""

from __future__ import annotations

import itertools
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from milo.core.container.crun import version_from_output as version_from_crun
from milo.core.java.versions import version_from_output
from tests.matrix.table import (
    CLUSTER_FEATURES,
    CRUN_FEATURES,
    DISTRIBUTION_FEATURES,
    JAVA_FEATURES,
    KERNEL_FEATURES,
    NOMAD_FEATURES,
    PYTHON_FEATURES,
    SYSTEMD_FEATURES,
    Dimension,
    Part,
)
from tests.support import crun_versions, debian_jdks, jdks, nomads, pythons, roots
from tests.support.java_homes import all_homes, is_packaged
from tests.vm.kernel import EMULATED, ENGINES, IN_USER_MODE

MACHINES = {
    "debian-12": "Debian 12",
    "debian-12-unmerged": "Debian 12, /usr unmerged",
    "debian-13": "Debian 13",
    "debian-14": "Debian 14 (testing)",
}
THIS_PYTHON = "{}.{}".format(*sys.version_info[:2])

OWN_KERNEL = "6.1"
"""Debian 12's, the machine's that these tests run on."""
KERNELS = (OWN_KERNEL, "6.12")
MACHINES_S = 36000
"""How long all machines of a kernel may take."""


def found_nomads(download: bool) -> list[Part]:
    """Return every Nomad, each with the next newer one; none can be downloaded."""
    paths = nomads.found()
    following = dict(itertools.pairwise(paths))
    parts = []
    for version, path in paths.items():
        env, notes = {"NOMAD_BIN": path}, {}
        if newer := following.get(version):
            env["NOMAD_NEXT"] = paths[newer]
            notes["upgrade"] = f"to {newer}"
        parts.append(Part(version, env, notes))
    return parts


def found_javas(download: bool) -> list[Part]:
    """Return every Java of /usr/lib/jvm, of ``$JAVA_HOMES``, and those that can be downloaded."""
    parts = [_java("packaged" if is_packaged(home) else "archive", home) for home in all_homes()]
    for home in os.environ.get("JAVA_HOMES", "").split(os.pathsep):
        parts += [_java("named", home)] if home else []
    if download:
        for release in debian_jdks.SUITES:
            parts += _downloaded("archive", debian_jdks.fetch, release)
        for release in jdks.RELEASES:
            parts += _downloaded("jlinked", jdks.fetch, release)
        for home in all_homes():
            parts += _downloaded("jlinked", jdks.link, home)
    first = {part.name: part for part in reversed(parts)}
    return sorted(first.values(), key=lambda part: (int(part.name.split()[0]), part.name))


def _downloaded(kind: str, fetch: Callable[[str], Path], release: str) -> list[Part]:
    try:
        return [_java(kind, str(fetch(release)))]
    except RuntimeError as error:
        print(f"Java {release}, {kind}: not here: {error}", file=sys.stderr)
        return []


def _java(kind: str, home: str) -> Part:
    """Return a Java as a part, named by its feature release."""
    done = subprocess.run([f"{home}/bin/java", "-version"], capture_output=True, text=True)
    version = version_from_output(done.stdout + done.stderr)
    return Part(f"{version.major} {kind}", {"MILO_TEST_JAVA": home})


def found_distributions(download: bool) -> list[Part]:
    """Return every release of Debian that debootstrap can make."""
    return [
        Part(words, {"MILO_TEST_MACHINE": name}, python=partial(roots.python, name))
        for name, words in MACHINES.items()
        if download
    ]


def found_pythons(download: bool) -> list[Part]:
    """Return this Python, every other one of this machine, and Debian 14's."""
    parts = [Part(THIS_PYTHON, {}, {"unit": platform.python_version()})]
    if download:
        others = pythons.found()
        for release, path in others.items():
            if release != THIS_PYTHON:
                parts.append(Part(release, {}, python=partial(pythons.environment, path)))
        if "3.14" not in others:
            on_it = "of Debian 14, and there"
            notes = {feature.name: on_it for feature in PYTHON_FEATURES}
            parts.append(Part("3.14", {}, notes, partial(roots.python, "debian-14")))
    return parts


def found_cruns(download: bool) -> list[Part]:
    """Return the crun that is installed, and those of other releases of Debian."""
    installed = shutil.which("crun")
    parts = [_crun(installed)] if installed else []
    for suite in crun_versions.SUITES if download else ():
        try:
            parts.append(_crun(str(crun_versions.fetch(suite) / "crun")))
        except RuntimeError as error:
            print(f"crun of {suite}: not here: {error}", file=sys.stderr)
    return parts


def _crun(path: str) -> Part:
    words = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
    version = version_from_crun(words)
    assert version
    place = str(Path(path).parent)
    env = {"MILO_TEST_CRUN": place, "PATH": f"{place}{os.pathsep}{os.environ['PATH']}"}
    return Part(version, env)


def found_kernels(download: bool) -> list[Part]:
    """Return the kernels for the virtual machine: each is downloaded, and takes hours."""
    if not download:
        return []
    return [_machine(series, "full", engine) for engine in ENGINES for series in KERNELS]


def found_systemds(download: bool) -> list[Part]:
    """Return the machine of Debian's whose process 1 is systemd."""
    return [_machine("6.1", "systemd")] if download else []


def _machine(series: str, form: str, engine: str = EMULATED) -> Part:
    """Return a part that runs tests in a virtual machine.

    Results of this commit count, or of those since ``$MILO_VM_SINCE``.
    """
    own = ("--kernel", series) if series != OWN_KERNEL else ()
    since = os.environ.get("MILO_VM_SINCE") or "HEAD"
    command = ("-m", "tests.vm.run", form, "--since", since, "--engine", engine, *own)
    name = series if engine == EMULATED else f"{series}{IN_USER_MODE}"
    return Part(name, {}, command=command, limit_s=MACHINES_S)


DIMENSIONS = (
    Dimension(
        "nomad",
        "Nomad",
        "Acceptance tests with a real agent of each version. They run as root on cgroup v1.",
        NOMAD_FEATURES,
        ("1.6.10", "1.8.4", "1.10.5", "1.11.3", "2.0.5"),
        found_nomads,
    ),
    Dimension(
        "java",
        "Java",
        "Integration tests with one Java each, and a JAR with classes of Java 8 (version 52)."
        " Packaged: by Debian, as installed. Archive: unpacked with nothing outside of it, beside"
        " a C library of its own where this host's is too old. Jlinked: an image made by jlink."
        " OpenJ9 and GraalVM are in no package here; tests/unit/test_other_jvms.py stands in.",
        JAVA_FEATURES,
        (
            *("8 archive", "11 archive", "11 jlinked", "17 archive", "17 jlinked", "17 packaged"),
            *("21 archive", "21 jlinked", "25 archive", "25 jlinked"),
        ),
        found_javas,
    ),
    Dimension(
        "cluster",
        "A cluster",
        "Acceptance tests with three servers and two clients on one machine, with ACLs.",
        CLUSTER_FEATURES,
        ("1.6.10", "1.10.5", "2.0.5"),
        found_nomads,
        together=True,
    ),
    Dimension(
        "distributions",
        "Distributions",
        "Each is a bare root file system made by debootstrap (`--variant=minbase`) that has neither"
        " Python nor crun nor a JDK, with this machine's kernel (cgroup v1). The first two columns"
        " begin on a bare one each, the others go on after the second. Debian 12 brings Python"
        " 3.11, crun 1.8.1 and Java 17; Debian 13 brings 3.13, 1.21 and 21; Debian 14 brings 3.14,"
        " 1.28 and 25.",
        DISTRIBUTION_FEATURES,
        (*MACHINES.values(), "Ubuntu"),
        found_distributions,
        not_here="Ubuntu: its archive could not be reached from the machine that ran this.\n\n"
        "Distributions with musl, such as Alpine: none could be had. What is shown is that"
        " the self-contained file refuses a Python of theirs and says what it needs"
        " (`tests/unit/test_executable_start.py`), and that what a JDK linked with musl loads is"
        " found (`tests/unit/test_libraries.py`). Milo from pip was not tried there.",
    ),
    Dimension(
        "python",
        "Python",
        "The tests in one Python each, with the packages that pip has for it.",
        PYTHON_FEATURES,
        ("3.11", "3.12", "3.13", "3.14"),
        found_pythons,
    ),
    Dimension(
        "crun",
        "crun",
        "The one that Debian 12 has, as installed; those of Debian 13 and of Debian's unstable"
        " release, the newest there is, unpacked beside the libraries that they need.",
        CRUN_FEATURES,
        ("1.8.1", "1.21", "1.28"),
        found_cruns,
    ),
    Dimension(
        "kernel",
        "cgroup v2 and kernels",
        "Tests in a virtual machine with a kernel of Debian's: 6.1 is that of Debian 12, 6.12 that"
        " of Debian 13. All else is this host's. Bounds on time are at least ten times as long. The"
        " processor is emulated; or the kernel is Debian's package user-mode-linux, which runs as a"
        " program of the host's, has one processor and no cpusets, and runs no test with an agent"
        " (`tests/vm/left_out_user.txt`; for 6.12 `left_out_user_6.12.txt`, besides).",
        KERNEL_FEATURES,
        (*KERNELS, *(f"{series}{IN_USER_MODE}" for series in KERNELS)),
        found_kernels,
        together=True,
    ),
    Dimension(
        "systemd",
        "systemd",
        "Tests in a virtual machine with Debian 12's root file system and kernel, whose process 1"
        " is systemd.",
        SYSTEMD_FEATURES,
        ("6.1",),
        found_systemds,
        together=True,
    ),
)
