"""docs/troubleshooting.md has an entry for each message of the code, and for no other."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.support import messages

PAGE = Path(__file__).parents[2] / "docs/troubleshooting.md"
TEXT = PAGE.read_text()
LISTED = re.findall(r"^- `(.*)`$", TEXT, re.MULTILINE)


def test_every_message_has_an_entry() -> None:
    """Each text that the code can print stands in the page, with … for what varies."""
    found = {message.pattern: message for message in messages.collect()}
    assert len(found) > 250
    missing = [f"{found[text].module}: {text}" for text in found if text not in LISTED]
    assert not missing, "add to an entry of docs/troubleshooting.md:\n" + "\n".join(missing)


def test_every_entry_is_a_message() -> None:
    """The page has no text that was changed or removed in the code, and none twice."""
    known = {message.pattern for message in messages.collect()}
    unknown = [text for text in LISTED if text not in known]
    assert not unknown, "remove from docs/troubleshooting.md:\n" + "\n".join(unknown)
    assert len(LISTED) == len(set(LISTED))


def test_every_entry_says_what_to_do() -> None:
    """Below each list of messages stands a text."""
    entries = TEXT.partition("\n## Messages of Milo\n")[2].split("\n### ")[1:]
    assert len(entries) > 40
    for entry in entries:
        title, _, rest = entry.partition("\n")
        plain = [line for line in rest.partition("\n## ")[0].splitlines() if line.strip()]
        assert plain[0].startswith("- `"), title
        assert not plain[-1].startswith("- `"), title


def patterns_of(code: str) -> set[str]:
    """Return the patterns in a function's return value, as the collector reads it."""
    tree = messages.numbered(ast.parse(code))
    scope = messages.Scope()
    scope.note(tree.body)
    returned = next(node for node in ast.walk(tree) if isinstance(node, ast.Expr))
    return {messages.tidy(text) for text in messages.patterns(returned.value, scope)}


def test_the_collector_follows_names_and_alternatives() -> None:
    """It knows strings, what varies in them, choices, sums and the names of all these."""
    assert patterns_of("f'Error: a {x} b' + ' c'") == {"a … b c"}
    assert patterns_of("y = 'one two' if z else f'{z!r} three'\ny") == {"one two", "… three"}
    assert patterns_of("y = 'first'\ny = 'second'\nf'{y}.'") == {"second."}
    assert patterns_of("y = 'first'\nif z:\n    y = 'second'\ny or 'third'") == {
        "first",
        "second",
        "third",
    }


def test_the_collector_reads_the_templates_of_errors() -> None:
    """What a class puts around its arguments is part of the message."""
    found = {message.pattern for message in messages.collect()}
    assert any(text.startswith("Cannot use the state in …: it has version …") for text in found)
    assert any(text.startswith("The task cannot run as user …: this host") for text in found)
    assert any(text.startswith("No Java runtime found on host") for text in found)
