"""Mutation testing finds its files, and puts a changed function where nothing else changes."""

from __future__ import annotations

import importlib.util
import sys
import tomllib
from types import CodeType, ModuleType

import pytest

from tests.e2e.processes import ROOT

SETTINGS = tomllib.loads((ROOT / ".ci" / "mutants.toml").read_text())
SOURCE = """
LIMIT = 3
class Account:
    most = LIMIT
    def may(self, amount, least=1):
        return any(least <= each <= self.most for each in [amount])
    @property
    def open(self):
        return self.may(2)
def alike():
    return 1
"""


@pytest.fixture(scope="module")
def trials() -> ModuleType:
    spec = importlib.util.spec_from_file_location("trials", ROOT / ".ci" / "trials.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("module", SETTINGS["module"], ids=lambda module: module["path"])
def test_modules_and_their_tests_are_there(module: dict[str, object]) -> None:
    tests = module["tests"]
    assert isinstance(tests, list)
    assert tests
    for path in (module["path"], *tests):
        assert (ROOT / str(path)).is_file(), path


def compiled(old: str = "", new: str = "") -> CodeType:
    assert old in SOURCE
    return compile(SOURCE.replace(old, new) if old else SOURCE, "module.py", "exec")


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("return 1", "return 2", "alike"),
        ("return 1", "return True", "alike"),
        ("may(2)", "may(-2)", "Account.open"),
        ("<= self", "< self", "Account.may"),
    ],
)
def test_a_function_is_changed_alone(trials: ModuleType, old: str, new: str, name: str) -> None:
    changed = trials.functions_changed(compiled(), compiled(old, new))
    assert [place for place, _ in changed] == [name]
    (code,) = changed.values()
    assert isinstance(code, CodeType)
    assert code.co_qualname == name


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("LIMIT = 3", "LIMIT = 4"),
        ("LIMIT = 3", "LIMIT = 3.0"),
        ("most = LIMIT", "most = -LIMIT"),
        ("least=1", "least=0"),
        ("    @property\n", ""),
    ],
)
def test_what_an_import_does_is_no_function(trials: ModuleType, old: str, new: str) -> None:
    assert trials.functions_changed(compiled(), compiled(old, new)) is None


def test_equal_code_has_no_change(trials: ModuleType) -> None:
    assert trials.functions_changed(compiled(), compiled()) == {}
    assert "cosmic_ray" not in sys.modules
