"""How the texts that hold a JVM's options are split; tests/integration asks the JDKs for it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milo.core.java.option_words import (
    UserWords,
    expand_files,
    gather,
    split_argument_file,
    split_variable,
)

FILES = {"/local/options": "-Xmx99m # heap\n@/local/inner", "/local/off": "--disable-@files"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("-Dpw=abc#123 -Xmx64m", ["-Dpw=abc#123", "-Xmx64m"]),
        ("# -Xmx64m", ["#", "-Xmx64m"]),
        (r"-Da=\d+ -Db=C:\x", [r"-Da=\d+", r"-Db=C:\x"]),
        ("-Da='b c' -Db=\"d 'e'\"f", ["-Da=b c", "-Db=d 'e'f"]),
        (r"-Da='b\' -Xmx1g", ["-Da=b\\", "-Xmx1g"]),
        (" \t-Da\n\v-Db\f\r", ["-Da", "-Db"]),
        ("'' -Da", ["", "-Da"]),
        ("-Da='b -Xmx1g", ["-Da=b -Xmx1g"]),
        ("-Da=\u00a0b", ["-Da=\u00a0b"]),
        ("", []),
    ],
)
def test_variable(text: str, words: list[str]) -> None:
    """A variable is split at blanks, quotes hold together, and no other character is special."""
    assert split_variable(text) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("# a comment\n-Xmx64m", ["-Xmx64m"]),
        ("-Da=b #c\n-Db", ["-Da=b", "-Db"]),
        ("-Da=b#c\n-Db", ["-Db"]),
        ("'-Da'=b#c\n=d", ["-Da=d"]),
        ('"-Da=b#c" -Db', ["-Da=b#c", "-Db"]),
        (r"-Da=\d -Db='\\d\t'", [r"-Da=\d", "-Db=\\d\t"]),
        ('-Da="b\\\n   c" -Db', ["-Da=bc", "-Db"]),
        ('-Da="b\n-Db', ["-Da=b", "-Db"]),
        ("-Da\f-Db\v-Dc", ["-Da", "-Db\v-Dc"]),
        ("'' -Da ''", ["", "-Da"]),
        ("'-Da", ["-Da"]),
        ("'-Da\\", []),
        ("", []),
    ],
)
def test_argument_file(text: str, words: list[str]) -> None:
    """A file has comments, escapes in quotes, and lines that a backslash joins."""
    assert split_argument_file(text) == words


@given(st.text(alphabet="ab '\"\\#\n\t", max_size=30))
def test_any_text_is_split(text: str) -> None:
    """Whatever stands there, the words hold nothing that the text does not."""
    for word in (*split_variable(text), *split_argument_file(text)):
        assert set(word) <= set(text)


def test_files_among_the_words() -> None:
    """A file's words take its place; a second @ is an ordinary one; one word ends it all."""
    words = ["-Da", "@/local/options", "@@b", "@", "@/local/off", "@/local/options"]
    assert expand_files(words, FILES.get) == (
        ["-Da", "-Xmx99m", "@/local/inner", "@b", "@", "--disable-@files", "@/local/options"],
        "",
    )
    assert expand_files(["@/a", "@/b"], FILES.get) == (["@/a", "@/b"], "@/a")


def test_order_of_the_sources() -> None:
    """The JVM's variable comes first, then the launcher's and the command line, then the last."""
    env = {
        "_JAVA_OPTIONS": "-Dlast",
        "JDK_JAVA_OPTIONS": "-Dlauncher @/local/options",
        "JAVA_TOOL_OPTIONS": "-Dfirst @x",
        "JAVA_OPTS": "-Dnobody",
    }
    first, last = ("-Dfirst", "@x"), ("-Dline", "-Dlast")
    launcher = ("-Dlauncher", "-Xmx99m", "@/local/inner")
    for major in (0, 9, 25):
        assert gather(env, ["-Dline"], major, FILES.get).words == (*first, *launcher, *last)
    assert gather(env, ["-Dline"], 8, FILES.get).words == (*first, *last)
    assert gather({}, ["@/local/options"], 8, FILES.get).words == ("@/local/options",)


def test_switches() -> None:
    """Of a switch that is set twice the last one counts."""
    words = UserWords(("-XX:+A", "-XX:-A", "-XX:+B"))
    assert (words.switch("A"), words.switch("B"), words.switch("C")) == (False, True, None)


@pytest.mark.parametrize(
    "word", ["-XX:VMOptionsFile=/x", "-XX:Flags=/x", "-Xoptionsfile=/x", "-XX:+ReadVMOptionsFile"]
)
def test_files_of_the_jvms_own(word: str) -> None:
    """Where the JVM reads a file itself, Milo does not know all."""
    assert not UserWords((word,)).complete
    assert not UserWords((), unread="@/x").complete
    assert UserWords(("-Xmx1g",)).complete


@pytest.mark.parametrize(
    ("words", "left"),
    [
        ((), False),
        (("-Xrs",), True),
        (("-XX:+ReduceSignalUsage",), True),
        (("-Xrs", "-XX:-ReduceSignalUsage"), False),
        (("-XX:-ReduceSignalUsage", "-Xrs"), True),
        (("-Xrs:sync",), False),
    ],
)
def test_signals_that_are_left_to_the_application(words: tuple[str, ...], left: bool) -> None:
    """The last word counts; OpenJ9's -Xrs:sync is of other signals."""
    assert UserWords(words).leaves_signals is left
