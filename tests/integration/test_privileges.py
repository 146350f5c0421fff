"""What a task may do: capabilities, system calls, limits and namespaces, in real containers."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import attrs
import pytest
import trio

from milo.core.launch import Network, PluginOptions
from milo.errors import ConfigError, MiloError
from milo.task import privileges
from tests.support import java_homes, leftovers, scripted_java
from tests.support.driver_rig import DriverRig, Task, open_rig

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")

EVERYTHING = PluginOptions(allow_caps=("all",), allow_seccomp_profiles=("unconfined",))
STATUS = "cat /proc/self/status"
needs_perl = pytest.mark.skipif(
    not (shutil.which("perl") and platform.machine() == "x86_64"),
    reason="calls the kernel through perl, with the numbers of x86_64",
)


NO_INIT = "no init for containers is installed (./dev setup: catatonit)"


def has_init() -> bool:
    """Whether this machine has an init that a container can be given."""
    try:
        return bool(privileges.find_init())
    except ConfigError:
        return False


@contextlib.asynccontextmanager
async def scripted(
    tmp_path: Path, script: str, plugin: PluginOptions | None = None
) -> AsyncIterator[DriverRig]:
    """Run a driver in which ``script`` is what every JAR does."""
    home = scripted_java.make(tmp_path / "jdk", script)
    async with open_rig(attrs.evolve(plugin or PluginOptions(), java_home=str(home))) as rig:
        yield rig


async def output(rig: DriverRig, task: Task) -> str:
    """Run a task to its end, and return what it printed."""
    await rig.registry.start(task.launch)
    result = await rig.registry.wait(task.id)
    text = task.out.text.decode()
    assert not result.error, text
    return text


def status(text: str) -> dict[str, str]:
    """Return the fields of /proc/self/status."""
    return {k: v.strip() for k, _, v in (line.partition(":") for line in text.splitlines())}


def bits(*numbers: int) -> str:
    """Return capabilities as /proc shows them."""
    return f"{sum(1 << number for number in numbers):016x}"


# ---- capabilities -----------------------------------------------------------------------


async def test_added_capabilities_are_effective_for_a_user_who_is_not_root(
    tmp_path: Path, jar_dir: Path
) -> None:
    """cap_add reaches all five sets of the application of nobody, with no way to gain more."""
    async with scripted(tmp_path, STATUS) as rig:
        task = rig.task(
            jar_dir / "hello.jar", cap_add=["CAP_NET_BIND_SERVICE", "chown"], cap_drop=["all"]
        )
        found = status(await output(rig, task))
    assert found["Uid"].split()[0] == "65534"
    sets = [found[f"Cap{name}"] for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")]
    assert sets == [bits(0, 10)] * 5
    assert found["NoNewPrivs"] == "1"


# ---- system calls -----------------------------------------------------------------------

CALLS = {
    "unshare user namespace": (272, "0x10000000"),
    "clone user namespace": (56, "0x10000011, 0, 0, 0, 0"),
    "clone3": (435, "0, 0"),
    "keyctl": (250, "0, -4, 0"),
    "add_key": (248, "0, 0, 0, 0, 0"),
    "mount": (165, "0, 0, 0, 0, 0"),
    "pivot_root": (155, "0, 0"),
    "bpf": (321, "0, 0, 0"),
    "perf_event_open": (298, "0, 0, -1, -1, 0"),
    "userfaultfd": (323, "1"),
    "io_uring_setup": (425, "1, 0"),
    "init_module": (175, "0, 0, 0"),
    "kexec_load": (246, "0, 0, 0, 0"),
    "open_by_handle_at": (304, "0, 0, 0"),
    "clock_settime": (227, "0, 0"),
    "swapon": (167, "0, 0"),
    "personality without ASLR": (135, "0x0040000"),
}
"""The numbers of x86_64 and harmless arguments: an allowed call fails otherwise, or works."""

REFUSED = {1: "EPERM", 38: "ENOSYS"}


def calls_script() -> str:
    """Return a script that makes each call and prints the error's number, or 0."""
    lines = [
        f'$! = 0; my $r = syscall({number}, {args}); exit 0 if $r == 0 && "{name}" =~ /clone /; '
        f'print "{name}=", ($r == -1 ? $!+0 : 0), "\\n";'
        for name, (number, args) in CALLS.items()
    ]
    return "exec perl -e '$| = 1; " + " ".join(f"{{ {line} }}" for line in lines) + "'"


@needs_perl
@pytest.mark.parametrize("profile", ["packaged", "built-in"])
async def test_calls_beyond_the_container_are_refused(
    tmp_path: Path, jar_dir: Path, profile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under either default profile the kernel refuses what docker's would, and user namespaces."""
    if profile == "built-in":
        monkeypatch.setattr(privileges, "DEFAULT_PROFILES", ())
    elif not any(os.path.exists(path) for path in privileges.DEFAULT_PROFILES):
        pytest.skip("no seccomp.json: the package golang-github-containers-common is missing")
    script = f"grep Seccomp: /proc/self/status\n{calls_script()}"
    async with scripted(tmp_path, script) as rig:
        lines = (await output(rig, rig.task(jar_dir / "hello.jar"))).splitlines()
    assert lines[0].split() == ["Seccomp:", "2"]
    found = dict(line.split("=") for line in lines[1:])
    assert {name: int(error) for name, error in found.items() if int(error) not in REFUSED} == {}
    assert set(found) == set(CALLS)


@needs_perl
async def test_unconfined_where_the_operator_allows_it(tmp_path: Path, jar_dir: Path) -> None:
    """A job gets no filter at all when it asks for it and the plugin's configuration lets it."""
    async with scripted(tmp_path, STATUS, EVERYTHING) as rig:
        task = rig.task(jar_dir / "hello.jar", seccomp_profile="unconfined")
        assert status(await output(rig, task))["Seccomp"] == "0"
        with pytest.raises(MiloError, match="allow_seccomp_profiles does not hold '/x'"):
            await rig.registry.start(
                rig.task(jar_dir / "hello.jar", seccomp_profile="/x", readers=False).launch
            )


async def test_own_profile_is_used_as_it_is_and_a_bad_one_is_named(
    tmp_path: Path, jar_dir: Path
) -> None:
    """The plugin's profile takes the place of the default; one that is none fails the start."""
    profile = tmp_path / "profile.json"
    profile.write_text(
        '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat", '
        '"a_call_of_the_future"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]}'
    )
    plugin = PluginOptions(seccomp_profile=str(profile))
    async with scripted(tmp_path, "mkdir /tmp/x 2>&1; :", plugin) as rig:
        text = await output(rig, rig.task(jar_dir / "hello.jar"))
        assert "No space left on device" in text
        profile.write_text('{"defaultAction": "SCMP_ACT_MAYBE"}')
        with pytest.raises(MiloError, match="SCMP_ACT_MAYBE"):
            await rig.registry.start(rig.task(jar_dir / "hello.jar", readers=False).launch)


@pytest.mark.parametrize("home", java_homes.all_homes(), ids=os.path.basename)
@pytest.mark.parametrize("init", [False, True], ids=["plain", "init"])
async def test_jvms_and_their_tools_work_under_the_default_filter(
    jar_dir: Path, home: str, init: bool
) -> None:
    """Files, sockets, threads, child processes, jcmd, JFR and jstack: nothing is refused."""
    if init and not has_init():
        pytest.skip(NO_INIT)
    async with open_rig(PluginOptions(java_home=home)) as rig:
        task = rig.task(jar_dir / "workout.jar", memory_mb=512, init=init)
        text = await output(rig, task)
    lines = text.splitlines()
    assert [line for line in lines if line.startswith("FAILED")] == []
    assert lines[-1] == "done"
    assert sum(line.startswith("ok ") for line in lines) == 12
    assert f"pid {2 if init else 1}" in lines
