"""Reads Nomad's agent configuration: HCL 1 and its JSON form, as far as `milo doctor` looks. Pure.

The agent's files are HCL 1, which is a small language without expressions. The packages that
read HCL read HCL 2, and would refuse what Nomad takes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import attrs

from milo.cli.doctor.json_text import MAX_DEPTH, parse_json

_BLANK: Final = re.compile(r"(?:[ \t\r\n]+|#[^\n]*|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
_NAME: Final = re.compile(r"[^\W\d][\w.-]*")
_NUMBER: Final = re.compile(r"-?(?:0[xX][0-9a-fA-F]+|\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)")
_HEREDOC: Final = re.compile(r"<<(-?)([^\W\d]\w*)\r?\n")
_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}
_CODES: Final = {"x": 2, "u": 4, "U": 8}


class HclError(ValueError):
    """The text is not what the language allows."""

    def __init__(self, line: int, problem: str) -> None:
        self.line = line
        self.problem = problem
        super().__init__(f"line {line}: {problem}")


@attrs.frozen
class Body:
    """What stands in a file or between braces: keys in their order, each with its value.

    ``plugin "milo" { … }`` has the keys ``plugin`` and ``milo``, and a `Body` for its value.
    """

    items: tuple[tuple[tuple[str, ...], Any], ...] = ()

    def text(self, name: str) -> str:
        """Return the last string of that name, as the agent takes it; empty without one."""
        found = [value for keys, value in self.items if keys == (name,)]
        return found[-1] if found and isinstance(found[-1], str) else ""

    def blocks(self, name: str) -> Iterator[tuple[str, Body]]:
        """Yield the label and the content of each block ``name "label" { … }``.

        JSON has no labels: there the content's keys are. The label is empty for a block that
        has none, which is then told by its keys being no blocks.
        """
        for keys, value in self.items:
            if keys[0] != name:
                continue
            for body in _bodies(value):
                if len(keys) > 1:
                    yield keys[1], body
                    continue
                for inner, content in body.items:
                    for nested in _bodies(content):
                        yield inner[0], nested

    def body(self, name: str) -> Body | None:
        """Return what all the blocks ``name { … }`` hold together, or None without one."""
        found = [body for keys, value in self.items if keys == (name,) for body in _bodies(value)]
        return Body(tuple(item for body in found for item in body.items)) if found else None

    def plain(self) -> dict[str, Any]:
        """Return the keys and values as dictionaries; blocks of one name make a list."""
        result: dict[str, Any] = {}
        for keys, value in self.items:
            value = _plain(value)
            for label in reversed(keys[1:]):
                value = {label: value}
            if isinstance(value, dict) and isinstance(result.get(keys[0]), list):
                result[keys[0]].append(value)
            else:
                result[keys[0]] = [value] if isinstance(value, dict) else value
        return result


def parse(text: str) -> Body:
    """Return what a configuration file says.

    Raises:
        HclError: with the line, when it is neither HCL nor JSON.
    """
    if text.lstrip().startswith("{"):
        try:
            content: Body = _from_json(parse_json(text))
        except ValueError as exc:
            raise HclError(getattr(exc, "lineno", 1), str(exc)) from exc
        return content
    return _Parser(text).file()


def _bodies(value: Any) -> list[Body]:
    values = value if isinstance(value, list) else [value]
    return [one for one in values if isinstance(one, Body)]


def _plain(value: Any) -> Any:
    if isinstance(value, Body):
        return value.plain()
    return [_plain(one) for one in value] if isinstance(value, list) else value


def _from_json(value: Any) -> Any:
    if isinstance(value, dict):
        return Body(tuple(((key,), _from_json(one)) for key, one in value.items()))
    return [_from_json(one) for one in value] if isinstance(value, list) else value


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text.removeprefix("\ufeff")
        self._at = 0
        self._depth = 0

    def file(self) -> Body:
        body = self._items(end="")
        if self._at < len(self._text):
            raise self._error("there is a } too many")
        return body

    def _items(self, end: str) -> Body:
        items: list[tuple[tuple[str, ...], Any]] = []
        while True:
            self._skip_blanks()
            while self._take(","):
                self._skip_blanks()
            if self._at == len(self._text) or self._text[self._at] == "}":
                if end and not self._take(end):
                    raise self._error(f"{end} is missing")
                return Body(tuple(items))
            items.append(self._item())

    def _item(self) -> tuple[tuple[str, ...], Any]:
        keys = [self._key()]
        while True:
            self._skip_blanks()
            if self._take("{"):
                return tuple(keys), self._nested(lambda: self._items("}"))
            if self._take("=") or self._take(":"):
                self._skip_blanks()
                return tuple(keys), self._value()
            keys.append(self._key())

    def _key(self) -> str:
        if self._peek() == '"':
            return self._string()
        match = _NAME.match(self._text, self._at)
        if match is None:
            raise self._error("the name of a key is expected")
        self._at = match.end()
        return match[0]

    def _value(self) -> Any:
        first = self._peek()
        if first == '"':
            return self._string()
        if self._take("{"):
            return self._nested(lambda: self._items("}"))
        if self._take("["):
            return self._nested(self._list)
        if match := _HEREDOC.match(self._text, self._at):
            return self._heredoc(match)
        if match := _NUMBER.match(self._text, self._at):
            self._at = match.end()
            text = match[0].lower()
            if "x" in text:
                return int(text, 16)
            return float(text) if set(text) & set(".e") else int(text)
        match = _NAME.match(self._text, self._at)
        if match is None or match[0] not in ("true", "false", "null"):
            raise self._error("a value is expected")
        self._at = match.end()
        return {"true": True, "false": False, "null": None}[match[0]]

    def _list(self) -> list[Any]:
        values: list[Any] = []
        while True:
            self._skip_blanks()
            if self._take("]"):
                return values
            values.append(self._value())
            self._skip_blanks()
            if not self._take(",") and self._peek() != "]":
                raise self._error("a , or ] is expected")

    def _string(self) -> str:
        """Return a quoted string; ``${`` … ``}`` in it may hold quotes of its own."""
        start, braces = self._at, 0
        parts: list[str] = []
        self._at += 1
        while self._at < len(self._text):
            char = self._text[self._at]
            self._at += 1
            if char == '"' and not braces:
                return "".join(parts)
            if char == "\n" and not braces:
                break
            if char == "\\" and not braces:
                char = self._escape()
            elif char == "$" and self._peek() == "{":
                self._at += 1
                braces += 1
                char = "${"
            elif braces and char in "{}":
                braces += 1 if char == "{" else -1
            parts.append(char)
        self._at = start
        raise self._error("a string does not end")

    def _escape(self) -> str:
        char = self._peek()
        self._at += 1
        if char in _CODES:
            digits = self._text[self._at : self._at + _CODES[char]]
            self._at += _CODES[char]
            try:
                return chr(int(digits, 16))
            except (ValueError, OverflowError):
                raise self._error(f"\\{char}{digits} is no character") from None
        return _ESCAPES.get(char, char)

    def _heredoc(self, match: re.Match[str]) -> str:
        """Return the lines up to the one that is the marker alone."""
        lines: list[str] = []
        position = match.end()
        for line in self._text[position:].splitlines(keepends=True):
            position += len(line)
            if line.strip() == match[2]:
                self._at = position
                indent = min(
                    (len(one) - len(one.lstrip()) for one in lines if one.strip()), default=0
                )
                return "".join(one[indent:] if match[1] else one for one in lines)
            lines.append(line)
        raise self._error(f"the text up to {match[2]} does not end")

    def _nested(self, read: Any) -> Any:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._error("it is too deeply nested")
        result = read()
        self._depth -= 1
        return result

    def _skip_blanks(self) -> None:
        match = _BLANK.match(self._text, self._at)
        self._at = match.end() if match else self._at

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self, char: str) -> bool:
        if self._peek() != char:
            return False
        self._at += 1
        return True

    def _error(self, problem: str) -> HclError:
        return HclError(self._text.count("\n", 0, self._at) + 1, problem)
