"""Runs crun's commands as children of the task process, with a bound on their time.

crun's own file must not be written to by a container, to which a process of crun's is visible that
has this file as its /proc/PID/exe (CVE-2019-5736). So crun looks whether it was executed on a
read-only mount. If not it makes one, and executes itself there: 2.6 ms of each start, of which its
own way to a mount that nobody sees, by way of /tmp, is half. It is executed on one at once here.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator, Mapping
from typing import Final

import trio

from milo.errors import CrunError, CrunMissingError
from milo.namespaces import read_only_clone
from milo.proc import descriptor_path
from milo.task.children import PASSED_FD, Placement, Reaper

CRUN_ENV: Final[Mapping[str, str]] = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
"""Nothing of the agent's: an inherited NOTIFY_SOCKET makes ``crun start`` hang (measured)."""
COMMAND_TIMEOUT_S: Final = 30.0
"""create takes 23 ms and start 7 ms (measured); a host under load may take a second or two."""
DELETE_TIMEOUT_S: Final = 10.0
"""delete takes 10 ms. All it removes can be removed without it, and the exit waits for it."""
KILL_TIMEOUT_S: Final = 10.0
"""How long it may take to end after SIGKILL."""
MAX_OUTPUT_BYTES: Final = 4096
ELF: Final = b"\x7fELF"


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
        program = ""
        try:
            fds = [null if fd is None else fd for fd in (stdin, stdout, stderr)]
            fds += () if passed is None else (passed,)
            with unwritable(argv[0]) as program:
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


@contextlib.contextmanager
def unwritable(program: str) -> Iterator[str]:
    """Yield a path to execute ``program`` by, on a mount by which nobody can write to it.

    That is ``program`` itself where the kernel makes no such mount, or where it is a script, whose
    interpreter would have to open that path after this descriptor is closed.
    """
    try:
        clone = read_only_clone(program)
    except OSError:
        yield program
        return
    fd = -1
    try:
        # Not a number that something else gets in the child.
        fd = fcntl.fcntl(clone, fcntl.F_DUPFD_CLOEXEC, PASSED_FD + 1)
        path = descriptor_path(fd)
        yield path if _is_binary(path) else program
    finally:
        # The mount goes with the process that executes there, which may be over already.
        os.close(clone)
        if fd >= 0:
            os.close(fd)


def _is_binary(path: str) -> bool:
    """Whether the kernel executes it without an interpreter that opens it again."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read(len(ELF)) == ELF
    except OSError:
        return False
