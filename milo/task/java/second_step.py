"""The second step of an AOT cache, which a JVM takes that runs nothing of the application.

It is taken in the task's own container, once the application has left it: with the same mounts,
rights and limits, and with nowhere to print to.
"""

from __future__ import annotations

import os
from typing import Any, Final

import msgspec
import trio

from milo.core.java.startup_cache import OPTION_VARIABLES
from milo.core.launch import Launch
from milo.errors import StateError
from milo.files import read_file, write_file
from milo.task.children import Reaper, WaitStatus
from milo.task.oci.bundle import Bundle
from milo.task.oci.container import Container, create
from milo.task.root.mount_check import MountCheck

_IGNORED: Final = tuple(f"{name}=" for name in OPTION_VARIABLES)


class SecondStep:
    """What it takes to run one more program where the application was. `close` lets go of it."""

    def __init__(
        self, launch: Launch, reaper: Reaper, bundle: Bundle, mount_check: MountCheck
    ) -> None:
        """``mount_check`` stays the caller's, and may be closed. Raises OSError."""
        self._launch = launch
        self._reaper = reaper
        self._bundle = bundle
        descriptors = [os.dup(fd) for fd in mount_check.descriptors]
        self._mount_check = MountCheck.received(mount_check.pairs, descriptors)

    async def run(self, before: Container, argv: tuple[str, ...]) -> WaitStatus | None:
        """Run ``argv`` in the place of ``before``, which has ended; return how that ended.

        When cancelled it is killed. Nothing of its container is left, nor of the bundle.

        Raises:
            MiloError: it cannot be run.
        """
        await before.vacate()
        self._rewrite(argv)
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            container = await create(
                self._launch,
                self._reaper,
                self._bundle,
                self._mount_check,
                stdout=null,
                stderr=null,
            )
        finally:
            os.close(null)
        try:
            await container.start()
            return await container.wait()
        finally:
            with trio.CancelScope(shield=True):
                await container.destroy()

    def _rewrite(self, argv: tuple[str, ...]) -> None:
        path = self._bundle.config_path
        data = read_file(path)
        if data is None:
            raise StateError(path, "the bundle has gone")
        config: dict[str, Any] = msgspec.json.decode(data)
        process = config["process"]
        env = [word for word in process["env"] if not word.startswith(_IGNORED)]
        config["process"] = {**process, "args": argv, "env": env, "terminal": False}
        write_file(path, msgspec.json.encode(config))

    def close(self) -> None:
        """Let go of what is held; may be called again."""
        self._mount_check.close()
