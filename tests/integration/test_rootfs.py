"""The root file system that a task sees: of the host, of its own, and what it mounts there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from milo.core.launch import PluginOptions
from tests.support.driver_rig import DriverRig, open_rig
from tests.support.java_homes import all_homes

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="containers need root"),
    pytest.mark.skipif(not all_homes(), reason="there is no JDK (./dev setup installs it)"),
]

FORMS = ("host", "minimal")


async def look(
    rig: DriverRig, jar_dir: Path, *questions: str, change: Any = None, **config: Any
) -> dict[str, str]:
    """Run the JAR that looks around; return question to answer.

    ``change`` is called with the launch and returns the one to start.
    """
    task = rig.task(jar_dir / "look.jar", args=list(questions), **config)
    await rig.registry.start(change(task.launch) if change else task.launch)
    with trio.fail_after(120):
        await rig.registry.wait(task.id)
    await trio.to_thread.run_sync(task.out.wait_end)
    text = task.out.text.decode()
    found = dict(line.split(" -> ", 1) for line in text.splitlines() if " -> " in line)
    assert set(found) == set(questions), text + task.err.text.decode()
    return found


@pytest.mark.parametrize("home", all_homes(), ids=os.path.basename)
async def test_minimal_root_has_what_a_jvm_needs(jar_dir: Path, home: str) -> None:
    """TLS, time zones, fonts, names, native libraries and the JDK's tools work; no shell does."""
    libraries = [
        str(path)
        for name in ("libstdc++.so.6", "libgcc_s.so.1", "libz.so.1", "librt.so.1")
        if (path := Path("/usr/lib/x86_64-linux-gnu", name)).exists()
    ]
    questions = ["trust", "zone", "resolve localhost", "resolve no-such.invalid", "jcmd"]
    if any(Path("/usr/share/fonts").rglob("*.ttf")):
        questions.append("font")
    places = ["/bin", "/sbin", "/usr/bin", "/usr/sbin", "/home", "/root", "/etc/alternatives"]
    places += ["/bin/sh", "/usr/lib/python3", "/usr/share/doc", "/usr/local/bin", "/etc/shadow"]
    async with open_rig(PluginOptions(java_home=home)) as rig:
        found = await look(
            rig,
            jar_dir,
            *questions,
            *(f"load {path}" for path in libraries),
            *(f"exists {path}" for path in places),
            "run /bin/sh -c true",
            "list /usr",
            rootfs="minimal",
        )
    assert int(found["trust"]) > 50
    assert found["zone"].startswith("Europe/Berlin ")
    assert int(found.get("font", 100)) > 50
    assert found["resolve localhost"] == "127.0.0.1"
    assert found["resolve no-such.invalid"] == "unknown"
    assert found["jcmd"].startswith("0 "), found["jcmd"]
    assert {found[f"load {path}"] for path in libraries} == {"done"}
    assert {found[f"exists {path}"] for path in places} == {"false"}
    assert found["run /bin/sh -c true"].startswith("failed:")
    assert set(found["list /usr"].split()) <= {"lib", "lib32", "lib64", "local", "share"}
