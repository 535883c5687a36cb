"""Code, documentation and messages use the standard terms of the field."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.e2e.processes import ROOT

STANDARD = {
    "allowance": "quota",
    "deed": "audit event",
    "doorman": "connection limiter",
    "errand": "subtask",
    "farewell": "goodbye, bye timeout",
    "mend": "fix, correct",
    "mended": "fixed, corrected",
    "mends": "fixes, corrects",
}
"""Words that no name and no text may have, and the terms to use."""

NAMES = {
    **STANDARD,
    "bears": "transfer deadline",
    "door": "admission",
    "outbound": "egress",
    "stand": "imputer, feature means",
    "stands": "imputer, feature means",
    "visits": "rate limit",
}
"""Words that no name of the packages may have; texts may have them in their common meaning."""

CODE = sorted([*(ROOT / "heterofed").rglob("*.py"), *(ROOT / "psi").rglob("*.py")])
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def words(text: str) -> set[str]:
    """The words of a text or name in lower case; `camelCase` and `snake_case` are taken apart."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", text)
    return {each.lower() for each in re.findall(r"[A-Za-z]+", apart.replace("_", " "))}


def names(tree: ast.AST) -> Iterator[str]:
    """Every name that a module defines or uses."""
    for node in ast.walk(tree):
        for field in ("id", "attr", "arg", "name", "asname"):
            if isinstance(name := getattr(node, field, None), str):
                yield name


def test_texts_use_standard_terms() -> None:
    for path in [*CODE, *PAGES]:
        found = words(path.read_text(encoding="utf-8")) & STANDARD.keys()
        assert not found, (path, {each: STANDARD[each] for each in found})


def test_names_use_standard_terms() -> None:
    for path in CODE:
        for name in {path.stem, *names(ast.parse(path.read_text(encoding="utf-8")))}:
            wrong = words(name) & NAMES.keys()
            assert not wrong, (path, name, [NAMES[each] for each in wrong])


def test_the_check_sees_names_and_texts() -> None:
    code = "def send_errand(door):\n    return door.Doorman"
    found = {each for name in names(ast.parse(code)) for each in words(name)}
    assert found & NAMES.keys() == {"door", "doorman", "errand"}
    assert words("Mend it; then `_farewellSeconds`.") & STANDARD.keys() == {"mend", "farewell"}


COMPLETE = ("psi", *(f"heterofed/{name}" for name in (
    "cli", "compute", "data", "files", "hetero_nn", "homo_nn", "identity", "intersection",
    "messaging",
    "privacy", "protocol", "rendezvous", "report", "reporting/trackers", "runs", "simulation",
    "tabular", "transport",
)))  # fmt: skip
"""The packages whose docstrings all begin with a subject or a verb."""

ELLIPTIC = {"As", "How", "Of", "That", "What", "Where", "Whom", "Whose"}
"""Words with which a docstring begins that is no full sentence."""


def elliptic(tree: ast.AST) -> list[str]:
    """The beginnings of docstrings, also of names, that are no full sentences."""
    texts = (
        node.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    )
    return [each[:60] for each in texts if isinstance(each, str) and each.split()[0] in ELLIPTIC]


@pytest.mark.parametrize("package", COMPLETE)
def test_docstrings_are_full_sentences(package: str) -> None:
    assert (ROOT / package).is_dir()
    found = {
        str(path.relative_to(ROOT)): each
        for path in CODE
        if (ROOT / package) in path.parents
        for each in elliptic(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert not found, found


def test_the_check_sees_elliptic_docstrings() -> None:
    code = 'def f():\n    """What is kept."""\n\n\nLIMIT = 1\n"""Of bytes."""\n"""The limit."""\n'
    assert set(elliptic(ast.parse(code))) == {"What is kept.", "Of bytes."}
