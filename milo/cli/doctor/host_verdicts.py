"""The verdicts of `milo doctor` about a host: each from facts that were gathered before. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from milo.cli.doctor.finding import Finding, Verdict, ok
from milo.core.cgroup import Mode
from milo.core.container import crun_holes
from milo.core.container.crun import version_from_output
from milo.core.container.profile_name import UNCONFINED
from milo.core.java.versions import runtime_name
from milo.core.launch import JavaRuntime
from milo.core.versions import version_numbers
from milo.errors import CrunMissingError, NoJavaError

MIN_KERNEL: Final = (4, 13)
"""memory.oom_control counts OOM kills since then: cgroups(7), and Linux's cgroup-v1 memory.rst."""
RECURSIVE_SINCE: Final = (5, 12)
"""mount_setattr(2), for read-only mounts with all that is mounted below them."""
CAP_SYS_ADMIN: Final = 21

CONTROLLERS: Final = ("cpu", "cpuset", "memory", "pids")
V1_CONTROLLERS: Final = ("cpu", "cpuacct", "cpuset", "devices", "freezer", "memory", "pids")


def check_kernel(release: str, *, has_pidfd: bool) -> Finding:
    """``release`` as uname -r says; ``has_pidfd``: pidfd_open(2), Linux 5.3, is there."""
    version = version_numbers(release)
    update = "Update the kernel to 5.12 or later"
    if version < MIN_KERNEL:
        return Finding(
            "kernel",
            Verdict.FAILED,
            f"Linux {release} is older than 4.13: OOM kills cannot be detected",
            update,
        )
    missing = []
    if not has_pidfd:
        missing.append("no pidfds (5.3): Milo notices late that a process has ended")
    if version < RECURSIVE_SINCE:
        missing.append(
            "no mount_setattr (5.12): mounts below a read-only volume are not visible to tasks"
        )
    if missing:
        return Finding("kernel", Verdict.WARNING, f"Linux {release}: {'; '.join(missing)}", update)
    return ok("kernel", f"Linux {release}")


def check_userns(problem: str, *, wanted: bool) -> Finding:
    """``problem``: why this host cannot give user namespaces, or empty."""
    if problem and wanted:
        return Finding(
            "user namespaces",
            Verdict.FAILED,
            f"userns = true, but {problem}",
            "Set userns = false in the plugin's configuration, or fix that",
        )
    if problem:
        return ok("user namespaces", f"not used, and not possible: {problem}")
    return ok("user namespaces", "in use" if wanted else "available; userns = true turns them on")


def check_cgroups(
    mode: Mode,
    available: Collection[str],
    unified: Sequence[str],
    delegated: Collection[str] | None,
) -> Finding:
    """Whether crun can limit containers.

    ``available``: the controllers of the hierarchy that is used. ``unified``: those that the v2
    part of a hybrid hierarchy holds. ``delegated``: what Nomad's own v2 group hands down, None
    without such a group.
    """
    name = "cgroups"
    if mode is Mode.NONE:
        return Finding(
            name,
            Verdict.FAILED,
            "no cgroup file system is mounted at /sys/fs/cgroup",
            "Mount it: mount -t cgroup2 none /sys/fs/cgroup",
        )
    if mode is Mode.HYBRID and unified:
        return Finding(
            name,
            Verdict.FAILED,
            "hybrid: v1 and v2 are both mounted, and crun refuses this because v2 at "
            f"/sys/fs/cgroup/unified has {', '.join(unified)}",
            "Boot with the kernel parameter systemd.unified_cgroup_hierarchy=1 (only v2). Until "
            "then, umount /sys/fs/cgroup/unified (only v1) and restart the agent",
        )
    v2 = mode is Mode.V2
    missing = [one for one in (CONTROLLERS if v2 else V1_CONTROLLERS) if one not in available]
    if missing:
        parameters = " ".join(f"cgroup_enable={one}" for one in missing)
        return Finding(
            name,
            Verdict.FAILED,
            f"{mode.value}, without the controllers {', '.join(missing)}",
            f"Boot with the kernel parameters {parameters}, or give them to this container or "
            "virtual machine",
        )
    late = [one for one in CONTROLLERS if delegated is not None and one not in delegated]
    if v2 and late:
        return Finding(
            name,
            Verdict.WARNING,
            f"v2, but /sys/fs/cgroup/nomad.slice does not delegate {', '.join(late)}",
            "Restart Nomad's agent, which enables them. If it does not, its log says why",
        )
    words = {
        Mode.V2: f"v2 with {', '.join(CONTROLLERS)}",
        Mode.V1: f"v1 with {', '.join(V1_CONTROLLERS)}",
        Mode.HYBRID: "hybrid, without controllers in the v2 part: used as v1",
    }
    return ok(name, words[mode])


def check_crun(
    wanted: str, path: str, output: str, problem: str, *, changeable: str = "", needs_seccomp: bool
) -> Finding:
    """``output`` of ``crun --version`` at ``path``, or the ``problem`` with that.

    ``wanted``: the plugin's crun_path; ``path`` is empty when crun was not found. ``changeable``:
    what another user than root can change of it, so that it was not run.
    """
    install = "Install the package crun, or set crun_path in the plugin's configuration"
    if not path:
        return Finding(
            "crun", Verdict.FAILED, _sentence(str(CrunMissingError(wanted)).split(". ")[0]), install
        )
    if changeable:
        return Finding(
            "crun",
            Verdict.FAILED,
            f"{changeable}, and root would run {path}, so it was not run",
            "Use chown -R root:root and chmod -R go-w, or set crun_path to one that only root "
            "can change",
        )
    version = version_from_output(output)
    if not version:
        words = problem or "it does not print a version of crun"
        return Finding("crun", Verdict.FAILED, f"{path} --version: {words}", install)
    text = f"{path}, version {version}"
    if fault := crun_holes.crun_problem(version, output, needs_seccomp=needs_seccomp):
        return Finding("crun", Verdict.FAILED, f"{text}: {fault}", "Install another crun")
    return ok("crun", text)


def check_crun_faults(output: str, *, userns: bool) -> list[Finding]:
    """What is known to be wrong with this crun; ``userns``: tasks run in user namespaces."""
    version = version_from_output(output)
    warning = crun_holes.crun_warning(version, userns=userns) if version else ""
    if not warning:
        return []
    return [Finding("crun's faults", Verdict.WARNING, warning, "Install a later crun")]


def check_trial(error: str | None, seconds: float) -> Finding:
    """Whether a container could be made, run and removed; ``error``: what it came to."""
    if error is None:
        return ok("container", f"created, run and removed in {seconds * 1000:.0f} ms")
    fix = "See the other lines; crun reports what the host's kernel or its settings refuse"
    if "hybrid" in error:
        fix = "See cgroups above"
    return Finding("container", Verdict.FAILED, _sentence(error), fix)


def check_java(javas: Sequence[JavaRuntime], problems: Sequence[str]) -> list[Finding]:
    """``javas``: the default first; ``problems``: a sentence for each that is not used."""
    if javas:
        first, *others = (runtime_name(java) for java in javas)
        text = f"default {first}" + "".join(f"; {other}" for other in others)
        findings = [ok("Java", text)]
    else:
        findings = [
            Finding(
                "Java",
                Verdict.FAILED,
                _sentence(str(NoJavaError()).split(". ")[0]),
                "Install a JDK or JRE, such as the package default-jre-headless",
            )
        ]
    for problem in problems:
        findings.append(
            Finding("Java", Verdict.WARNING, problem, "Repair or remove it. Milo uses the others")
        )
    return findings


def check_seccomp(asked: str, default: str, error: str) -> Finding:
    """``asked``: the plugin's seccomp_profile; ``default``: that of the host's package, if any.

    ``error``: why the profile cannot be used.
    """
    if error:
        return Finding("seccomp", Verdict.FAILED, _sentence(error), "Repair that file")
    if asked == UNCONFINED:
        return Finding(
            "seccomp",
            Verdict.WARNING,
            'seccomp_profile = "unconfined": containers may use every system call',
            "Remove seccomp_profile from the plugin's configuration",
        )
    if asked:
        return ok("seccomp", f"{asked}, from the plugin's configuration")
    if default:
        return ok("seccomp", f"{default}, the containers project's default")
    return ok("seccomp", "Milo's own list of system calls, because no default profile is installed")


def check_without_root(error: str | None, seconds: float, *, limited: bool) -> Finding:
    """Whether this ordinary user can run JARs, and within limits; ``error`` as of `check_trial`."""
    if error is not None:
        return Finding(
            "milo run",
            Verdict.WARNING,
            f"not without root: {_sentence(error)}",
            "sudo milo run, or see docs/howto/without-root.md",
        )
    limits = "with limits" if limited else "but without limits: there is no cgroup from systemd"
    return ok("milo run", f"works without root, {limits}; a container took {seconds * 1000:.0f} ms")


def check_privileges(uid: int, capabilities: int) -> Finding:
    """``capabilities``: CapEff of /proc/self/status."""
    if uid != 0:
        return Finding(
            "privileges",
            Verdict.SKIPPED,
            "not root: no container of Nomad's was tried, and some files could not be read",
            "sudo milo doctor",
        )
    if not capabilities >> CAP_SYS_ADMIN & 1:
        return Finding(
            "privileges",
            Verdict.FAILED,
            "root, but without CAP_SYS_ADMIN: containers cannot be created here",
            "Make this container privileged, or run Nomad's client on the host itself",
        )
    return ok("privileges", "root, with CAP_SYS_ADMIN")


def _sentence(text: str) -> str:
    """Return a message without the word that all of Milo's begin with."""
    return text.removeprefix("Error: ").strip()
