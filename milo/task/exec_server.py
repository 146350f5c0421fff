"""Commands in the container (``nomad alloc exec``, script checks), one connection each.

The task process runs them, not the driver. It is the subreaper and so learns the exact exit
status, and it outlives the driver, so that it can end a command whose driver has gone.
"""

from __future__ import annotations

import contextlib
import glob
import itertools
import json
import os
import signal
import socket
import stat
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
import trio

from milo import cgroup_files, command_memory
from milo.core import control
from milo.core.container import crun as crun_args
from milo.core.launch import Launch
from milo.core.records import ProcessId
from milo.errors import ControlError, CrunError, MiloError, StateError
from milo.files import read_file, write_file
from milo.proc import descriptor_path, identify, session
from milo.process_signals import is_ending
from milo.task.children import PASSED_FD, Child, Reaper, WaitStatus
from milo.task.oci import cgroup_placement, exec_limits
from milo.task.oci.bundle import BUNDLE_DIR, CONFIG_FILE
from milo.task.oci.console import listening, receive_terminal
from milo.task.oci.container import Container
from milo.task.oci.crun import Crun
from milo.task.root.mount_check import hold_inside
from milo.unix_sockets import passed_descriptors, passing
from milo.walk import Held

STREAMS: Final = 3
"""Descriptors of a command without a terminal: standard input, output and error."""
ANCILLARY_BYTES: Final = socket.CMSG_SPACE((STREAMS + 1) * 4)
EXEC_FILES: Final = "exec-"
"""Begins the names, in the state directory, of the files of a command that runs."""
KILL_TIMEOUT_S: Final = 10.0
NOT_FOUND: Final = 127
NOT_EXECUTABLE: Final = 126
"""A shell's exit codes for a command that could not be run; sh(1)."""
NOT_RUNNING: Final = "Error: The task is not running, so no command runs in it"


class Commands:
    """Runs commands in the container of one task."""

    def __init__(self, launch: Launch, reaper: Reaper) -> None:
        self._launch = launch
        self._reaper = reaper
        self._numbers = itertools.count(1)

    def end_left_behind(self, cgroup_path: str, application: int) -> None:
        """Kill the commands of an earlier task process, which nobody supervises any more.

        ``application`` is the process whose session is spared.

        Their clients know of its death, but not which process the command is when that death
        came before they were told.
        """
        sessions = set()
        inside = cgroup_files.processes(cgroup_path)
        for path in glob.glob(f"{glob.escape(self._launch.state_dir)}/{EXEC_FILES}*"):
            with contextlib.suppress(MiloError, OSError, ValueError):
                pid = int(read_file(path) or b"0") if path.endswith(".pid") else 0
                # crun gives each command a session of its own, whose leader has ended.
                led = session(pid) if pid in inside else None
                if led is not None and led != session(application):
                    sessions.add(led)
                os.unlink(path)
        kill_sessions(inside, sessions)

    async def serve(self, sock: trio.socket.SocketType, container: Container | None) -> None:
        """Run the one command that the client behind ``sock`` asks for.

        ``container`` is None while there is none that runs.

        When the client goes, or on cancellation, the command is killed with all that it has
        started in its session. Raises OSError when the client has gone before.
        """
        packet, rights, _, _ = await sock.recvmsg(
            control.MAX_MESSAGE_BYTES, ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
        )
        fds = passed_descriptors(rights)
        try:
            request = control.decode_request(packet)
            if isinstance(request, control.Exec) and not request.argv and fds:
                words = fds.pop()
                try:
                    request = msgspec.structs.replace(request, argv=command_memory.unpack(words))
                finally:
                    os.close(words)
            if not isinstance(request, control.Exec) or not request.argv:
                raise ControlError("Error: A command was expected on this connection")
            if any("\0" in word for word in request.argv):
                # crun would cut the word there, and run another command than was asked for.
                raise ControlError("Error: A word of the command holds a NUL character")
            if container is None:
                raise ControlError(NOT_RUNNING)
            if len(fds) != (0 if request.tty else STREAMS):
                raise ControlError("Error: The command came without its standard streams")
            if not all(_is_stream(fd) for fd in fds):
                # crun gives them to the task's user: a device or file of the host would be his.
                raise ControlError("Error: A command's standard streams are pipes or sockets")
            await self._run(sock, container, request, fds)
        except CrunError as exc:
            await _answer(sock, _not_run(exc))
        except (MiloError, OSError) as exc:
            text = str(exc) if isinstance(exc, MiloError) else f"Error: {exc}"
            await _answer(sock, control.ExecEnded(exit_code=NOT_EXECUTABLE, error=text))
        finally:
            _close_all(fds)

    async def run_by_itself(self, container: Container, argv: Sequence[str]) -> WaitStatus:
        """Run a command of Milo's own as the application's user, and return how it ended.

        It has nothing to read, and what it prints is dropped; it may not be more than a pipe holds.
        When cancelled it is killed. Raises `MiloError` or OSError when it cannot be run.
        """
        name = f"{self._launch.state_dir}/{EXEC_FILES}{next(self._numbers)}"
        paths = (f"{name}.json", f"{name}.pid", f"{name}.log", f"{name}.sock")
        sessions: set[int] = set()
        ended, nobody = os.pipe2(os.O_CLOEXEC)
        os.close(nobody)
        unread, output = os.pipe2(os.O_CLOEXEC)
        status: WaitStatus | None = None
        try:
            request = control.Exec(argv=tuple(argv))
            child, _ = await self._start(
                container, request, [ended, output, output], paths, sessions
            )
            status = await child.wait()
            return status
        finally:
            _close_all([ended, unread, output])
            for path in paths:
                with contextlib.suppress(OSError):
                    os.unlink(path)
            if status is None:
                kill_sessions(container.processes(), sessions)

    async def _run(
        self,
        sock: trio.socket.SocketType,
        container: Container,
        request: control.Exec,
        fds: list[int],
    ) -> None:
        name = f"{self._launch.state_dir}/{EXEC_FILES}{next(self._numbers)}"
        paths = (f"{name}.json", f"{name}.pid", f"{name}.log", f"{name}.sock")
        sessions: set[int] = set()
        status: WaitStatus | None = None
        child: Child | None = None
        try:
            child, terminal = await self._start(container, request, fds, paths, sessions)
            _close_all(fds)
            try:
                process = identify(child.pid) or ProcessId(child.pid, 0)
                await _answer(sock, control.ExecStarted(process=process), terminal)
            finally:
                _close_all(terminal)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_until_gone, sock, nursery.cancel_scope)
                status = await child.wait()
                nursery.cancel_scope.cancel()
        finally:
            for path in paths:
                with contextlib.suppress(OSError):
                    os.unlink(path)
            if status is None:
                kill_sessions(container.processes(), sessions)
            if child is not None:
                with trio.CancelScope(shield=True), trio.move_on_after(KILL_TIMEOUT_S):
                    await child.wait()
        if status is not None:
            await _answer(sock, control.ExecEnded(exit_code=status.exit_code, signal=status.signal))

    async def _start(
        self,
        container: Container,
        request: control.Exec,
        fds: list[int],
        paths: Sequence[str],
        sessions: set[int],
    ) -> tuple[Child, list[int]]:
        """Start the command; return its process and the terminal's descriptor, if any."""
        process_path, pid_path, log_path, console_path = paths
        root = os.path.join(self._launch.state_dir, "crun")
        process = self._process(request)
        words = [f"word {number} of the command" for number in range(1, len(request.argv) + 1)]
        exec_limits.check_process(process, words)
        with contextlib.ExitStack() as stack:
            # By descriptor: crun enters it with root's rights, and before 1.15 wherever a symlink
            # leads by then, such as through /proc/1/root.
            cwd = stack.enter_context(_work_dir(container.process, process["cwd"]))
            process["cwd"] = descriptor_path(PASSED_FD)
            write_file(process_path, json.dumps(process).encode())
            console: socket.socket | None = None
            if request.tty:
                console = stack.enter_context(listening(console_path))
            argv = crun_args.exec_args(
                self._launch.crun_path,
                container.id,
                process_path=process_path,
                pid_file=pid_path,
                log_file=log_path,
                root=root,
                console_socket=console_path if request.tty else "",
            )
            stdin, stdout, stderr = fds if fds else (None, None, None)
            crun = Crun(self._reaper, log_path)
            with self._reaper.orphans_kept():
                await crun.run(
                    "exec",
                    argv,
                    stdin=stdin,
                    stdout=stdout,
                    stderr=stderr,
                    passed=cwd.fd,
                    placement=cgroup_placement.placement_of(self._launch),
                )
                with open(pid_path, encoding="ascii") as file:
                    pid = int(file.read())
                if (led := session(pid)) is not None:  # crun gives each command one of its own
                    sessions.add(led)
                child = self._reaper.adopt(pid)
            terminal = [] if console is None else [receive_terminal(console)]
        return child, terminal

    def _process(self, request: control.Exec) -> dict[str, Any]:
        """Return the OCI process object: the application's own privileges, another command."""
        path = os.path.join(self._launch.state_dir, BUNDLE_DIR, CONFIG_FILE)
        with open(path, "rb") as file:
            process: dict[str, Any] = json.load(file)["process"]
        process |= {"args": list(request.argv), "terminal": request.tty}
        own = dict(item.partition("=")[::2] for item in process["env"])
        added = {"TERM": "xterm"} if request.tty else {}
        env = added | own
        process["env"] = [f"{name}={value}" for name, value in env.items()]
        return process


def _work_dir(process: ProcessId, path: str) -> Held:
    try:
        return hold_inside(process.pid, path)
    except StateError as exc:
        if is_ending(process):
            raise ControlError(NOT_RUNNING) from exc
        raise ControlError(
            f"Error: The command's working directory {path} cannot be entered: {exc.problem}"
        ) from exc


def _is_stream(fd: int) -> bool:
    mode = os.fstat(fd).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def kill_sessions(pids: Iterable[int], sessions: set[int]) -> None:
    """Send SIGKILL to those of ``pids`` that are in ``sessions`` (session ids, of the host)."""
    for pid in pids:
        if session(pid) in sessions:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


async def _until_gone(sock: trio.socket.SocketType, scope: trio.CancelScope) -> None:
    with contextlib.suppress(OSError):
        while await sock.recv(control.MAX_MESSAGE_BYTES):
            pass
    scope.cancel()


async def _answer(
    sock: trio.socket.SocketType, message: control.Message, fds: Sequence[int] = ()
) -> None:
    await sock.sendmsg([control.encode(message)], passing(fds))


def _not_run(error: CrunError) -> control.ExecEnded:
    text = str(error)
    missing = "not found" in text or "No such file" in text
    return control.ExecEnded(
        exit_code=NOT_FOUND if missing else NOT_EXECUTABLE, error=control.cut(text)
    )


def _close_all(fds: list[int]) -> None:
    while fds:
        os.close(fds.pop())
