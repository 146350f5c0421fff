"""Reading Nomad's agent configuration, HCL 1 and JSON."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milo.cli.doctor.hcl import Body, HclError, parse

AGENT = """\
# plugin "milo" { in a comment }
data_dir = "/opt/nomad/data" // the end of a line
/* plugin_dir = "/wrong"
*/
"plugin_dir" = "/opt/nomad/plugins"
client {
  enabled = true
  options = { "driver.allowlist" = "milo,exec", "one" = 1 }
  meta { text = <<EOF
plugin "milo" {
  plugin_dir = "/in/a/heredoc"
EOF
  }
}
plugin "raw_exec" { config { enabled = true } }
plugin "milo" {
  config {
    allow_caps = ["chown", "kill",]
    pids_limit = 0x100
    java_home = "/opt/\\"quoted\\"/${env "HOME"}"
    volumes { enabled = true }
  }
}
"""


def test_a_real_configuration() -> None:
    """Comments, heredocs and strings hide nothing and show nothing that is not there."""
    body = parse(AGENT)
    assert body.text("plugin_dir") == "/opt/nomad/plugins"
    assert body.text("data_dir") == "/opt/nomad/data"
    blocks = dict(body.blocks("plugin"))
    assert list(blocks) == ["raw_exec", "milo"]
    config = blocks["milo"].body("config")
    assert config is not None
    assert config.plain() == {
        "allow_caps": ["chown", "kill"],
        "pids_limit": 256,
        "java_home": '/opt/"quoted"/${env "HOME"}',
        "volumes": [{"enabled": True}],
    }
    client = body.body("client")
    assert client is not None
    assert client.plain()["options"] == [{"driver.allowlist": "milo,exec", "one": 1}]


@pytest.mark.parametrize(
    "text",
    [
        '{"plugin": {"milo": {"config": {"userns": true}}}}',
        '{"plugin": [{"milo": [{"config": [{"userns": true}]}]}]}',
        '{"plugin": [{"exec": {}}, {"milo": {"config": {"userns": true}}}]}',
        'plugin "milo" { config { userns = true } }',
        '"plugin" "milo" { "config" { "userns" = true } }',
        "plugin milo {\nconfig {\nuserns = true\n}\n}",
        "plugin { milo { config { userns = true } } }",
    ],
)
def test_every_way_to_write_a_plugin_block(text: str) -> None:
    """JSON has objects and lists of objects in the place of labels."""
    config = dict(parse(text).blocks("plugin"))["milo"].body("config")
    assert config is not None
    assert config.plain() == {"userns": True}


def test_values_of_every_kind() -> None:
    """Numbers with sign, fraction and exponent, escapes, an indented heredoc, nested lists."""
    text = (
        'a = -1\nb = 2.5e1\nc = "\\t\\u00e9\\x41"\nd = <<-X\n    one\n      two\n    X\n'
        "e = [[1], {f = null}]"
    )
    assert parse(text).plain() == {
        "a": -1,
        "b": 25.0,
        "c": "\t\u00e9A",
        "d": "one\n  two\n",
        "e": [[1], {"f": None}],
    }


def test_blocks_of_one_name_make_a_list() -> None:
    """A label becomes a key."""
    assert parse('v "a" { x = 1 }\nv "b" { x = 2 }').plain() == {
        "v": [{"a": {"x": 1}}, {"b": {"x": 2}}]
    }


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a = 1\nb = \n}", 3, "a value is expected"),
        ('a = "open', 1, "does not end"),
        ('a = "line\nbreak"', 1, "does not end"),
        ("client {\n  enabled = true\n", 3, "} is missing"),
        ("a = 1\n}", 2, "too many"),
        ("a = [1 2]", 1, "expected"),
        ("a = <<EOF\nnever", 1, "does not end"),
        ('a = "\\uD8"', 1, "is no character"),
        ("= 1", 1, "the name of a key"),
        ("a = maybe", 1, "a value is expected"),
        ('{"a": }', 1, "Expecting value"),
        ("[1]", 1, "the name of a key"),
        ("a " + "{ a " * 100, 1, "deeply"),
        ("a = " + "[" * 100, 1, "deeply"),
        ('{"a":' * 100_000, 1, "deeply"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(text: str, line: int, words: str) -> None:
    """An operator finds the place."""
    with pytest.raises(HclError, match=words) as caught:
        parse(text)
    assert caught.value.line == line


@given(st.text(alphabet='ab{}[]="\\$<-\n#/*,1.EOF :', max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Nothing but HclError comes out, and it ends."""
    with contextlib.suppress(HclError):
        assert isinstance(parse(text), Body)
