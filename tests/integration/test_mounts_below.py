"""What is mounted below a volume of the job's is no looser than the volume itself."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from milo.core.config.plugin_options import PluginOptions, Volumes
from milo.core.launch import Network
from tests.integration.test_privileges import output
from tests.support import scripted_java
from tests.support.driver_rig import open_rig
from tests.support.userns import WITH_AND_WITHOUT

SCRIPT = """
for place in /volume /volume/below; do
    cat $place/there 2>/dev/null || echo nothing
    echo new 2>/dev/null >$place/new && echo written || echo refused
    cat $place/zero 2>/dev/null | head -c 1 | wc -c
done
grep -E ' /volume(/below)? ' /proc/self/mountinfo | cut -d' ' -f5,6
"""


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """A directory of nobody's, with another file system below it, and a device node in each."""
    top = tmp_path / "volume"
    below = top / "below"
    below.mkdir(parents=True)
    for path in (tmp_path, *tmp_path.parents[:2]):
        path.chmod(path.stat().st_mode | 0o055)  # one may be /tmp
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(below)], check=True)
    try:
        for place in (top, below):
            (place / "there").write_text(f"{place.name}\n")
            os.mknod(place / "zero", 0o20666, os.makedev(1, 5))
            os.chown(place, 65534, 65534)
        yield top
    finally:
        subprocess.run(["umount", str(below)], check=True)


@pytest.mark.parametrize("readonly", [True, False])
@WITH_AND_WITHOUT
async def test_what_lies_below_a_volume(
    tmp_path: Path, jar_dir: Path, volume: Path, userns: bool, readonly: bool
) -> None:
    """Read-only holds for it too (`rro`), and no device of either can be opened.

    Where crun maps ids it binds the volume alone: what lies below is not there at all.
    """
    home = scripted_java.make(tmp_path / "jdk", SCRIPT)
    plugin = PluginOptions(java_home=str(home), userns=userns, volumes=Volumes(True, ("/",)))
    mount = {"source": str(volume), "target": "/volume", "readonly": readonly}
    async with open_rig(plugin) as rig:
        task = rig.task(jar_dir / "hello.jar", mounts=[mount])
        task = attrs.evolve(task, request=attrs.evolve(task.request, network=Network(mode="none")))
        lines = (await output(rig, task)).splitlines()
    flags = {path: words.split(",") for path, _, words in (one.partition(" ") for one in lines[6:])}
    ended = "refused" if readonly else "written"
    assert lines[:3] == ["volume", ended, "0"]
    assert lines[3:6] == (["nothing", "refused", "0"] if userns else ["below", ended, "0"])
    assert set(flags) == {"/volume"} if userns else {"/volume", "/volume/below"}
    for words in flags.values():
        assert {"ro" if readonly else "rw", "nosuid", "nodev"} <= {*words}
