"""Runs a program where a container's mounts are, but with nothing of its confinement.

As ``unshare -m python stuck_root.py BUNDLE PROGRAM READY``: makes the mounts of the bundle's
config.json that are binds, enters its root, makes the file READY, and becomes PROGRAM.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys


def main(bundle: str, program: str, ready: str) -> None:
    """Never returns."""
    with open(f"{bundle}/config.json", encoding="utf-8") as file:
        config = json.load(file)
    mounts, cwd = config["mounts"], config["process"]["cwd"]
    root = f"{bundle}/rootfs"
    for mount in mounts:
        if mount.get("type") == "bind":
            how = "--rbind" if "rbind" in mount["options"] else "--bind"
            target = root + mount["destination"]
            subprocess.run(["mount", how, mount["source"], target], check=True)
            if mount["destination"] == "/tmp":
                shutil.copy(program, f"{mount['source']}/program")
    directory = os.open(os.path.dirname(ready), os.O_RDONLY | os.O_DIRECTORY)
    os.chroot(root)
    os.chdir(cwd)
    os.close(os.open(os.path.basename(ready), os.O_WRONLY | os.O_CREAT, dir_fd=directory))
    os.close(directory)
    os.execv("/tmp/program", ["/tmp/program"])


if __name__ == "__main__":
    main(*sys.argv[1:])
