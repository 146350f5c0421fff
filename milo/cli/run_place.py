"""Where one ``milo run`` has its directories: records in memory, the task's own on a disk.

The JAR is mounted in its place, not copied: a class-data archive needs its time stamp, and a copy
takes time. A /tmp with a size is mounted in this process's own mount namespace and so gone with it,
however it ends.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from typing import Final

from milo import namespaces, proc, walk
from milo.cli.arguments import is_text
from milo.cli.caller import Caller
from milo.cli.jvm_tools import RECORDING
from milo.core.java.flight_recorder import FILE, REPOSITORY
from milo.core.launch import Mount
from milo.errors import ArtifactError, PathError, StateError
from milo.host import state_dirs
from milo.unix_sockets import close_all
from milo.walk import Held, Kind

DUMPS: Final = (".hprof", ".hs_err.log", FILE)
"""Names of what a JVM leaves when it fails, as Milo has it named."""
MAX_NAMES: Final = 10_000


class Place:
    """The directories of one run. To be closed, which removes them."""

    def __init__(self, caller: Caller) -> None:
        self.base = tempfile.mkdtemp(prefix="", dir=caller.run_directory)
        """For sockets and records."""
        name = os.path.basename(self.base)
        self.data = (
            os.path.join(caller.data_directory, name) if caller.data_directory else self.base
        )
        self.alloc_dir = os.path.join(self.data, "alloc-dir")
        self.log_dir = os.path.join(self.alloc_dir, "alloc", "logs")
        """Where `milo logs` looks, unless there is a ``--log-dir``."""
        self.readers: list[int] = []
        """Read ends of the FIFOs of standard output and standard error."""
        self.mounts: tuple[Mount, ...] = ()
        """What the container needs beside its directories."""
        self._mounted: list[str] = []
        self._held: list[int] = []
        self._caller = caller

    def lay_out(self, name: str, jar: str, jar_name: str, tmp_bytes: int = 0) -> None:
        """Make the directories that Nomad makes for a task, with the JAR in its place.

        ``tmp_bytes`` is the size of /tmp; 0 is that of the disk.

        Raises:
            ArtifactError: the JAR cannot be read.
            StateError: a mount is refused.
        """
        with contextlib.closing(_Jar(jar)) as held:
            self._lay_out(name, held, jar_name, tmp_bytes)

    def _lay_out(self, name: str, jar: _Jar, jar_name: str, tmp_bytes: int) -> None:
        if self.data != self.base:
            os.mkdir(self.data)
            self._held.append(state_dirs.claim_data(self.data, self.base))
        task_dir = os.path.join(self.alloc_dir, name)
        shared = os.path.join(self.alloc_dir, "alloc")
        for parent, names in ((task_dir, ("local", "secrets", "tmp")), (shared, ("logs", "data"))):
            for inner in names:
                path = os.path.join(parent, inner)
                os.makedirs(path)
                # The application's user is not known here; Nomad's own directories are the same.
                os.chmod(path, 0o777)  # noqa: S103
        if tmp_bytes:
            path = os.path.join(task_dir, "tmp")
            try:
                namespaces.mount_memory(path, tmp_bytes)
            except OSError as exc:
                raise StateError(path, f"no /tmp of a size can be mounted: {exc.strerror}") from exc
            self._mounted.append(path)
        source = os.path.realpath(jar.path)
        if is_text(source) and (self._caller.rights.ids or jar.status.st_mode & stat.S_IROTH):
            self.mounts = (Mount(source, f"/local/{jar_name}", readonly=True),)
            return
        target = os.path.join(task_dir, "local", jar_name)
        jar.copy(target)
        os.chmod(target, 0o644)

    def make_fifos(self) -> list[str]:
        """Make the FIFOs of standard output and standard error; return their paths.

        Opened once, before the application runs: it can put something else there.
        """
        paths = [os.path.join(self.log_dir, f"{stream}.fifo") for stream in ("stdout", "stderr")]
        for path in paths:
            os.mkfifo(path, 0o600)
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
            self.readers.append(os.open(path, flags))
        return paths

    def end_fifos(self) -> None:
        """Let the FIFOs have an end of file, also when no writer ever came to them."""
        for reader in self.readers:
            os.close(proc.reopen(reader, os.O_RDWR | os.O_NONBLOCK))

    def dumps(self) -> list[str]:
        """Return the heap dumps, crash reports and flight recordings that there are."""
        data = os.path.join(self.alloc_dir, "alloc", "data")
        try:
            with walk.hold(data, beneath=self.alloc_dir, kind=Kind.DIRECTORY) as held:
                names = [name for name, _ in held.names(MAX_NAMES)[0] if _holds(held, name)]
        except PathError:
            return []
        left = {name for name in names if name.endswith(DUMPS) and name != RECORDING}
        for name in names:
            start = name.removesuffix(REPOSITORY)
            if start != name and f"{start}{FILE}" not in left:
                left.add(name)
        return sorted(os.path.join(data, name) for name in left)

    def close(self, *, keep: bool = False, records: bool = False) -> None:
        """Remove the run's directories; ``keep`` those of the data, and ``records``, too."""
        close_all(self.readers)
        self.readers.clear()
        close_all(self._held)
        self._held.clear()
        for path in self._mounted:
            with contextlib.suppress(OSError):
                namespaces.unmount(path)
        if not keep:
            remove_directory(self.data)
        if not records and not (keep and self.data == self.base):
            remove_directory(self.base)


def _holds(directory: Held, name: str) -> bool:
    """Whether a file or directory is not empty: a JVM makes some long before it writes them."""
    try:
        with directory.enter(name) as held:
            if held.kind is Kind.DIRECTORY:
                return bool(held.names(1)[0])
            return held.status.st_size > 0
    except PathError:
        return False


def remove_directory(path: str) -> None:
    """Remove the directory of a run, in which the application may have left anything."""
    with contextlib.suppress(PathError), walk.follow(os.path.dirname(path)) as runs:
        runs.remove_tree(os.path.basename(path))


class _Jar:
    """The JAR, held: what takes its place at its path is not read. To be closed."""

    def __init__(self, path: str) -> None:
        """Raises `ArtifactError`: it cannot be read, or is no regular file."""
        self.path = path
        try:
            # So nothing is opened yet: a FIFO gets no reader.
            self._fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError as exc:
            raise self._unreadable(exc) from exc
        self.status = os.fstat(self._fd)
        if not stat.S_ISREG(self.status.st_mode):
            self.close()
            raise ArtifactError(f"{path} is not a file. Give the path of a JAR.", path=path)

    def close(self) -> None:
        """Let go of it."""
        os.close(self._fd)

    def copy(self, target: str) -> None:
        """Copy what it holds now, however it may grow; raises `ArtifactError` and OSError."""
        try:
            source = proc.reopen(self._fd, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as exc:
            raise self._unreadable(exc) from exc
        with open(source, "rb") as file, open(target, "xb") as copy:
            left = self.status.st_size
            while left and (count := os.sendfile(copy.fileno(), file.fileno(), None, left)):
                left -= count

    def _unreadable(self, error: OSError) -> ArtifactError:
        words = f"{self.path} cannot be read: {error.strerror}"
        return ArtifactError(words, path=self.path)
