"""The client's side of a command in a task."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from milo.core.exec_io import ExecInput, Printed, Typed
from milo.errors import ControlError
from milo.host.exec_client import run_command


async def test_input_is_closed_with_the_command(tmp_path: Path) -> None:
    """However that ends: Trio warns of a generator that was begun and merely dropped."""
    closed: list[bool] = []

    async def typed() -> AsyncGenerator[ExecInput, None]:
        try:
            yield Typed(b"x")
        finally:
            closed.append(True)

    async def emit(printed: Printed) -> None:
        raise AssertionError(printed)

    inputs = typed()
    await anext(inputs)
    with pytest.raises(ControlError):
        await run_command(str(tmp_path), ("true",), tty=False, inputs=inputs, emit=emit)
    assert closed == [True]
