"""`milo doctor` as a command, on this very host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from milo import cgroup_files
from milo.cli.doctor import host_facts
from milo.cli.doctor.trial import try_container
from milo.core.cgroup import Mode
from milo.core.config.plugin_options import PluginOptions
from milo.host.programs import find_program
from milo.task.oci import privileges
from tests.support.waiting import scaled, wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a container needs root")

NOWHERE = "http://127.0.0.1:1"


def doctor(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the command; no agent is asked unless ``words`` say so."""
    return subprocess.run(
        [sys.executable, "-m", "milo", "doctor", "--address", NOWHERE, "--service", "none", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=scaled(90),
    )


def checks(*words: str) -> dict[str, dict[str, Any]]:
    """Return the findings of ``--json`` by their check; of several the last."""
    found = json.loads(doctor("--json", *words).stdout)
    return {one["check"]: one for one in found["checks"]}


def trials() -> set[str]:
    """Return the names of what trials keep while they run."""
    return {name for name in os.listdir("/run") if name.startswith("milo-doctor-")}


def test_a_host_that_runs_tasks_is_healthy(tmp_path: Path) -> None:
    """A real container is made with the plugin's own options, and nothing is left of it."""
    config = tmp_path / "agent.hcl"
    config.write_text(
        f'data_dir = "{tmp_path}"\nplugin "milo" {{\n config {{\n'
        f'  state_dir = "{tmp_path}/state"\n }}\n}}\n'
    )
    plugins = tmp_path / "plugins"
    subprocess.run([sys.executable, "-m", "milo", "install", plugins], check=True)
    before = trials()
    done = doctor("--config", str(config))
    assert done.returncode == 0, done.stdout
    assert "✗" not in done.stdout and "Traceback" not in done.stderr
    # Tests beside this one may try a container as well.
    wait_for("the end of the trial", lambda: not trials() - before)
    found = checks("--config", str(config))
    for name in ("cgroups", "crun", "container", "Java", "plugin block", "plugin options"):
        assert found[name]["verdict"] == "ok", found[name]
    assert found["container"]["found"].startswith("created, run and removed")
    assert f"{tmp_path}/state" in found["state_dir"]["found"]
    assert found["agent"]["verdict"] == "skipped"


def test_what_is_wrong_is_a_line_and_a_status(tmp_path: Path) -> None:
    """No block, no plugin where Nomad looks for it, and a crun that is none."""
    config = tmp_path / "agent.hcl"
    config.write_text(f'plugin_dir = "{tmp_path}/plugins"\nplugin "exec" {{ }}\n')
    done = doctor("--config", str(config))
    assert done.returncode == 1
    assert 'has no block plugin "milo"' in done.stdout
    assert f"→ milo install {tmp_path}/plugins" in done.stdout
    config.write_text('plugin "milo" { config { crun_path = "/bin/false" } }')
    found = checks("--config", str(config))
    assert found["crun"]["found"] == "/bin/false --version: it failed (exit code 1)"
    assert found["container"]["verdict"] == "failed"
    assert "crun create failed" in found["container"]["found"]


def test_without_root_less_is_checked() -> None:
    """And that is said; it is no failure."""
    # The interpreter may lie where root alone can go: all is imported before root is given up.
    code = (
        "import os, sys, encodings.idna, milo.cli.doctor.report\n"
        "from milo.cli.main import run_command\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        f"sys.exit(run_command(['doctor', '--json', '--address', '{NOWHERE}']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd="/"
    )
    found = {one["check"]: one for one in json.loads(done.stdout)["checks"]}
    assert found["privileges"]["verdict"] == "skipped", done.stderr
    assert "container" not in found and "milo run" in found
    assert found["crun"]["verdict"] == "ok"


def test_a_container_in_a_user_namespace_is_tried_too() -> None:
    """The trial has the privileges that the plugin's configuration gives to tasks."""
    options = PluginOptions(userns=True)
    found = {finding.check: finding for finding in host_facts.check_host(options)}
    wanted = "failed" if privileges.userns_problem() else "ok"
    assert found["user namespaces"].verdict.value == wanted
    assert found["container"].verdict.value == wanted, found["container"]


@pytest.mark.alone
def test_no_cgroup_of_the_trial_is_left() -> None:
    """Whether it went well or not."""
    mounts = cgroup_files.detect().mounts
    assert cgroup_files.detect().mode is not Mode.NONE
    before = {path: set(os.listdir(path)) for path in mounts.values()}
    try_container("/bin/false", PluginOptions())
    try_container(find_program("crun", os.environ), PluginOptions())

    def left() -> set[str]:
        names = {name for path in before for name in set(os.listdir(path)) - before[path]}
        return {name for name in names if name.startswith("milo-")}

    # Another run of the tests on this machine has containers, too, but each for a short time.
    wait_for("nothing to be left", lambda: not left())
