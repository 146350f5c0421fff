"""The layers of docs/architecture.md, held by reading every import of the package."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "milo"
MAX_LINES = 500

SHARED = {
    "milo",
    "milo.errors",
    "milo.files",
    "milo.proc",
    "milo.process_signals",
    "milo.cgroup_files",
    "milo.command_memory",
    "milo.namespaces",
    "milo.unix_sockets",
    "milo.walk",
}
ALLOWED = {
    "milo.errors": set(),
    "milo.files": {"milo.errors"},
    "milo.proc": {"milo.core"},
    "milo.process_signals": {"milo.core", "milo.proc"},
    "milo.cgroup_files": {"milo.core", "milo.proc", "milo.process_signals"},
    "milo.command_memory": {"milo.core", "milo.errors"},
    "milo.namespaces": {"milo.proc"},
    "milo.unix_sockets": set(),
    "milo.walk": {"milo.errors", "milo.proc"},
    "milo.core": {"milo.core", "milo.errors"},
    "milo.task": {"milo.task", "milo.core"} | SHARED,
    "milo.spawner_process": {"milo.spawner"},
    "milo.spawner": {"milo.task", "milo.core"} | SHARED,
    "milo.host": {"milo.host", "milo.core"} | SHARED,
    "milo.plugin": {"milo.plugin", "milo.wire", "milo.host", "milo.core", "milo.spawner_process"}
    | SHARED,
    "milo.cli": {"milo.cli", "milo.host", "milo.task", "milo.core"} | SHARED,
    "milo.entry": {"milo.plugin", "milo.cli"},
    "milo.__main__": {"milo.entry"},
    "milo.__init__": set(),
}

MODULES = sorted(path for path in ROOT.rglob("*.py") if "wire" not in path.relative_to(ROOT).parts)


def layer(module: str) -> str:
    """Return the layer of a dotted name: its first two parts."""
    return ".".join(module.split(".")[:2])


def imports(path: Path) -> set[str]:
    """Return the dotted names of Milo's that a module imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            found |= (
                {f"milo.{alias.name}" for alias in node.names} if module == "milo" else {module}
            )
    return {name for name in found if name.split(".")[0] == "milo"}


def name_of(path: Path) -> str:
    """Return the dotted name of a module."""
    return ".".join(("milo", *path.relative_to(ROOT).with_suffix("").parts))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_downward(path: Path) -> None:
    """A module imports only what its layer may."""
    allowed = ALLOWED[layer(name_of(path))]
    wrong = {
        name for name in imports(path) if layer(name) not in allowed and name != "milo.__version__"
    }
    assert not wrong, f"{name_of(path)} imports {wrong}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_are_short(path: Path) -> None:
    """No module is longer than 500 lines: past that, ask whether it is two."""
    assert len(path.read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_asyncio_is_only_where_grpclib_is(path: Path) -> None:
    """There is no second runtime beside Trio: asyncio and its bridge stay in milo.plugin."""
    text = path.read_text()
    if layer(name_of(path)) != "milo.plugin":
        assert "import asyncio" not in text and "trio_asyncio" not in text


KERNEL_MODULES = {"milo.proc", "milo.cgroup_files", "milo.namespaces", "milo.unix_sockets"}
KERNEL_PATH = re.compile(r"/(proc|sys)(/|$)")
IN_THE_CONTAINER = {
    "milo.task.root.rootfs": {"/proc", "/sys", "/proc/self/mounts"},
}
"""What is not opened, but made in the container."""


def kernel_paths(tree: ast.AST) -> set[str]:
    """Return the texts that begin like a path below /proc or /sys, docstrings left out."""
    docstrings = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in docstrings
        and KERNEL_PATH.match(node.value)
    }


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_files_of_the_kernel_are_read_in_one_place(path: Path) -> None:
    """A path below /proc or /sys stands in milo.proc, and otherwise only where nothing is opened.

    milo.core is pure, and names what is in a container.
    """
    name = name_of(path)
    if name in KERNEL_MODULES or layer(name) == "milo.core":
        return
    found = kernel_paths(ast.parse(path.read_text())) - IN_THE_CONTAINER.get(name, set())
    assert not found, f"{name} names {found}: milo.proc and milo.cgroup_files read those"
