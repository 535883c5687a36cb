"""Lists the packages and modules with the rules that their docstrings open with."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from docs.generator.markdown import ROOT, table


def module_files() -> list[Path]:
    """Every module of the two packages, outermost first."""
    found = [*(ROOT / "heterofed").rglob("*.py"), *(ROOT / "psi").rglob("*.py")]
    return sorted(each for each in found if each.name != "_version.py")


def imports_of(tree: ast.Module) -> Iterator[str]:
    """What a module imports when it runs; not what only type checkers read."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for each in node.names:
                inner = ROOT / node.module.replace(".", "/") / each.name
                is_module = inner.is_dir() or inner.with_suffix(".py").is_file()
                yield f"{node.module}.{each.name}" if is_module else node.module
        waiting.extend(ast.iter_child_nodes(node))


def module_table(package: str) -> str:
    """Each module of a package: its rule, and what it imports."""
    rows = []
    for path in module_files():
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[0] != package:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        rule = " ".join((ast.get_docstring(tree) or "").split("\n\n")[0].split())
        imported = set(imports_of(tree))
        ours = sorted(
            each.removeprefix("heterofed.") for each in imported if _top(each) == "heterofed"
        )
        psi_parts = sorted(
            each.removeprefix("psi.") if package == "psi" else each
            for each in imported
            if _top(each) == "psi"
        )
        others = sorted(
            {
                _top(each)
                for each in imported
                if _top(each) not in {"heterofed", "psi", *sys.stdlib_module_names}
            }
        )
        name = ".".join(part for part in parts[1:] if part != "__init__") or package
        rows.append([f"`{name}`", rule, ", ".join([*ours, *psi_parts]), ", ".join(others)])
    return table(["module", "its rule", "imports of ours", "of others"], iter(rows))


def package_table() -> str:
    """Each package, and the rule that its first line says."""
    rows = []
    for path in module_files():
        if path.name == "__init__.py" and len(path.relative_to(ROOT).parts) > 2:
            said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            rule = " ".join(said.split("\n\n")[0].split())
            rows.append([f"`{path.relative_to(ROOT).parent.as_posix()}/`", rule])
    return table(["package", "its rule"], iter(rows))


def _top(module: str) -> str:
    return module.partition(".")[0]
