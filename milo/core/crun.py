"""The command lines of crun, one function each. Pure.

crun writes an error to the file given with ``--log`` and, the same words once more, to its
standard error; for ``create`` that is the container's own (docs/spikes/1-crun-stdio.md).
"""

from __future__ import annotations

from typing import Final

CONTAINER_PREFIX: Final = "milo-"


def container_name(short_id: str) -> str:
    """Return the container's id for crun, which is also the name of its cgroup."""
    return f"{CONTAINER_PREFIX}{short_id}"


def create_args(
    crun: str, container_id: str, bundle_path: str, pid_file: str, log_file: str, root: str
) -> list[str]:
    """Create the container: its process exists after this, and waits before its first exec.

    The container's standard streams are those that this command is given. ``pid_file`` then
    holds the process id in the caller's PID namespace.
    """
    return [
        *_global_args(crun, log_file, root),
        "create",
        f"--bundle={bundle_path}",
        f"--pid-file={pid_file}",
        container_id,
    ]


def start_args(crun: str, container_id: str, log_file: str, root: str) -> list[str]:
    """Let the created container's process execute the application."""
    return [*_global_args(crun, log_file, root), "start", container_id]


def kill_args(
    crun: str, container_id: str, signal: str, log_file: str, root: str, *, everything: bool = False
) -> list[str]:
    """Send a signal, given by name or number, to the application or to ``everything`` inside."""
    options = ["--all"] if everything else []
    return [*_global_args(crun, log_file, root), "kill", *options, container_id, signal]


def delete_args(
    crun: str, container_id: str, log_file: str, root: str, *, force: bool = False
) -> list[str]:
    """Remove a container that has ended; with ``force`` one that runs too, killing it."""
    options = ["--force"] if force else []
    return [*_global_args(crun, log_file, root), "delete", *options, container_id]


def state_args(crun: str, container_id: str, log_file: str, root: str) -> list[str]:
    """Print the container's state as JSON on standard output."""
    return [*_global_args(crun, log_file, root), "state", container_id]


def exec_args(
    crun: str,
    container_id: str,
    argv: tuple[str, ...],
    log_file: str,
    root: str,
    *,
    tty: bool = False,
    console_socket: str = "",
    cwd: str = "",
    env: dict[str, str] | None = None,
    user: str = "",
) -> list[str]:
    """Run another process in the container, with this command's standard streams.

    It gets the environment, user and (no) capabilities of the application, with ``env`` added.
    With ``tty`` and ``console_socket`` the terminal's descriptor is sent to that socket.
    """
    options: list[str] = []
    if tty:
        options.append("--tty")
    if console_socket:
        options.append(f"--console-socket={console_socket}")
    if cwd:
        options.append(f"--cwd={cwd}")
    if user:
        options.append(f"--user={user}")
    options += [f"--env={name}={value}" for name, value in (env or {}).items()]
    return [
        *_global_args(crun, log_file, root),
        "exec",
        "--no-new-privs",
        *options,
        container_id,
        *argv,
    ]


def version_args(crun: str) -> list[str]:
    """Print crun's version and features."""
    return [crun, "--version"]


def _global_args(crun: str, log_file: str, root: str) -> list[str]:
    """Return what stands before every command.

    ``root`` keeps Milo's containers apart from those of podman and of other Milos. The
    manager is named, since systemd's would move the container out of Nomad's cgroup.
    """
    return [crun, f"--root={root}", f"--log=file:{log_file}", "--cgroup-manager=cgroupfs"]
