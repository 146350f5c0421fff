"""A plugin of coverage's that leaves out what processes that others begin would do in vain.

There are thousands of them in a suite. With ``source`` every process that is measured looks for
files never imported as it ends, and one that was forked saves all that its ancestors have run: that
is most of what saving takes it. Here the process that begins a suite alone does the first, and each
saves what it has run itself.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from coverage import Coverage, CoveragePlugin

if TYPE_CHECKING:
    from coverage.plugin_support import Plugins
    from coverage.types import TConfigurable

MEASURED = Path(__file__).parents[2] / "milo"


class Sources(CoveragePlugin):
    """Names the measured files of a process that another one has begun by their place alone."""

    def configure(self, config: TConfigurable) -> None:
        """Replace ``source`` where coverage has handed its configuration down."""
        if "COVERAGE_PROCESS_CONFIG" in os.environ:
            config.set_option("run:source", None)
            config.set_option("run:include", [f"{MEASURED}/*"])


def coverage_init(reg: Plugins, _options: object) -> None:
    """Add the plugin: coverage calls this in every process that it measures."""
    reg.add_configurer(Sources())
    os.register_at_fork(after_in_child=_forget)


def _forget() -> None:
    """Drop what has been collected up to the fork: the parent saves that.

    Coverage itself can only begin anew, which is as dear as its patch of fork. Emptied in place:
    what the functions that run now go on to do is added to the same sets.
    """
    measuring = Coverage.current()
    if measuring is not None and measuring._collector is not None:
        for lines in measuring._collector.data.values():
            lines.clear()
