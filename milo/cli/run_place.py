"""Where one ``milo run`` has its directories: records in memory, the task's own on a disk.

The JAR is mounted in its place, not copied: a class-data archive needs its time stamp, and a copy
takes time. A /tmp with a size is mounted in this process's own mount namespace and so gone with it,
however it ends.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from typing import Final

from milo import namespaces, proc, walk
from milo.cli.arguments import is_text
from milo.cli.caller import Caller
from milo.core.launch import Mount
from milo.errors import ArtifactError, PathError, StateError
from milo.unix_sockets import close_all
from milo.walk import Kind

DUMPS: Final = (".hprof", ".hs_err.log")
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
        self.readers: list[int] = []
        """Read ends of the FIFOs of standard output and standard error."""
        self.mounts: tuple[Mount, ...] = ()
        """What the container needs beside its directories."""
        self._mounted: list[str] = []
        self._caller = caller

    def lay_out(self, name: str, jar: str, jar_name: str, tmp_bytes: int = 0) -> None:
        """Make the directories that Nomad makes for a task, with the JAR in its place.

        ``tmp_bytes`` is the size of /tmp; 0 is that of the disk.

        Raises:
            ArtifactError: the JAR cannot be read.
            StateError: a mount is refused.
        """
        found = _status(jar)
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
        source = os.path.realpath(jar)
        if is_text(source) and (self._caller.rights.ids or found.st_mode & stat.S_IROTH):
            self.mounts = (Mount(source, f"/local/{jar_name}", readonly=True),)
            return
        target = os.path.join(task_dir, "local", jar_name)
        shutil.copyfile(jar, target)
        os.chmod(target, 0o644)

    def make_fifos(self) -> list[str]:
        """Make the FIFOs of standard output and standard error; return their paths.

        Opened once, before the application runs: it can put something else there.
        """
        logs = os.path.join(self.alloc_dir, "alloc", "logs")
        paths = [os.path.join(logs, f"{stream}.fifo") for stream in ("stdout", "stderr")]
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
        """Return the heap dumps and crash reports that there are."""
        data = os.path.join(self.alloc_dir, "alloc", "data")
        try:
            with walk.hold(data, beneath=self.alloc_dir, kind=Kind.DIRECTORY) as held:
                names, _ = held.names(MAX_NAMES)
        except PathError:
            return []
        return sorted(os.path.join(data, name) for name, _ in names if name.endswith(DUMPS))

    def close(self, *, keep: bool = False, records: bool = False) -> None:
        """Remove the run's directories; ``keep`` those of the data, and ``records``, too."""
        close_all(self.readers)
        self.readers.clear()
        for path in self._mounted:
            with contextlib.suppress(OSError):
                namespaces.unmount(path)
        if not keep:
            remove_directory(self.data)
        if not records and not (keep and self.data == self.base):
            remove_directory(self.base)


def remove_directory(path: str) -> None:
    """Remove the directory of a run, in which the application may have left anything."""
    with contextlib.suppress(PathError), walk.follow(os.path.dirname(path)) as runs:
        runs.remove_tree(os.path.basename(path))


def _status(jar: str) -> os.stat_result:
    try:
        found = os.stat(jar)
    except OSError as exc:
        raise ArtifactError(f"{jar} cannot be read: {exc.strerror}", path=jar) from exc
    if not stat.S_ISREG(found.st_mode):
        raise ArtifactError(f"{jar} is not a file. Give the path of a JAR.", path=jar)
    return found
