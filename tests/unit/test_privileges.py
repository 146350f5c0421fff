"""What of a job's privileges depends on this host."""

from __future__ import annotations

import os
import pwd
import resource
from pathlib import Path
from typing import Any

import attrs
import pytest

from milo import proc
from milo.core.config.plugin_options import PluginOptions
from milo.core.config.task_options import TaskOptions, parse_task_options
from milo.core.container import userns
from milo.core.container.confinement import Confinement
from milo.core.container.rights import ROOT, Rights
from milo.errors import ConfigError, UserError
from milo.task.oci import privileges
from tests.support.launches import make_launch

LAUNCH = make_launch(
    task_id="a1/web/x",
    task_name="web",
    alloc_id="a1",
    alloc_dir="/alloc/a1",
    stdout_path="/dev/null",
    stderr_path="/dev/null",
    state_dir="/run/milo/x",
    crun_path="/usr/bin/crun",
    javas=(),
)
DENY_ALL = '{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [%s]}'


@pytest.fixture(autouse=True)
def host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host without profiles, whose kernel has user namespaces."""
    monkeypatch.setattr(privileges, "DEFAULT_PROFILES", ())
    monkeypatch.setattr(privileges, "userns_problem", lambda: "")


def confine(plugin: PluginOptions | None = None, **options: Any) -> Confinement:
    """Return the privileges of a task with these options."""
    launch = attrs.evolve(LAUNCH, plugin=plugin or PluginOptions())
    return privileges.confine(launch, parse_task_options(options, launch.plugin))


def test_the_defaults_are_no_capability_and_a_filter() -> None:
    """A job that says nothing has the built-in filter here, and private namespaces."""
    found = confine()
    assert found.capabilities == ()
    assert found.seccomp is not None
    assert found.seccomp["defaultAction"] == "SCMP_ACT_ERRNO"
    assert (found.host_pids, found.host_ipc, found.rights) == (False, False, ROOT)
    assert found.pids_limit == PluginOptions().pids_limit


def test_the_first_profile_that_there_is_is_hardened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The administrator's before the package's; keyctl is taken out of either."""
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    two.write_text(DENY_ALL % '{"names": ["read", "keyctl"], "action": "SCMP_ACT_ALLOW"}')
    monkeypatch.setattr(privileges, "DEFAULT_PROFILES", (str(one), str(two)))
    found = confine().seccomp
    assert found is not None
    assert found["syscalls"][0]["names"] == ["read"]
    one.write_text(DENY_ALL % '{"names": ["write"], "action": "SCMP_ACT_ALLOW"}')
    found = confine().seccomp
    assert found is not None
    assert found["syscalls"][0]["names"] == ["write"]


def test_profiles_that_are_asked_for_are_not_changed(tmp_path: Path) -> None:
    """The job's before the plugin's; unconfined is no filter."""
    path = tmp_path / "own.json"
    path.write_text(DENY_ALL % '{"names": ["keyctl"], "action": "SCMP_ACT_ALLOW"}')
    plugin = PluginOptions(seccomp_profile=str(path))
    found = confine(plugin).seccomp
    assert found is not None
    assert found["syscalls"] == [{"names": ["keyctl"], "action": "SCMP_ACT_ALLOW"}]
    assert confine(plugin, seccomp_profile="unconfined").seccomp is None


def test_profiles_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    """One that is missing, a directory or without end is the configuration's error."""
    long = tmp_path / "long.json"
    long.write_bytes(b" " * (privileges.MAX_PROFILE_BYTES + 1))
    for path in ("/nonexistent/p.json", str(tmp_path), str(long), "/dev/zero"):
        with pytest.raises(ConfigError, match=path):
            confine(PluginOptions(seccomp_profile=path))


def test_limits_are_held_to_what_the_agent_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without CAP_SYS_RESOURCE no limit passes the agent's own; open files have an end anyway."""
    monkeypatch.setattr(proc, "has_capability", lambda number: False)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (10, 1000))
    found = confine(ulimit={"nofile": "unlimited", "memlock": "5:1000"})
    assert found.rlimits == {"RLIMIT_NOFILE": (1000, 1000), "RLIMIT_MEMLOCK": (5, 1000)}
    with pytest.raises(ConfigError, match=r"1001 is more than .* at most 1000"):
        confine(ulimit={"memlock": "1001"})
    monkeypatch.setattr(proc, "has_capability", lambda number: True)
    assert confine(ulimit={"memlock": "unlimited"}).rlimits["RLIMIT_MEMLOCK"][1] == 2**64 - 1


def test_a_user_namespace_is_the_plugins_to_give(monkeypatch: pytest.MonkeyPatch) -> None:
    """With userns = true the ids are a block's; without what it takes no task starts."""
    plugin = PluginOptions(userns=True)
    assert confine(plugin).rights.ids == userns.block(userns.first_id(LAUNCH.task_id))
    monkeypatch.setattr(privileges, "userns_problem", lambda: "the kernel is old")
    with pytest.raises(ConfigError, match="the kernel is old"):
        confine(plugin)


@pytest.mark.parametrize(
    "text",
    [
        *("root", "0", "0:0", "0:100", "daemon:0", "daemon:root", "daemon:00"),
        *("staff-of-root", "7001", "7001:7001", "7001:100", "rooted", "7002"),
    ],
)
def test_root_needs_the_operators_permission(
    text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As user, as primary group or as one of the others, however the job spells it."""
    daemon = pwd.getpwnam("daemon")
    named = {
        "staff-of-root": pwd.struct_passwd(("staff-of-root", "x", 7001, 7001, "", "/", "/")),
        "rooted": pwd.struct_passwd(("rooted", "x", 7002, 0, "", "/", "/")),
        "daemon": daemon,
        "root": pwd.getpwnam("root"),
    }
    by_id = {entry.pw_uid: entry for entry in named.values()}
    monkeypatch.setattr(pwd, "getpwnam", named.__getitem__)
    monkeypatch.setattr(pwd, "getpwuid", by_id.__getitem__)
    monkeypatch.setattr(
        os, "getgrouplist", lambda name, gid: [gid, 0] if name == "staff-of-root" else [gid]
    )
    launch = attrs.evolve(LAUNCH, user=text)
    with pytest.raises(UserError, match="allow_root = true"):
        privileges.permitted_user(launch, TaskOptions())
    allowed = attrs.evolve(launch, plugin=PluginOptions(allow_root=True))
    user = privileges.permitted_user(allowed, TaskOptions())
    assert 0 in (user.uid, user.gid, *user.groups)


def test_the_way_is_opened_for_a_user_namespace_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state directory stays closed without one; with one it can be passed, not listed."""
    task, bundle = tmp_path / "x", tmp_path / "x/bundle"
    bundle.mkdir(parents=True)
    for path in (tmp_path, task, bundle):
        path.chmod(0o700)
    privileges.open_way(str(task), str(bundle), Confinement())
    assert [path.stat().st_mode & 0o777 for path in (tmp_path, task, bundle)] == [0o700] * 3
    owners = []
    monkeypatch.setattr(os, "chown", lambda *args: owners.append(args))
    privileges.open_way(str(task), str(bundle), Confinement(rights=Rights(userns.block(5))))
    modes = [path.stat().st_mode & 0o777 for path in (tmp_path, task, bundle)]
    assert modes == [0o711, 0o710, 0o711]
    assert owners == [(str(task), -1, 5)]
