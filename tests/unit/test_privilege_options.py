"""What a job may ask for, held to the plugin's configuration."""

from __future__ import annotations

import pytest

from milo.core.config.plugin_options import PluginOptions, parse_plugin_options
from milo.core.container.sysctls import check_network
from milo.core.container.ulimits import NAMES, RLIM_INFINITY, parse_ulimits
from milo.errors import ConfigError
from tests.support.configs import accepted

STRICT = PluginOptions(allow_caps=("chown",))


def refused(config: dict[str, object], plugin: PluginOptions = STRICT) -> ConfigError:
    """Return the error for a job's config."""
    with pytest.raises(ConfigError) as caught:
        accepted(config, plugin)
    return caught.value


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"cap_add": ["kill"]}, "cap_add"),
        ({"cap_drop": ["x"]}, "cap_drop[0]"),
        ({"pid_mode": "host"}, "pid_mode"),
        ({"ipc_mode": "host"}, "ipc_mode"),
        ({"pid_mode": "shared"}, "pid_mode"),
        ({"ipc_mode": "Host"}, "ipc_mode"),
        ({"seccomp_profile": "unconfined"}, "seccomp_profile"),
        ({"seccomp_profile": "profile.json"}, "seccomp_profile"),
        ({"ulimit": {"files": "1"}}, "ulimit.files"),
        ({"ulimit": {"nofile": "9:8"}}, "ulimit.nofile"),
        ({"ulimit": {"nofile": "-1:8"}}, "ulimit.nofile"),
        ({"ulimit": {"nofile": "-2"}}, "ulimit.nofile"),
        ({"ulimit": {"nofile": "1:2:3"}}, "ulimit.nofile"),
        ({"ulimit": {"nofile": "1k"}}, "ulimit.nofile"),
        ({"ulimit": {"nofile": "1", "NOFILE": "1"}}, "ulimit.NOFILE"),
        ({"ulimit": {"rtprio": "99"}}, "ulimit.rtprio"),
        ({"sysctl": {"kernel.panic": "1"}}, "sysctl.kernel.panic"),
        ({"sysctl": {"vm.swappiness": "1"}}, "sysctl.vm.swappiness"),
        ({"sysctl": {"net/core/somaxconn": "1"}}, "sysctl.net/core/somaxconn"),
        ({"sysctl": {"net...kernel.panic": "1"}}, "sysctl.net...kernel.panic"),
        ({"sysctl": {"kernel.shm": "1"}}, "sysctl.kernel.shm"),
        ({"sysctl": {"kernel.sem": "1\n2"}}, "sysctl.kernel.sem"),
        ({"shm_size": "0"}, "shm_size"),
    ],
)
def test_what_is_not_allowed_is_refused(config: dict[str, object], key: str) -> None:
    """The error names the key."""
    assert refused(config).key == key


def test_host_ipc_has_no_settings_of_its_own() -> None:
    """With the host's IPC a job may neither size /dev/shm nor set the namespace's sysctls."""
    shared = {"ipc_mode": "host"}
    plugin = PluginOptions(allow_host_ipc=True)
    assert refused({**shared, "shm_size": "1g"}, plugin).key == "shm_size"
    error = refused({**shared, "sysctl": {"kernel.sem": "1"}}, plugin)
    assert error.key == "sysctl.kernel.sem"


def test_network_sysctls_need_a_network() -> None:
    """net.* is refused in the host's network, and in no other."""
    own = {"net.ipv4.ip_unprivileged_port_start": "0", "kernel.sem": "1 2 3 4"}
    check_network(own, "none")
    check_network({"kernel.sem": "1"}, "host")
    with pytest.raises(ConfigError, match="ip_unprivileged_port_start"):
        check_network(own, "host")


def test_a_job_may_name_profiles_that_the_operator_lists() -> None:
    """Also the plugin's own, which it gets anyway."""
    plugin = PluginOptions(seccomp_profile="/a", allow_seccomp_profiles=("/b", "unconfined"))
    for name in ("/a", "/b", "unconfined"):
        assert accepted({"seccomp_profile": name}, plugin).seccomp_profile == name
    assert "one of /a, /b, unconfined" in str(refused({"seccomp_profile": "/c"}, plugin))


def test_ulimits_are_parsed() -> None:
    """Names in any case, one value or two, unlimited by word or -1."""
    limits = {"nofile": "2048:4096", "CORE": "0", "memlock": "-1", "stack": "8:unlimited"}
    found = parse_ulimits("ulimit", limits)
    assert found == {
        "RLIMIT_NOFILE": (2048, 4096),
        "RLIMIT_CORE": (0, 0),
        "RLIMIT_MEMLOCK": (RLIM_INFINITY, RLIM_INFINITY),
        "RLIMIT_STACK": (8, RLIM_INFINITY),
    }
    nice = accepted({"ulimit": {"rtprio": "1"}}, PluginOptions(allow_caps=("sys_nice",)))
    assert nice.ulimit == {"RLIMIT_RTPRIO": (1, 1)}
    assert len(NAMES) == 16


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"allow_caps": ["x"]}, "allow_caps[0]"),
        ({"allow_seccomp_profiles": ["/a", "b"]}, "allow_seccomp_profiles[1]"),
        ({"seccomp_profile": "b"}, "seccomp_profile"),
        ({"default_pid_mode": "shared"}, "default_pid_mode"),
        ({"default_ipc_mode": "task"}, "default_ipc_mode"),
        ({"default_pid_mode": "host", "allow_host_namespaces": False}, "default_pid_mode"),
        ({"default_ipc_mode": "host", "allow_host_ipc": False}, "default_ipc_mode"),
    ],
)
def test_a_plugin_configuration_that_cannot_work_is_refused(
    config: dict[str, object], key: str
) -> None:
    """The operator is told which key."""
    with pytest.raises(ConfigError) as caught:
        parse_plugin_options(config)
    assert caught.value.key == key


def test_the_operators_capabilities_are_spelt_freely_too() -> None:
    """allow_caps takes the names as cap_add does."""
    plugin = parse_plugin_options({"allow_caps": ["CAP_NET_RAW", "Chown"]})
    assert plugin.allow_caps == ("net_raw", "chown")
    assert accepted({"cap_add": ["NET_RAW"]}, plugin).cap_add == ("net_raw",)
