"""What this machine has of each dimension."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from milo.core.java.versions import version_from_output
from tests.matrix.table import CLUSTER_FEATURES, JAVA_FEATURES, NOMAD_FEATURES, Dimension, Part
from tests.support import debian_jdks, jdks, nomads
from tests.support.java_homes import all_homes


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
    parts = [_java("packaged", home) for home in all_homes()]
    for home in os.environ.get("JAVA_HOMES", "").split(os.pathsep):
        parts += [_java("named", home)] if home else []
    if download:
        for release in debian_jdks.SUITES:
            parts += _downloaded("archive", debian_jdks.fetch, release)
        for release in jdks.RELEASES:
            parts += _downloaded("jlinked", jdks.fetch, release)
    return sorted(parts, key=lambda part: (int(part.name.split()[0]), part.name))


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
        " a C library of its own where this host's is too old. Jlinked: an image made by jlink.",
        JAVA_FEATURES,
        ("8 archive", "11 jlinked", "17 packaged", "21 archive", "21 jlinked", "25 packaged"),
        found_javas,
    ),
    Dimension(
        "cluster",
        "A cluster",
        "Acceptance tests with three servers and two clients on one machine, with ACLs.",
        CLUSTER_FEATURES,
        ("2.0.5",),
        found_nomads,
        together=True,
    ),
)
