"""Only `milo.walk` follows paths that others can change; whoever uses other paths is named here."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "milo"
WALK = "milo.walk"

HOST_ALONE = {
    # State directories: root's own, and nobody else may even look into them.
    "milo.files": "records, and files that replace others in a state directory",
    "milo.cli.gc": "a state directory that is removed",
    "milo.host.leftovers.orphans": "state directories, and the allocation's directory itself",
    "milo.host.leftovers.removal": "state directories",
    "milo.host.state_dirs": "the pointers to state directories",
    "milo.host.state_store": "state directories, and the allocation's directory itself",
    "milo.host.task_processes": "a control socket",
    "milo.host.tasks": "state directories",
    "milo.spawner": "task.log",
    "milo.unix_sockets": "a control socket, in a state directory",
    "milo.task.exec_server": "crun's files of one command",
    "milo.task.journal": "task.log",
    "milo.task.keeper": "crun's files",
    "milo.task.kept_tasks": "the exit record, in a state directory",
    "milo.task.java.archived_files": "a descriptor that milo.walk has opened",
    "milo.task.java.startup_store": "the plugin's cache_dir, which root alone can change",
    "milo.task.logs.byte_counts": "the counters and the marks, in a state directory",
    "milo.task.oci.bundle": "the bundle",
    "milo.task.oci.console": "the socket that crun sends a terminal to",
    "milo.task.oci.container": "crun's files",
    "milo.task.oci.crun": "crun's log",
    "milo.task.oci.filters": "crun, and the linker's cache",
    "milo.task.oci.pause": "a root of its own, which is empty; Nomad's network namespace",
    "milo.task.oci.unwritable": "crun",
    "milo.task.oci.privileges": "the bundle; seccomp profiles and programs of the host",
    "milo.task.root.rootfs": "the skeleton of the root, before the container is made",
    # What the kernel shows.
    "milo.proc": "/proc and /sys",
    "milo.host.leftovers.traces": "cgroups; the state directory",
    "milo.namespaces": "/proc",
    "milo.cgroup_files": "cgroups",
    "milo.host.stats.cgroup_reader": "cgroups",
    "milo.task.oci.cgroup_placement": "cgroups",
    # What the operator or the agent names, or makes before a task runs.
    "milo.cli.doctor.agent_facts": "the agent's configuration, its plugins and its unit",
    "milo.cli.doctor.host_facts": "the state directory, the seccomp profile",
    "milo.cli.doctor.trial": "directories of a trial's own",
    "milo.cli.completion": "scripts of the package",
    "milo.cli.demo.dev_agent": "a temporary directory of its own",
    "milo.cli.demo.sample": "the JAR of the package; the directory that the caller names",
    "milo.cli.dump": "a name that nothing has yet, in the directory where the caller is",
    "milo.cli.executable": "the executable in the plugin directory",
    "milo.cli.install": "the plugin directory",
    "milo.cli.run": "the JAR, and the directories that are made for one run before it begins",
    "milo.cli.run_leftovers": "the directory of a run",
    "milo.cli.run_place": "the JAR, and the directories that are made for one run",
    "milo.cli.gc_archives": "the cache_dir, which root alone can change",
    "milo.cli.run_options": "files of the caller's",
    "milo.cli.run_name": "the lock of names, in the directory of runs",
    "milo.cli.uninstall": "the plugin directory",
    "milo.host.fingerprint": "crun; the launchers of the Javas that were found",
    "milo.plugin.handshake": "the directory of the plugin's socket",
    "milo.task.java.startup_plan": "the allocation's directory itself",
    "milo.task.preparer": "the archive, in the cache_dir, which root alone can change",
    "milo.task.root.devices": "the devices that Nomad passes",
    "milo.task.root.etc_files": "the host's own /etc",
    "milo.task.root.network": "the network namespace that Nomad has made",
    "milo.task.supervisor": "the allocation's directory itself",
}
"""Modules that use paths which no task and no job can influence, with what these are."""

CALLS = {
    "os": {
        *("access", "chdir", "chmod", "chown", "chroot", "lchmod", "lchown", "link", "listdir"),
        *("lstat", "makedirs", "mkdir", "mkfifo", "mknod", "open", "readlink", "remove"),
        *("removedirs", "rename", "renames", "replace", "rmdir", "scandir", "stat", "statvfs"),
        *("symlink", "truncate", "unlink", "utime", "walk", "fwalk", "getxattr", "setxattr"),
    },
    "os.path": {
        *("exists", "getatime", "getctime", "getmtime", "getsize", "isdir", "isfile", "islink"),
        *("ismount", "lexists", "realpath", "samefile"),
    },
    "shutil": {"copy", "copy2", "copyfile", "copytree", "move", "rmtree"},
    "glob": {"glob", "iglob"},
    "tempfile": {"mkdtemp", "mkstemp", "TemporaryDirectory", "NamedTemporaryFile"},
    "io": {"open", "open_code", "FileIO"},
}
"""What takes a path."""

MODULES = sorted(path for path in ROOT.rglob("*.py") if "wire" not in path.relative_to(ROOT).parts)


def name_of(path: Path) -> str:
    """Return the dotted name of a module."""
    return ".".join(("milo", *path.relative_to(ROOT).with_suffix("").parts))


def dotted(node: ast.expr) -> str:
    """Return ``os.path.exists`` for that expression; something else for what is no name."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def is_fixed(call: ast.Call) -> bool:
    """Whether the path is written out in the code, such as /dev/null."""
    path = call.args[0] if call.args else None
    return isinstance(path, ast.Constant) or (path is not None and dotted(path) == "os.devnull")


def uses(tree: ast.AST) -> list[str]:
    """Return the calls that take a path which is not fixed, each with its line."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            taken = CALLS.get(node.module or "", set())
            found += [f"{node.lineno}: {a.name}" for a in node.names if a.name in taken]
            found += [
                f"{node.lineno}: {node.module}" for _ in node.names if node.module == "pathlib"
            ]
        elif isinstance(node, ast.Import):
            # One name for each, so that the calls are found by it.
            found += [f"{node.lineno}: {a.name}" for a in node.names if a.name == "pathlib"]
            found += [
                f"{node.lineno}: {a.name}" for a in node.names if a.asname and a.name in CALLS
            ]
        elif isinstance(node, ast.Call) and not is_fixed(node):
            module, _, name = dotted(node.func).rpartition(".")
            if name in CALLS.get(module, set()) or dotted(node.func) == "open":
                found.append(f"{node.lineno}: {dotted(node.func)}")
    return found


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_paths_of_tasks_are_followed_by_one_module(path: Path) -> None:
    """No module opens, looks at or changes something by its path, but those that are named."""
    if name_of(path) == WALK:
        return
    found = uses(ast.parse(path.read_text()))
    if name_of(path) not in HOST_ALONE:
        assert not found, f"{name_of(path)} uses paths: take milo.walk, or say why not: {found}"
    else:
        assert found, f"{name_of(path)} uses no path: take it from the list"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_descriptors_are_descended_by_one_module(path: Path) -> None:
    """Nobody else looks names up from a directory's descriptor, and so walks by hand."""
    if name_of(path) != WALK:
        tree = ast.parse(path.read_text())
        words = {node.arg for node in ast.walk(tree) if isinstance(node, ast.keyword)}
        assert not words & {"dir_fd", "src_dir_fd", "dst_dir_fd"}


def test_the_list_names_modules() -> None:
    """What has been renamed or has gone is taken from the list."""
    assert set(HOST_ALONE) <= {name_of(path) for path in MODULES}


@pytest.mark.parametrize(
    "code",
    [
        "open(x)",
        "os.open(f'/x/{y}', 0)",
        "os.path.isdir(x)",
        "from os.path import realpath",
        "from pathlib import Path",
        "import os.path as p",
        "shutil.rmtree(x)",
    ],
)
def test_the_look_finds_ways(code: str) -> None:
    """Each way to use a path is seen."""
    assert uses(ast.parse(code))


def test_fixed_paths_are_no_use() -> None:
    """/dev/null is nobody's to change."""
    assert not uses(ast.parse("os.open('/dev/null', 0)\nos.open(os.devnull, 0)\nheld.open()"))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_trees_are_removed_in_one_way(path: Path) -> None:
    """`Held.remove_tree`, which neither follows a symlink nor leaves the file system."""
    assert "rmtree" not in path.read_text()
