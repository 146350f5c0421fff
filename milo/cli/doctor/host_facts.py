"""Gathers the facts of this host for `milo.cli.doctor.host_verdicts`."""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from typing import Final

import trio

from milo import cgroup_files, proc
from milo.cli.doctor import host_verdicts
from milo.cli.doctor.directory_verdicts import Directory, check_cache_dir, check_state_dir
from milo.cli.doctor.finding import Finding
from milo.cli.doctor.trial import Trial, try_container, try_without_root
from milo.core import cgroup
from milo.core.cgroup import Mode
from milo.core.config.plugin_options import PluginOptions
from milo.core.container import seccomp
from milo.core.container.profile_name import UNCONFINED
from milo.errors import ConfigError
from milo.host.java.finder import JavaFinder
from milo.host.programs import changeable, find_program
from milo.task.children import WaitStatus
from milo.task.java.startup_store import StartupStore
from milo.task.oci import privileges

VERSION_TIMEOUT_S: Final = 10.0
UNIFIED: Final = f"{cgroup.CRUN_CGROUP_ROOT}/unified"
NOMAD_SLICE: Final = f"{cgroup.CRUN_CGROUP_ROOT}/nomad.slice"


def check_host(options: PluginOptions) -> list[Finding]:
    """Return the findings about this host; ``options`` are the plugin's."""
    root = os.geteuid() == 0
    crun = find_program(options.crun_path, os.environ)
    # The path may be what a false agent says; and what others can change is not run.
    problem = changeable(crun) if crun else ""
    crun_words = _crun_version(crun) if crun and not problem else ("", "")
    findings = [
        host_verdicts.check_privileges(os.geteuid(), proc.effective_capabilities()),
        host_verdicts.check_kernel(os.uname().release, has_pidfd=_has_pidfd()),
        _check_cgroups(),
        host_verdicts.check_userns(privileges.userns_problem(), wanted=options.userns),
        host_verdicts.check_crun(
            options.crun_path,
            crun,
            *crun_words,
            changeable=problem,
            needs_seccomp=options.seccomp_profile != UNCONFINED,
        ),
        *host_verdicts.check_crun_faults(crun_words[0], userns=options.userns),
    ]
    if not crun or problem:
        pass
    elif root:
        trial: Trial = try_container(crun, options)
        findings.append(host_verdicts.check_trial(trial.error, trial.seconds))
    else:
        trial = try_without_root(crun)
        findings.append(
            host_verdicts.check_without_root(trial.error, trial.seconds, limited=trial.limited)
        )
    findings += _check_java(options)
    findings.append(_check_seccomp(options))
    findings += check_state_dir(look_at(options.state_dir))
    if root and (options.startup_cache != "off" or os.path.isdir(options.cache_dir)):
        findings.append(_check_cache(options))
    return findings


def _crun_version(crun: str) -> tuple[str, str]:
    """Return the same as `run_version` of a crun, which leaves nothing behind.

    Before it prints, crun makes its directory below ``XDG_RUNTIME_DIR``, or else below /run, and
    fails where it cannot, as an ordinary user cannot there.
    """
    with tempfile.TemporaryDirectory(prefix="milo-doctor-") as own:
        return run_version([crun, "--version"], XDG_RUNTIME_DIR=own)


def run_version(argv: list[str], **env: str) -> tuple[str, str]:
    """Return what a program prints to stdout, and why it did not print it; one is empty."""
    try:
        done = subprocess.run(
            argv,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            env={"PATH": os.defpath, "LANG": "C.UTF-8", **env},
            timeout=VERSION_TIMEOUT_S,
            check=False,
        )
    except OSError as exc:
        return "", f"it cannot be run: {exc.strerror}"
    except subprocess.TimeoutExpired:
        return "", f"it did not end within {VERSION_TIMEOUT_S:g} s"
    if done.returncode == 0:
        return done.stdout.decode(errors="replace"), ""
    words = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
    code = done.returncode
    status = WaitStatus(code, 0) if code >= 0 else WaitStatus(0, -code)
    return "", f"it failed ({status})" + (f": {words}" if words else "")


def look_at(path: str) -> Directory:
    """Return what is known of a directory; of one that is not there, the file system's facts."""
    exists, is_directory, uid, mode, problem = False, False, 0, 0, ""
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as exc:
        problem = f"{path} cannot be looked at: {exc.strerror}"
    else:
        exists, is_directory = True, stat.S_ISDIR(found.st_mode)
        uid, mode = found.st_uid, stat.S_IMODE(found.st_mode)
    place = os.path.abspath(path)
    while not os.path.isdir(place):
        place = os.path.dirname(place)
    space = os.statvfs(place)
    kind, flags = _mount(os.path.realpath(place))
    return Directory(
        path=path,
        problem=problem,
        exists=exists,
        is_directory=is_directory,
        uid=uid,
        mode=mode,
        file_system=kind,
        flags=flags,
        total_bytes=space.f_blocks * space.f_frsize,
        free_bytes=space.f_bavail * space.f_frsize,
        inodes=space.f_files,
        free_inodes=space.f_favail,
    )


def _mount(path: str) -> tuple[str, frozenset[str]]:
    """Return the type and the options of the file system that holds ``path``; proc(5)."""
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    best: tuple[int, str, frozenset[str]] = (-1, "", frozenset())
    for mount in proc.mounts():
        inside = path == mount.point or path.startswith(mount.point.rstrip("/") + "/")
        # Of btrfs the device differs from what stat tells, so the path alone may decide.
        weight = 2 * len(mount.point) + (mount.device == wanted)
        if inside and weight >= best[0]:
            best = (weight, mount.kind, frozenset((*mount.options, *mount.super_options)))
    return best[1], best[2]


def _check_cgroups() -> Finding:
    hierarchy = cgroup_files.detect()
    delegated = None
    if hierarchy.mode is Mode.V2:
        available = cgroup_files.read_words(cgroup.CRUN_CGROUP_ROOT, "cgroup.controllers")
        if os.path.isdir(NOMAD_SLICE):
            delegated = cgroup_files.read_words(NOMAD_SLICE, "cgroup.subtree_control")
    else:
        available = list(hierarchy.mounts)
    unified = cgroup_files.read_words(UNIFIED, "cgroup.controllers")
    return host_verdicts.check_cgroups(hierarchy.mode, available, unified, delegated)


def _check_java(options: PluginOptions) -> list[Finding]:
    finder = JavaFinder()
    javas = trio.run(finder.find, options.java_home, os.environ)
    return host_verdicts.check_java(javas, finder.problems)


def _check_seccomp(options: PluginOptions) -> Finding:
    asked = options.seccomp_profile
    default = next((path for path in privileges.DEFAULT_PROFILES if os.path.exists(path)), "")
    path = asked or default
    error = ""
    if path and path != UNCONFINED:
        try:
            seccomp.convert(privileges.read_profile(path), path, (), privileges.machine())
        except ConfigError as exc:
            error = str(exc)
    return host_verdicts.check_seccomp(asked, default, error)


def _check_cache(options: PluginOptions) -> Finding:
    store = StartupStore(options.cache_dir, options.cache_size_bytes)
    problem = store.problem() if os.path.isdir(store.path) else ""
    sizes = [] if problem else [kept.description.size_bytes for kept in store.all()]
    return check_cache_dir(store.path, problem, sizes, store.limit_bytes)


def _has_pidfd() -> bool:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:
        return False
    return True
