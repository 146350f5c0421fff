"""Finds the programs that Milo runs with the rights of its own user, root as a rule."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from typing import Final

from milo import proc, walk
from milo.errors import MiloError

FALLBACK_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class ChangeableProgramError(MiloError):
    """Whoever can change the program would act as the user who runs it."""

    recoverable = True

    def __init__(self, path: str, problem: str) -> None:
        self.path = path
        self.problem = problem
        super().__init__(
            f"Error: {path} is not run, because {problem}. Take another PATH or crun_path, or let "
            "root alone change it and the directories above it"
        )


def find_program(name: str, environ: Mapping[str, str]) -> str:
    """Return the absolute path of ``name``, or an empty text when it is not installed."""
    path = ":".join(part for part in (environ.get("PATH", ""), FALLBACK_PATH) if part)
    found = shutil.which(name, path=path)
    return os.path.abspath(found) if found else ""


def changeable(path: str) -> str:
    """Return who else than root and this process's user can change a program; empty for nobody.

    To be asked outside of an ordinary user's namespaces, in which all others are the same.
    """
    return walk.writable_by_others(path, owners=proc.trusted_users())


def trusted_program(name: str, environ: Mapping[str, str]) -> str:
    """Return what `find_program` does.

    Raises:
        ChangeableProgramError: another user can change it. PATH may hold his directory, or ``.``.
    """
    path = find_program(name, environ)
    if path and (problem := changeable(path)):
        raise ChangeableProgramError(path, problem)
    return path


def trusted_crun(wanted: str, environ: Mapping[str, str]) -> str:
    """Return the same for crun; where there is none, a path at which it would be.

    A bare name would be looked up in the working directory.
    """
    return trusted_program(wanted, environ) or os.path.join("/usr/bin", wanted)


def helper(name: str, environ: Mapping[str, str]) -> str:
    """Return the path of a program that can be done without; empty also if others can change it."""
    path = find_program(name, environ)
    return "" if path and changeable(path) else path
