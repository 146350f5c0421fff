"""The command lines of crun, one function each. Pure.

crun writes an error to the file given with ``--log`` and repeats it on its standard error, which
for ``create`` is the container's own (docs/spikes/1-crun-stdio.md).
"""

from __future__ import annotations

import re
from typing import Final

CONTAINER_PREFIX: Final = "milo-"


def container_name(short_id: str) -> str:
    """Return the container's id for crun, which is also the name of its cgroup."""
    return f"{CONTAINER_PREFIX}{short_id}"


def create_args(
    crun: str,
    container_id: str,
    bundle_path: str,
    pid_file: str,
    log_file: str,
    root: str,
    *,
    cgroups: bool = True,
    console_socket: str = "",
) -> list[str]:
    """Create the container: its process exists after this, and waits before its first exec.

    The container's standard streams are those that this command is given. ``pid_file`` then
    holds the process id in the caller's PID namespace. With a terminal in the specification, the
    terminal's descriptor is sent to ``console_socket``.
    """
    return [
        *_global_args(crun, log_file, root, manager="cgroupfs" if cgroups else "disabled"),
        "create",
        f"--bundle={bundle_path}",
        f"--pid-file={pid_file}",
        *_console(console_socket),
        container_id,
    ]


def start_args(crun: str, container_id: str, log_file: str, root: str) -> list[str]:
    """Let the created container's process execute the application."""
    return [*_global_args(crun, log_file, root), "start", container_id]


def delete_args(
    crun: str, container_id: str, log_file: str, root: str, *, force: bool = False
) -> list[str]:
    """Remove a container that has ended; with ``force`` one that runs too, killing it."""
    options = ["--force"] if force else []
    return [*_global_args(crun, log_file, root), "delete", *options, container_id]


def exec_args(
    crun: str,
    container_id: str,
    *,
    process_path: str,
    pid_file: str,
    log_file: str,
    root: str,
    console_socket: str = "",
) -> list[str]:
    """Start another process in the container, with this command's standard streams.

    ``process_path`` holds the OCI process object. It is detached: crun ends when the process
    runs, and the subreaper becomes its parent. With a terminal in that object, the terminal's
    descriptor is sent to ``console_socket``.
    """
    return [
        *_global_args(crun, log_file, root),
        "exec",
        "--detach",
        f"--process={process_path}",
        f"--pid-file={pid_file}",
        *_console(console_socket),
        container_id,
    ]


def _console(socket_path: str) -> list[str]:
    return [f"--console-socket={socket_path}"] if socket_path else []


def version_from_output(output: str) -> str:
    """Return the version that ``crun --version`` printed; nothing for what is not crun's."""
    match = re.search(r"^crun version (\S+)", output, re.MULTILINE)
    return match[1] if match else ""


def _global_args(crun: str, log_file: str, root: str, *, manager: str = "cgroupfs") -> list[str]:
    """Return what stands before every command.

    ``root`` keeps Milo's containers apart from those of podman and of other Milos. The
    manager is named, since systemd's would move the container out of Nomad's cgroup.
    """
    return [crun, f"--root={root}", f"--log=file:{log_file}", f"--cgroup-manager={manager}"]
