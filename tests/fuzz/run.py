"""Runs atheris: ``python -m tests.fuzz.run TARGET [libFuzzer's options and directories]``.

`nox -s fuzz` calls this for each target. What makes one fail is written to
``tests/data/fuzz/TARGET/crash-*``, where `tests/unit/test_fuzz_regressions.py` finds it.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["milo.core", "milo.errors", "milo.task.java.application"]):
    from tests.fuzz import targets
from tests.fuzz.mutate import mutator


def main() -> None:
    """Fuzz the target that the command line names. Never returns."""
    name = sys.argv.pop(1)

    def one(data: bytes) -> None:
        targets.run(name, data)

    atheris.Setup(
        [*sys.argv, f"-artifact_prefix={targets.DATA / name}/"],
        one,
        custom_mutator=mutator(name),
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
