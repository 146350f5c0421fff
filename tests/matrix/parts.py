"""What this machine has of each dimension."""

from __future__ import annotations

import itertools

from tests.matrix.table import NOMAD_FEATURES, Dimension, Part
from tests.support import nomads


def found_nomads() -> list[Part]:
    """Return every Nomad, each with the next newer one."""
    paths = nomads.found()
    following = dict(itertools.pairwise(paths.values()))
    parts = []
    for version, path in paths.items():
        env = {"NOMAD_BIN": path}
        if path in following:
            env["NOMAD_NEXT"] = following[path]
        parts.append(Part(version, env))
    return parts


DIMENSIONS = (
    Dimension(
        "nomad",
        "Nomad",
        "Acceptance tests with a real agent of each version. They run as root on cgroup v1.",
        NOMAD_FEATURES,
        ("1.6.10", "1.8.4", "1.10.5", "1.11.3", "2.0.5"),
        found_nomads,
    ),
)
