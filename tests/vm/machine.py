"""The virtual machine: virtme-ng's command, and a run of it that ends whatever happens inside."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TextIO

import attrs

from tests.vm.kernel import CannotRunError, Kernel

HERE = Path(__file__).parent
GRACE_S = 120
"""Between pytest's own end inside, at its limit, and that of the machine from outside."""
BOOT_S = 60
CONSOLE = "console.log"
TOOLS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "mksquashfs": "squashfs-tools",
    "depmod": "kmod",
    "busybox": "busybox-static",
    "apt-get": "apt",
}
"""The programs that the machine and its images need, and Debian's packages that have them."""


@attrs.frozen
class Machine:
    """What a machine is made of."""

    kernel: Kernel
    disks: tuple[Path, ...]
    exchange: Path
    """The host's directory for `guest.sh`, its plan and what comes out; the guest writes here."""
    memory_mib: int


def missing() -> str | None:
    """Return why no machine can be run here, or None."""
    if os.geteuid() != 0:
        return "the virtual machine reads the host's own root file system, which needs root"
    virtme = Path(sys.executable).with_name("virtme-run")
    if not virtme.exists():
        return "virtme-ng is not installed (the dependency group vm)"
    if absent := [package for name, package in TOOLS.items() if shutil.which(name) is None]:
        return f"packages are missing: {' '.join(absent)} (./dev test installs them as root)"
    return None


def memory_mib() -> int:
    """Return how much memory to give: 6 GiB, or what the host can spare.

    Raises `CannotRunError` under 3 GiB, which an agent, JVMs and their files in memory need.
    """
    with open("/proc/meminfo", encoding="ascii") as file:
        fields = dict(line.split(":") for line in file)
    spare = int(fields["MemAvailable"].split()[0]) // 1024 * 3 // 4
    if spare < 3072:
        raise CannotRunError(f"the machine needs 3 GiB of memory, and {spare} MiB are to spare")
    return min(spare, 6144)


def command(machine: Machine) -> list[str]:
    """Return the words that boot ``machine`` and run `guest.sh` in it."""
    share = "trans=virtio,version=9p2000.L,msize=524288"
    script = (
        "mkdir -p /run/milo-vm/out"
        f" && mount -t 9p -o {share} milo.out /run/milo-vm/out"
        f" && exec sh /run/milo-vm/out/guest.sh >/run/milo-vm/out/{CONSOLE} 2>&1"
    )
    words = [str(Path(sys.executable).with_name("virtme-run"))]
    words += ["--kimg", str(machine.kernel.image), "--mods", "auto", "--name", "milo-vm"]
    words += ["--force-9p", "--cpus", "2", "--memory", f"{machine.memory_mib}M"]
    # Always by software, even where there is a /dev/kvm: inside of a virtual machine it may be
    # there and not work, and bounds on time would mean something else on each host.
    words += ["--disable-kvm", "--script-sh", script, "--qemu-opts"]
    words += ["-accel", "tcg,thread=multi,tb-size=1024"]
    for disk in machine.disks:
        words += ["-drive", f"file={disk},format=raw,if=virtio,readonly=on"]
    words += _shared("milo.usr", Path("/usr"), ",readonly=on,multidevs=remap")
    return words + _shared("milo.out", machine.exchange, "")


def _shared(tag: str, path: Path, options: str) -> list[str]:
    name = tag.replace(".", "-")
    return [
        *("-fsdev", f"local,id={name},path={path},security_model=none{options}"),
        *("-device", f"virtio-9p-pci,fsdev={name},mount_tag={tag}"),
    ]


def run(machine: Machine, plan: dict[str, str], paths: list[Path], words: list[str]) -> int | None:
    """Run pytest with ``words`` in a machine; return its exit status, None if there is none.

    ``plan`` has what `guest.sh` asks for, with the limit in seconds as ``limit_s``.
    What is printed inside goes to this process's stdout, and to ``console.log`` in the exchange.
    The machine is ended when pytest has had its limit and some seconds, and when this process is
    interrupted.
    """
    exchange = machine.exchange
    shutil.rmtree(exchange, ignore_errors=True)
    exchange.mkdir(parents=True)
    shutil.copy(HERE / "guest.sh", exchange)
    _write(exchange / "plan", [f"{key}={shlex.quote(value)}" for key, value in plan.items()])
    _write(exchange / "paths", [str(path) for path in paths])
    _write(exchange / "words", words)
    console = exchange / CONSOLE
    console.touch()
    process = subprocess.Popen(
        command(machine),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + int(plan["limit_s"]) + BOOT_S + GRACE_S
    try:
        with console.open(errors="replace") as output:
            while process.poll() is None and time.monotonic() < deadline:
                _show(output)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(0.5)
            _show(output)
        if process.poll() is None:
            print("vm: the machine did not end in time", flush=True)
    finally:
        _end(process)
    with suppress(OSError, ValueError):
        return int((exchange / "status").read_text())
    return None


def _show(output: TextIO) -> None:
    sys.stdout.write(output.read())
    sys.stdout.flush()


def _end(process: subprocess.Popen[bytes]) -> None:
    """End virtme-run and its qemu, which are alone in a session of their own."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError(f"processes of session {process.pid} did not end")


def _write(path: Path, lines: list[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines))
