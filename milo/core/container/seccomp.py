"""Seccomp: Milo's own profile, and conversion of docker's and podman's to the OCI's format. Pure.

The format of docker and of the containers project extends the OCI's ``linux.seccomp``: some of its
rules depend on the architecture, the container's capabilities and the kernel. Those are decided
here.
"""

from __future__ import annotations

import errno
from collections.abc import Collection
from typing import Any, Final

import attrs
import msgspec

from milo.core.container import seccomp_allowed, seccomp_denied
from milo.core.container.capabilities import oci_name
from milo.core.versions import version_numbers
from milo.errors import ConfigError

ALLOW: Final = "SCMP_ACT_ALLOW"
ERRNO: Final = "SCMP_ACT_ERRNO"
ACTIONS: Final = {
    ALLOW,
    ERRNO,
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
}
"""Of the OCI's, all but SCMP_ACT_NOTIFY, which needs an agent that answers."""
OPERATORS: Final = {
    f"SCMP_CMP_{name}" for name in ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ")
}

EXPECTED: Final = "a seccomp profile in the format of docker, podman or the OCI"


@attrs.frozen
class Machine:
    """What a profile's rules may depend on."""

    name: str
    """As ``uname -m`` says."""
    kernel: tuple[int, ...]
    """Version and patch level, e.g. (6, 1)."""
    runs_32_bit: bool = False
    """Whether programs of the 32-bit ABI find their loader here."""


@attrs.frozen
class _Abi:
    seccomp: str
    go: str
    """As profiles spell it in ``arches``."""
    sub: tuple[str, ...] = ()
    """The 32-bit ABIs that the kernel runs too."""


_ABIS: Final = {
    "x86_64": _Abi("SCMP_ARCH_X86_64", "amd64", ("SCMP_ARCH_X86",)),
    "aarch64": _Abi("SCMP_ARCH_AARCH64", "arm64", ("SCMP_ARCH_ARM",)),
    "armv7l": _Abi("SCMP_ARCH_ARM", "arm"),
    "ppc64le": _Abi("SCMP_ARCH_PPC64LE", "ppc64le"),
    "riscv64": _Abi("SCMP_ARCH_RISCV64", "riscv64"),
    "s390x": _Abi("SCMP_ARCH_S390X", "s390x", ("SCMP_ARCH_S390",)),
    "loongarch64": _Abi("SCMP_ARCH_LOONGARCH64", "loong64"),
}


class _Arg(msgspec.Struct, rename="camel", frozen=True):
    index: int
    op: str
    value: int = 0
    value_two: int = 0


class _When(msgspec.Struct, rename="camel", frozen=True):
    arches: list[str] | None = None
    caps: list[str] | None = None
    min_kernel: str | None = None


class _Rule(msgspec.Struct, rename="camel", frozen=True):
    action: str
    names: list[str] | None = None
    name: str | None = None
    args: list[_Arg] | None = None
    errno_ret: int | None = None
    errno: str | None = None
    includes: _When | None = None
    excludes: _When | None = None


class _ArchMap(msgspec.Struct, rename="camel", frozen=True):
    architecture: str
    sub_architectures: list[str] | None = None


class _Profile(msgspec.Struct, rename="camel", frozen=True):
    default_action: str
    default_errno_ret: int | None = None
    default_errno: str | None = None
    arch_map: list[_ArchMap] | None = None
    architectures: list[str] | None = None
    flags: list[str] | None = None
    syscalls: list[_Rule] | None = None


_DEFAULT_MAP: Final = [_ArchMap(abi.seccomp, list(abi.sub)) for abi in _ABIS.values()]


def convert(
    data: bytes, path: str, capabilities: Collection[str], machine: Machine
) -> dict[str, Any]:
    """Return the OCI ``linux.seccomp`` of a profile for a container with ``capabilities``.

    ``path`` is where ``data`` was read, for texts.

    Raises:
        ConfigError: it is not a profile, or one that crun cannot apply.
    """
    try:
        profile = msgspec.json.decode(data, type=_Profile)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise ConfigError("seccomp_profile", f"{path}: {exc}", EXPECTED) from exc
    if profile.arch_map and profile.architectures:
        raise _bad(path, "it has both archMap and architectures")
    default = _action(
        path, profile.default_action, profile.default_errno_ret, profile.default_errno
    )
    result: dict[str, Any] = {"defaultAction": default["action"]}
    if "errnoRet" in default:
        result["defaultErrnoRet"] = default["errnoRet"]
    architectures = _architectures(profile, machine)
    if architectures:
        result["architectures"] = architectures
    if profile.flags:
        result["flags"] = profile.flags
    abi = _ABIS.get(machine.name)
    arch = machine.name if abi is None else abi.go
    held = {oci_name(name) for name in capabilities}
    result["syscalls"] = [
        _rule(path, rule)
        for rule in profile.syscalls or ()
        if _applies(path, rule, arch, held, machine.kernel)
    ]
    return result


def harden(
    seccomp: dict[str, Any], capabilities: Collection[str], machine: Machine
) -> dict[str, Any]:
    """Return a profile without what Milo denies on top of it.

    podman's default profile relies on missing capabilities where docker's denies: it lets a
    task make user namespaces, in which it then has every capability, and use the kernel's key
    rings, which all tasks of one user share.
    """
    own = _own_rules(capabilities, machine)
    names = {name for rule in own for name in rule["names"]} | {"clone", "clone3"}
    if seccomp["defaultAction"] in _LETTING:
        rules = [*_without(seccomp["syscalls"], names), *own, *_NO_SOCKETS]
        return seccomp | {"syscalls": rules}
    if not seccomp_denied.user_namespaces_denied(capabilities):
        names -= {"clone", "clone3"}
    syscalls = _without(seccomp["syscalls"], {*names, "socket"}, actions=_LETTING)
    syscalls += _sockets()
    if "clone" in names:
        syscalls = _without(syscalls, {"clone", "clone3"})
        syscalls.append({"names": ["clone"], "action": ALLOW, "args": [_user_ns(machine, 0)]})
        if seccomp.get("defaultErrnoRet") != errno.ENOSYS:
            syscalls.append(_NO_CLONE3)
    return seccomp | {"syscalls": syscalls}


def built_in(capabilities: Collection[str], machine: Machine) -> dict[str, Any]:
    """Return Milo's own profile: `milo.core.container.seccomp_allowed`, and nothing else."""
    result: dict[str, Any] = {"defaultAction": ERRNO, "defaultErrnoRet": errno.ENOSYS}
    architectures = _architectures(_Profile(ERRNO, arch_map=_DEFAULT_MAP), machine)
    if architectures:
        result["architectures"] = architectures
    names = {*seccomp_allowed.ALLOWED, *seccomp_denied.lifted(capabilities)}
    rules = [{"names": sorted(names), "action": ALLOW}, *_own_rules(capabilities, machine)]
    if seccomp_denied.user_namespaces_denied(capabilities):
        rules.append({"names": ["clone"], "action": ALLOW, "args": [_user_ns(machine, 0)]})
    else:
        rules.append({"names": ["clone", "clone3"], "action": ALLOW})
    rules += [
        {"names": ["personality"], "action": ALLOW, "args": [_equal(0, value)]}
        for value in seccomp_allowed.PERSONALITIES
    ]
    return result | {"syscalls": [*rules, *_sockets()]}


_LETTING: Final = (ALLOW, "SCMP_ACT_LOG")
_REFUSE: Final = {"action": ERRNO, "errnoRet": errno.EPERM}
# Its flags are in memory, out of reach; the C libraries then fall back to clone.
_NO_CLONE3: Final = {"names": ["clone3"], "action": ERRNO, "errnoRet": errno.ENOSYS}
_NO_SOCKETS: Final = [
    {
        "names": ["socket"],
        **_REFUSE,
        "args": [{"index": 0, "op": "SCMP_CMP_MASKED_EQ", "value": 0xFFFFFFFF, "valueTwo": family}],
    }
    for family in seccomp_allowed.REFUSED_FAMILIES
]
"""For a profile that lets through what it does not name."""


def _own_rules(capabilities: Collection[str], machine: Machine) -> list[dict[str, Any]]:
    rules: list[dict[str, Any]] = [
        {"names": list(seccomp_denied.denied(capabilities)), **_REFUSE},
    ]
    if seccomp_denied.user_namespaces_denied(capabilities):
        flag = _user_ns(machine, seccomp_denied.CLONE_NEWUSER)
        rules += [{"names": ["clone"], **_REFUSE, "args": [flag]}, _NO_CLONE3]
    return rules


def _sockets() -> list[dict[str, Any]]:
    """Return the rules that let a task make the sockets that it may make, for a list of such."""
    below = {"index": 0, "op": "SCMP_CMP_LT", "value": seccomp_allowed.SOCKET_FAMILIES_BELOW}
    netlink = [
        _equal(0, seccomp_allowed.AF_NETLINK),
        {"index": 2, "op": "SCMP_CMP_NE", "value": seccomp_allowed.NETLINK_AUDIT},
    ]
    conditions = [[below], netlink, *([_equal(0, one)] for one in seccomp_allowed.SOCKET_FAMILIES)]
    return [{"names": ["socket"], "action": ALLOW, "args": args} for args in conditions]


def _equal(index: int, value: int) -> dict[str, Any]:
    return {"index": index, "op": "SCMP_CMP_EQ", "value": value}


def _user_ns(machine: Machine, value: int) -> dict[str, Any]:
    """Return the condition that clone's CLONE_NEWUSER has ``value``."""
    # clone(2): on s390 the first two arguments are the other way round.
    index = 1 if machine.name == "s390x" else 0
    mask = seccomp_denied.CLONE_NEWUSER
    return {"index": index, "op": "SCMP_CMP_MASKED_EQ", "value": mask, "valueTwo": value}


def _without(
    rules: list[dict[str, Any]], names: Collection[str], actions: Collection[str] = ACTIONS
) -> list[dict[str, Any]]:
    """Return the rules without ``names``, in so far as their action is one of ``actions``."""
    result = []
    for rule in rules:
        kept = rule["names"]
        if rule["action"] in actions:
            kept = [name for name in kept if name not in names]
        if kept:
            result.append(rule | {"names": kept})
    return result


def _architectures(profile: _Profile, machine: Machine) -> list[str]:
    """Return the ABIs that the filter is made for; programs of any other are killed.

    The native one costs crun 3 ms at every start and the 32-bit one 11 more (measured with the
    default profile and libseccomp 2.5.4), so that is there only where its programs can run, and
    x32 never.
    """
    if profile.architectures:
        return profile.architectures
    abi = _ABIS.get(machine.name)
    if abi is None:
        return []
    mapped = [entry for entry in profile.arch_map or () if entry.architecture == abi.seccomp]
    below = {name for entry in mapped for name in entry.sub_architectures or ()}
    sub = [name for name in abi.sub if name in below and machine.runs_32_bit]
    return [abi.seccomp, *sub]


def _applies(
    path: str, rule: _Rule, arch: str, held: Collection[str], kernel: tuple[int, ...]
) -> bool:
    """Whether a rule is one for this machine and these capabilities, as podman decides it."""
    needs, avoids = rule.includes or _When(), rule.excludes or _When()
    if needs.arches and arch not in needs.arches:
        return False
    if arch in (avoids.arches or ()):
        return False
    if not {*(needs.caps or ())} <= {*held} or {*(avoids.caps or ())} & {*held}:
        return False
    if needs.min_kernel and kernel < _kernel(path, needs.min_kernel):
        return False
    return not (avoids.min_kernel and kernel >= _kernel(path, avoids.min_kernel))


def _rule(path: str, rule: _Rule) -> dict[str, Any]:
    names = rule.names or ([rule.name] if rule.name else [])
    if not names or not all(names):
        raise _bad(path, "a rule of it names no system call")
    result = {"names": names, **_action(path, rule.action, rule.errno_ret, rule.errno)}
    args = []
    for arg in rule.args or ():
        if arg.op not in OPERATORS:
            raise _bad(path, f"it compares with {arg.op[:40]!r}")
        if not 0 <= arg.index <= 5 or min(arg.value, arg.value_two) < 0:
            raise _bad(path, f"argument {arg.index} of {names[0]} is none")
        condition = {"index": arg.index, "op": arg.op, "value": arg.value}
        if arg.op == "SCMP_CMP_MASKED_EQ":
            condition["valueTwo"] = arg.value_two
        args.append(condition)
    if args:
        result["args"] = args
    return result


def _action(path: str, action: str, errno_ret: int | None, name: str | None) -> dict[str, Any]:
    if action not in ACTIONS:
        raise _bad(path, f"it has the action {action[:40]!r}, which Milo does not know")
    if action not in (ERRNO, "SCMP_ACT_TRACE"):
        return {"action": action}
    if errno_ret is None and name:
        errno_ret = getattr(errno, name, None)
        if not isinstance(errno_ret, int):
            raise _bad(path, f"there is no error {name[:40]!r}")
    return {"action": action, "errnoRet": errno.EPERM if errno_ret is None else errno_ret}


def _kernel(path: str, text: str) -> tuple[int, ...]:
    numbers = version_numbers(text)
    if not numbers:
        raise _bad(path, f"{text[:40]!r} is no version of a kernel")
    return numbers


def _bad(path: str, problem: str) -> ConfigError:
    return ConfigError("seccomp_profile", f"{path}: {problem}", EXPECTED)
