"""Every message that Milo's code can print, found by reading the code: one pattern each.

A pattern is the text with ``…`` for what varies. Found are: what errors are made with, put
through the templates of their classes; texts given to events and, from warnings upward, to
logs; what functions that only make sentences return; and unhealthy fingerprints.

``python -m tests.support.messages`` prints them all, by module.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import Final, TypeGuard

import attrs

ROOT: Final = Path(__file__).parents[2] / "milo"
EXECUTABLE: Final = ROOT.parent / "tools/executable"
"""What runs first in the self-contained file."""
SHELL: Final = ROOT.parent / "tools/build_executable.py"
"""Holds the line of shell before it."""
ANY: Final = "…"

NOT_READ: Final = ("wire", "doctor", "hcl", "agent_config", "service_unit")
"""Generated code, and ``milo doctor``, whose table says by itself what to do."""

FOREIGN: Final = frozenset(("EOFError", "ProcessLookupError"))
"""Never shown: caught where they are raised for. Of `OSError` and its kin only the kernel's
words are, but for those with words of Milo's own."""

SENTENCES: Final = frozenset(
    (
        "_chosen",
        "_exit_words",
        "_home",
        "_others_killed",
        "_sentence",
        "_signs_of_life",
        "_stop",
        "looks_like",
        "writable_by_others",
        "_hint",
        "_similar",
        "_warning",
        "crash_words",
        "crun_problem",
        "crun_warning",
        "end_for_nomad",
        "exit_message",
        "host_problem",
        "kills_sentence",
        "missing_dns",
        "missing_limits",
        "others_write",
        "sentence",
        "sighting_sentence",
        "_too_much_text",
        "too_new",
        "without_process",
    )
)
"""Functions whose result is shown to people."""

GATHERING: Final = frozenset(
    ("_files", "_java_words", "_last_line", "_look", "_memory_words", "_note", "describe")
)
"""The same, of those that put a sentence together from parts."""

SAYING: Final = frozenset(("critical", "exit", "lose", "warn", "_fail"))
"""Functions whose first argument is shown."""

LOGGED: Final = frozenset(("info", "warning", "error", "exception"))


@attrs.frozen
class Message:
    """One pattern, and where it is made."""

    pattern: str
    module: str
    line: int


@attrs.frozen
class Template:
    """What an error's class makes of its arguments."""

    parameters: tuple[str, ...]
    base: str
    arguments: tuple[ast.expr, ...]
    """Of ``super().__init__``."""
    scope: Scope


@attrs.define
class Scope:
    """Names, and what they may stand for."""

    values: dict[str, list[ast.expr]] = attrs.field(factory=dict)
    outer: Scope | None = None

    def find(self, name: ast.Name) -> list[ast.expr]:
        """Return the expressions that ``name`` may stand for.

        That is the last one before it in the same block of statements, or else all.
        """
        scope: Scope | None = self
        while scope is not None:
            found = scope.values.get(name.id)
            if found:
                block = getattr(name, "block", None)
                before = [value for value in found if value.lineno < name.lineno]
                near = [value for value in before if getattr(value, "block", None) == block]
                since = near[-1].lineno if near else 0
                return [value for value in before if value.lineno >= since] or found
            scope = scope.outer
        return []

    def note(self, body: Iterable[ast.stmt]) -> None:
        """Take in the assignments of these statements, however deep, but for inner functions."""
        for node in _walk(body):
            targets: list[ast.expr] = []
            if isinstance(node, ast.Assign):
                targets = node.targets
            elif isinstance(node, ast.AnnAssign | ast.NamedExpr):
                targets = [node.target]
            value = getattr(node, "value", None)
            for target in targets:
                if isinstance(target, ast.Name) and value is not None:
                    self.values.setdefault(target.id, []).append(value)


def collect() -> list[Message]:
    """Return every message, in the order of the modules."""
    trees = {
        path: numbered(ast.parse(path.read_text()))
        for path in sorted([*ROOT.rglob("*.py"), *EXECUTABLE.rglob("*.py")])
        if not any(part.removesuffix(".py").startswith(NOT_READ) for part in path.parts)
    }
    templates: dict[str, Template] = {}
    for tree in trees.values():
        outer = Scope()
        outer.note(tree.body)
        templates |= _templates(tree, outer)
    found: dict[str, Message] = {}
    for path, tree in trees.items():
        outer = Scope()
        outer.note(tree.body)
        module = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
        own = templates | _templates(tree, outer)
        known = own | _makers(tree, outer, own)
        for pattern, line in _messages(tree.body, outer, known, ""):
            plain = tidy(pattern)
            if says_something(plain):
                found.setdefault(plain, Message(plain, module, line))
    for line, text in enumerate(SHELL.read_text().splitlines(), 1):
        for echoed in re.findall(r'^echo "(.*)" >&2$', text):
            plain = re.sub(r"\$\w+", ANY, echoed)
            found.setdefault(plain, Message(plain, "tools.build_executable", line))
    return list(found.values())


def tidy(pattern: str) -> str:
    """Return a pattern as the page has it: one line, no ``Error:`` before it."""
    text = re.sub(r"…(?: ?…)+", ANY, re.sub(r"\s+", " ", pattern).strip())
    if text.startswith("Error: Invalid value"):
        text = text.removesuffix(". Expected ….")
    return text.removeprefix("Error: ").replace("`", "'")


def says_something(pattern: str) -> bool:
    """Whether there are words of Milo's in it."""
    return len(re.findall(r"[A-Za-z]{2,}", pattern)) >= 2


def numbered(tree: ast.Module) -> ast.Module:
    """Give every node the number of the block of statements that it stands in."""
    blocks = itertools.count()

    def mark(node: ast.AST, block: int) -> None:
        node.block = block  # type: ignore[attr-defined]
        for _, value in ast.iter_fields(node):
            if isinstance(value, list):
                statements = bool(value) and isinstance(value[0], ast.stmt)
                inner = next(blocks) if statements else block
                for item in value:
                    if isinstance(item, ast.AST):
                        mark(item, inner)
            elif isinstance(value, ast.AST):
                mark(value, block)

    mark(tree, next(blocks))
    return tree


def _walk(body: Iterable[ast.stmt]) -> Iterator[ast.AST]:
    pending: list[ast.AST] = list(body)
    while pending:
        node = pending.pop(0)
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            pending += ast.iter_child_nodes(node)


def _templates(tree: ast.Module, outer: Scope) -> dict[str, Template]:
    found = {}
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef) or not node.bases:
            continue
        base = node.bases[0].id if isinstance(node.bases[0], ast.Name) else ""
        if not base.endswith(("Error", "Exception")):
            continue
        parameters: tuple[str, ...] = ()
        arguments: tuple[ast.expr, ...] = ()
        scope = Scope(outer=outer)
        for item in node.body:
            if isinstance(item, ast.FunctionDef) and item.name == "__init__":
                names = [*item.args.args[1:], *item.args.kwonlyargs]
                parameters = tuple(arg.arg for arg in names)
                scope.note(item.body)
                for call in ast.walk(item):
                    if isinstance(call, ast.Call) and _name(call.func) == "__init__":
                        arguments = tuple(call.args)
                break
        else:
            parameters, arguments = ("*",), ()
        found[node.name] = Template(parameters, base, arguments, scope)
    return found


def _makers(tree: ast.Module, outer: Scope, classes: dict[str, Template]) -> dict[str, Template]:
    """Return a module's own functions that return an error, as templates."""
    found = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("_"):
            made = [item.value for item in node.body if isinstance(item, ast.Return)]
            if len(made) == 1 and isinstance(made[0], ast.Call) and _name(made[0].func) in classes:
                scope = Scope(outer=outer)
                scope.note(node.body)
                names = tuple(arg.arg for arg in [*node.args.args, *node.args.kwonlyargs])
                call = made[0]
                found[node.name] = Template(names, _name(call.func), tuple(call.args), scope)
    return found


def _messages(
    body: Iterable[ast.stmt], scope: Scope, templates: dict[str, Template], function: str
) -> Iterator[tuple[str, int]]:
    for node in _walk(body):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if node.name in templates:
                continue
            inner = Scope(outer=scope)
            inner.note(node.body)
            yield from _messages(node.body, inner, templates, node.name)
        elif isinstance(node, ast.ClassDef):
            yield from _messages(node.body, scope, templates, "")
            if any("Enum" in ast.unparse(base) for base in node.bases):
                yield from _members(node, scope)
        elif isinstance(node, ast.Call):
            for pattern in _of_call(node, scope, templates):
                yield pattern, node.lineno
        elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Name):
            if node.exc.id in templates:
                for pattern in _through(node.exc.id, [], {}, templates):
                    yield pattern, node.lineno
        elif _is_shown(node, function) and node.value is not None:
            for pattern in _parts(node.value, scope):
                yield pattern, node.lineno


def _is_shown(
    node: ast.AST, function: str
) -> TypeGuard[ast.Return | ast.Yield | ast.Assign | ast.AugAssign]:
    if isinstance(node, ast.Return | ast.Yield):
        return function in SENTENCES | GATHERING
    return isinstance(node, ast.Assign | ast.AugAssign) and function in GATHERING


def _members(node: ast.ClassDef, scope: Scope) -> Iterator[tuple[str, int]]:
    """Yield the values of an enumeration that are sentences and no mere words."""
    for item in node.body:
        if isinstance(item, ast.Assign):
            for pattern in patterns(item.value, scope):
                if pattern.count(" ") > 3:
                    yield pattern, item.lineno


def _of_call(call: ast.Call, scope: Scope, templates: dict[str, Template]) -> Iterator[str]:
    name = _name(call.func)
    for word in call.keywords:
        if word.arg == "error" and name not in templates:
            yield from patterns(word.value, scope)
    if name in templates or (name.endswith("Error") and name[:1].isupper()):
        if name in FOREIGN or (name == "GRPCError" and len(call.args) < 2):
            return
        if name == "GRPCError":
            yield from patterns(call.args[1], scope)
        elif name in ("OSError", "FileNotFoundError"):
            yield from patterns(call.args[min(1, len(call.args) - 1)], scope)
        else:
            yield from _made(name, call, scope, templates)
    elif name == "Fingerprint" and len(call.args) > 1 and len(call.args) < 3:
        yield from patterns(call.args[1], scope)
    elif name in ("event", "append") and isinstance(call.func, ast.Attribute) and call.args:
        if name == "event" or _name(call.func.value) in ("notes", "problems", "reasons"):
            yield from patterns(call.args[0], scope)
    elif name in LOGGED and _name(getattr(call.func, "value", call)) == "_log":
        yield from (re.sub(r"%[a-z]", ANY, text) for text in patterns(call.args[0], scope))
    elif name in ("log", "_log") and len(call.args) > 1:
        level = call.args[0]
        if isinstance(level, ast.Constant) and level.value in ("info", "warn", "error"):
            yield from patterns(call.args[1], scope)
    elif name in ("Orphan", "Kept") and len(call.args) == 2:
        yield from patterns(call.args[1], scope)
    elif call.args and (name in SAYING or _goes_to_stderr(call)):
        yield from patterns(call.args[0], scope)
    elif name in ("encode", "write") and isinstance(call.func, ast.Attribute):
        source = call.args[0] if name == "write" and call.args else call.func.value
        for pattern in patterns(source, scope):
            if pattern.startswith(("[error]", "error: ")):
                yield pattern.removeprefix("[error]").removeprefix("error:").strip()


def _goes_to_stderr(call: ast.Call) -> bool:
    return _name(call.func) == "print" and any(word.arg == "file" for word in call.keywords)


def _made(name: str, call: ast.Call, scope: Scope, templates: dict[str, Template]) -> Iterator[str]:
    given = [patterns(argument, scope) for argument in call.args]
    words = {word.arg: patterns(word.value, scope) for word in call.keywords if word.arg}
    for combination in product(*given):
        yield from _through(name, list(combination), words, templates)


def _through(
    name: str, given: list[str], words: dict[str, list[str]], templates: dict[str, Template]
) -> Iterator[str]:
    template = templates.get(name)
    if template is None or template.parameters == ("*",):
        if template is not None and template.base in templates:
            yield from _through(template.base, given, words, templates)
        elif given:
            yield given[0]
        return
    values = dict(zip(template.parameters, ([text] for text in given), strict=False))
    values |= {key: value for key, value in words.items() if key in template.parameters}
    if name == "ConfigError":
        values["expected"] = [ANY]
    inner = [patterns(argument, template.scope, values) for argument in template.arguments]
    for combination in product(*inner):
        yield from _through(template.base, list(combination), {}, templates)


def _parts(node: ast.expr, scope: Scope) -> list[str]:
    """Return the patterns of a value that may be a tuple of several."""
    if isinstance(node, ast.Tuple | ast.List):
        return [text for item in node.elts for text in _parts(item, scope)]
    return patterns(node, scope)


def patterns(
    node: ast.expr, scope: Scope, given: dict[str, list[str]] | None = None, depth: int = 0
) -> list[str]:
    """Return what an expression may come to, with `ANY` for what is not known."""
    given = given or {}
    if depth > 6:
        return [ANY]
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else [ANY]
    if isinstance(node, ast.JoinedStr):
        pieces = [patterns(value, scope, given, depth + 1) for value in node.values]
        return ["".join(combination) for combination in product(*pieces)]
    if isinstance(node, ast.FormattedValue):
        return patterns(node.value, scope, given, depth) if node.conversion == -1 else [ANY]
    if isinstance(node, ast.Name):
        if node.id in given:
            return given[node.id]
        found = [
            text for value in scope.find(node) for text in patterns(value, scope, given, depth + 1)
        ]
        return list(dict.fromkeys(found)) or [ANY]
    if isinstance(node, ast.Call):
        return _passed(node, scope, given, depth)
    if isinstance(node, ast.IfExp):
        return [
            *patterns(node.body, scope, given, depth),
            *patterns(node.orelse, scope, given, depth),
        ]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        both = (patterns(node.left, scope, given, depth), patterns(node.right, scope, given, depth))
        return ["".join(pair) for pair in product(*both)]
    if isinstance(node, ast.BoolOp):
        found = [text for value in node.values for text in patterns(value, scope, given, depth)]
        return [text for text in dict.fromkeys(found) if text] or [ANY]
    return [ANY]


def _passed(call: ast.Call, scope: Scope, given: dict[str, list[str]], depth: int) -> list[str]:
    """Return the patterns of a call that hands on the text that it is given."""
    if _name(call.func) in ("cut", "printable", "_bounded") and call.args:
        return patterns(call.args[0], scope, given, depth + 1)
    if isinstance(call.func, ast.Attribute) and call.func.attr == "format":
        found = patterns(call.func.value, scope, given, depth + 1)
        return [re.sub(r"\{\w*\}", ANY, text) for text in found]
    if isinstance(call.func, ast.Attribute) and call.func.attr == "rstrip" and not call.args:
        return patterns(call.func.value, scope, given, depth + 1)
    return [ANY]


def _name(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def main() -> None:
    """Print the patterns."""
    module = ""
    for message in collect():
        if message.module != module:
            module = message.module
            print(f"\n{module}")
        print(f"  {message.pattern}")


if __name__ == "__main__":
    main()
