"""What the fuzzer starts from, and what it has found, without the fuzzer.

`nox -s fuzz` needs atheris; this replays its seeds and its findings, and changes each of them
a little in ways that are the same at each run.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.fuzz import seeds, targets

CASES = sorted(path for path in targets.DATA.glob("*/*") if path.is_file())
MUTATIONS = 150


def mutated(data: bytes, generator: random.Random) -> bytes:
    """Return ``data`` with one to four small changes."""
    changed = bytearray(data)
    for _ in range(generator.randint(1, 4)):
        at = generator.randint(0, len(changed))
        match generator.randrange(5):
            case 0 if changed:
                changed[at % len(changed)] = generator.randrange(256)
            case 1:
                changed[at:at] = generator.randbytes(generator.randint(1, 8))
            case 2:
                del changed[at : at + generator.randint(1, 16)]
            case 3:
                changed[at:at] = changed[: generator.randint(0, len(changed))]
            case _:
                number = generator.choice([0, 1, 255, 2**16 - 1, 2**31, 2**32 - 1, 2**63])
                changed[at : at + 8] = number.to_bytes(8, generator.choice(["little", "big"]))
    return bytes(changed)


def test_every_target_has_seeds() -> None:
    """No target begins from nothing, and the seeds are those of the code."""
    for name, expected in seeds.seeds().items():
        found = [path.read_bytes() for path in sorted((targets.DATA / name).glob("seed-*"))]
        assert found == expected, f"{name}: run python -m tests.fuzz.seeds"
    assert set(targets.TARGETS) == set(seeds.seeds())


@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_case_ends_in_an_error_of_milos_at_most(path: Path) -> None:
    """Each seed and each finding, and what lies near it, is read or refused in clear words."""
    data = path.read_bytes()
    targets.run(path.parent.name, data)
    generator = random.Random(path.name)
    for _ in range(MUTATIONS):
        targets.run(path.parent.name, mutated(data, generator))


@pytest.mark.parametrize("name", sorted(targets.TARGETS))
def test_no_bytes_and_many(name: str) -> None:
    """Nothing at all, and nesting without end, end in an error of Milo's at most."""
    for data in (b"", b"\0" * 1000, b"[" * 100_000, b"\x91" * 100_000, b'{"a":' * 50_000):
        targets.run(name, data)
