"""The known faults of crun's versions, and what Milo does about each. Pure.

There is one table, made from crun's own change log and history. docs/reference/crun.md is
generated from it, and the fingerprint and ``milo doctor`` use it for their warnings. A
distribution may have fixed a fault without changing the version. The table then lists a fault too
many, never one too few.
"""

from __future__ import annotations

from typing import Final

import attrs

from milo.core.versions import version_numbers

OLDEST: Final = "1.8.1"
"""The oldest crun that Milo runs with, and is tested with: that of Debian 12. Before it, the ids
of mounts were mapped the other way round."""

PAGE: Final = "docs/reference/crun.md"

FEATURES: Final = ("SECCOMP", "CAP")
"""What crun has to be built with: without, it drops what config.json says of these in silence."""


@attrs.frozen
class Hole:
    """One fault of some versions."""

    fixed: str
    """The first version without it."""
    opens: str
    """What it opens, or breaks, as a sentence without its full stop."""
    held: str
    """What Milo does so that no task gains by it; empty where it can do nothing."""
    since: str = ""
    """The first version with it; empty for all before `fixed`."""
    userns: bool = False
    """Whether it is one in user namespaces alone."""


HOLES: Final = (
    Hole(
        fixed="1.9",
        opens="an OOM score of 0 is not written, so that the application keeps the agent's, which "
        "is -1000 under HashiCorp's unit: out of the memory killer's reach",
        held="writes the score itself, before the application runs",
    ),
    Hole(
        fixed="1.9",
        opens="what has a file system of its own below /usr or a volume is not there in a user "
        "namespace, and no task starts whose JDK is on one",
        held="",
        userns=True,
    ),
    Hole(
        fixed="1.11.1",
        opens="mounts whose ids are mapped lose nosuid and nodev",
        held="",
        userns=True,
    ),
    Hole(
        since="1.11.1",
        fixed="1.11.2",
        opens="crun crashes on cgroup v1 where there is no CPU limit",
        held="",
    ),
    Hole(
        since="1.14",
        fixed="1.14.1",
        opens="no container starts on cgroup v2 with Linux older than 5.11",
        held="",
    ),
    Hole(
        fixed="1.14.1",
        opens="a descriptor that crun forgets stays open in the application",
        held="tests that the application has its three streams and nothing else",
    ),
    Hole(
        fixed="1.15",
        opens="the working directory is entered with root's rights wherever a symlink leads, out "
        "of the container too (1.14.1 looks, but not well enough)",
        held="accepts no symlink in work_dir, compares where the application stands before it "
        "runs, and hands the directory of a command over by descriptor",
    ),
    Hole(
        fixed="1.24",
        opens="standard streams that are devices are given to the task's user, and in a user "
        "namespace /dev/null is the host's own",
        held="gives the application a pipe for its input, and takes /dev/null back before the "
        "application runs",
        userns=True,
    ),
    Hole(
        fixed="1.25.1",
        opens="files below /proc are opened by path, so that what is mounted there is opened",
        held="lets no job mount anything below /proc",
    ),
    Hole(
        fixed="1.27",
        opens="a user given with exec -u may be read as another (CVE-2026-30892)",
        held="names the user of a command in a process object, never with -u",
    ),
    Hole(
        since="1.27",
        fixed="1.27.1",
        opens="what is mounted on the host later is not seen in volumes with propagation",
        held="",
    ),
    Hole(
        fixed="1.28",
        opens="a symlink in the place of the root's /dev is followed (CVE-2026-47766)",
        held="makes each container's root itself, and lets no job mount anything on /dev",
    ),
    Hole(
        since="1.29",
        fixed="1.29.1",
        opens="shared memory (/dev/shm) is there for root alone",
        held="",
    ),
)


def holes(version: str, *, userns: bool) -> tuple[Hole, ...]:
    """Return those of this version; ``userns``: tasks run in user namespaces."""
    numbers = version_numbers(version)
    return tuple(
        hole
        for hole in HOLES
        if version_numbers(hole.since) <= numbers < version_numbers(hole.fixed)
        and (userns or not hole.userns)
    )


def crun_warning(version: str, *, userns: bool) -> str:
    """Return what to tell an operator of this version, as a sentence; empty for nothing."""
    found = holes(version, userns=userns)
    if not found:
        return ""
    held = sum(1 for hole in found if hole.held)
    words = [hole.opens for hole in found if not hole.held]
    if held:
        faults = "one that Milo makes up for" if held == 1 else f"{held} that Milo makes up for"
        words.append(f"{faults} (see {PAGE})")
    fixed = max((hole.fixed for hole in found), key=version_numbers)
    return f"crun {version} has known faults: {'; '.join(words)}. crun {fixed} has none of these"


def crun_problem(version: str, output: str, *, needs_seccomp: bool) -> str:
    """Return why this crun cannot be used, as a sentence; empty when it can.

    ``output`` is that of ``crun --version``. ``needs_seccomp`` is false where the plugin's
    configuration says that no task has a filter.
    """
    if version_numbers(version) < version_numbers(OLDEST):
        return f"crun {version} is older than {OLDEST}, the oldest that Milo runs with"
    built_with = {
        word[1:] for line in output.splitlines() if line.startswith("+") for word in line.split()
    }
    needed = [name for name in FEATURES if needs_seccomp or name != "SECCOMP"]
    missing = [name for name in needed if built_with and name not in built_with]
    if missing:
        return f"crun was built without {' and '.join(missing)}, and so would confine no task"
    return ""
