"""The ``milo`` command: runs a subcommand, and turns exceptions into messages and exit statuses.

Commands raise `MiloError` where they can say more than the kernel, and let every other exception
pass.
"""

from __future__ import annotations

import errno
import functools
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import Final

from milo.cli.arguments import WrongValueError
from milo.cli.output import READER_GONE, ReaderGoneError, open_standard_streams, warn
from milo.cli.parser import build_parser
from milo.cli.parsing import WRONG, as_typed, commands_of, milo_words
from milo.errors import MiloError

FAILED: Final = 1
INTERRUPTED: Final = 128 + signal.SIGINT
"""As a shell tells of a command that Ctrl-C has ended."""


def main() -> int:
    """Run the command line of this process and return the exit status."""
    # One that the caller ignores, as a shell's trap does, leaves no status of any child.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        open_standard_streams()
        status = run_command(sys.argv[1:])
    except KeyboardInterrupt:
        status = INTERRUPTED
    # What follows is the interpreter's own end: another Ctrl-C is not worth a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    return status


def run_command(argv: Sequence[str]) -> int:
    """Run the command line ``argv`` and return the exit status; raises nothing."""
    try:
        try:
            return _run(argv)
        finally:
            sys.stdout.flush()
    except BaseException as exc:
        return _tell(exc, argv)


def _run(argv: Sequence[str]) -> int:
    arguments = list(argv)
    rest: list[str] = []
    parser = build_parser(arguments[0] if arguments else "")
    if arguments[:1] in (["run"], ["exec"]):
        own, rest = milo_words(commands_of(parser)[arguments[0]], arguments[1:])
        arguments = [arguments[0], *own]
    elif "--" in arguments:
        split = arguments.index("--")
        arguments, rest = arguments[:split], arguments[split + 1 :]
    if not arguments:
        parser.print_help()
        return 0
    options = parser.parse_args(arguments)
    options.spell = functools.partial(spelt, argv=argv)  # for what is told while it runs
    status: int = options.run(options, rest)
    return status


def _tell(error: BaseException, argv: Sequence[str]) -> int:
    """Say on stderr what went wrong, if anybody needs to be told; return the exit status."""
    if os.environ.get("MILO_DEBUG") and not isinstance(error, SystemExit):
        traceback.print_exception(error)
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, SystemExit):  # argparse has said all there is to say
            return cause.code if isinstance(cause.code, int) else FAILED
    if any(isinstance(cause, KeyboardInterrupt) for cause in causes):
        return INTERRUPTED
    if any(isinstance(cause, ReaderGoneError) for cause in causes):
        return READER_GONE
    # The first of each text: when one thing breaks, several tasks of a nursery may notice.
    for sentence in dict.fromkeys(_sentence(cause, argv) for cause in causes):
        warn(sentence)
    return WRONG if any(isinstance(cause, WrongValueError) for cause in causes) else FAILED


def spelt(text: str, argv: Sequence[str]) -> str:
    """Return a message that speaks of options instead of a job's keys, spelt as they were typed."""
    command = argv[0] if argv else ""
    if command == "run":
        from milo.core.config.spelling import words_in_options

        text = words_in_options(text)
    parser = commands_of(build_parser(command)).get(command) if " -" in text else None
    if parser is None:
        return text
    words = list(argv[1:])
    if command in ("run", "exec"):
        words = words[: len(words) - len(milo_words(parser, words)[1])]
    return as_typed(text, parser, words)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield what a group of exceptions, as a nursery raises it, is made of."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _causes(inner)
    else:
        yield error


def _sentence(error: BaseException, argv: Sequence[str]) -> str:
    if isinstance(error, MiloError):
        return spelt(str(error), argv)
    if isinstance(error, OSError) and error.strerror:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        # Of a copy both are named, and only the second one is written.
        path = (full and error.filename2) or error.filename
        if path:
            return f"Error: {os.fsdecode(path)}: {error.strerror}"
        if full:
            return f"Error: a file cannot be written: {error.strerror}"
    fault, words = f"{type(error).__name__}: {error}", shlex.join(["milo", *argv])
    return f"Error: a fault in Milo: {fault}. To see where: MILO_DEBUG=1 {words}"
