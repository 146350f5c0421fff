"""A test that fails leaves nothing of its agent behind."""

from __future__ import annotations

import pytest

from tests.support import leftovers
from tests.support.agent import agent, missing
from tests.support.jobs import job_file


@pytest.mark.skipif(missing() is not None, reason="there is no agent here")
def test_a_failed_test_leaves_nothing(jar_url: str) -> None:
    """Neither plugin nor task, though nobody has stopped them; nor log collectors and cgroups."""
    with pytest.raises(ZeroDivisionError), agent("failed") as one:
        job = one.nomad.run(job_file(artifact=f"{jar_url}/stubborn.jar", kind="service"))
        job.wait_logs("running")
        one.note_allocations()
        assert len(leftovers.processes(one.base)) > 4
        raise ZeroDivisionError
    assert leftovers.processes(one.base) == []
    assert leftovers.mounts(one.base) == []
    assert leftovers.cgroups(one.allocations) == []
    assert not one.base.exists()
