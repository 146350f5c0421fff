"""What sets an ordinary user's tasks apart from root's: pure rules, and words for refusals."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from pathlib import Path

import pytest
import trio

from milo import cgroup_files, namespaces, proc
from milo.cli import caller, scope
from milo.core.cgroup import Hierarchy, Mode
from milo.core.config.task_options import TaskOptions
from milo.core.container import rights, spec, userns
from milo.core.container.confinement import Confinement
from milo.core.launch import Launch
from milo.errors import StateError, UserError
from milo.host import state_dirs
from milo.host.fork import Fork
from milo.host.stats import sampling
from milo.host.stats.process_meter import ProcessMeter
from milo.task.oci import bundle, privileges
from tests.support.launches import make_launch
from tests.support.waiting import scaled

USER = rights.ordinary(userns.own_ids(1000, 1001))


def built(confinement: Confinement, network_mode: str = "host") -> dict[str, object]:
    """Return the spec of a container with these privileges."""
    plan = spec.ContainerPlan(
        rootfs="/r",
        args=("java",),
        env={},
        user=spec.User(1000, 1001),
        hostname="h",
        cgroup_path="",
        network_mode=network_mode,
        confinement=confinement,
    )
    return spec.build_spec(plan)


def test_both_namespaces_together_change_no_id() -> None:
    """The user is 0 in Milo's namespace, and himself again in the container's."""
    linux = built(Confinement(rights=USER))["linux"]
    assert isinstance(linux, dict)
    assert linux["uidMappings"] == [{"containerID": 1000, "hostID": 0, "size": 1}]
    assert linux["gidMappings"] == [{"containerID": 1001, "hostID": 0, "size": 1}]
    assert {"type": "user"} in linux["namespaces"]
    assert linux["resources"] == {}


def test_subordinate_ids_are_all_others() -> None:
    """The user stays himself; the rest of the container's ids are those that he may give away."""
    ids = userns.own_ids(1000, 70_000, 65_536, 65_536)
    assert ids.uids == (
        userns.IdRange(0, 1, 1000),
        userns.IdRange(1000, 0, 1),
        userns.IdRange(1001, 1001, 64_536),
    )
    assert ids.gids == (userns.IdRange(0, 1, 65_536), userns.IdRange(70_000, 0, 1))
    assert [userns.outside(ids.uids, one) for one in (0, 999, 1000, 1001)] == [1, 1000, 0, 1001]
    assert userns.maps(ids.uids, 65_534) and not userns.maps(ids.gids, 65_536)
    assert rights.ordinary(ids).terminal_group and not USER.terminal_group
    text = "other:1:2\nme:100000:65536\n7:5:6\nbad:x:y\n"
    assert userns.subordinate(text, "me", 7) == (100_000, 65_536)
    assert userns.subordinate(text, "bad", 8) is None


def test_what_the_kernel_refuses_is_not_mounted() -> None:
    """A /sys of its own, a terminal of Debian's group, cgroups; nothing is idmapped."""
    mounts = built(Confinement(rights=USER))["mounts"]
    assert isinstance(mounts, list)
    by_place = {mount["destination"]: mount for mount in mounts}
    assert by_place["/sys"]["type"] == "bind" and "rro" in by_place["/sys"]["options"]
    assert "gid=5" not in by_place["/dev/pts"]["options"]
    assert "/sys/fs/cgroup" not in by_place
    alone = built(Confinement(rights=USER), network_mode="none")["mounts"]
    assert isinstance(alone, list)
    assert [mount["type"] for mount in alone if mount["destination"] == "/sys"] == ["sysfs"]
    assert not any("idmap" in mount["options"] for mount in mounts)


def test_roots_container_is_as_ever() -> None:
    """The table's defaults are root's."""
    assert Confinement().rights == rights.ROOT == rights.Rights()
    mounts = built(Confinement())["mounts"]
    assert isinstance(mounts, list)
    by_place = {mount["destination"]: mount for mount in mounts}
    assert by_place["/sys"]["type"] == "sysfs" and by_place["/sys/fs/cgroup"]["type"] == "cgroup"
    assert "gid=5" in by_place["/dev/pts"]["options"]


def test_a_block_of_ids_is_idmapped() -> None:
    """Root's user namespace has ids that no file of the host's belongs to."""
    ids = userns.block(5 << 16)
    assert ids.idmapped and ids.uids == ids.gids == (userns.IdRange(0, 5 << 16, 65536),)


def launch(user: str) -> Launch:
    """Return a launch of an ordinary user's."""
    return make_launch(user=user, rights=USER)


def test_only_the_user_himself_is_there() -> None:
    """With the one group that is there; another user is refused with what to do."""
    found = privileges.permitted_user(launch("1000:1001"), TaskOptions())
    assert (found.uid, found.gid, found.groups) == (1000, 1001, ())
    with pytest.raises(UserError, match="sudo milo run"):
        privileges.permitted_user(launch("7:7"), TaskOptions())


def test_a_container_without_cgroups_names_none() -> None:
    """Not even the root of all, which would be the host's."""
    assert bundle.cgroup_path(launch("1000:1001")) == ""


@pytest.mark.parametrize(
    ("number", "settings", "expected"),
    [
        (errno.ENOSPC, {}, "sudo sysctl user.max_user_namespaces=15000"),
        (errno.EPERM, {"user.max_user_namespaces": "0"}, "user.max_user_namespaces"),
        (
            errno.EPERM,
            {"kernel.unprivileged_userns_clone": "0"},
            "kernel.unprivileged_userns_clone is 0. "
            "To permit them: sudo sysctl kernel.unprivileged_userns_clone=1",
        ),
        (
            errno.EACCES,
            {"kernel.apparmor_restrict_unprivileged_userns": "1"},
            "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0",
        ),
        (errno.EINVAL, {}, "this kernel has none"),
        (errno.EPERM, {"user.max_user_namespaces": "9"}, "seccomp profile"),
    ],
)
def test_a_refusal_is_told_with_what_permits_it(
    number: int, settings: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the kernel's settings, whose names are what to search for."""
    monkeypatch.setattr(proc, "sysctl", lambda name: settings.get(name, ""))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(state_dirs, "make_run_directory", lambda: "/r")
    monkeypatch.setattr(state_dirs, "make_data_directory", lambda: "/d")

    def refuse(kinds: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(namespaces, "unshare", refuse)
    monkeypatch.setattr(caller, "_subordinate_ids", lambda uid: [])
    with pytest.raises(caller.NoUserNamespaceError) as caught:
        caller.enter()
    assert expected in str(caught.value)


def test_a_directory_of_another_users_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who was faster in /tmp gets no records; and an inherited $XDG_RUNTIME_DIR is not ours."""
    monkeypatch.setattr(state_dirs, "TEMPORARY", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "milo-1").mkdir(mode=0o755)
    os.chown(tmp_path / "milo-1", 2, 2)
    tmp_path.chmod(0o1777)
    assert state_dirs.run_directories()[-1] == str(tmp_path / "milo-1")
    with pytest.raises(StateError, match="Set another XDG_RUNTIME_DIR"):
        state_dirs.make_run_directory()


def test_a_home_that_others_can_change_is_told_with_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ordinary user has no state_dir to set."""
    monkeypatch.setattr(os, "geteuid", lambda: 1)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "state/milo").mkdir(parents=True, mode=0o700)
    os.chown(tmp_path / "state/milo", 1, 1)
    (tmp_path / "state").chmod(0o775)
    with pytest.raises(StateError, match=r"mode 775.*Set XDG_STATE_HOME to a place"):
        state_dirs.make_data_directory()


FAKE_BUSCTL = """#!/bin/sh
printf '%s\\n' "$@" > {words}
exit {status}
"""
"""This machine has no systemd: what busctl is asked for, and that a refusal costs only limits."""


@pytest.mark.parametrize(("status", "expected"), [(0, "/own.scope"), (1, "")])
def test_systemd_is_asked_for_a_scope(
    status: int, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of this very process, delegated; it is there a moment after the answer."""
    words = tmp_path / "words"
    (tmp_path / "busctl").write_text(FAKE_BUSCTL.format(words=words, status=status))
    (tmp_path / "busctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(cgroup_files, "is_v2", lambda: True)
    looks = iter(["", "", "/own.scope"])
    monkeypatch.setattr(cgroup_files, "delegated", lambda: next(looks))
    assert scope.enter_scope() == expected
    asked = words.read_text().splitlines()
    at = asked.index("StartTransientUnit")
    pid = str(os.getpid())
    assert asked[0] == "--user" and asked[at + 1 : at + 3] == [
        "ssa(sv)a(sa(sv))",
        f"milo-run-{pid}.scope",
    ]
    assert asked[at + 4] == "4" and asked[-1] == "0"
    assert asked[-11:-1] == [
        *("PIDs", "au", "1", pid, "Delegate", "b", "true"),
        *("CollectMode", "s", "inactive-or-failed"),
    ]


def test_without_a_bus_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor on cgroup v1, where nothing can be delegated."""
    monkeypatch.setattr(cgroup_files, "delegated", lambda: "")
    monkeypatch.setattr(scope, "subprocess", None)
    monkeypatch.setattr(cgroup_files, "is_v2", lambda: True)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    assert scope.enter_scope() == ""
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1")
    monkeypatch.setattr(cgroup_files, "is_v2", lambda: False)
    assert scope.enter_scope() == ""


@pytest.mark.parametrize(
    ("controllers", "procs", "expected"),
    [
        ("cpu memory pids", "{pid}", "/a.scope"),
        ("cpu pids", "{pid}", ""),
        ("memory pids", "{pid}\n1", ""),
    ],
)
def test_a_cgroup_is_ones_own_if_nobody_else_is_in_it(
    controllers: str,
    procs: str,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It can be written, limits something, and v2 lets no group have processes and groups."""
    group = tmp_path / "a.scope"
    group.mkdir()
    (group / "cgroup.controllers").write_text(controllers)
    (group / "cgroup.procs").write_text(procs.format(pid=os.getpid()))
    (group / "cgroup.subtree_control").write_text("")
    monkeypatch.setattr(cgroup_files, "CRUN_CGROUP_ROOT", str(tmp_path))
    monkeypatch.setattr(cgroup_files, "detect", lambda: Hierarchy(Mode.V2, {"": str(tmp_path)}))
    monkeypatch.setattr(proc, "unified_cgroup", lambda: "/a.scope")
    assert cgroup_files.delegated() == expected
    if expected:
        (group / cgroup_files.SUPERVISOR).mkdir()
        (group / cgroup_files.SUPERVISOR / "cgroup.procs").write_text("")
        (group / cgroup_files.SUPERVISOR).rename(tmp_path / "made")
        monkeypatch.setattr(os, "mkdir", lambda path: (tmp_path / "made").rename(path))
        cgroup_files.settle_below(expected)
        assert (group / "cgroup.subtree_control").read_text() == "+cpu +memory +pids"
        assert (group / cgroup_files.SUPERVISOR / "cgroup.procs").read_text() == "0"
        monkeypatch.setattr(
            cgroup_files, "read_words", lambda directory, name: [directory, name, "cpu"]
        )
        assert cgroup_files.hands_down(expected, "cpu")


def test_devices_are_not_the_users_to_limit() -> None:
    """But memory and processes are, in a cgroup that he was given."""
    linux = built(Confinement(rights=rights.ordinary(userns.own_ids(1000, 1001), cgroups=True)))[
        "linux"
    ]
    assert isinstance(linux, dict)
    assert linux["resources"] == {"pids": {"limit": 4096}}


def test_a_fork_hands_back_bytes() -> None:
    """All of them, nothing when it fails, and it ends with `close`."""
    with contextlib.closing(Fork("milo-test", lambda: b"x" * 200_000)) as fork:
        assert trio.run(fork.result) == b"x" * 200_000

    def fail() -> bytes:
        raise ValueError

    with contextlib.closing(Fork("milo-test", fail)) as fork:
        assert trio.run(fork.result) == b""

    def linger() -> bytes:
        time.sleep(60)
        return b""

    began_s = time.monotonic()
    Fork("milo-test", linger).close()
    assert time.monotonic() - began_s < scaled(30)


def test_a_container_without_a_cgroup_is_measured_by_its_processes() -> None:
    """Here by this one, whose namespace is the host's: then no other counts."""
    meter = ProcessMeter(os.getpid())
    before = meter.sample()
    until = time.process_time() + 0.1
    while time.process_time() < until:
        pass
    cpu, memory = sampling.usage(before, meter.sample(), 1000.0)
    meter.close()
    assert cpu.percent > 5 and memory.rss > 1 << 20
    gone = ProcessMeter(2**22 + 1).sample()
    assert (gone.cpu_ns, gone.memory["rss"]) == (0, 0)
