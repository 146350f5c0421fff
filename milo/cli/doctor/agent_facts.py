"""Gathers the facts of Nomad's agent: its configuration files, HTTP API and systemd unit."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import stat
import subprocess
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import attrs

from milo import walk
from milo.cli.doctor import agent_config, hcl, service_unit
from milo.cli.doctor.agent_config import AgentArguments, AgentConfig
from milo.cli.doctor.agent_verdicts import AgentAnswer, PluginDir
from milo.cli.doctor.host_facts import run_version
from milo.cli.doctor.service_unit import ServiceUnit
from milo.cli.executable import Executable, changeable_by_others, read_executable

DEFAULT_ADDRESS: Final = "http://127.0.0.1:4646"
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
TIMEOUT_S: Final = 1.0
MAX_ANSWER_BYTES: Final = 16 << 20
MAX_FILE_BYTES: Final = 1 << 20
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
            except OSError as exc:
                errors.append(f"{name} cannot be read: {exc.strerror}")
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
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read(MAX_FILE_BYTES)


# ---- the running agent


def ask_agent(address: str) -> AgentAnswer:
    """Return what the agent at ``address`` tells; each request may take `TIMEOUT_S`.

    As Nomad's own command does, NOMAD_TOKEN and the variables for TLS are used.
    """
    if urlsplit(address).scheme not in ("http", "https"):
        return AgentAnswer(address, "only http:// and https:// addresses are asked")
    try:
        own = _get(address, "/v1/agent/self")
        config = own.get("config") or {}
        version = _version(config)
        client = (own.get("stats") or {}).get("client") or {}
        node_id = client.get("node_id") or ""
        node = _get(address, f"/v1/node/{node_id}") if node_id else {}
    except urllib.error.HTTPError as exc:
        words = exc.read(200).decode(errors="replace").strip() or str(exc)
        exc.close()
        return AgentAnswer(address, words, refused=exc.code in (401, 403))
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "reason", exc)
        return AgentAnswer(address, getattr(reason, "strerror", None) or str(reason))
    attributes = node.get("Attributes") or {}
    name = attributes.get("unique.hostname") or node.get("Name") or ""
    return AgentAnswer(
        address=address,
        version=version,
        config=agent_config.from_api(config, f"the running agent ({address})"),
        driver=(node.get("Drivers") or {}).get("milo"),
        is_client=bool(node_id),
        here=not name or name == socket.gethostname(),
        node=name,
    )


def _version(config: dict[str, Any]) -> str:
    version = config.get("Version")
    if isinstance(version, dict):
        return str(version.get("Version") or "")
    return ""


def _get(address: str, path: str) -> Any:
    headers = {}
    if token := os.environ.get("NOMAD_TOKEN"):
        headers["X-Nomad-Token"] = token
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if address.startswith("https:"):
        handlers.append(urllib.request.HTTPSHandler(context=_tls()))
    request = urllib.request.Request(address.rstrip("/") + path, headers=headers)  # noqa: S310
    opener = urllib.request.build_opener(*handlers)
    with opener.open(request, timeout=TIMEOUT_S) as response:
        found = json.loads(response.read(MAX_ANSWER_BYTES))
    if not isinstance(found, dict):
        raise ValueError("it does not answer like a Nomad agent")
    return found


def _tls() -> ssl.SSLContext:
    context = ssl.create_default_context(
        cafile=os.environ.get("NOMAD_CACERT") or None, capath=os.environ.get("NOMAD_CAPATH") or None
    )
    certificate, key = os.environ.get("NOMAD_CLIENT_CERT"), os.environ.get("NOMAD_CLIENT_KEY")
    if certificate and key:
        context.load_cert_chain(certificate, key)
    return context


# ---- the plugin directory


def look_at_plugin_dir(path: str) -> PluginDir:
    """Return what lies in a plugin directory; an executable there is asked for its version."""
    elsewhere = tuple(
        directory
        for directory in PLUGIN_DIRS
        if directory != path.rstrip("/") and os.access(f"{directory}/milo", os.X_OK)
    )
    try:
        names = sorted(os.listdir(path)) if path else []
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
            changeable, problem = _examine(full)
            if not changeable and not problem:
                version, problem = _ask_version(full)
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


def _examine(path: str) -> tuple[str, str]:
    """Return what others than root can change of what the agent runs, and what is missing of it.

    Only root is told of the first: others are not asked to run it as root.
    """
    executable = read_executable(os.path.realpath(path)) or Executable()
    for part in (executable.interpreter, executable.packages):
        if part and not os.path.exists(part):
            return "", f"it names {part}, which does not exist"
    if os.geteuid() != 0:
        return "", ""
    changeable = walk.writable_by_others(os.path.dirname(path)) or walk.writable_by_others(path)
    return changeable or changeable_by_others(executable), ""


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
    if os.path.isdir("/run/systemd/system") and (systemctl := shutil.which("systemctl")):
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
        except OSError as exc:
            unread.append(f"{path} cannot be read: {exc.strerror}")
    return attrs.evolve(service_unit.parse_files(unit, files), unread=tuple(unread))
