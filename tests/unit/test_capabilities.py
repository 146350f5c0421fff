"""Capabilities by name: what a job may ask for, and what it gets."""

from __future__ import annotations

import pytest

from milo.core.config.plugin_options import PluginOptions
from milo.core.config.task_options import parse_task_options
from milo.core.container.capabilities import KNOWN, check_allowed, granted, oci_name
from milo.errors import ConfigError

EVERY = (1 << len(KNOWN)) - 1


def test_names_are_taken_as_nomad_takes_them() -> None:
    """In any case, with or without CAP_, each once."""
    config = {"cap_add": ["CAP_CHOWN", "Net_Raw", "chown", "ALL", "cap_sys_time"]}
    names = parse_task_options(config, PluginOptions()).cap_add
    assert names == ("chown", "net_raw", "all", "sys_time")
    assert oci_name("net_raw") == "CAP_NET_RAW"


@pytest.mark.parametrize("name", [" ", "fly", "CAP_", "cap_cap_chown", "chown,kill"])
def test_unknown_names_are_refused(name: str) -> None:
    """What Linux does not have is an error that names the place in the list."""
    with pytest.raises(ConfigError) as caught:
        parse_task_options({"cap_add": ["chown", name]}, PluginOptions())
    assert caught.value.key == "cap_add[1]"


def test_numbers_are_the_kernels() -> None:
    """The order is that of linux/capability.h."""
    assert [KNOWN.index(name) for name in ("chown", "sys_admin", "checkpoint_restore")] == [
        0,
        21,
        40,
    ]


@pytest.mark.parametrize(
    ("add", "drop", "allowed", "missing"),
    [
        ((), (), (), ""),
        (("chown",), (), ("chown", "kill"), ""),
        (("chown", "net_raw", "sys_time"), (), ("chown",), "net_raw, sys_time"),
        (("all",), (), ("all",), ""),
        (("net_raw",), (), ("all",), ""),
        (("all",), tuple(name for name in KNOWN if name != "chown"), ("chown",), ""),
        (("all",), KNOWN[3:], ("chown",), "dac_override, dac_read_search"),
        ((), ("all",), (), ""),
    ],
)
def test_a_job_is_held_to_allow_caps(
    add: tuple[str, ...], drop: tuple[str, ...], allowed: tuple[str, ...], missing: str
) -> None:
    """cap_add beyond the plugin's allow_caps is refused, and the error names what."""
    if not missing:
        check_allowed(add, drop, allowed)
        return
    with pytest.raises(ConfigError, match=f"does not allow {missing}$|does not allow {missing}\\."):
        check_allowed(add, drop, allowed)


def test_none_by_default_and_added_ones_in_the_kernels_order() -> None:
    """A job has only what it adds; adding a name wins over dropping it, as in Nomad."""
    assert granted((), (), EVERY) == ()
    assert granted(("kill", "chown"), ("all", "kill"), EVERY) == ("chown", "kill")
    assert granted((), ("all",), EVERY) == ()


def test_all_is_what_this_host_can_give_less_what_is_dropped() -> None:
    """`all` leaves out what the kernel or the agent is without; cap_drop takes from it."""
    assert granted(("all",), (), 0b1011) == ("chown", "dac_override", "fowner")
    assert granted(("all",), ("chown",), 0b1011) == ("dac_override", "fowner")
    assert granted(("all", "chown"), ("all",), EVERY) == ("chown",)


def test_what_this_host_cannot_give_is_an_error_when_it_is_named() -> None:
    """An explicit name that the bounding set is without is refused."""
    with pytest.raises(ConfigError, match="cannot give sys_time"):
        granted(("all", "sys_time"), (), 0b1011)
