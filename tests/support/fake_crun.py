"""A crun in front of the real one that fails, hangs or vanishes at one of its commands."""

from __future__ import annotations

import shutil
from pathlib import Path

WRAPPER = """\
#!/bin/sh
for word in "$@"; do
    case "$word" in
        --log=file:*) log=${{word#--log=file:}} ;;
        {command})
            {action}
            ;;
    esac
done
exec {crun} "$@"
"""


def wrapper(path: Path, command: str, action: str) -> Path:
    """Write a crun at ``path`` that runs the shell line ``action`` at ``command``.

    ``$log`` in it is the file for crun's words. Without an ``exit`` in ``action`` the real
    crun follows.
    """
    path.write_text(
        WRAPPER.format(command=command, action=action, crun=shutil.which("crun") or "/usr/bin/crun")
    )
    path.chmod(0o755)
    return path
