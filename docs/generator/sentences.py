"""Collects the sentences that the command says, as templates that can be translated.

A template is a string in the code whose places are numbered: `f"{self.name} has no row"` becomes
`{0} has no row`. `heterofed/cli/sentences.py` finds the template of what is said.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

SPEAKING: tuple[str, ...] = (
    *("cli/bundle.py", "cli/diagnosis.py", "cli/machine.py", "cli/options.py", "cli/probe.py"),
    *("cli/app.py", "cli/demo.py", "cli/new.py", "cli/own_ids.py", "cli/own_party.py"),
    *("cli/psi.py", "cli/report.py", "cli/serve.py", "cli/table.py", "cli/table_check.py"),
    *("cli/table_overlap.py", "cli/table_tasks.py", "cli/table_take_home.py", "cli/task.py"),
    *("cli/trust.py", "cli/visit.py", "cli/watch.py", "errors.py", "reporting/results.py"),
    "reporting/task_result.py",
    *("tabular/inspect.py", "tabular/table.py", "tabular/overlap.py", "tabular/party.py"),
    *("tabular/splits.py", "tabular/ids", "tabular/objectives", "tabular/sources"),
    *("tabular/prepare/preparation.py", "tabular/prepare/values.py"),
    *("intersection/host.py", "intersection/collaborator.py", "intersection/request.py"),
    "hetero_nn/predict/quota.py",
    *("identity/keys.py", "identity/task_file.py", "identity/task_terms.py"),
    *("rendezvous/address.py", "rendezvous/backend.py", "rendezvous/join.py"),
    *("rendezvous/local.py", "rendezvous/agreement.py"),
    *("rendezvous/admission.py", "rendezvous/ways.py"),
)
"""The modules, and packages, whose strings a user may read when files or options are wrong."""

WORDS = (
    *("error", "note", "interrupted", "missing", "blank", "column", "holds", "values", "becomes"),
    *("numeric", "boolean", "category", "categories", "date", "text", "tags", "constant", "id"),
    *("label", "warning: {0}", "; "),
)
"""Single words that are shown by themselves, and what stands between sentences."""

_LEAST_LETTERS = 9
"""A template with less text between its places would be found in sentences that are others."""

_NO_SENTENCE = re.compile(
    r"\b(SELECT|NULLIF|FROM|WHERE|CASE|COALESCE|CAST|ATTACH|DETACH|CREATE TABLE|SET|USE|TRY|AS c)\b"
    r"|%[sd(]|\\[dwb.]|[\n\t]|VARCHAR| \| |\[\^|^[#<(]|heterofed tabular"
    r"|Maximum line size|^line size$|Query interrupted"
)
"""What tells SQL, patterns and the text of files from sentences."""


_PLACE = re.compile(r"\{\d+\}")
"""A place in a text that is a template already, and is filled in by `format`."""


def templates(package: Path) -> list[str]:
    """Return the templates of all sentences, each once."""
    found = dict[str, None]()
    for name in SPEAKING:
        place = package / name
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            found |= dict.fromkeys(filter(is_sentence, map(template, _strings(tree))))
    return sorted({*found, *WORDS})


def template(node: ast.expr) -> str:
    """Return a string of the code with numbers in its places."""
    count = 0

    def written(part: ast.expr) -> str:
        nonlocal count
        if isinstance(part, ast.Constant):
            text = str(part.value)
            return text if _PLACE.search(text) else text.replace("{", "{{").replace("}", "}}")
        if isinstance(part, ast.JoinedStr):
            return "".join(map(written, part.values))
        if _is_sum(part):
            return written(part.left) + written(part.right)  # type: ignore[attr-defined]
        count += 1
        return f"{{{count - 1}}}"

    return written(node)


def is_sentence(text: str) -> bool:
    """Return whether it has words that a person reads, and is neither SQL nor a pattern."""
    words = re.findall(r"[A-Za-z]{2,}", text)
    enough = sum(map(len, words)) >= _LEAST_LETTERS or not text.startswith("{")
    return " " in text.strip() and bool(words) and enough and not _NO_SENTENCE.search(text)


def _strings(node: ast.AST) -> Iterator[ast.expr]:
    """Yield the strings of a tree, and those in their places; no docstring, no text of help."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return
    if isinstance(node, ast.keyword) and node.arg in ("help", "metavar"):
        return
    if isinstance(node, ast.Assign) and "summary" in map(ast.unparse, node.targets):
        return  # the meaning of that class of errors is translated
    if isinstance(node, ast.expr) and _is_text(node):
        yield node
        for part in ast.walk(node):
            if isinstance(part, ast.FormattedValue):
                yield from _strings(part.value)
        return
    for child in ast.iter_child_nodes(node):
        yield from _strings(child)


def _is_text(node: ast.AST) -> bool:
    is_constant = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return is_constant or isinstance(node, ast.JoinedStr) or _is_sum(node)


def _is_sum(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.Add)
        and (_is_text(node.left) or _is_text(node.right))
    )
