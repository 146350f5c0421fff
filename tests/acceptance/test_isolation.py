"""A job's words about its privileges, in HCL, through a real agent."""

from __future__ import annotations

import pytest

from tests.support.jobs import job_file
from tests.support.nomad import Nomad

FORMS = """
    cap_add = ["CAP_NET_BIND_SERVICE"]
    cap_drop = ["all"]
    shm_size = "96m"
    pids_limit = 321
    ulimit {
      nofile = "2048:4096"
      memlock = "65536"
    }
    sysctl = {
      "kernel.shmmni" = "123"
      "fs.mqueue.msg_max" = "77"
    }
"""

LOOK = (
    "grep -E '^(CapEff|Seccomp|NoNewPrivs)' /proc/self/status; ulimit -Sn; ulimit -Hn; ulimit -l; "
    "cat /proc/sys/kernel/shmmni /proc/sys/fs/mqueue/msg_max; "
    "cd /sys/fs/cgroup; cat pids.max pids/pids.max 2>/dev/null; df -k --output=size /dev/shm"
)


def with_config(job: str, text: str) -> str:
    """Return the job with more in its config block."""
    return job.replace("config {", "config {\n" + text, 1)


def test_privileges_arrive_as_the_job_spells_them(nomad: Nomad, jar_url: str) -> None:
    """Lists, blocks, maps and sizes in HCL are what the container has in the end."""
    job = nomad.run(
        with_config(job_file(config={"args": [LOOK]}, artifact=f"{jar_url}/shell.jar"), FORMS)
    )
    job.wait_state("dead")
    assert job.exit_code() == 0, job.events()
    lines = [line.split() for line in job.logs().decode().splitlines()]
    assert {line[0]: line[1] for line in lines if line[0].endswith(":")} == {
        "CapEff:": f"{1 << 10:016x}",
        "NoNewPrivs:": "1",
        "Seccomp:": "2",
        "Seccomp_filters:": "1",
    }
    # The JVM has raised its soft limit of open files to the hard one, as it always does.
    words = [line[0] for line in lines if not line[0].endswith(":")]
    assert words == ["4096", "4096", "64", "123", "77", "321", "1K-blocks", str(96 * 1024)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('cap_add = ["sys_admin"]', "does not allow sys_admin"),
        ('pid_mode = "host"\ncap_add = ["dac_override"]', "plugin's allow_caps does not allow"),
        ('pid_mode = "host"', "the plugin's allow_host_namespaces is false"),
        ('ipc_mode = "host"', "the plugin's allow_host_ipc is false"),
        ('jvm_options = ["-Xmx64m -Xms64m"]', "is more than one option"),
        ('sysctl = { "vm.swappiness" = "1" }', "belongs to the whole host"),
    ],
)
def test_what_is_not_allowed_is_told_to_the_user(
    nomad: Nomad, jar_url: str, text: str, words: str
) -> None:
    """A job that asks for too much fails, and its events say why."""
    job = nomad.run(with_config(job_file(artifact=f"{jar_url}/hello.jar"), text))
    job.wait_state("dead")
    assert any(words in event for event in job.events()), job.events()
