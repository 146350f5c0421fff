"""The options that a JVM gets from its user, as it and its launcher read them. Pure.

There are two ways. The JVM's, for its environment variables, knows blanks and quotes alone; the
launcher has the same for ``JDK_JAVA_OPTIONS``. The launcher's, for ``@file``, knows comments and,
inside of quotes, escapes too. tests/integration/test_jvm_options.py asks the JDKs themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import attrs

BLANKS: Final = " \t\n\v\f\r"
"""isspace(3) in the C locale."""
_FILE_BLANKS: Final = " \t\n\f\r"
_LINE_ENDS: Final = "\n\r"
_QUOTES: Final = "\"'"
_ESCAPES: Final = {"n": "\n", "r": "\r", "t": "\t", "f": "\f"}

TOOL_VARIABLE: Final = "JAVA_TOOL_OPTIONS"
"""Read by the JVM itself, in every release, before its command line."""
OPENJ9_VARIABLES: Final = ("IBM_JAVA_OPTIONS", "OPENJ9_JAVA_OPTIONS")
"""So does OpenJ9 with these; the first is the older name."""
LAST_VARIABLE: Final = "_JAVA_OPTIONS"
"""Read by the JVM after its command line, which it so overrules."""
LAUNCHER_VARIABLE: Final = "JDK_JAVA_OPTIONS"
"""Put by the ``java`` launcher before the words of the command line."""
LAUNCHER_SINCE: Final = 9
"""The release whose launcher began to read that variable, and files of options."""
VM_FILE: Final = ("-XX:VMOptionsFile=", "-XX:Flags=", "-Xoptionsfile=", "-XX:+ReadVMOptionsFile")
"""Options that name a file which the JVM reads itself, and Milo does not."""

NO_FILES: Final = "--disable-@files"
"""After this word the launcher takes ``@`` for an ordinary character."""


@attrs.frozen
class UserWords:
    """Every option that the JVM will get from its user, from wherever."""

    words: tuple[str, ...] = ()
    """In the order in which the JVM reads them: of two the later one wins."""
    unread: str = ""
    """A file of options that could not be looked at; empty when all were."""

    @property
    def complete(self) -> bool:
        """Whether there is no file of options that Milo does not know."""
        return not self.unread and not any(word.startswith(VM_FILE) for word in self.words)

    def switch(self, name: str) -> bool | None:
        """Return what the last ``-XX:+name`` or ``-XX:-name`` says; None when there is none."""
        for word in reversed(self.words):
            if word in (f"-XX:+{name}", f"-XX:-{name}"):
                return word.startswith("-XX:+")
        return None

    @property
    def leaves_signals(self) -> bool:
        """Whether the JVM is told to leave SIGQUIT, among others, to the application."""
        found = False
        for word in self.words:
            if word in ("-Xrs", "-XX:+ReduceSignalUsage", "-XX:-ReduceSignalUsage"):
                found = word != "-XX:-ReduceSignalUsage"
        return found

    def value(self, name: str) -> str:
        """Return what the last ``-XX:name=`` says; empty when there is none."""
        prefix = f"-XX:{name}="
        found = [word for word in self.words if word.startswith(prefix)]
        return found[-1].removeprefix(prefix) if found else ""


def gather(
    env: Mapping[str, str],
    jvm_options: Sequence[str],
    java_major: int,
    read: Callable[[str], str | None],
    *,
    openj9: bool = False,
) -> UserWords:
    """Return the options in the variables that a JVM reads and on its command line.

    ``java_major`` 0 is an unknown release. ``read`` is that of `expand_files`.
    """
    command_line: Sequence[str] = jvm_options
    unread = ""
    if java_major == 0 or java_major >= LAUNCHER_SINCE:
        variable = split_variable(env.get(LAUNCHER_VARIABLE, ""))
        command_line, unread = expand_files([*variable, *jvm_options], read)
    names = (TOOL_VARIABLE, *(OPENJ9_VARIABLES if openj9 else ()))
    first = [word for name in names for word in split_variable(env.get(name, ""))]
    last = split_variable(env.get(LAST_VARIABLE, ""))
    return UserWords((*first, *command_line, *last), unread)


def split_variable(text: str) -> list[str]:
    """Return the words of an environment variable, as HotSpot and the launcher see them.

    Quotes, single or double, hold a word together and go; ``#`` and ``\\`` are ordinary. A
    quote without its other half ends the JVM's start; here it goes to the end of the text.
    """
    words: list[str] = []
    at = 0
    while at < len(text):
        if text[at] in BLANKS:
            at += 1
            continue
        parts: list[str] = []
        while at < len(text) and text[at] not in BLANKS:
            if text[at] in _QUOTES:
                end = text.find(text[at], at + 1)
                end = len(text) if end < 0 else end
                parts.append(text[at + 1 : end])
                at = end + 1
            else:
                parts.append(text[at])
                at += 1
        words.append("".join(parts))
    return words


def split_argument_file(text: str) -> list[str]:
    """Return the words of an ``@file`` of the launcher.

    ``#`` outside of quotes begins a comment, even in the middle of a word, which then loses what
    it has since its last quote. Inside of quotes a backslash escapes, and one at a line's end
    joins the next line without its leading blanks; outside it is ordinary. A line's end ends
    an open quote too.
    """
    reader = _ArgumentFile()
    for char in text:
        reader.take(char)
    return reader.finish()


class _ArgumentFile:
    """The launcher's states while it reads an ``@file``, each a method that takes a character."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.take: Callable[[str], None] = self._between
        self._done: list[str] = []
        """Of the present word, what a quote or an escape has closed."""
        self._open: list[str] = []
        """What came after that."""
        self._closed_any = False
        self._quote = ""

    def finish(self) -> list[str]:
        inside = self.take in (self._word, self._quoted)
        if inside and (self._closed_any or self._open):
            self._end_word()
        return self.words

    def _between(self, char: str) -> None:
        if char not in _FILE_BLANKS:
            self.take = self._word
            self._word(char)

    def _word(self, char: str) -> None:
        if char in _FILE_BLANKS:
            self._end_word()
        elif char == "#":
            self._open = []
            self.take = self._comment
        elif char in _QUOTES:
            self._close()
            self._quote = char
            self.take = self._quoted
        else:
            self._open.append(char)

    def _quoted(self, char: str) -> None:
        if char in _LINE_ENDS:
            self._end_word()
        elif char == "\\":
            self._close(even_empty=True)
            self.take = self._escaped
        elif char == self._quote:
            self._close()
            self.take = self._word
        else:
            self._open.append(char)

    def _escaped(self, char: str) -> None:
        if char in _LINE_ENDS:
            self.take = self._continued
        else:
            self._open = [_ESCAPES.get(char, char)]
            self._close()
            self.take = self._quoted

    def _continued(self, char: str) -> None:
        if char not in _FILE_BLANKS:
            self.take = self._quoted
            self._quoted(char)

    def _comment(self, char: str) -> None:
        if char in _LINE_ENDS:
            self.take = self._between

    def _close(self, *, even_empty: bool = False) -> None:
        self._closed_any |= even_empty or bool(self._open)
        self._done += self._open
        self._open = []

    def _end_word(self) -> None:
        self.words.append("".join(self._done + self._open))
        self._done, self._open, self._closed_any = [], [], False
        self.take = self._between


def expand_files(words: Iterable[str], read: Callable[[str], str | None]) -> tuple[list[str], str]:
    """Return the words as the launcher has them once it has read the files among them.

    ``read`` returns the text of a file, or None when it cannot be had: then the word stays,
    and the first of these is returned too. A file's own words are not looked into.
    """
    result: list[str] = []
    unread = ""
    expands = True
    for word in words:
        found = [word]
        if expands and len(word) > 1 and word.startswith("@"):
            if word.startswith("@@"):
                found = [word[1:]]
            else:
                text = read(word[1:])
                unread = unread or (word if text is None else "")
                found = [word] if text is None else split_argument_file(text)
        expands = expands and NO_FILES not in found
        result += found
    return result, unread
