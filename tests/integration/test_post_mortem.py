"""``milo post-mortem``: what is known of tasks that died, each in its way."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import trio

from milo.core.config.plugin_options import PluginOptions
from tests.integration.test_black_box import STUCK, started
from tests.integration.test_milo_commands import milo
from tests.support.driver_rig import DriverRig, Task, open_rig
from tests.support.java_homes import all_homes
from tests.support.waiting import wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")

MIB = 1 << 20


async def ended(rig: DriverRig, task: Task) -> dict[str, Any]:
    """Run a task to its end; return what is known of it once Nomad has removed the task."""
    await rig.registry.start(task.request)
    await rig.registry.wait(task.id)
    return await known(rig, task)


async def known(rig: DriverRig, task: Task) -> dict[str, Any]:
    await rig.registry.destroy(task.id, force=False)
    done = await milo(rig, "post-mortem", "--json", task.request.alloc_id)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


async def shown(rig: DriverRig, task: Task) -> str:
    done = await milo(rig, "post-mortem", task.request.alloc_id)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


async def test_the_kernels_kill(jar_dir: Path) -> None:
    """With the memory that it had, and what the JVM had counted of its heap and threads."""
    async with open_rig() as rig:
        options = ["-XX:MaxDirectMemorySize=4g"]
        task = rig.task(jar_dir / "native-hog.jar", jvm_options=options)
        found = await ended(rig, task)
        assert (found["signal"], found["oom_killed"], found["oom_kills"]) == (9, True, 1)
        assert found["memory"]["limit_bytes"] == 256 * MIB
        assert 200 * MIB < found["memory"]["peak_bytes"] <= 256 * MIB
        assert 0 < found["heap"]["used_bytes"] <= found["heap"]["max_bytes"] < 256 * MIB
        assert found["threads"] >= 1 and found["gc"]["collector"] == "Serial"
        text = await shown(rig, task)
        assert "how           OOM Killed: Task was killed by the kernel" in text
        assert "OOM kills     1, the application among them" in text
        assert "threads       " in text


async def test_a_crash(jar_dir: Path) -> None:
    """With its frame, and the report, which can be read on the host."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "dies.jar", args=["segv"])
        found = await ended(rig, task)
        assert found["signal"] == 6 and found["crash"].startswith("the JVM crashed: SIGSEGV")
        assert "in frame V [libjvm.so" in found["crash"]
        report = Path(found["dumps"]["crash_report"])
        assert b"Problematic frame" in report.read_bytes()
        assert f"crash report  {report}" in await shown(rig, task)


@pytest.mark.parametrize("home", all_homes(), ids=os.path.basename)
@pytest.mark.parametrize("end", ["exit 5", "kill -SEGV 2"])
async def test_a_jvm_that_ended_by_itself(jar_dir: Path, home: str, end: str) -> None:
    """What it had counted is known, although it removes its file at an exit and in a crash."""
    async with open_rig(PluginOptions(java_home=home)) as rig:
        # The JVM ends while the shell, for which it waits, still runs: else it may exit first.
        script = f"until [ -e /alloc/data/go ]; do sleep 0.1; done; {end}; sleep 1000"
        task = rig.task(jar_dir / "shell.jar", args=[script])
        await rig.registry.start(task.request)
        told = lambda: any(text.startswith("Runs on Java") for text in rig.texts(task))  # noqa: E731
        await trio.to_thread.run_sync(wait_for, "the start event", told)
        Path(task.request.shared_dir, "data/go").touch()
        await rig.registry.wait(task.id)
        found = await known(rig, task)
        assert (found["exit_code"], found["signal"]) in ((5, 0), (0, 6))
        assert list(Path(task.request.task_dir, "tmp").glob("hsperfdata_*/*")) == []
        assert found["threads"] >= 1 and found["gc"]["collector"] == "Serial"


async def test_an_exit_that_was_no_success(jar_dir: Path) -> None:
    """With the last lines of its standard error."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "shell.jar", args=["seq 1 30 >&2; exit 5"])
        # What Nomad's log collector would do.
        log = Path(task.request.shared_dir, "logs/app.stderr.0")
        await rig.registry.start(task.request)
        await rig.registry.wait(task.id)
        await task.read()
        log.write_bytes(task.err.text)
        found = await known(rig, task)
        assert (found["exit_code"], found["signal"], found["successful"]) == (5, 0, False)
        assert found["stderr"][-1] == "30" and len(found["stderr"]) == 20
        assert "exit          code 5, signal none" in await shown(rig, task)


async def test_a_stop_that_took_too_long(jar_dir: Path) -> None:
    """Its thread dump is pointed to; while a task runs there is nothing to tell."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "stubborn.jar", args=STUCK)
        await started(rig, task)
        done = await milo(rig, "post-mortem", task.request.alloc_id)
        assert done.returncode == 1 and b"has not ended: it is running" in done.stderr
        await rig.registry.stop(task.id, "SIGTERM", 2.0)
        found = await known(rig, task)
        assert found["thread_dump"] and found["stopped_by_kill"] and found["stop_asked"]
        text = await shown(rig, task)
        assert "how           Task was ended as asked by SIGKILL (signal 9)" in text
        assert "thread dump   in its log: milo logs" in text


LIES = r"""
for word in $(tr '\0' '\n' < /proc/2/cmdline); do
    case $word in -XX:ErrorFile=*) report=${report:-${word#*=}};; esac
done
base=${report%.hs_err.log}
case %s in
link) ln -s /etc/shadow $report; ln -s / $base.recording; mkfifo $base.hprof;;
lie) printf '#  SIG\033[2J (0xb), pid=2, tid=3\n# Problematic frame:\n# V \033]0;x\007%09999d' 1 \
    > $report;;
esac
for file in /tmp/hsperfdata_*/2; do
    printf '\312\376\300\300\1\2\0\1' | dd of=$file conv=notrunc 2> /dev/null
    head -c 32000 /dev/urandom | dd of=$file bs=1 seek=8 conv=notrunc 2> /dev/null
done
printf 'a\033[2Jb\033]0;title\007\n' >&2
kill -9 2
"""


@pytest.mark.parametrize("how", ["link", "lie"])
async def test_what_a_task_writes_is_not_believed(jar_dir: Path, how: str) -> None:
    """A false report is a bounded sentence; no symlink is followed, no FIFO waited for."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "shell.jar", args=[LIES.replace("%s", how)])
        await rig.registry.start(task.request)
        await rig.registry.wait(task.id)
        await task.read()
        Path(task.request.shared_dir, "logs/app.stderr.0").write_bytes(task.err.text)
        found = await known(rig, task)
        assert found["signal"] == 9
        if how == "link":
            assert found["dumps"] == {} and found["crash"] is None
        else:
            assert found["crash"].startswith("the JVM crashed: SIG\\x1b[2J (0xb) in frame V ")
            assert len(found["crash"]) < 600
        text = await shown(rig, task)
        assert "\x1b" not in text and "root:" not in text
        assert r"a\x1b[2Jb\x1b]0;title\x07" in text
