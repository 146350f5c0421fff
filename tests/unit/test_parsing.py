"""What of a command line is Milo's own, and what is passed on."""

from __future__ import annotations

import pytest

from milo.cli.main import run_command
from milo.cli.parser import build_parser
from milo.cli.parsing import commands_of, milo_words


@pytest.mark.parametrize(
    ("line", "own", "rest"),
    [
        ("app.jar", "-- app.jar", ""),
        ("app.jar --port 80", "-- app.jar", "--port 80"),
        ("app.jar -- --port 80", "-- app.jar", "--port 80"),
        ("app.jar -- --", "-- app.jar", "--"),
        ("app.jar --memory 1g -- -m 2g", "--memory=1g -- app.jar", "-m 2g"),
        ("app.jar cp -- a", "-- app.jar", "cp -- a"),
        ("-- app.jar -x", "-- app.jar", "-x"),
        ("--jvm-option -Xmx1g app.jar", "--jvm-option=-Xmx1g -- app.jar", ""),
        ("-e A=b -e C=-d app.jar", "--env=A=b --env=C=-d -- app.jar", ""),
        ("-eA=b -m=1g app.jar", "--env=A=b --memory=1g -- app.jar", ""),
        ("-v /a:/b -v app.jar", "--volume=/a:/b --verbose -- app.jar", ""),
        ("-m /a:/b -m 1g app.jar", "--mount=/a:/b --memory=1g -- app.jar", ""),
        ("-w /x -u me app.jar", "--work-dir=/x --user=me -- app.jar", ""),
        ("--mem 1g app.jar", "--mem=1g -- app.jar", ""),
        ("--help", "--help --", ""),
    ],
)
def test_words_of_run(line: str, own: str, rest: str) -> None:
    """Options end at the JAR, but for the older spelling with --."""
    parser = commands_of(build_parser())["run"]
    found = milo_words(parser, line.split())
    assert (" ".join(found[0]), " ".join(found[1])) == (own, rest)


def test_what_is_no_option_is_the_applications() -> None:
    """Also with a -- of the application's own behind it."""
    parser = commands_of(build_parser())["run"]
    line = ["app.jar", "--port", "80", "--", "a"]
    assert milo_words(parser, line) == (["--", "app.jar"], line[1:])


def test_words_of_exec() -> None:
    """All after the task is the command's."""
    parser = commands_of(build_parser())["exec"]
    assert milo_words(parser, ["-t", "web", "ls", "-la"]) == (["--tty", "--", "web"], ["ls", "-la"])
    assert milo_words(parser, ["web", "-T", "--", "ls"]) == (["--no-tty", "--", "web"], ["ls"])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("pss", "Did you mean ps?"),
        ("logs --folow web", "Did you mean --follow?"),
        ("run --memroy 1g app.jar", "Did you mean --memory?"),
        ("dump thread web", "Did you mean threads?"),
    ],
)
def test_a_slip_of_the_keyboard(line: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The nearest word is named."""
    assert run_command(line.split()) == 2
    assert words in capsys.readouterr().err
