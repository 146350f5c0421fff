"""What the machine with systemd is made of: a root file system of Debian's, and an initial one.

Everything is below the cache, and nothing is installed on the host.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.support import debian
from tests.vm.images import squash
from tests.vm.kernel import CannotRunError, Kernel

HERE = Path(__file__).parent
SUITE = "bookworm"
PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "dbus-user-session", "libpam-systemd"),
    *("crun", "uidmap", "iproute2", "procps", "kmod", "python3", "openjdk-17-jre-headless"),
)
MODULES = ("virtio_pci", "virtio_blk", "squashfs", "overlay", "9pnet_virtio", "9p")
"""What the initial file system loads, besides what these need."""


def root_image(cache: Path) -> Path:
    """Return an image of a root file system with systemd, made once.

    Raises `CannotRunError`.
    """
    name = hashlib.sha256(" ".join((SUITE, *PACKAGES)).encode()).hexdigest()[:16]
    target = cache / f"system-{name}.squashfs"
    if target.exists():
        return target
    if shutil.which("debootstrap") is None:
        raise CannotRunError("there is no debootstrap to make a root file system with")
    for old in cache.glob("system-*"):
        old.unlink()
    with tempfile.TemporaryDirectory(dir=cache) as temporary:
        root = Path(temporary) / "root"
        included = f"--include={','.join(PACKAGES)}"
        try:
            words = ("--variant=minbase", included, SUITE, str(root), debian.mirror())
            # It mounts /proc and leaves it there.
            private = ("unshare", "--mount", "--propagation", "private", "--")
            debian.run(*private, "debootstrap", *words)
        except RuntimeError as error:
            raise CannotRunError(str(error)) from error
        squash(target, [root])
    return target


def initial_image(cache: Path, kernel: Kernel) -> Path:
    """Return an initial file system with `init.sh` and the modules it loads, made anew."""
    target = cache / "initial.cpio"
    with tempfile.TemporaryDirectory(dir=cache) as temporary:
        root = Path(temporary)
        for name in ("bin", "proc", "sys", "dev"):
            (root / name).mkdir()
        shutil.copy(shutil.which("busybox") or "", root / "bin")
        shutil.copy(HERE / "init.sh", root / "init")
        (root / "init").chmod(0o755)
        modules = _module_files(kernel)
        for path in modules:
            shutil.copy(path, root)
        (root / "modules").write_text("".join(f"{path.name}\n" for path in modules))
        with target.open("wb") as output:
            names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
            pack = ["busybox", "cpio", "-o", "-H", "newc"]
            subprocess.run(
                pack, cwd=root, input=names.encode(), stdout=output, stderr=subprocess.DEVNULL
            ).check_returncode()
    return target


def _module_files(kernel: Kernel) -> list[Path]:
    """Return the files of `MODULES`, each behind those that it needs."""
    command = ["modprobe", "-d", str(kernel.modules), "-S", kernel.release, "--show-depends", "-a"]
    shown = subprocess.run([*command, *MODULES], capture_output=True, text=True, check=True).stdout
    lines = [line.split() for line in shown.splitlines()]
    return list(dict.fromkeys(Path(words[1]) for words in lines if words[0] == "insmod"))
