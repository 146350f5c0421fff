"""cgroup arithmetic and parsing, on both hierarchies."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milo import cgroup_files, proc
from milo.core import cgroup
from milo.core.cgroup import Hierarchy, Mode

V1 = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
36 31 0:33 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
37 31 0:34 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
"""
UNIFIED = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
V2 = "31 23 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
SCOPE = "/nomad/a1.web"


def test_the_hierarchy_is_looked_for_once() -> None:
    """A task process asks for it some twenty times, and the table of mounts is long."""
    assert cgroup_files.detect() is cgroup_files.detect()


def hierarchy_in(mountinfo: str) -> Hierarchy:
    """Return the hierarchy that a mount table describes."""
    return cgroup_files.hierarchy_in(proc.parse_mountinfo(mountinfo.encode()))


def test_v1_is_known_by_its_controllers() -> None:
    """On v1 each controller, also one mounted with another, has its directory."""
    hierarchy = hierarchy_in(V1)
    assert hierarchy.mode is Mode.V1
    assert hierarchy.mounts == {
        "cpu": "/sys/fs/cgroup/cpu,cpuacct",
        "cpuacct": "/sys/fs/cgroup/cpu,cpuacct",
        "cpuset": "/sys/fs/cgroup/cpuset",
        "memory": "/sys/fs/cgroup/memory",
        "pids": "/sys/fs/cgroup/pids",
        "freezer": "/sys/fs/cgroup/freezer",
        "name=systemd": "/sys/fs/cgroup/systemd",
    }


def test_other_hierarchies_are_told_apart() -> None:
    """v2 alone, v2 beside v1, and none at all are three different modes."""
    assert hierarchy_in(V2) == Hierarchy(Mode.V2, {"": "/sys/fs/cgroup"})
    assert hierarchy_in(V1 + UNIFIED).mode is Mode.HYBRID
    assert hierarchy_in("22 1 8:1 / / rw - ext4 /dev/a rw\nshort\n").mode is Mode.NONE


def test_mounts_elsewhere_do_not_count() -> None:
    """A cgroup file system that a container runtime mounted for itself is not the host's."""
    elsewhere = V2.replace("/sys/fs/cgroup", "/var/lib/box/sys/fs/cgroup")
    assert hierarchy_in(elsewhere).mode is Mode.NONE


def test_directory_joins_controller_and_path() -> None:
    """On v2 every controller has one directory, on v1 its own or none."""
    v1, v2 = hierarchy_in(V1), hierarchy_in(V2)
    assert v1.directory("memory", "/a/b/") == "/sys/fs/cgroup/memory/a/b"
    assert v1.directory("hugetlb", "/a") is None
    assert v1.directory("memory", "/") == "/sys/fs/cgroup/memory"
    assert v2.directory("memory", "/a/b") == v2.directory("cpu", "a/b") == "/sys/fs/cgroup/a/b"


def test_a_container_has_a_group_of_its_own_below_nomads() -> None:
    """The container's cgroup is a child of Nomad's, or stands alone outside of Nomad."""
    assert cgroup.container_path(SCOPE, "milo-1") == f"{SCOPE}/milo-1"
    assert cgroup.container_path("", "milo-1") == "/milo-1"
    assert cgroup.container_path("/", "milo-1") == "/milo-1"


@pytest.mark.parametrize(
    ("client_mhz", "mhz", "shares", "weight"),
    [
        (5_000, 1, 2, 1),
        (5_000, 3, 3, 2),
        (5_000, 100, 100, 17),
        (5_000, 500, 500, 58),
        (5_000, 1_024, 1_024, 100),
        (5_000, 1_500, 1_500, 136),
        (5_000, 10_000, 10_000, 627),
        (5_000, 102_400, 102_400, 4_429),
        (5_000, 300_000, 262_144, 10_000),
        (5_000, 600_000, 262_144, 10_000),
        (600_000, 1, 2, 1),
        (600_000, 3, 2, 1),
        (600_000, 100, 43, 9),
        (600_000, 500, 218, 31),
        (600_000, 1_024, 447, 53),
        (600_000, 1_500, 655, 71),
        (600_000, 10_000, 4_369, 319),
        (600_000, 102_400, 44_739, 2_186),
        (600_000, 300_000, 131_072, 5_478),
        (600_000, 600_000, 262_144, 10_000),
        (262_143, 300_000, 262_144, 10_000),
        (262_144, 500, 500, 58),
        (262_144, 262_144, 262_144, 10_000),
    ],
)
def test_shares_and_weights_are_those_of_nomads_own_drivers(
    client_mhz: int, mhz: int, shares: int, weight: int
) -> None:
    """A task gets as much beside others as under the java driver, on clients of every size.

    The weights were printed by opencontainers/cgroups 0.0.7, which Nomad 2.0.5 is built with.
    """
    assert cgroup.kernel_shares(mhz, client_mhz) == shares
    assert cgroup.shares_to_weight(shares) == weight


@given(st.integers(1, 10**7), st.integers(0, 10**7))
def test_more_mhz_are_no_smaller_share(mhz: int, client_mhz: int) -> None:
    """Whatever the client, shares and weights stay within the kernel's bounds, and in order."""
    shares = cgroup.kernel_shares(mhz, client_mhz)
    assert cgroup.MIN_SHARES <= shares <= cgroup.MAX_SHARES
    assert cgroup.kernel_shares(mhz + 1, client_mhz) >= shares
    weight = cgroup.shares_to_weight(shares)
    assert cgroup.MIN_WEIGHT <= weight <= cgroup.MAX_WEIGHT
    assert cgroup.shares_to_weight(shares + 1) >= weight


def test_no_mhz_and_an_unknown_client() -> None:
    """Nothing is made up where Nomad says nothing."""
    assert cgroup.kernel_shares(0, 600_000) == 0
    assert cgroup.kernel_shares(500, 0) == 500


@pytest.mark.parametrize(
    ("percent_ticks", "cores", "quota"), [(0.25, 2, 50_000), (1.0, 4, 400_000), (0.00001, 1, 1000)]
)
def test_hard_limit_is_the_tasks_share_of_all_cores(
    percent_ticks: float, cores: int, quota: int
) -> None:
    """The quota is the task's part of the whole host, and never below the kernel's least."""
    assert cgroup.cpu_quota(percent_ticks, cores) == quota


@pytest.mark.parametrize(
    ("memory", "memory_max", "limits"),
    [
        (0, 0, {}),
        (100, 0, {"limit": 100, "swap": 100}),
        (100, 300, {"limit": 300, "swap": 300, "reservation": 100}),
        (100, 100, {"limit": 100, "swap": 100}),
        (100, -1, {"reservation": 100}),
    ],
)
def test_memory_limits(memory: int, memory_max: int, limits: dict[str, int]) -> None:
    """memory_max is the limit where given, memory the reservation then, and swap is off."""
    assert cgroup.memory_limits(memory, memory_max) == limits


def test_v1_leftovers_spare_what_nomad_made() -> None:
    """After a container, Nomad's scope goes only where Nomad itself has none."""
    hierarchy = hierarchy_in(V1)
    root = "/sys/fs/cgroup"
    directories = cgroup.leftover_directories(hierarchy, f"{SCOPE}/milo-1", SCOPE)
    assert set(directories) == {
        *(
            f"{root}/{name}{SCOPE}/milo-1"
            for name in ("cpu,cpuacct", "cpuset", "memory", "pids", "freezer", "systemd")
        ),
        f"{root}/cpuset{SCOPE}",
        f"{root}/pids{SCOPE}",
        f"{root}/pids/nomad",
        f"{root}/systemd{SCOPE}",
        f"{root}/systemd/nomad",
    }
    assert directories.index(f"{root}/pids{SCOPE}/milo-1") < directories.index(
        f"{root}/pids{SCOPE}"
    )
    assert directories.index(f"{root}/pids{SCOPE}") < directories.index(f"{root}/pids/nomad")


def test_v2_and_lonely_containers_leave_only_themselves() -> None:
    """On v2 all above the container's group is Nomad's; outside of Nomad there is nothing."""
    v2 = hierarchy_in(V2)
    scope = "/nomad.slice/share.slice/a1.web.scope"
    assert cgroup.leftover_directories(v2, f"{scope}/milo-1", scope) == (
        f"/sys/fs/cgroup{scope}/milo-1",
    )
    v1 = hierarchy_in(V1)
    lonely = cgroup.leftover_directories(v1, "/milo-1", "")
    assert all(path.endswith("/milo-1") for path in lonely)
    assert len(lonely) == len(set(v1.mounts.values()))


def test_parents_are_made_on_v1_only() -> None:
    """Nomad's scope is one group on v2, and on v1 one in every controller."""
    v1, v2 = hierarchy_in(V1), hierarchy_in(V2)
    assert cgroup.parent_directories(v2, SCOPE) == ()
    assert cgroup.parent_directories(v1, "") == ()
    assert f"/sys/fs/cgroup/pids{SCOPE}" in cgroup.parent_directories(v1, SCOPE)


@pytest.mark.parametrize(
    "task", ["a", "n" * 212, "n" * 213, "n" * 218, "n" * 219, "n" * 255, "ü" * 127]
)
def test_scope_whose_name_is_too_long(task: str) -> None:
    """Where Nomad's name of a scope cannot exist, a shorter one of the task's own stands in."""
    alloc = "0c9a3b62-5b39-4b0f-9c5c-0f8f6d0f5a10"
    for above, end in (("/nomad", ""), ("/nomad.slice/share.slice", ".scope")):
        scope = f"{above}/{alloc}.{task}{end}"
        fits = len(f"{alloc}.{task}{end}".encode()) <= 255
        found = cgroup.scope_that_fits(scope)
        assert (found == scope) == fits
        assert found.startswith(f"{above}/{alloc}.") and found.endswith(end)
        assert len(found.rpartition("/")[2].encode()) <= 255
        assert fits or found != cgroup.scope_that_fits(f"{above}/{alloc}.{task}x{end}")
    assert cgroup.scope_that_fits("") == ""


def test_shorter_scope_is_milos_to_remove() -> None:
    """Nomad does not know of it: it goes in every hierarchy, the container's own group first."""
    long = "/nomad.slice/share.slice/" + "n" * 300 + ".scope"
    scope = cgroup.scope_that_fits(long)
    v2 = Hierarchy(Mode.V2, {"": "/sys/fs/cgroup"})
    assert cgroup.leftover_directories(v2, f"{scope}/milo-1", scope) == (
        f"/sys/fs/cgroup{scope}/milo-1",
        f"/sys/fs/cgroup{scope}",
    )
    scope = cgroup.scope_that_fits("/nomad/" + "n" * 300)
    v1 = hierarchy_in(V1)
    found = cgroup.leftover_directories(v1, f"{scope}/milo-1", scope)
    for controller in ("cpu,cpuacct", "memory", "freezer", "pids", "systemd"):
        assert f"/sys/fs/cgroup/{controller}{scope}" in found
    assert len(found) == len({*found})


def test_what_crun_makes_beside_the_hierarchies() -> None:
    """On v1 it has a directory for each container where a hybrid host has its v2."""
    v1 = Hierarchy(Mode.V1, {"memory": "/sys/fs/cgroup/memory"})
    assert cgroup.unified_directories(v1, "/nomad/a.b/milo-1") == (
        "/sys/fs/cgroup/unified/nomad/a.b/milo-1",
        "/sys/fs/cgroup/unified/nomad/a.b",
        "/sys/fs/cgroup/unified/nomad",
    )
    assert cgroup.unified_directories(Hierarchy(Mode.V2, {"": "/x"}), "/milo-1") == ()
    assert cgroup.unified_directories(v1, "") == ()
