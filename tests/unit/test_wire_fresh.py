"""milo/wire/ is what protos/ says."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WIRE = ROOT / "milo" / "wire"


def _modules(directory: Path) -> dict[str, str]:
    """The code of each module, whatever the layout: the formatter's version is not the point."""
    return {
        str(path.relative_to(directory)): ast.dump(ast.parse(path.read_text(encoding="utf-8")))
        for path in sorted(directory.rglob("*.py"))
    }


def test_committed_wire_modules_are_fresh(tmp_path: Path) -> None:
    """Generating again gives the modules that are committed; else run ``nox -s protos``."""
    pytest.importorskip("grpc_tools")
    generator = ROOT / "tools" / "gen_protos.py"
    subprocess.run(
        [sys.executable, str(generator), str(tmp_path / "wire")], check=True, capture_output=True
    )
    fresh, committed = _modules(tmp_path / "wire"), _modules(WIRE)
    assert sorted(fresh) == sorted(committed)
    stale = [name for name in fresh if fresh[name] != committed[name]]
    assert stale == []


def test_wire_needs_no_protobuf_runtime() -> None:
    """Importing every generated module loads nothing of Google's protobuf package."""
    names = [
        ".".join(("milo.wire", *path.relative_to(WIRE).parts[:-1]))
        for path in sorted(WIRE.rglob("__init__.py"))
    ]
    code = (
        f"import sys, {', '.join(names)}; print([m for m in sys.modules if m == 'google.protobuf'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
