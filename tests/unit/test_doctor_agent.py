"""`milo doctor`'s verdicts about Nomad's agent, and how its files are read."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import attrs
import pytest

from milo.cli.doctor import agent_config, agent_verdicts, report, service_unit
from milo.cli.doctor import agent_facts as facts
from milo.cli.doctor.agent_config import AgentArguments, AgentConfig
from milo.cli.doctor.agent_verdicts import AgentAnswer, PluginDir
from milo.cli.doctor.finding import Finding, Verdict, ok
from milo.cli.doctor.hcl import parse
from milo.cli.doctor.service_unit import ServiceUnit
from milo.cli.executable import write_launcher
from milo.cli.main import run_command
from milo.core.config.plugin_options import PluginOptions

OK, WARNING, FAILED, SKIPPED = Verdict.OK, Verdict.WARNING, Verdict.FAILED, Verdict.SKIPPED

CONFIG = AgentConfig(
    "/etc/nomad.d", plugin_dir="/opt/nomad/plugins", data_dir="/opt/nomad/data", has_block=True
)
FOUND = PluginDir("/opt/nomad/plugins", exists=True, state="executable", version="1.2")


def holds(finding: Finding, verdict: Verdict, words: str) -> None:
    """The finding is as expected; and whoever is told of trouble is told what to do."""
    assert finding.verdict is verdict, finding
    assert words in f"{finding.found} | {finding.fix}"
    assert bool(finding.fix) == (verdict is not OK)


# ---- configuration


def test_files_are_merged_as_the_agent_does() -> None:
    """The last value wins, a block without keys takes nothing back, the command line is last."""
    files = [
        (
            "a.hcl",
            parse(
                'plugin_dir = "/one"\ndata_dir = "/d"\nplugin "milo" { config { userns = true } }'
            ),
        ),
        ("b.hcl", parse('plugin_dir = "/two"\nclient { enabled = true }\nplugin "docker" { }')),
        ("c.json", parse('{"plugin_dir": "", "plugin": {"milo": {"config": {}}}}')),
    ]
    found = agent_config.from_files(files, AgentArguments(), "here")
    assert found == AgentConfig(
        "here",
        plugin_dir="/two",
        data_dir="/d",
        has_block=True,
        options={"userns": True},
        client=True,
        other_blocks=("docker",),
    )
    given = AgentArguments(plugin_dir="/three", data_dir="/e")
    assert agent_config.from_files(files, given, "here").plugin_dir == "/three"


def test_the_default_plugin_dir_is_below_data_dir() -> None:
    """Where nobody has chosen one."""
    found = agent_config.from_files([("a", parse('data_dir = "/d/"'))], AgentArguments(), "here")
    assert (found.plugin_dir, found.plugin_dir_given) == ("/d/plugins", False)
    assert not found.has_block
    assert agent_config.from_files([], AgentArguments(), "here").plugin_dir == ""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("/usr/bin/nomad agent -config /etc/nomad.d", AgentArguments(("/etc/nomad.d",))),
        ("nomad agent --config=/a -config=/b", AgentArguments(("/a", "/b"))),
        ("nomad agent -plugin-dir=/p -data-dir '/d d'", AgentArguments((), "/p", "/d d")),
        ("nomad agent -dev", AgentArguments(dev=True)),
        ("nomad agent -dev-connect -config", AgentArguments(("",), dev=True)),
        ("nomad 'agent", AgentArguments()),
    ],
)
def test_the_units_command_line(line: str, expected: AgentArguments) -> None:
    """Go's flags, with one dash or two, with = or a blank."""
    assert agent_config.parse_exec_start(line) == expected


def test_the_api_tells_the_same() -> None:
    """A running agent's own configuration, whatever it leaves out."""
    told = {
        "PluginDir": "/p",
        "DataDir": "/d",
        "Client": {"Enabled": True},
        "Plugins": [{"Name": "exec", "Config": None}, {"Name": "milo", "Config": {"userns": True}}],
    }
    found = agent_config.from_api(told, "it")
    assert (found.plugin_dir, found.data_dir, found.client) == ("/p", "/d", True)
    assert (found.has_block, found.options) == (True, {"userns": True})
    assert found.other_blocks == ("exec",)
    nothing = agent_config.from_api({"Plugins": None}, "it")
    assert nothing == AgentConfig("it")


def test_configuration() -> None:
    """Not found is no failure; a server is no client; a broken file is told with its line."""
    check = agent_verdicts.check_configuration
    holds(*_one(check(None, ["/etc/nomad.d"], [])), SKIPPED, "none found in /etc/nomad.d")
    holds(*_one(check(None, [], ["a.hcl, line 3: no"])), FAILED, "line 3")
    holds(*_one(check(CONFIG, [], [])), OK, "/etc/nomad.d")
    server = attrs.evolve(CONFIG, client=False)
    holds(*_one(check(server, [], [])), WARNING, "not a client")


def _one(findings: list[Finding]) -> tuple[Finding]:
    (found,) = findings
    return (found,)


def test_a_missing_plugin_block() -> None:
    """With one of nearly that name pointed out."""
    holds(agent_verdicts.check_block(CONFIG), OK, "/etc/nomad.d")
    without = attrs.evolve(CONFIG, has_block=False)
    holds(agent_verdicts.check_block(without), FAILED, 'no block plugin "milo"')
    holds(agent_verdicts.check_block(without), FAILED, 'Add plugin "milo" { config { } }')
    near = attrs.evolve(without, other_blocks=("exec", "nomad-driver-milo"))
    holds(agent_verdicts.check_block(near), FAILED, 'only one for "nomad-driver-milo"')


def test_plugin_options() -> None:
    """The block is checked as the driver checks it, and decides what else is looked at."""
    [found], options = agent_verdicts.check_options(CONFIG)
    holds(found, OK, "all defaults")
    assert options == PluginOptions()
    config = attrs.evolve(CONFIG, options={"state_dir": "/run/x", "userns": True})
    [found], options = agent_verdicts.check_options(config)
    holds(found, OK, "state_dir, userns")
    assert options.state_dir == "/run/x"
    # As a running agent tells it: what is not set is there too.
    everything = {"state_dir": "/run/x", "pids_limit": 4096, "java_home": "", "volumes": None}
    [found], _ = agent_verdicts.check_options(attrs.evolve(CONFIG, options=everything))
    holds(found, OK, "state_dir")
    assert found.found == "state_dir"
    [found], options = agent_verdicts.check_options(attrs.evolve(CONFIG, options={"crun": "x"}))
    holds(
        found,
        FAILED,
        "crun: there is no such key. Did you mean crun_path. Nomad's agent does",
    )
    holds(found, FAILED, "Expected one of java_home")
    assert options == PluginOptions()


def test_every_wrong_option_is_told_at_once() -> None:
    """Each with its own line, those of inner blocks and unknown ones too."""
    given = {
        "pids_limit": 0,
        "volume": {"enabled": True},
        "volumes": {"paths": ["relative"], "enabled": "often"},
        "rootfs": "guest",
    }
    found, options = agent_verdicts.check_options(attrs.evolve(CONFIG, options=given))
    assert sorted(one.found.partition(":")[0] for one in found) == [
        "pids_limit", "rootfs", "volume", "volumes.enabled", "volumes.paths[0]"
    ]  # fmt: skip
    assert "Did you mean volumes" in " ".join(one.found for one in found)
    assert options == PluginOptions() and {one.verdict for one in found} == {FAILED}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"pids_limit": "512"}, {"pids_limit": 512}),
        ({"pids_limit": "5.5"}, None),
        ({"pids_limit": "many"}, None),
        ({"pids_limit": True}, None),
        ({"userns": "true", "allow_root": "0"}, {"userns": True}),
        ({"userns": "yes"}, None),
        ({"userns": 1}, None),
        ({"java_home": 5}, None),
        ({"allow_caps": ["chown", "kill"]}, {"allow_caps": ("chown", "kill")}),
        ({"allow_caps": "chown"}, None),
        ({"volumes": {"enabled": "true", "paths": ["/a"]}}, None),
    ],
)
def test_options_are_converted_as_nomad_does(
    given: dict[str, Any], expected: dict[str, Any] | None
) -> None:
    """A number or a truth in quotes is no fault; what the driver would refuse is one."""
    [found], options = agent_verdicts.check_options(attrs.evolve(CONFIG, options=given))
    if "volumes" in given:
        assert (found.verdict, options.volumes.enabled) == (OK, True)
    elif expected is None:
        assert found.verdict is FAILED
    else:
        assert (found.verdict, options) == (OK, PluginOptions(**expected))


def test_what_the_java_driver_permits_is_warned_of() -> None:
    """An operator who restored it is told what it is, and how to do without."""
    assert agent_verdicts.check_permitted(PluginOptions(allow_host_namespaces=True)) == []
    config = attrs.evolve(CONFIG, options={"insecure_java_driver_privileges": True})
    _, options = agent_verdicts.check_options(config)
    [found] = agent_verdicts.check_permitted(options)
    holds(found, WARNING, "can be root on this host, as with Nomad's java driver | Remove it")


@pytest.mark.parametrize(
    ("change", "verdict", "words"),
    [
        ({}, OK, "/opt/nomad/plugins/milo, 1.2"),
        ({"version": "1.1"}, WARNING, "has version 1.1, and this is 1.2"),
        ({"version": "", "problem": "it is broken"}, FAILED, "it is broken"),
        ({"exists": False, "state": "missing"}, FAILED, "does not exist | milo install /opt"),
        ({"is_directory": False, "state": "missing"}, FAILED, "is not a directory"),
        ({"state": "missing"}, FAILED, "has no file named milo"),
        (
            {"state": "missing", "similar": ("milo-1.2", "nomad-driver-milo")},
            FAILED,
            "milo-1.2, nomad-driver-milo does not count: the name must be exactly milo",
        ),
        (
            {"state": "missing", "elsewhere": ("/usr/lib/nomad/plugins",)},
            FAILED,
            "there is one in /usr/lib/nomad/plugins, which this agent does not read",
        ),
        ({"state": "directory"}, FAILED, "is a directory, so Nomad skips it"),
        ({"state": "not executable"}, FAILED, "chmod 0755 /opt/nomad/plugins/milo"),
        ({"dangling": ("old",)}, FAILED, "rm /opt/nomad/plugins/old"),
        ({"unreadable": "/p cannot be read: Denied"}, SKIPPED, "Denied | sudo milo doctor"),
        ({"changeable": "/p belongs to the user 7"}, FAILED, "/p belongs to the user 7, and"),
        ({"path": ""}, FAILED, "neither plugin_dir nor data_dir"),
    ],
)
def test_plugin_dir(change: dict[str, Any], verdict: Verdict, words: str) -> None:
    """The agent has to find an executable of exactly that name."""
    (found,) = agent_verdicts.check_plugin_dir(CONFIG, attrs.evolve(FOUND, **change), "1.2")
    holds(found, verdict, words)


def test_a_default_plugin_dir_is_called_so() -> None:
    """Whoever installed elsewhere and forgot plugin_dir is told which one is read."""
    config = attrs.evolve(CONFIG, plugin_dir_given=False)
    missing = PluginDir("/opt/nomad/data/plugins")
    (found,) = agent_verdicts.check_plugin_dir(config, missing, "1.2")
    holds(found, FAILED, "/opt/nomad/data/plugins (Nomad's default, below data_dir) does not exist")


# ---- the running agent

HEALTHY = {"Detected": True, "Healthy": True, "HealthDescription": "Healthy"}
ANSWER = AgentAnswer(
    "http://a", version="1.9.3", config=CONFIG, driver=HEALTHY, is_client=True, node="me"
)


def test_an_agent_that_is_absent_or_silent_is_no_failure() -> None:
    """It is said, with what would help."""
    check = agent_verdicts.check_agent
    holds(*_one(check(AgentAnswer("http://a", "refused"), None)), SKIPPED, "no agent answers")
    denied = AgentAnswer("http://a", "Permission denied", refused=True)
    holds(*_one(check(denied, None)), SKIPPED, "Set NOMAD_TOKEN")


def test_the_agents_findings() -> None:
    """Version, host, driver; and a configuration that the running one has not read yet."""
    check = agent_verdicts.check_agent
    version, driver = check(ANSWER, CONFIG)
    holds(version, OK, "Nomad 1.9.3")
    holds(driver, OK, "healthy")
    old = check(attrs.evolve(ANSWER, version="1.5.17"), None)[0]
    holds(old, FAILED, "older than 1.6")
    holds(check(attrs.evolve(ANSWER, version=""), None)[0], OK, "unknown version")
    other = check(attrs.evolve(ANSWER, here=False), None)[1]
    holds(other, WARNING, "agent of me, another host")
    stale = attrs.evolve(ANSWER, config=attrs.evolve(CONFIG, has_block=False))
    holds(check(stale, CONFIG)[1], FAILED, "| Restart the agent")
    assert len(check(attrs.evolve(ANSWER, is_client=False, driver=None), None)) == 1


def test_the_driver_on_the_node() -> None:
    """Its own words, when it is not healthy."""
    check = agent_verdicts.check_driver
    holds(check(None), FAILED, "does not list the driver milo")
    undetected = {"Detected": False, "HealthDescription": "gone"}
    holds(check(undetected), FAILED, "not detected it: gone")
    sick = {**HEALTHY, "Healthy": False, "HealthDescription": "Error: No Java runtime found"}
    holds(check(sick), FAILED, "unhealthy: No Java runtime found")


# ---- systemd

UNIT = """\
[Unit]
KillMode=control-group
[Service]
# KillMode=control-group
ExecStart=/usr/bin/nomad agent \\
  -config /etc/nomad.d
KillMode=process
OOMScoreAdjust=-1000
User=root
"""


def test_hashicorps_own_unit_keeps_tasks() -> None:
    """Sections, comments and lines that go on are read as systemd reads them."""
    unit = service_unit.parse_files("nomad.service", [("/lib/nomad.service", UNIT)])
    assert (unit.path, unit.kill_mode, unit.oom_score_adjust) == (
        "/lib/nomad.service",
        "process",
        -1000,
    )
    assert agent_config.parse_exec_start(unit.exec_start).config_paths == ("/etc/nomad.d",)
    (found,) = agent_verdicts.check_service(unit)
    holds(found, OK, "tasks survive the agent")


@pytest.mark.parametrize(
    ("drop_in", "verdict", "words"),
    [
        ("[Service]\nKillMode=mixed\n", FAILED, "KillMode=mixed"),
        ("[Service]\nKillMode=\n", FAILED, "KillMode=control-group"),
        ("[Service]\nKillMode=none\n", WARNING, "KillMode=none"),
        ("[Service]\nUser=nomad\n", FAILED, "runs as nomad"),
        ("[Service]\nOOMScoreAdjust=500\n", WARNING, "OOMScoreAdjust=500"),
        ("[Service]\nOOMScoreAdjust=odd\n", OK, "OOMScoreAdjust=0"),
    ],
)
def test_a_drop_in_that_would_kill_tasks(drop_in: str, verdict: Verdict, words: str) -> None:
    """The last word counts, and an empty one is systemd's default."""
    files = [("/lib/nomad.service", UNIT), ("/etc/nomad.service.d/a.conf", drop_in)]
    (found,) = agent_verdicts.check_service(service_unit.parse_files("nomad.service", files))
    holds(found, verdict, words)


def test_systemctls_answer() -> None:
    """What a running systemd says of the unit, drop-ins included."""
    text = (
        "LoadState=loaded\nFragmentPath=/lib/nomad.service\nKillMode=control-group\n"
        "OOMScoreAdjust=0\nUser=\nExecStart={ path=/usr/bin/nomad ; "
        "argv[]=/usr/bin/nomad agent -config /etc/nomad.d ; ignore_errors=no ; pid=1 }\n"
    )
    unit = service_unit.parse_show("nomad.service", text)
    assert unit == ServiceUnit(
        "nomad.service",
        "/lib/nomad.service",
        exec_start="/usr/bin/nomad agent -config /etc/nomad.d",
    )
    (found,) = agent_verdicts.check_service(unit)
    holds(found, FAILED, "kills the process of every task")
    assert service_unit.parse_show("nomad.service", "LoadState=not-found\n") is None
    assert service_unit.parse_show("nomad.service", "") is None


def test_unit_files_are_found_where_systemd_looks(tmp_path: Path) -> None:
    """The administrator's unit hides the package's; drop-ins of both count, by name."""
    etc, lib = tmp_path / "etc", tmp_path / "lib"
    for directory in (etc, lib):
        (directory / "nomad.service.d").mkdir(parents=True)
    (lib / "nomad.service").write_text("[Service]\nKillMode=mixed\nUser=a\n")
    (lib / "nomad.service.d/20.conf").write_text("[Service]\nKillMode=process\n")
    (lib / "nomad.service.d/10.conf").write_text("[Service]\nUser=b\n")
    (etc / "nomad.service.d/10.conf").write_text("[Service]\nUser=c\nKillMode=none\n")
    (etc / "nomad.service.d/ignored").write_text("[Service]\nUser=d\n")
    places = (str(etc), str(lib))
    unit = facts.read_unit("nomad.service", places)
    assert unit is not None
    assert (unit.kill_mode, unit.user) == ("process", "c")
    (etc / "nomad.service").write_text("[Service]\n")
    assert facts.read_unit("nomad.service", places).path == f"{etc}/nomad.service"  # type: ignore[union-attr]
    assert facts.read_unit("other.service", places) is None
    (etc / "nomad.service.d/20.conf").symlink_to(os.devnull)
    assert facts.read_unit("nomad.service", places).unread == ()  # type: ignore[union-attr]
    (etc / "nomad.service.d/99-ring.conf").symlink_to("99-ring.conf")
    unit = facts.read_unit("nomad.service", places)
    assert unit is not None
    (found,) = agent_verdicts.check_service(attrs.evolve(unit, kill_mode="process", user=""))
    holds(found, SKIPPED, "99-ring.conf cannot be read: it leads through more than")


# ---- gathering


def test_files_are_read_as_nomad_reads_them(tmp_path: Path) -> None:
    """Of a directory the .hcl and .json files in their order, without editors' leftovers."""
    (tmp_path / "b.hcl").write_text('plugin_dir = "/b"')
    (tmp_path / "a.json").write_text('{"plugin_dir": "/a", "data_dir": "/d"}')
    (tmp_path / ".#c.hcl").write_text("broken {")
    (tmp_path / "c.hcl~").write_text("broken {")
    (tmp_path / "d.hcl").mkdir()
    found = facts.read_files([str(tmp_path)], None)
    assert found.errors == ()
    assert found.config is not None
    assert (found.config.plugin_dir, found.config.data_dir) == ("/b", "/d")
    (tmp_path / "z.hcl").write_text("client {\n")
    found = facts.read_files([str(tmp_path / "b.hcl"), str(tmp_path / "z.hcl"), "/none"], None)
    assert found.errors == (
        f"{tmp_path}/z.hcl, line 2: }} is missing",
        "/none cannot be read: No such file or directory",
    )


def test_the_unit_says_where_the_configuration_is(tmp_path: Path) -> None:
    """Named paths come before it, and the usual place after it."""
    (tmp_path / "n.hcl").write_text('data_dir = "/d"')
    unit = ServiceUnit("nomad.service", exec_start=f"nomad agent -config {tmp_path} -plugin-dir /p")
    found = facts.read_files([], unit)
    assert found.config is not None
    assert (found.config.plugin_dir, found.looked) == ("/p", (str(tmp_path),))
    gone = facts.read_files([], ServiceUnit("n", exec_start="nomad agent -config /none"))
    assert (gone.config, gone.errors) == (None, ())


def test_a_plugin_directory_is_looked_at(tmp_path: Path) -> None:
    """Executables are asked for their version; directories, links and other names are told."""
    path = str(tmp_path)
    assert facts.look_at_plugin_dir(f"{path}/none").exists is False
    assert facts.look_at_plugin_dir("").exists is True
    (tmp_path / "milo-2").touch()
    (tmp_path / "gone").symlink_to("/none")
    found = facts.look_at_plugin_dir(path)
    assert (found.state, found.similar, found.dangling) == ("missing", ("milo-2",), ("gone",))
    assert facts.look_at_plugin_dir(f"{path}/milo-2").is_directory is False
    milo = tmp_path / "milo"
    milo.write_text("#!/bin/sh\necho milo 7.1\n")
    assert facts.look_at_plugin_dir(path).state == "not executable"
    milo.chmod(0o755)
    tmp_path.chmod(0o755)
    found = facts.look_at_plugin_dir(path)
    assert (found.state, found.version, found.problem) == ("executable", "7.1", "")
    milo.write_text("#!/bin/sh\nexit 1\n")
    assert facts.look_at_plugin_dir(path).problem == "it failed (exit code 1)"
    milo.write_text("#!/bin/sh\necho no\n")
    assert "does not print a version of Milo" in facts.look_at_plugin_dir(path).problem
    milo.write_text("#!/none\n")
    assert "cannot be run: No such file" in facts.look_at_plugin_dir(path).problem
    milo.unlink()
    milo.mkdir()
    assert facts.look_at_plugin_dir(path).state == "directory"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root refuses to run others' files")
def test_what_others_can_change_is_not_run_as_root(tmp_path: Path) -> None:
    """The file, its directory, one above it; the interpreter and the packages that it names."""
    mark = tmp_path / "ran"
    places = {
        name: tmp_path / name for name in ("above", "above/plugins", "site", "site/milo", "bin")
    }
    for place in places.values():
        place.mkdir()
    python = places["bin"] / "python"
    python.write_text(f"#!/bin/sh\ntouch {mark}\necho milo 1\n")
    python.chmod(0o755)
    milo = places["above/plugins"] / "milo"
    milo.write_text(write_launcher(str(python), str(places["site"])))
    milo.chmod(0o755)
    assert facts.look_at_plugin_dir(str(milo.parent)).version == "1"
    mark.unlink()
    for place in (*places.values(), milo, python):
        place.chmod(0o777)
        found = facts.look_at_plugin_dir(str(milo.parent))
        assert found.changeable == f"{place} can be written by others (mode 777)"
        place.chmod(0o755)
        os.chown(place, 65534, 65534)
        found = facts.look_at_plugin_dir(str(milo.parent))
        assert found.changeable == f"{place} belongs to the user 65534"
        os.chown(place, 0, 0)
    shutil.rmtree(places["site"])
    found = facts.look_at_plugin_dir(str(milo.parent))
    assert found.problem == f"it names {places['site']}, which does not exist"
    assert not mark.exists()


def test_a_plugin_directory_that_cannot_be_read(tmp_path: Path) -> None:
    """The kernel's reason is told, whatever it is."""
    (tmp_path / "ring").symlink_to("ring")
    found = facts.look_at_plugin_dir(f"{tmp_path}/ring").unreadable
    assert found == f"{tmp_path}/ring cannot be read: Too many levels of symbolic links"
    (tmp_path / "milo").symlink_to("milo")
    found = facts.look_at_plugin_dir(str(tmp_path)).unreadable
    assert found == f"{tmp_path}/milo cannot be read: Too many levels of symbolic links"


# ---- the command


@pytest.mark.parametrize(("verdict", "status"), [(OK, 0), (SKIPPED, 0), (WARNING, 0), (FAILED, 1)])
def test_the_report(
    verdict: Verdict,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A mark and a line for each finding, another for its fix; the status is for scripts."""
    other = ok("x", "y") if verdict is OK else Finding("kernel", verdict, "is so", "do that")
    monkeypatch.setattr(report, "examine", lambda **_: [ok("crun", "there"), other])
    assert run_command(["doctor"]) == status
    text = capsys.readouterr().out
    assert "✓  crun" in text
    assert ("→ do that" in text) == (verdict is not OK)
    assert run_command(["doctor", "--json"]) == status
    found = json.loads(capsys.readouterr().out)
    assert found["checks"][1]["verdict"] == verdict.value
    assert found["checks"][0] == {
        "check": "crun",
        "verdict": "ok",
        "found": "there",
        "fix": None,
    }


def test_a_poor_terminal_gets_plain_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is printed that its encoding does not have."""

    class Latin:
        encoding = "latin-1"

    monkeypatch.setattr("sys.stdout", Latin())
    assert not report._can_print("✓")
    Latin.encoding = "utf-8"
    assert report._can_print("✓")
