"""Every pair of a job's privileged keys, and which of the plugin's have to be set to permit it.

``python -m tests.support.key_pairs`` prints the table that stands in docs/security.md; it is
made from what refusals name, so that it also shows that each names the right key.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from milo.core.config.plugin_options import PluginOptions, Volumes
from milo.core.config.rules import Asked, check_task
from milo.core.config.task_options import parse_task_options
from milo.core.container.capabilities import KNOWN
from milo.core.container.spec import User
from milo.errors import ConfigError, UserError

DOCUMENT: Final = Path(__file__).parents[2] / "docs/security.md"
BEGIN: Final = "<!-- pairs: written by tests/support/key_pairs.py -->\n\n```text\n"
END: Final = "```\n\n<!-- end of pairs -->"


@attrs.frozen
class Key:
    """One privileged key of a job, or what is one beside its ``config`` block."""

    config: tuple[Mapping[str, object], ...] = ({},)
    """Each of these has to come to the same."""
    user: str = ""
    network: str = ""
    plugin: Mapping[str, object] = attrs.field(factory=dict)


USERS: Final = {
    "": User(65534, 65534, name="nobody"),
    "root": User(0, 0, name="root"),
    "ops": User(2001, 2001, (27, 0), "ops"),
    "app": User(2002, 2002, (), "app"),
    "nobody:video": User(65534, 44, (), "nobody"),
}


def _caps(*names: str) -> tuple[Mapping[str, object], ...]:
    return tuple({"cap_add": [name]} for name in names)


def _mount(propagation: str) -> Mapping[str, object]:
    return {"source": "/srv/x", "target": "/x", "readonly": False, "propagation": propagation}


ROOTING: Final = ("setuid", "setgid", "setpcap", "setfcap")
NETWORK: Final = ("net_admin", "net_raw")
OWN_ROWS: Final = ("net_bind_service", "mknod", "chown", "dac_override", "fowner", "fsetid")
OTHERS: Final = [name for name in KNOWN if name not in (*ROOTING, *NETWORK, *OWN_ROWS)]

KEYS: Final = {
    "pid_mode host": Key(({"pid_mode": "host"},)),
    "ipc_mode host": Key(({"ipc_mode": "host"},)),
    "the host's network": Key(network="host"),
    "user root": Key(user="root"),
    "a user of root's group": Key(user="ops"),
    "another user": Key(user="app"),
    "user with a group": Key(user="nobody:video"),
    "cap net_bind_service": Key(_caps("net_bind_service")),
    "cap chown": Key(_caps("chown")),
    "cap dac_override": Key(_caps("dac_override")),
    "cap fowner": Key(_caps("fowner")),
    "cap fsetid": Key(_caps("fsetid")),
    "cap set*id, setpcap, setfcap": Key(_caps(*ROOTING)),
    "cap mknod": Key(_caps("mknod")),
    "cap net_admin, net_raw": Key(_caps(*NETWORK)),
    "any other capability": Key(_caps(*OTHERS)),
    "cap all": Key(_caps("all")),
    "seccomp unconfined": Key(({"seccomp_profile": "unconfined"},)),
    "a writable mount": Key(({"mounts": [_mount("private")]},)),
    "a bidirectional mount": Key(({"mounts": [_mount("bidirectional")]},)),
    "ulimit nice, rtprio": Key(({"ulimit": {"nice": "1"}}, {"ulimit": {"rtprio": "1"}})),
    "sysctl net.*": Key(({"sysctl": {"net.core.somaxconn": "9"}},)),
    "sysctl kernel.*": Key(({"sysctl": {"kernel.sem": "1"}}, {"sysctl": {"fs.mqueue.x": "1"}})),
    "shm_size": Key(({"shm_size": "1g"},)),
    "userns, of the plugin": Key(plugin={"userns": True}),
}

PERMITS: Final[dict[str, tuple[str, Any]]] = {
    "allow_host_namespaces": ("N", True),
    "allow_host_ipc": ("I", True),
    "allow_root": ("R", True),
    "allow_caps": ("A", ("all", "mknod")),
    "allow_caps_with_host_namespaces": ("C", ("all", "mknod")),
    "allow_users_with_host_namespaces": ("U", tuple(USERS)),
    "allow_seccomp_profiles": ("S", ("unconfined",)),
    "volumes": ("V", Volumes(True, ("/",))),
}
"""The plugin's keys: a letter for each, and a value that permits all."""

EXCLUDED: Final = "x"
BOTH_USERS: Final = "-"


def needed(one: Key, other: Key) -> str:
    """Return the letters of the plugin's keys that permit both together.

    Every combination of their forms has to come to the same.
    """
    if one.user and other.user and one is not other:
        return BOTH_USERS
    found = {
        _needed(config, one.user or other.user, one.network or other.network, plugin)
        for plugin in ({**one.plugin, **other.plugin},)
        for config in _configs(one, other)
    }
    assert len(found) == 1, found
    return found.pop()


def _configs(one: Key, other: Key) -> Iterator[dict[str, Any]]:
    for first in one.config:
        for second in other.config:
            config: dict[str, Any] = {**first}
            for key, value in second.items():
                there = config.get(key)
                if isinstance(there, list) and isinstance(value, list):
                    value = [*there, *(item for item in value if item not in there)]
                elif isinstance(there, dict) and isinstance(value, dict):
                    value = {**there, **value}
                config[key] = value
            yield config


def _needed(config: Mapping[str, Any], user: str, network: str, plugin: Mapping[str, Any]) -> str:
    options = PluginOptions(**plugin)
    letters = ""
    while True:
        try:
            check_task(
                Asked(
                    options=parse_task_options(config, options),
                    plugin=options,
                    user=USERS[user],
                    user_text=user,
                    network_mode=network or "group",
                )
            )
        except (ConfigError, UserError) as error:
            named = [key for key in re.findall(r"[a-z_]+", f"{error}") if key in PERMITS]
            if not named:
                return EXCLUDED
            [key] = {*named}
            letter, value = PERMITS[key]
            assert letter not in letters, f"{key} is set, and yet: {error}"
            letters += letter
            options = attrs.evolve(options, **{key: value})
        else:
            order = [letter for letter, _ in PERMITS.values()]
            return "".join(sorted(letters, key=order.index)) or "."


def table() -> str:
    """Return the table: below the diagonal, each pair once; on it, each key alone."""
    width = max(map(len, KEYS)) + 4
    names = list(KEYS)
    cells = {
        (row, column): needed(KEYS[row], KEYS[column])
        for number, row in enumerate(names)
        for column in names[: number + 1]
    }
    widths = {
        column: max(len(cell) for (_, other), cell in cells.items() if other == column)
        for column in names
    }
    lines = [
        " " * width
        + " ".join(str(number).ljust(max(widths[name], 2)) for number, name in enumerate(names, 1))
    ]
    for number, row in enumerate(names, 1):
        row_cells = [cells[row, column].ljust(max(widths[column], 2)) for column in names[:number]]
        lines.append(f"{number:2} {row}".ljust(width) + " ".join(row_cells))
    return "".join(line.rstrip() + "\n" for line in lines)


def document() -> str:
    """Return docs/security.md with the table as it is now."""
    text = DOCUMENT.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + table() + END + after


if __name__ == "__main__":
    if BEGIN in DOCUMENT.read_text():
        DOCUMENT.write_text(document())
    print(table())
