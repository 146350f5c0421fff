"""Runs crun's commands as children of the task process, with a bound on their time."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Mapping
from typing import Final

import trio

from milo.errors import CrunError, CrunMissingError
from milo.task.children import Placement, Reaper
from milo.task.oci.unwritable import executable

CRUN_ENV: Final[Mapping[str, str]] = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
"""Nothing of the agent's: an inherited NOTIFY_SOCKET makes ``crun start`` hang (measured)."""
COMMAND_TIMEOUT_S: Final = 30.0
"""create takes 23 ms and start 7 ms (measured); a host under load may take a second or two."""
DELETE_TIMEOUT_S: Final = 10.0
"""delete takes 10 ms. All it removes can be removed without it, and the exit waits for it."""
KILL_TIMEOUT_S: Final = 10.0
"""How long it may take to end after SIGKILL."""
MAX_OUTPUT_BYTES: Final = 4096


class Crun:
    """crun, as one task process uses it.

    ``log_path`` is the file that each command's argument list names for crun's own messages.
    """

    def __init__(self, reaper: Reaper, log_path: str) -> None:
        self._reaper = reaper
        self._log_path = log_path

    async def run(
        self,
        command: str,
        argv: list[str],
        *,
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        passed: int | None = None,
        placement: Placement | None = None,
    ) -> None:
        """Run ``argv`` and wait for its end. Cancellation kills it, and waits for that a while.

        ``stdout`` and ``stderr`` are descriptors that the container is to inherit; without
        them it has /dev/null, since its messages go to the log file. So has ``stdin``.
        ``passed`` is for crun alone, which gets it as `milo.task.children.PASSED_FD`. Without a
        ``placement`` it runs where this process does.

        Raises:
            CrunError: it failed, or took longer than `DELETE_TIMEOUT_S` for ``delete`` and
                `COMMAND_TIMEOUT_S` for all else; with crun's own words.
            CrunMissingError: there is no such program.
        """
        timeout_s = DELETE_TIMEOUT_S if command == "delete" else COMMAND_TIMEOUT_S
        with contextlib.suppress(OSError):
            os.unlink(self._log_path)
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        program = executable(argv[0])
        try:
            fds = [null if fd is None else fd for fd in (stdin, stdout, stderr)]
            fds += () if passed is None else (passed,)
            if placement is None:
                child = self._reaper.spawn(argv, CRUN_ENV, fds, program)
            else:
                spawn = self._reaper.spawn_placed
                child = await spawn(argv, CRUN_ENV, fds, placement, program)
        except OSError as exc:
            what = argv[0] if exc.filename == program else exc.filename
            if exc.errno == errno.ENOENT and what == argv[0]:
                raise CrunMissingError(argv[0]) from exc
            raise CrunError(command, "not started", f"{what}: {exc.strerror}") from exc
        finally:
            os.close(null)
        status = None
        try:
            with trio.move_on_after(timeout_s):
                status = await child.wait()
        finally:
            if status is None:
                child.kill_group()  # with what it may wait for itself
                # One that the kernel holds (a dead file server's) is reaped whenever it ends.
                with trio.CancelScope(shield=True), trio.move_on_after(KILL_TIMEOUT_S):
                    await child.wait()
        if status is None:
            raise CrunError(
                command, f"no answer in {timeout_s:g} s, so it was killed", self._words()
            )
        if status.exit_code or status.signal:
            raise CrunError(command, str(status), self._words())

    def _words(self) -> str:
        """Return what crun wrote to its log file, bounded."""
        try:
            with open(self._log_path, "rb") as file:
                return file.read(MAX_OUTPUT_BYTES).decode(errors="replace").strip()
        except OSError:
            return ""
