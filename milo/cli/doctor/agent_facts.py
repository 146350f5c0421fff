"""Gathers the facts of Nomad's agent: its configuration files, plugins and systemd unit."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Sequence
from itertools import islice
from typing import Final

import attrs

from milo import walk
from milo.cli.arguments import absolute
from milo.cli.doctor import agent_config, hcl, service_unit
from milo.cli.doctor.agent_config import AgentArguments, AgentConfig
from milo.cli.doctor.agent_verdicts import PluginDir
from milo.cli.doctor.host_facts import run_version
from milo.cli.doctor.service_unit import ServiceUnit
from milo.cli.executable import Executable, changeable_by_others, read_executable
from milo.errors import PathError
from milo.host.programs import helper

USUAL_CONFIG: Final = "/etc/nomad.d"
PLUGIN_DIRS: Final = (
    "/opt/nomad/plugins",
    "/opt/nomad/data/plugins",
    "/var/lib/nomad/plugins",
    "/usr/lib/nomad/plugins",
    "/usr/local/lib/nomad/plugins",
    "/etc/nomad.d/plugins",
)
"""Where people put plugins: packages' and HashiCorp's documentation."""
UNIT_DIRS: Final = (
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
)
"""In systemd's order of preference; systemd.unit(5)."""
MAX_FILE_BYTES: Final = 1 << 20
MAX_NAMES: Final = 10_000
"""Of a plugin directory, which has a handful."""
SYSTEMCTL_TIMEOUT_S: Final = 5.0
PROPERTIES: Final = "LoadState,FragmentPath,KillMode,OOMScoreAdjust,User,ExecStart"


@attrs.frozen
class ConfigFiles:
    """What the agent's files came to."""

    config: AgentConfig | None
    looked: tuple[str, ...]
    errors: tuple[str, ...]


# ---- files


def read_files(paths: Sequence[str], unit: ServiceUnit | None) -> ConfigFiles:
    """Return the configuration in ``paths``, else in what the unit's command line names."""
    arguments = AgentArguments()
    named = bool(paths)
    if not named and unit is not None:
        arguments = agent_config.parse_exec_start(unit.exec_start)
    looked = tuple(paths) or arguments.config_paths or (USUAL_CONFIG,)
    files, errors = [], []
    for path in looked:
        try:
            names = _names(path)
        except OSError as exc:
            if named or not isinstance(exc, FileNotFoundError):
                errors.append(f"{path} cannot be read: {exc.strerror}")
            continue
        for name in names:
            try:
                files.append((name, hcl.parse(_read(name))))
            except PathError as exc:
                errors.append(f"{name} cannot be read: {exc.words}")
            except hcl.HclError as exc:
                errors.append(f"{name}, line {exc.line}: {exc.problem}")
    if not files and not arguments.dev:
        return ConfigFiles(None, looked, tuple(errors))
    source = ", ".join(looked)
    return ConfigFiles(agent_config.from_files(files, arguments, source), looked, tuple(errors))


def _names(path: str) -> list[str]:
    """Return the files that the agent reads at ``path``, in its order."""
    if not os.path.isdir(path):
        os.stat(path)
        return [path]
    names = sorted(
        name
        for name in os.listdir(path)
        if name.endswith((".hcl", ".json")) and not name.startswith((".#", "#"))
    )
    return [f"{path.rstrip('/')}/{name}" for name in names if not os.path.isdir(f"{path}/{name}")]


def _read(path: str) -> str:
    """Return what a file holds, of which a false agent may say what it is; raises `PathError`."""
    with walk.follow(absolute(path)) as held:
        if held.path == os.devnull:  # a unit of systemd is masked by that
            return ""
        return held.read(MAX_FILE_BYTES).decode(errors="replace").replace("\r\n", "\n")


# ---- the plugin directory


def look_at_plugin_dir(path: str) -> PluginDir:
    """Return what lies in a plugin directory; an executable there is asked for its version.

    What another user than root can change is neither read nor run: the directory may be what a
    false agent says.
    """
    elsewhere = tuple(
        directory
        for directory in PLUGIN_DIRS
        if directory != path.rstrip("/") and os.access(f"{directory}/milo", os.X_OK)
    )
    try:
        names = _first_names(path) if path else []
    except FileNotFoundError:
        return PluginDir(path, elsewhere=elsewhere)
    except NotADirectoryError:
        return PluginDir(path, exists=True, is_directory=False, elsewhere=elsewhere)
    except OSError as exc:
        return PluginDir(path, unreadable=f"{path} cannot be read: {exc.strerror}")
    full = f"{path.rstrip('/')}/milo"
    changeable = version = problem = ""
    try:
        state = _state(full)
        if state == "executable":
            changeable = walk.writable_by_others(path) or walk.writable_by_others(full)
            if not changeable:
                changeable, problem = _examine(full)
            if not changeable and not problem:
                version, problem = _ask_version(full)
            if os.geteuid() != 0:
                changeable = ""  # which only root is told: nobody else's is run as root
    except OSError as exc:
        return PluginDir(path, unreadable=f"{full} cannot be read: {exc.strerror}")
    return PluginDir(
        path=path,
        exists=True,
        state=state,
        similar=tuple(name for name in names if "milo" in name.lower() and name != "milo"),
        dangling=tuple(
            name
            for name in names
            if os.path.islink(f"{path}/{name}") and not os.path.exists(f"{path}/{name}")
        ),
        elsewhere=elsewhere,
        version=version,
        changeable=changeable,
        problem=problem,
    )


def _state(path: str) -> str:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return "dangling" if os.path.islink(path) else "missing"
    if stat.S_ISDIR(found.st_mode):
        return "directory"
    return "executable" if found.st_mode & 0o111 else "not executable"


def _first_names(path: str) -> list[str]:
    with os.scandir(path) as entries:
        return sorted(entry.name for entry in islice(entries, MAX_NAMES))


def _examine(path: str) -> tuple[str, str]:
    """Return what others than root can change of what an executable runs, and what is missing."""
    executable = read_executable(os.path.realpath(path)) or Executable()
    for part in (executable.interpreter, executable.packages):
        if part and not os.path.exists(part):
            return "", f"it names {part}, which does not exist"
    return changeable_by_others(executable), ""


def _ask_version(path: str) -> tuple[str, str]:
    """Return the version that the executable tells, or what is wrong with it."""
    output, problem = run_version([path, "--version"])
    words = output.split()
    if len(words) == 2 and words[0] == "milo":
        return words[1], ""
    return "", problem or "it does not print a version of Milo"


# ---- systemd


def find_unit(name: str) -> ServiceUnit | None:
    """Return the service's settings: from systemd when it runs here, else from its files."""
    unit = name if "." in name else f"{name}.service"
    if os.path.isdir("/run/systemd/system") and (systemctl := helper("systemctl", os.environ)):
        try:
            done = subprocess.run(
                [systemctl, "show", unit, f"--property={PROPERTIES}"],
                capture_output=True,
                stdin=subprocess.DEVNULL,
                timeout=SYSTEMCTL_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            done = None
        if done is not None and done.returncode == 0:
            return service_unit.parse_show(unit, done.stdout.decode(errors="replace"))
    return read_unit(unit, UNIT_DIRS)


def read_unit(unit: str, directories: Sequence[str]) -> ServiceUnit | None:
    """Return what the files say of ``unit``, its drop-ins in the order of their names."""
    main = next((path for one in directories if os.path.isfile(path := f"{one}/{unit}")), None)
    if main is None:
        return None
    drop_ins: dict[str, str] = {}
    unread = []
    for directory in directories:
        try:
            names = os.listdir(f"{directory}/{unit}.d")
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as exc:
            unread.append(f"{directory}/{unit}.d cannot be read: {exc.strerror}")
            continue
        for name in names:
            if name.endswith(".conf"):
                drop_ins.setdefault(name, f"{directory}/{unit}.d/{name}")
    files = []
    for path in (main, *(drop_ins[name] for name in sorted(drop_ins))):
        try:
            files.append((path, _read(path)))
        except PathError as exc:
            unread.append(f"{path} cannot be read: {exc.words}")
    return attrs.evolve(service_unit.parse_files(unit, files), unread=tuple(unread))
