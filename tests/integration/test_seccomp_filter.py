"""What was asked for beside what the kernel got: the filter that crun loads, call by call."""

from __future__ import annotations

import errno
import json
import os
import platform
from pathlib import Path
from typing import Any

import pytest
import trio

from milo.core.config.plugin_options import PluginOptions
from milo.core.container import seccomp, seccomp_allowed, seccomp_denied
from milo.core.container.crun import container_name
from milo.core.records import short_id
from milo.task.oci import privileges
from tests.support import bpf, scripted_java
from tests.support.driver_rig import open_rig

ARCH = bpf.AUDIT_ARCHES.get(platform.machine(), 0)
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="containers need root"),
    pytest.mark.skipif(not ARCH, reason="another machine than the filter's interpreter knows"),
]

NUMBERS = range(1024)
"""Linux has given out 470."""
BY_ARGUMENTS = {"clone", "personality", "socket"}
NEWEST = {
    "mount_setattr": 442,
    "quotactl_fd": 443,
    "open_tree_attr": 467,
    "lsm_get_self_attr": 459,
    "lsm_set_self_attr": 460,
    "lsm_list_modules": 461,
    "io_uring_setup": 425,
    "fsopen": 430,
    "move_mount": 429,
    "pidfd_getfd": 438,
}
"""Refused calls, with the numbers that every architecture has since 403."""
LATER = {
    457: "statmount",
    458: "listmount",
    462: "mseal",
    463: "setxattrat",
    464: "getxattrat",
    465: "listxattrat",
    466: "removexattrat",
    **({335: "uretprobe", 336: "uprobe"} if platform.machine() == "x86_64" else {}),
}
"""What the host's libseccomp may be too old to name, while the one of a newer crun is not."""


def hardened() -> dict[str, Any]:
    """Return Milo's form of a profile like podman's, which names all calls that there are."""
    names = sorted({*seccomp_allowed.ALLOWED, *seccomp_denied.denied(()), *BY_ARGUMENTS, "clone3"})
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": errno.ENOSYS,
        "archMap": [{"architecture": "SCMP_ARCH_X86_64"}, {"architecture": "SCMP_ARCH_AARCH64"}],
        "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}],
    }
    machine = privileges.machine()
    found = seccomp.convert(json.dumps(profile).encode(), "/podman's", (), machine)
    return seccomp.harden(found, (), machine)


@pytest.fixture(scope="module", params=["built in", "hardened"])
def program(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, jar_dir: Path
) -> bytes:
    """The program that a task runs under, as crun made it from one of the default profiles."""
    machine = privileges.machine()
    profile = seccomp.built_in((), machine) if request.param == "built in" else hardened()
    base = tmp_path_factory.mktemp("profile")
    base.chmod(0o755)
    return trio.run(loaded, base, jar_dir, profile)


async def loaded(base: Path, jar_dir: Path, profile: dict[str, Any]) -> bytes:
    """Run a task with a profile, and return the program that crun had the kernel load."""
    (base / "seccomp.json").write_text(json.dumps(profile))
    home = scripted_java.make(base / "jdk", "echo ready; exec sleep 4103")
    plugin = PluginOptions(java_home=str(home), seccomp_profile=str(base / "seccomp.json"))
    async with open_rig(plugin) as rig:
        task = rig.task(jar_dir / "hello.jar")
        await rig.registry.start(task.request)
        await trio.to_thread.run_sync(task.out.wait_for, b"ready")
        name = short_id(task.id)
        return (rig.state_dir / name / "crun" / container_name(name) / "seccomp.bpf").read_bytes()


def test_kernel_refuses_all_that_is_not_asked_for(program: bytes) -> None:
    """No call is let through but those of the list, whatever libseccomp knows of the others."""
    passing = {n for n in NUMBERS if bpf.answer(program, ARCH, n) == bpf.ALLOW}
    names = {bpf.name_of(ARCH, number) or LATER.get(number, "") for number in passing}
    assert names - BY_ARGUMENTS <= seccomp_allowed.ALLOWED
    assert not names & {*seccomp_denied.denied(())}
    assert [name for name, number in NEWEST.items() if number in passing] == []
    # ... and what is on the list is let through, if this libseccomp knows it.
    here = {name for n in NUMBERS if (name := bpf.name_of(ARCH, n))}
    assert seccomp_allowed.ALLOWED & here <= names


def test_unknown_call_is_not_there(program: bytes) -> None:
    """What is newer than everybody's lists ends with ENOSYS, on which C libraries fall back."""
    assert bpf.answer(program, ARCH, NUMBERS[-1]) == bpf.ERRNO | errno.ENOSYS
    clone3 = 435
    assert bpf.answer(program, ARCH, clone3) == bpf.ERRNO | errno.ENOSYS


@pytest.mark.parametrize("upper", [0, 1, 0xFFFFFFFF])
def test_sockets_are_refused_by_family(program: bytes, upper: int) -> None:
    """AF_VSOCK and AF_ALG cannot be had, whatever the upper half of the argument's register."""
    socket = next(n for n in NUMBERS if bpf.name_of(ARCH, n) == "socket")
    made = {
        family
        for family in range(64)
        if bpf.answer(program, ARCH, socket, (upper << 32 | family, 1, 0)) == bpf.ALLOW
    }
    assert not made & {38, 40}
    assert upper or made >= {1, 2, 10, 16, 17}
    assert bpf.answer(program, ARCH, socket, (16, 3, 9)) != bpf.ALLOW


def test_namespaces_and_personalities(program: bytes) -> None:
    """clone makes threads and processes and no user namespace."""
    clone = next(n for n in NUMBERS if bpf.name_of(ARCH, n) == "clone")
    thread, child, user = 0x003D0F00, 0x01200011, 0x10000011
    assert bpf.answer(program, ARCH, clone, (thread,)) == bpf.ALLOW
    assert bpf.answer(program, ARCH, clone, (child,)) == bpf.ALLOW
    assert bpf.answer(program, ARCH, clone, (user,)) != bpf.ALLOW
    assert bpf.answer(program, ARCH, clone, (1 << 32 | user,)) != bpf.ALLOW


def test_other_abis_are_killed(program: bytes) -> None:
    """A call by the numbers of x32 or of a machine that this is not ends the process."""
    other = next(arch for arch in bpf.AUDIT_ARCHES.values() if arch != ARCH)
    assert bpf.answer(program, other, 0) in bpf.KILL
    if platform.machine() == "x86_64":
        assert bpf.answer(program, ARCH, 0x40000000) != bpf.ALLOW
