"""One job with Nomad's ``java`` driver and with Milo: what its application tells of its place.

The table of differences is what a user may notice who changes the driver's name, and nothing
more. `docs/migrate-from-java.md` explains each of them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import attrs

from milo.core.config.plugin_options import JAVA_DRIVER_CAPS
from milo.core.container.capabilities import KNOWN
from tests.support.agent import Agent
from tests.support.jobs import job_file
from tests.support.nomad import Job

JAR = "parity.jar"
DRIVERS = ("java", "milo")
Differences = Mapping[str, tuple[str, str]]
"""Key of a fact to regular expressions for its value with the java driver, and with Milo;
``absent`` for a fact that there is not."""

CORES = ["status.CapInh", "status.CapPrm", "status.CapEff", "status.CapBnd", "status.CapAmb"]
ALWAYS: Differences = {
    # The java driver's tasks have what the agent has in its environment, and its PATH.
    "env.PATH": (".*", "{jdk}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    "env.JAVA_HOME": ("absent|.*", "{jdk}"),
    "env.LANG": ("absent|.*", "C.UTF-8"),
    # A home that is there. The java driver says the user database's, and overrides the job's.
    "env.HOME": ("/nonexistent", "/tmp"),
    "property.user.home": ("/nonexistent", "/tmp"),
    # The root is read-only, and the task's directory, which is ".", lies in it.
    "writable./": ("true", "false"),
    "relative": ("/relative", "/task/relative"),
    "property.user.dir": ("/", "/task"),
    # The java driver's own files lie in the allocation's shared directory.
    "names./alloc": ("container data logs tmp", "data logs tmp"),
    # Privileges: docs/security.md.
    **dict.fromkeys(CORES, (" ".join(n for n in KNOWN if n in JAVA_DRIVER_CAPS), "none")),
    "status.Gid": ("0", "65534"),
    "status.NoNewPrivs": ("0", "1"),
    "status.Seccomp": ("0", "2"),
    "namespace.uts": ("host", "own"),
    "limit.core-file-size": ("unlimited unlimited|.*", "0 0"),
    # Process 1 is Milo's pause process.
    "pid": ("1", "2"),
    # A quarter of the host's memory, and not of the task's.
    "heap": ("{host}", "{task}"),
}


@attrs.frozen
class Case:
    """A job, and what is different between the drivers beside `ALWAYS`."""

    config: Mapping[str, object]
    task: str = ""
    differences: Differences = attrs.field(factory=dict)
    same: tuple[str, ...] = ()
    """What of `ALWAYS` is the same here."""
    events: tuple[str, ...] = ()
    """Words of an event that Milo adds."""
    group: str = ""
    artifact: str = ""
    """A block in place of the usual one."""


def run(one: Agent, case: Case, url: str) -> dict[str, Job]:
    """Run the case's job with both drivers at once, to the end."""
    jobs = {}
    for driver in DRIVERS:
        artifact = "" if case.artifact else f"{url}/{JAR}"
        text = job_file(
            driver=driver,
            config=case.config,
            artifact=artifact,
            task=case.task + case.artifact.replace("{url}", url),
            group=case.group,
            memory=256,
        )
        jobs[driver] = one.nomad.run(text)
    for job in jobs.values():
        job.wait_state("dead")
    return jobs


def facts(job: Job) -> dict[str, str]:
    """Return what the application told, without what differs from one job to the next."""
    text = job.wait_logs("\ntold\n")
    alloc = job.allocation()
    names = ((alloc, "ALLOC"), (alloc[:8], "SHORT"), (job.id, "JOB"))
    found = {}
    for line in text.splitlines()[:-1]:
        key, _, value = line.partition(" ")
        if key in ("status.Uid", "status.Gid") and len(set(value.split())) == 1:
            value = value.split()[0]
        if key == "pid" and value not in ("1", "2"):
            value = "the host's"
        if key.startswith("status.Cap"):
            bits = int(value, 16)
            held = [name for number, name in enumerate(KNOWN) if bits >> number & 1]
            value = " ".join(held) or "none"
        if key.startswith("namespace."):
            host = os.readlink(f"/proc/self/ns/{key.removeprefix('namespace.')}")
            value = "host" if value == host else "own"
        for name, short in names:
            value = value.replace(name, short)
        found[key] = value
    return found


def differences(
    java: dict[str, str], milo: dict[str, str], agents: set[str]
) -> dict[str, tuple[str, str]]:
    """Return what is not the same, but for the variables that are the agent's own."""
    for key in [key for key in java if key.removeprefix("env.") in agents and key not in milo]:
        del java[key]
    java["heap"] = "{host}" if _is_quarter(int(java["heap"]), _host_bytes()) else java["heap"]
    milo["heap"] = "{task}" if int(milo["heap"]) < 256 << 20 else milo["heap"]
    result = {}
    for key in sorted(java.keys() | milo.keys()):
        pair = (java.get(key, "absent"), milo.get(key, "absent"))
        if pair[0] != pair[1]:
            result[key] = pair
    return result


def unexpected(found: Differences, expected: Differences, jdk: str) -> list[str]:
    """Return a line for each difference that is not in the table, and the other way round."""
    lines = []
    for key in sorted(found.keys() | expected.keys()):
        pair = found.get(key)
        wanted = expected.get(key)
        if wanted is None or pair is None:
            # What the agent happens to have in its environment may be what Milo sets.
            if wanted is None or wanted[0] not in (".*", "absent|.*"):
                lines.append(f"{key}: found {pair}, expected {wanted}")
        elif not all(
            re.fullmatch(pattern.replace("{jdk}", re.escape(jdk)), value) or pattern == value
            for pattern, value in zip(wanted, pair, strict=True)
        ):
            lines.append(f"{key}: found {pair}, expected {wanted}")
    return lines


def _host_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no MemTotal in /proc/meminfo")


def _is_quarter(heap: int, memory: int) -> bool:
    # G1 rounds to its regions, and leaves nothing out; Serial counts one survivor space less.
    return 0.2 * memory < heap < 0.26 * memory
