"""What a task reads of the whole host in /proc, compared with the list in docs/security.md."""

from __future__ import annotations

import os
import re
from pathlib import Path

import attrs
import pytest

from milo.core.config.plugin_options import PluginOptions
from tests.support import scripted_java
from tests.support.driver_rig import open_rig
from tests.support.security_table import DOCUMENT

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")

SCRIPT = r"""
cd /proc
for name in *; do
  case "$name" in
    [0-9]*|self|thread-self|net|mounts|sys) continue ;;
  esac
  find -L "$name" -type f 2>/dev/null | while read -r file; do
    [ "$(head -c 1 "$file" 2>/dev/null | wc -c)" = 0 ] || echo "$name"
  done
done | sort -u
"""
"""Prints the names in /proc that have something to read, without what belongs to the task."""


def listed() -> set[str]:
    """Return the names in the page's list."""
    text = (
        DOCUMENT.read_text().partition("- **Figures of the whole host.**")[2].partition("\n- **")[0]
    )
    return set(re.findall(r"`(\w[\w.-]*)`", text))


async def test_the_hosts_figures_are_listed(tmp_path: Path, jar_dir: Path) -> None:
    """No file of /proc beside the task's own is readable, but for those that the page names."""
    home = scripted_java.make(tmp_path / "jdk", SCRIPT)
    async with open_rig(attrs.evolve(PluginOptions(), java_home=str(home))) as rig:
        task = rig.task(jar_dir / "hello.jar")
        await rig.registry.start(task.request)
        await rig.registry.wait(task.id)
        await task.read()
        found = set(task.out.text.decode().split())
    assert {"meminfo", "stat"} <= found
    assert found <= listed(), f"readable, and not in the list: {sorted(found - listed())}"
