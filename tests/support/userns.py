"""What tests with user namespaces need, and how those without one are left out."""

from __future__ import annotations

import pytest

from milo.task.oci.privileges import userns_problem

PROBLEM = userns_problem()
NEEDS_USERNS = pytest.mark.skipif(bool(PROBLEM), reason=f"no user namespaces: {PROBLEM}")
WITH_AND_WITHOUT = pytest.mark.parametrize(
    "userns", [False, pytest.param(True, marks=NEEDS_USERNS)], ids=["plain", "userns"]
)
"""Runs a test twice, with ``userns`` False and True."""
