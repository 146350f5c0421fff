"""Seccomp profiles: docker's and podman's format made into the OCI's, and Milo's own."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milo.core.container.seccomp import Machine, built_in, convert, harden
from milo.core.container.seccomp_denied import denied
from milo.errors import ConfigError

AMD64 = Machine("x86_64", (6, 1))
MIXED = Machine("x86_64", (6, 1), runs_32_bit=True)
ALLOW, ERRNO = "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"
ARCH_MAP = [
    {
        "architecture": "SCMP_ARCH_X86_64",
        "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    },
    {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
]


def converted(
    *rules: dict[str, Any],
    caps: tuple[str, ...] = (),
    machine: Machine = AMD64,
    **profile: Any,
) -> dict[str, Any]:
    """Return the OCI form of a profile with these rules."""
    data = {"defaultAction": ERRNO, "syscalls": list(rules)} | profile
    return convert(json.dumps(data).encode(), "/p.json", caps, machine)


def names(seccomp: dict[str, Any], action: str = ALLOW) -> set[str]:
    """Return the system calls that have an action without conditions."""
    return {
        name
        for rule in seccomp["syscalls"]
        if rule["action"] == action and "args" not in rule
        for name in rule["names"]
    }


def test_architectures_are_this_machines() -> None:
    """Of archMap only this machine's entry counts; 32 bit where it can run, and never x32."""
    assert converted(archMap=ARCH_MAP)["architectures"] == ["SCMP_ARCH_X86_64"]
    mixed = converted(archMap=ARCH_MAP, machine=MIXED)
    assert mixed["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]
    own = converted(architectures=["SCMP_ARCH_X32"])
    assert own["architectures"] == ["SCMP_ARCH_X32"]
    assert "architectures" not in converted(machine=Machine("sparc", (6, 1)), archMap=ARCH_MAP)


@pytest.mark.parametrize(
    ("condition", "caps", "applies"),
    [
        ({}, (), True),
        ({"includes": {"arches": ["amd64", "x32"]}}, (), True),
        ({"includes": {"arches": ["arm64"]}}, (), False),
        ({"excludes": {"arches": ["amd64"]}}, (), False),
        ({"includes": {"caps": ["CAP_SYS_ADMIN"]}}, (), False),
        ({"includes": {"caps": ["CAP_SYS_ADMIN"]}}, ("sys_admin",), True),
        ({"includes": {"caps": ["CAP_SYS_ADMIN", "CAP_BPF"]}}, ("sys_admin",), False),
        ({"excludes": {"caps": ["CAP_SYS_ADMIN", "CAP_BPF"]}}, ("bpf",), False),
        ({"excludes": {"caps": ["CAP_SYS_ADMIN"]}}, ("bpf",), True),
        ({"includes": {"minKernel": "4.8"}}, (), True),
        ({"includes": {"minKernel": "6.2"}}, (), False),
        ({"excludes": {"minKernel": "6.1"}}, (), False),
        ({"includes": None, "excludes": None, "args": None, "comment": "x"}, (), True),
    ],
)
def test_conditions_are_decided(
    condition: dict[str, Any], caps: tuple[str, ...], applies: bool
) -> None:
    """Rules for other architectures, capabilities and kernels are left out."""
    rule = {"names": ["ptrace"], "action": ALLOW, **condition}
    assert names(converted(rule, caps=caps)) == ({"ptrace"} if applies else set())


def test_rules_keep_their_arguments_and_errors() -> None:
    """Comparisons and error numbers go over, by number or by name, EPERM where there is none."""
    found = converted(
        {
            "name": "personality",
            "action": ALLOW,
            "args": [{"index": 0, "value": 8, "valueTwo": 0, "op": "SCMP_CMP_EQ"}],
        },
        {
            "names": ["clone"],
            "action": ALLOW,
            "args": [{"index": 0, "value": 7, "valueTwo": 3, "op": "SCMP_CMP_MASKED_EQ"}],
        },
        {"names": ["bpf"], "action": ERRNO},
        {"names": ["acct"], "action": ERRNO, "errno": "ENOSYS"},
        {"names": ["swapon"], "action": ERRNO, "errnoRet": 22, "errno": "EPERM"},
        defaultErrno="ENOSYS",
        flags=["SECCOMP_FILTER_FLAG_LOG"],
    )
    assert found == {
        "defaultAction": ERRNO,
        "defaultErrnoRet": 38,
        "architectures": ["SCMP_ARCH_X86_64"],
        "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "syscalls": [
            {
                "names": ["personality"],
                "action": ALLOW,
                "args": [{"index": 0, "op": "SCMP_CMP_EQ", "value": 8}],
            },
            {
                "names": ["clone"],
                "action": ALLOW,
                "args": [{"index": 0, "op": "SCMP_CMP_MASKED_EQ", "value": 7, "valueTwo": 3}],
            },
            {"names": ["bpf"], "action": ERRNO, "errnoRet": 1},
            {"names": ["acct"], "action": ERRNO, "errnoRet": 38},
            {"names": ["swapon"], "action": ERRNO, "errnoRet": 22},
        ],
    }


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b'{"defaultAction": 1}',
        b'{"defaultAction": "ALLOW"}',
        b'{"defaultAction": "SCMP_ACT_NOTIFY"}',
        b'{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"action": "SCMP_ACT_ERRNO"}]}',
        b'{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrno": "E2"}',
        b'{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["a"], "archMap": '
        b'[{"architecture": "b"}]}',
        b'{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"action": "SCMP_ACT_ERRNO", '
        b'"names": ["bpf"], "args": [{"index": 0, "op": "="}]}]}',
        b'{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"action": "SCMP_ACT_ERRNO", '
        b'"names": ["bpf"], "args": [{"index": 6, "op": "SCMP_CMP_EQ"}]}]}',
        b'{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"action": "SCMP_ACT_ERRNO", '
        b'"names": ["bpf"], "includes": {"minKernel": "new"}}]}',
    ],
)
def test_a_bad_profile_is_named(text: bytes) -> None:
    """What is no profile, or one that crun would choke on, is an error with its path."""
    with pytest.raises(ConfigError, match=r"/p\.json") as caught:
        convert(text, "/p.json", (), AMD64)
    assert caught.value.key == "seccomp_profile"


@given(st.binary() | st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_no_profile_raises_anything_else(data: object) -> None:
    """Whatever the file holds, the outcome is a filter or a ConfigError."""
    content = data if isinstance(data, bytes) else json.dumps({"defaultAction": data}).encode()
    try:
        convert(content, "/p.json", (), AMD64)
    except ConfigError:
        return


PERMISSIVE = (
    {"names": ["read", "mount", "keyctl", "clone", "clone3", "unshare", "ptrace"], "action": ALLOW},
    {"names": ["bpf"], "action": ERRNO, "errnoRet": 1},
)


def test_hardening_takes_what_podman_leaves_to_missing_capabilities() -> None:
    """mount, key rings and user namespaces go; the rest of the profile stays."""
    found = harden(converted(*PERMISSIVE, defaultErrno="ENOSYS"), (), AMD64)
    assert names(found) == {"read", "ptrace"}
    assert names(found, ERRNO) == {"bpf"}
    (clone,) = (rule for rule in found["syscalls"] if rule["names"] == ["clone"])
    assert clone == {
        "names": ["clone"],
        "action": ALLOW,
        "args": [
            {"index": 0, "op": "SCMP_CMP_MASKED_EQ", "value": 0x10000000, "valueTwo": 0},
        ],
    }


def test_clone3_is_unknown_and_not_forbidden() -> None:
    """C libraries fall back to clone only on ENOSYS, so a default of EPERM is not enough."""
    found = harden(converted(*PERMISSIVE, defaultErrnoRet=1), (), AMD64)
    assert {"names": ["clone3"], "action": ERRNO, "errnoRet": 38} in found["syscalls"]


def test_capabilities_lift_what_they_are_for() -> None:
    """With sys_admin mount and namespaces are back, the key rings are not."""
    found = harden(converted(*PERMISSIVE), ("sys_admin",), AMD64)
    assert names(found) == {"read", "mount", "clone", "clone3", "unshare", "ptrace"}


def test_a_default_profile_that_allows_is_hardened_by_refusals() -> None:
    """An administrator's deny list keeps its rules, and gets Milo's, each name once."""
    found = harden(
        converted({"names": ["bpf", "mkdir"], "action": ERRNO}, defaultAction=ALLOW), (), AMD64
    )
    whole = [rule for rule in found["syscalls"] if rule["names"] != ["socket"]]
    refused = [name for rule in whole for name in rule["names"]]
    assert {"mkdir", "bpf", "mount", "clone", "clone3"} <= set(refused)
    assert len(refused) == len(set(refused))


@pytest.mark.parametrize(("machine", "index"), [(AMD64, 0), (Machine("s390x", (6, 1)), 1)])
def test_the_built_in_profile_allows_by_list(machine: Machine, index: int) -> None:
    """What nobody has looked at is not there for a task; clone's flags are where they belong."""
    found = built_in((), machine)
    assert (found["defaultAction"], found["defaultErrnoRet"]) == (ERRNO, 38)
    assert {"kexec_load", "init_module", "mount", "bpf", "setns"} <= names(found, ERRNO)
    assert not names(found) & {*denied(())}
    refused, allowed = (rule for rule in found["syscalls"] if rule["names"] == ["clone"])
    assert refused["args"][0] == {
        "index": index,
        "op": "SCMP_CMP_MASKED_EQ",
        "value": 0x10000000,
        "valueTwo": 0x10000000,
    }
    assert allowed["args"][0] == refused["args"][0] | {"valueTwo": 0}
    lifted = built_in(("sys_admin",), machine)
    assert {"clone", "clone3", "mount", "bpf", "syslog"} <= names(lifted)
    assert "keyctl" not in names(lifted)


def _families(found: dict[str, Any], family: int, protocol: int = 0) -> bool:
    """Whether a filter's rules let this socket be made, by the comparisons that they use."""
    values = {0: family, 2: protocol}
    tests = {
        "SCMP_CMP_LT": lambda arg: values[arg["index"]] < arg["value"],
        "SCMP_CMP_EQ": lambda arg: values[arg["index"]] == arg["value"],
        "SCMP_CMP_NE": lambda arg: values[arg["index"]] != arg["value"],
        "SCMP_CMP_MASKED_EQ": lambda arg: (
            values[arg["index"]] & arg["value"] == arg.get("valueTwo", 0)
        ),
    }
    action = found["defaultAction"]
    for rule in found["syscalls"]:
        holds = all(tests[arg["op"]](arg) for arg in rule.get("args", ()))
        if "socket" in rule["names"] and holds:
            action = rule["action"]
    return bool(action == ALLOW)


@pytest.mark.parametrize(
    "found",
    [
        built_in((), AMD64),
        harden(converted({"names": ["socket"], "action": ALLOW}), (), AMD64),
        harden(converted(defaultAction=ALLOW), (), AMD64),
    ],
    ids=["built in", "a list of what is allowed", "a list of what is not"],
)
def test_sockets_past_every_network_namespace_are_refused(found: dict[str, Any]) -> None:
    """AF_VSOCK and AF_ALG cannot be had, whatever the upper half of the argument's register."""
    for family in (1, 2, 10, 16, 17):
        assert _families(found, family), family
    for family in (38, 40):
        for upper in (0, 1 << 32, 0xFFFFFFFF << 32):
            assert not _families(found, family | upper), family


def test_the_deny_list_never_takes_what_a_jvm_needs() -> None:
    """Threads, memory, files and sockets are not on it."""
    needed = {"mmap", "madvise", "futex", "execve", "membarrier", "ptrace", "prctl", "mbind"}
    assert not needed & set(denied(()))
