"""docs/security.md is held to the tests that it names, and to the table that they compare with."""

from __future__ import annotations

import re

from milo.core.config.options import options_of
from milo.core.config.plugin_options import PluginOptions
from tests.support import security_table

TEXT = security_table.DOCUMENT.read_text()


def rows(title: str) -> list[list[str]]:
    """Return the cells of the table below a heading, without its first two lines."""
    section = TEXT.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines[2:]]


def test_the_table_is_the_tests_own() -> None:
    """What people read is what the probes are compared with.

    ``python -m tests.support.security_table`` writes it anew.
    """
    assert security_table.document() == TEXT


def test_every_attack_has_a_test_that_exists() -> None:
    """A claim whose test was renamed or removed is found here, and one that never had any."""
    paths = (security_table.ROOT / "tests").rglob("test_*.py")
    sources = "\n".join(path.read_text() for path in paths)
    known = set(re.findall(r"def (test_\w+)\(", sources))
    attacks = rows("Attacks")
    assert len(attacks) > 25
    for attack in attacks:
        assert re.findall(r"`(test_\w+)`", attack[-1]), attack
    named = set(re.findall(r"`(test_\w+)`", TEXT))
    assert named <= known, f"no such test: {named - known}"


def test_every_option_that_loosens_exists() -> None:
    """The keys that operators read about are the plugin's."""
    for row in rows("What loosens it"):
        for key in re.findall(r"`(\w+)[^`]*`", row[0]):
            assert key in options_of(PluginOptions), row


def test_every_fact_is_in_every_column_and_in_one_section() -> None:
    """No column was forgotten, alternatives have a reason, and no section leaves a fact out."""
    table = security_table.load()
    prefixes = " ".join(table["sections"]).split()
    assert len(prefixes) == len(set(prefixes))
    for key, entry in table["facts"].items():
        assert key.partition(".")[0] in prefixes, key
        assert set(table["columns"]) == set(entry) - {"why"}, key
        if any(isinstance(value, list) for value in entry.values()):
            assert entry.get("why"), f"{key} has more than one right value, and no reason"


def test_hostile_words_are_told_in_no_column_of_milos() -> None:
    """No task of Milo's may read, write, open or do what the table does not except here."""
    allowed = {
        "control./proc/self/oom_score_adj",  # its own, upwards
        "network.abstract-sockets",
        "network.host-loopback",
        "shell.run-own-program",
        "write./dev/mqueue",
        "write./dev/shm",
        "write./sys/fs/cgroup",  # crun's tmpfs, with cgroup v1
        "write./var/tmp",  # its own /tmp
        *(f"write.own-{name}" for name in ("alloc", "local", "secrets", "task", "tmp")),
    }
    table = security_table.load()["facts"]
    columns = ("milo_host", "milo_minimal", "milo_userns")
    found = {
        key
        for key, entry in table.items()
        if re.search(r"READ|WRITABLE|OPENED|REACHED|done", str([entry[one] for one in columns]))
    }
    assert found == allowed


def test_a_difference_is_told_in_both_directions() -> None:
    """A fact that is missing, one that is new and one that is different each make a line."""
    facts = {"id.uid": "0", "id.new": "x", "limit.nofile": "77"}
    lines = security_table.differences(
        facts, "milo_host", hierarchy="v2", agent={"limit.nofile": "77"}
    )
    assert "id.uid: told '0'; the table says '65534'" in lines
    assert "id.new: told 'x'; the table has no such fact" in lines
    assert "seccomp: told 'untold'; the table says '2'" in lines
    assert not [line for line in lines if line.startswith("limit.nofile")]
