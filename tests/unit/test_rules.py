"""What the keys of a job mean together, and which of the plugin's permit it."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from milo.core.config.plugin_options import (
    JAVA_DRIVER_CAPS,
    PluginOptions,
    Volumes,
    parse_plugin_options,
)
from milo.core.config.rules import Asked, check_task
from milo.core.config.task_options import parse_task_options
from milo.core.container.capabilities import KNOWN
from milo.core.container.spec import User
from milo.errors import ConfigError, UserError
from tests.support import key_pairs
from tests.support.key_pairs import KEYS, needed

NOBODY = User(65534, 65534, name="nobody")
EACH = PluginOptions(
    allow_caps=("all", "mknod"),
    allow_host_namespaces=True,
    allow_host_ipc=True,
    allow_seccomp_profiles=("unconfined",),
    volumes=Volumes(True, ("/",)),
)
"""Everything that is permitted by itself, short of root."""


def judge(
    config: dict[str, Any],
    plugin: PluginOptions = EACH,
    user: User = NOBODY,
    user_text: str = "",
    network_mode: str = "group",
) -> None:
    """Refuse a task, or say nothing."""
    options = parse_task_options(config, plugin)
    check_task(Asked(options, plugin, user, user_text, network_mode))


def refused(config: dict[str, Any], *args: Any, **kwargs: Any) -> str:
    """Return the words with which a task is refused."""
    with pytest.raises((ConfigError, UserError)) as caught:
        judge(config, *args, **kwargs)
    return str(caught.value)


def test_the_table_of_pairs_is_the_rules() -> None:
    """Every pair of privileged keys is permitted by the keys that the document names, exactly.

    Each refusal on the way names the key of the plugin's that lifts it.
    ``python -m tests.support.key_pairs`` writes the table anew: look at what changes.
    """
    assert key_pairs.document() == key_pairs.DOCUMENT.read_text()


def test_every_capability_has_a_row() -> None:
    """None was forgotten when a kernel brought a new one."""
    rows = [name for key in KEYS.values() for config in key.config for name in _added(config)]
    assert sorted(rows) == sorted([*KNOWN, "all"])


def _added(config: Any) -> list[str]:
    return list(config.get("cap_add", ()))


@pytest.mark.parametrize(
    ("one", "other", "letters"),
    [
        ("pid_mode host", "any other capability", "NAC"),
        ("pid_mode host", "cap dac_override", "NAC"),
        ("pid_mode host", "cap net_bind_service", "NC"),
        ("ipc_mode host", "any other capability", "IAC"),
        ("pid_mode host", "ipc_mode host", "NI"),
        ("pid_mode host", "user root", "NRU"),
        ("pid_mode host", "another user", "NU"),
        ("ipc_mode host", "user with a group", "IU"),
        ("the host's network", "cap net_admin, net_raw", "AC"),
        ("the host's network", "cap net_bind_service", "."),
        ("cap chown", "cap fowner", "RA"),
        ("cap chown", "cap fsetid", "RA"),
        ("cap chown", "cap dac_override", "A"),
        ("cap set*id, setpcap, setfcap", "a writable mount", "RAV"),
        ("userns, of the plugin", "pid_mode host", "x"),
    ],
)
def test_pairs_that_were_holes(one: str, other: str, letters: str) -> None:
    """The ones that the rules are for, said once more."""
    assert needed(KEYS[one], KEYS[other]) == needed(KEYS[other], KEYS[one]) == letters


def test_three_together_need_what_each_pair_needs() -> None:
    """Nothing is permitted by the company that it is in."""
    everything = PluginOptions(**{key: value for key, (_, value) in key_pairs.PERMITS.items()})
    config = {
        "pid_mode": "host",
        "ipc_mode": "host",
        "cap_add": ["all", "mknod"],
        "seccomp_profile": "unconfined",
        "ulimit": {"nice": "1"},
    }
    root = User(0, 0, name="root")
    judge(config, everything, root, "root", "host")
    for key in key_pairs.PERMITS:
        if key != "volumes":
            default = {key: getattr(PluginOptions(), key)}
            assert key in refused(config, attrs.evolve(everything, **default), root, "root", "host")


@pytest.mark.parametrize("name", ["setuid", "setgid", "setpcap", "setfcap"])
def test_what_makes_root_needs_allow_root(name: str) -> None:
    """Also where ``all`` brings it; without it ``all`` is permitted."""
    assert "allow_root is false" in refused({"cap_add": [name]})
    assert name in refused({"cap_add": ["all"]})
    judge({"cap_add": [name, "all"]}, attrs.evolve(EACH, allow_root=True))
    dropped = ["setuid", "setgid", "setpcap", "setfcap", "chown", "dac_override", "fowner"]
    judge({"cap_add": ["all"], "cap_drop": dropped})


def test_mknod_has_to_be_named() -> None:
    """``all`` is every capability but that one, in the job and in the plugin's list."""
    plugin = PluginOptions(allow_caps=("all",))
    assert "allow_caps does not allow mknod" in refused({"cap_add": ["mknod"]}, plugin)
    judge({"cap_add": ["all"]}, attrs.evolve(plugin, allow_root=True))
    judge({"cap_add": ["mknod"]}, PluginOptions(allow_caps=("mknod",)))


def test_capabilities_beside_host_processes_are_named_one_by_one() -> None:
    """The operator's list for that permits those in it and no others."""
    plugin = attrs.evolve(EACH, allow_caps_with_host_namespaces=("sys_ptrace",))
    judge({"pid_mode": "host", "cap_add": ["sys_ptrace"]}, plugin)
    words = refused({"pid_mode": "host", "cap_add": ["sys_ptrace", "kill"]}, plugin)
    assert 'with pid_mode = "host" kill would reach' in words
    assert "allow_caps_with_host_namespaces" in words


@pytest.mark.parametrize(
    ("text", "user", "listed", "permitted"),
    [
        ("", NOBODY, (), True),
        ("nobody", NOBODY, (), True),
        ("65534", NOBODY, (), True),
        ("nobody:video", User(65534, 44, (), "nobody"), (), False),
        ("nobody:video", User(65534, 44, (), "nobody"), ("nobody:video",), True),
        ("app", User(7, 7, (), "app"), (), False),
        ("app", User(7, 7, (), "app"), ("app",), True),
        ("7", User(7, 7, (), "app"), ("app",), True),
        ("7:7", User(7, 7, (), "app"), ("app",), False),
        ("61234:61234", User(61234, 61234), ("61234:61234",), True),
        ("root", User(0, 0, (), "root"), ("app",), False),
    ],
)
def test_host_processes_come_with_nobody_or_a_named_user(
    text: str, user: User, listed: tuple[str, ...], permitted: bool
) -> None:
    """A task has all processes of its own user there; which those are is not the job's to say."""
    plugin = attrs.evolve(EACH, allow_root=True, allow_users_with_host_namespaces=listed)
    for mode in ("pid_mode", "ipc_mode"):
        if permitted:
            judge({mode: "host"}, plugin, user, text)
        else:
            words = refused({mode: "host"}, plugin, user, text)
            assert "allow_users_with_host_namespaces" in words


@pytest.mark.parametrize(
    ("user", "what"),
    [
        (User(0, 5), "root is not permitted"),
        (User(5, 0), "a member of root's group"),
        (User(5, 5, (7, 0)), "a member of root's group"),
    ],
)
def test_roots_group_counts_as_root(user: User, what: str) -> None:
    """As user, as primary and as supplementary group."""
    assert what in refused({}, PluginOptions(), user, "x")
    judge({}, PluginOptions(allow_root=True), user, "x")


@pytest.mark.parametrize("user", [User(70000, 1), User(1, 70000), User(1, 1, (70000,))])
def test_large_ids_do_not_fit_into_a_user_namespace(user: User) -> None:
    """Of the user, the group and the supplementary groups."""
    assert "70000" in refused({}, PluginOptions(userns=True), user)


def test_mounts_need_volumes() -> None:
    """Without volumes { enabled } there is none."""
    config = {"mounts": [{"source": "/a", "target": "/b"}]}
    assert "volumes { enabled = true }" in refused(config, PluginOptions())


def test_the_insecure_switch_is_the_java_drivers_defaults() -> None:
    """It sets what the operator has not set, and lets keys come together; root stays out."""
    plugin = parse_plugin_options({"insecure_java_driver_privileges": True})
    assert plugin.allow_caps == JAVA_DRIVER_CAPS
    assert (plugin.allow_host_namespaces, plugin.allow_host_ipc) == (True, True)
    everything = {"pid_mode": "host", "ipc_mode": "host", "cap_add": list(JAVA_DRIVER_CAPS)}
    judge(everything, plugin, User(7, 7, (), "app"), "app", "host")
    assert "allow_root" in refused(everything, plugin, User(0, 0, (), "root"), "root")
    assert "allow_caps" in refused({"cap_add": ["net_raw"]}, plugin)
    own = parse_plugin_options(
        {
            "insecure_java_driver_privileges": True,
            "allow_caps": ["net_raw"],
            "allow_host_namespaces": False,
        }
    )
    assert (own.allow_caps, own.allow_host_namespaces, own.allow_host_ipc) == (
        ("net_raw",),
        False,
        True,
    )


@pytest.mark.parametrize(
    ("mode", "permit"),
    [("default_pid_mode", "allow_host_namespaces"), ("default_ipc_mode", "allow_host_ipc")],
)
def test_a_default_of_the_hosts_namespace_permits_it(mode: str, permit: str) -> None:
    """Who makes it every job's has named it; to refuse it beside that is a contradiction."""
    plugin = parse_plugin_options({mode: "host"})
    assert getattr(plugin, permit) is True
    judge({}, plugin)
    with pytest.raises(ConfigError) as caught:
        parse_plugin_options({mode: "host", permit: False})
    assert caught.value.key == mode
    assert not getattr(parse_plugin_options({}), permit)


def test_the_defaults_permit_nothing_of_the_hosts() -> None:
    """What an operator gets who has said nothing."""
    plugin = parse_plugin_options({})
    assert plugin == PluginOptions()
    assert plugin.allow_caps == ("net_bind_service",)
    judge({"cap_add": ["net_bind_service"]}, plugin, network_mode="host")
    for config in ({"pid_mode": "host"}, {"ipc_mode": "host"}, {"cap_add": ["chown"]}):
        refused(config, plugin)
