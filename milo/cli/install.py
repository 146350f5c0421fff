"""``milo install``: an executable for Nomad's plugin directory."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import zipimport
from typing import Final

import milo
from milo.cli.arguments import absolute
from milo.cli.uninstall import what_is_at
from milo.errors import ConfigError, StateError

SHEBANG_BYTES: Final = 126
"""Linux before 5.1 cuts an interpreter line at 127 bytes, and no line may hold a blank in
the interpreter's path; execve(2)."""

LAUNCHER: Final = """\
import sys
sys.path.insert(0, {packages!r})
from milo.entry import main
main()
"""

ADVICE: Final = """\
{path} is in place. Put this into the agent's configuration and restart the agent:

    plugin_dir = "{plugin_dir}"

    plugin "milo" {{
      config {{
      }}
    }}

Nomad 2.0 skips a plugin that no plugin block names. Then: nomad node status -self
"""


def launcher(interpreter: str, packages: str) -> str:
    """Return the text of the executable.

    ``-I`` keeps the agent's PYTHON* variables and working directory out of it.
    """
    body = LAUNCHER.format(packages=packages)
    line = f"#!{interpreter} -I"
    if len(line.encode()) <= SHEBANG_BYTES and " " not in interpreter:
        return f"{line}\n{body}"
    # A shell that Python reads as a string: the interpreter may then have any path.
    return f"#!/bin/sh\n'''exec' {shlex.quote(interpreter)} -I \"$0\" \"$@\"\n' '''\n{body}"


def executable() -> bytes:
    """Return what the executable is to hold: the self-contained file's own bytes, or a launcher.

    Raises:
        OSError: the self-contained file that this process was started from is gone.
    """
    loader = getattr(sys.modules["__main__"], "__loader__", None)
    if isinstance(loader, zipimport.zipimporter):
        with open(loader.archive, "rb") as file:
            return file.read()
    packages = os.path.dirname(os.path.dirname(os.path.abspath(milo.__file__)))
    return launcher(sys.executable, packages).encode()


def install(plugin_dir: str) -> int:
    """Write ``PLUGIN_DIR/milo`` and say what to configure; returns the exit status.

    Raises:
        ConfigError: the path is no directory.
        StateError: it cannot be written.
    """
    plugin_dir = absolute(plugin_dir)
    path = os.path.join(plugin_dir, "milo")
    temporary = f"{path}.{os.getpid()}"
    replaced = what_is_at(path)
    try:
        os.makedirs(plugin_dir, exist_ok=True)
        try:
            with open(temporary, "xb") as file:
                file.write(executable())
            os.chmod(temporary, 0o755)  # noqa: S103 - the agent may run as another user
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
    except (FileExistsError, NotADirectoryError) as exc:
        raise ConfigError("PLUGIN_DIR", f"{plugin_dir} is no directory", "a directory") from exc
    except OSError as exc:
        raise StateError(path, f"{exc.strerror}. Run it as a user who may write there") from exc
    if replaced:
        print(f"It replaced {replaced}. Tasks that run go on, and the next driver finds them.\n")
    print(ADVICE.format(path=path, plugin_dir=plugin_dir), end="")
    return 0
