"""Every error that a user sees ends with what to do about it."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from heterofed import errors
from tests.e2e.processes import ROOT

FOR_USERS = {
    name
    for name, each in vars(errors).items()
    if inspect.isclass(each) and issubclass(each, errors.TaskFailed | errors.ConfigError)
}
VERBS = {
    "accept", "add", "agree", "ask", "bring", "call", "change", "choose", "compare", "compress",
    "convert", "correct", "declare", "define", "drop", "encode", "end", "export", "find", "fix",
    "free", "freeze", "give", "have", "install", "leave", "let", "list", "look", "lower", "make",
    "mark", "measure", "move", "name", "open", "pass", "pip", "predict", "put", "raise", "read",
    "remove", "rename", "replace", "restore", "return", "run", "save", "say", "scale", "see",
    "set", "shorten", "show", "start", "stop", "take", "train", "update", "use", "wait", "write",
    "yield",
}  # fmt: skip
"""The verbs with which a remedy begins, as in `give one id per row`."""

REMEDIES = {"_kind_of", "advice", "OWN_HOME", "REMEDY", "hint", "missing", "remedy", "LOADABLE"}
"""The names that stand for a remedy within a message."""

WITHOUT = {
    "heterofed/protocol/codec.py": "the party that reads the frame adds its name and the remedy",
    "heterofed/protocol/session.py": "the party that reads the message adds them",
    "heterofed/messaging/peer.py": "the party that reads the message adds them",
    "heterofed/transport/zeromq/listener.py": "the Host's place adds the remedy",
}
"""The modules whose errors get their remedy elsewhere, and where."""

OTHERS = ("heterofed/tabular", "heterofed/reporting", "heterofed/report", "heterofed/watch")
CODE = [
    path
    for path in sorted((ROOT / "heterofed").rglob("*.py"))
    if not any((ROOT / each) in path.parents for each in OTHERS)
    and str(path.relative_to(ROOT)) not in WITHOUT
]


def messages(tree: ast.AST) -> Iterator[tuple[int, ast.expr]]:
    """The line and the message of every error for users that a module makes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args:
            name = getattr(node.func, "id", getattr(node.func, "attr", None))
            if name in FOR_USERS:
                yield node.lineno, node.args[0]


def written(message: ast.expr) -> str:
    """The text of a message; what is put into it stands as its last name, in braces."""
    if isinstance(message, ast.Constant):
        return str(message.value)
    if isinstance(message, ast.JoinedStr):
        return "".join(map(written, message.values))
    if isinstance(message, ast.BinOp):
        return written(message.left) + written(message.right)
    if isinstance(message, ast.IfExp):
        return written(message.body)
    inner = message.value if isinstance(message, ast.FormattedValue) else message
    inner = inner.func if isinstance(inner, ast.Call) else inner
    name = getattr(inner, "attr", getattr(inner, "id", ""))
    return f"{{{name}}}" if name else "{}"


def has_remedy(text: str) -> bool:
    """Whether a clause begins with a verb, says what a hook must do, or is a remedy by its name."""
    if set(re.findall(r"\{(\w+)\}", text)) & REMEDIES:
        return True
    if re.search(r"[;:] it must ", text):
        return True
    clauses = re.split(r"[;:,.?(]\s+|\b(?:or|so|then)\s", text)
    firsts = [clause.split()[0].lower() for clause in clauses if clause.split()]
    return any(first.strip("`") in VERBS for first in firsts)


def faults(tree: ast.AST) -> list[str]:
    """The messages without a remedy; one that is computed elsewhere is left out."""
    found = ((line, written(message)) for line, message in messages(tree))
    return [
        f"line {line}: {text}"
        for line, text in found
        if re.search(r"[a-z] [a-z]", text) and not has_remedy(text)
    ]


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_messages_end_with_a_remedy(path: Path) -> None:
    assert not faults(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("kind", errors.BY_CODE.values(), ids=lambda kind: kind.code)
def test_what_other_parties_are_told_ends_with_a_remedy(kind: type[errors.TaskFailed]) -> None:
    assert has_remedy(kind.summary), kind.summary


def test_the_check_sees_messages_without_a_remedy() -> None:
    code = (
        'raise ConfigError(f"{name} is not a number")\n'
        'raise ConfigError(f"{name} is not a number; give one")\n'
        'raise errors.DataError("the table is empty: there is no row", party=one)\n'
        "raise IdError(str(error))\n"
        'raise ValueError("not for users")\n'
    )
    found = faults(ast.parse(code))
    assert [each.split(":")[0] for each in found] == ["line 1", "line 3"]
