"""A plugin of coverage's: only the process that begins a suite looks for files never imported.

With ``source`` every process that is measured does so as it ends, thousands of them in a suite,
and that is most of what saving takes it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from coverage import CoveragePlugin

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
