"""What of a command line is Milo's own, and what is passed on."""

from __future__ import annotations

import os

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


def test_a_value_that_may_be_left_out_is_shown_joined() -> None:
    """``--debug 5006`` are two words, of which the second is the JAR."""
    text = commands_of(build_parser())["run"].format_help()
    assert "[--debug[=PORT]]" in text and "\n  --jfr[=FILE]  " in text
    assert "[=" not in commands_of(build_parser())["ps"].format_help()


def test_what_is_no_option_is_the_applications() -> None:
    """Also with a -- of the application's own behind it."""
    parser = commands_of(build_parser())["run"]
    line = ["app.jar", "--port", "80", "--", "a"]
    assert milo_words(parser, line) == (["--", "app.jar"], line[1:])


@pytest.mark.parametrize(
    "line",
    [
        *("run -m 512 app.jar", "run --cpus 0 app.jar", "run --debug=x app.jar"),
        *("run -e 1=2 app.jar", "run -v a:b:c app.jar", "run --name /x app.jar"),
        *("run --heap-percent 99 app.jar", "run --jvm-option Xss1m app.jar"),
        *("run --shm-size 0 -d app.jar", "run --java 17x app.jar", "run --ulimit x app.jar"),
        *(
            "logs -n -1 web",
            "logs --since x web",
            "stop --timeout x web",
            "stop --signal X web",
            "exec web",
        ),
        *("demo --port 99999", "job --count 0 app.jar"),
    ],
)
def test_a_value_that_is_none_is_a_wrong_command_line(
    line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As an option that is none: the status does not tell who reads the value."""
    umask = os.umask(0o022)
    try:
        assert run_command(line.split()) == 2
    finally:
        os.umask(umask)
    assert "alid value for " in capsys.readouterr().err


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


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["run", "--wach", "app.jar"], "Did you mean --watch?"),
        (["run", "-p", "80:80", "app.jar"], "uses the network of the host"),
        (["run", "--entrypoint=x", "app.jar"], "--class NAME"),
        (["ps", "--alll"], "milo ps --help"),
        (["run", "--port", "80", "app.jar"], "uses the network of the host"),
        (["run", "--memory"], "argument -m/--memory: it needs a value"),
        (["run", "--cpus", "two", "app.jar"], "got 'two'. Expected a number, such as 1.5"),
        (["run", "--pids-limit", "x", "app.jar"], "got 'x'. Expected a whole number"),
        (["logs", "-n", "x", "web"], "got 'x'. Expected a whole number"),
        (["run", "--name", "", "app.jar"], "argument --name: its value is empty"),
        (["run", "--debug=", "app.jar"], "argument --debug: its value is empty"),
    ],
)
def test_a_wrong_option_is_told_in_two_lines(
    words: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With what to do instead, and without all the others."""
    assert run_command(words) == 2
    printed = capsys.readouterr().err
    assert hint in printed and len(printed.splitlines()) == 2


def test_a_letter_that_follows_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    """Is its value to Python 3.12, and an option of its own to 3.13."""
    assert run_command(["logs", "-fx", "web"]) == 2
    printed = capsys.readouterr().err
    assert "it takes no value, got 'x'" in printed or "unrecognized arguments: -x" in printed
    assert len(printed.splitlines()) == 2
