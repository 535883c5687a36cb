"""Mutation testing: small changes to a module, one at a time, that its tests have to notice.

`python .ci/mutants.py [--only MODULE]` tests the mutants of the modules in `mutants.toml`, each
module in a copy of the tree under `build/mutants/`. A mutant that was killed counts as killed until
its module changes; survivors are tried again at every call, since tests may have been added. The
exit code is 1 where fewer are killed than `mutants.toml` demands.

Cosmic Ray makes the mutants; `trials.py` runs the tests.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.util
import json
import os
import random
import re
import resource
import shutil
import sys
import tomllib
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import CodeType
from typing import Any

from cosmic_ray.commands import init
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator
from cosmic_ray.work_db import use_db
from cosmic_ray.work_item import MutationSpec
from trials import Swapping, forked, functions_changed, run

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "mutants"
COPIED = ("heterofed", "psi", "tests", "examples", "benchmarks", "pyproject.toml")
SETTINGS = tomllib.loads((ROOT / ".ci" / "mutants.toml").read_text())
OPERATORS = re.compile("core/(?:" + "|".join(SETTINGS["operators"]) + ")")
PROGRESS = os.dup(1)
"""Where to tell how far it is, also from forks that are silent."""


@dataclass(frozen=True)
class Mutant:
    """One change of a module."""

    spec: MutationSpec
    code: str

    @property
    def key(self) -> str:
        """What names it as long as its module stays as it is."""
        return hashlib.sha256(self.code.encode()).hexdigest()[:16]


class Module:
    """A module, its tests, and the copy of the tree in which its mutants are tested."""

    def __init__(self, path: str, tests: list[str]) -> None:
        self.path = path
        self.tests = tests
        self.source = (ROOT / path).read_text()
        name = path.removesuffix(".py").replace("/", ".")
        self.tree = WORK / name
        self.results = WORK / f"{name}.json"
        self.outcomes = self._kept()

    def mutants(self, sample: int) -> list[Mutant]:
        """Give the mutants to test, different ones that compile: all, or a sample of so many."""
        specs = self._specs()
        random.Random(0).shuffle(specs)
        made: dict[str, Mutant] = {}
        for spec in specs:
            code = _mutated(self.source, spec)
            if code is not None:
                mutant = Mutant(spec, code)
                made[mutant.key] = mutant
            if len(made) == sample:
                break
        return list(made.values())

    def _specs(self) -> list[MutationSpec]:
        with use_db(":memory:") as database:
            init([ROOT / self.path], database, {})
            specs = [spec for item in database.work_items for spec in item.mutations]
        chosen = [each for each in specs if OPERATORS.fullmatch(each.operator_name)]
        return sorted(chosen, key=lambda each: (each.operator_name, each.occurrence))

    def prepare(self) -> None:
        """Copy the tree; there the tests must pass, and fail where the module is broken."""
        shutil.rmtree(self.tree, ignore_errors=True)
        self.tree.mkdir(parents=True)
        for name in COPIED:
            _copy(ROOT / name, self.tree / name)
        (self.tree / self.path).write_text(self.source)  # the repository may have changed since
        os.chdir(self.tree)
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        if forked(partial(run, self.tests, compiled=True)) != "survived":
            sys.exit(f"{self.path}: its tests fail without any mutant")
        used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
        self.processor_seconds = 3 + 3 * used
        _show(f"{self.path}: its tests take {used:.1f} s\n")
        Path(importlib.util.cache_from_source(self.path)).unlink(missing_ok=True)
        if self._test("raise RuntimeError") == "survived":
            sys.exit(f"{self.path}: its tests do not use the copy in {self.tree}")

    def test(self, mutants: list[Mutant]) -> dict[str, str]:
        """Give "killed", "late" or "survived" for the key of each mutant."""
        for key in [key for key, outcome in self.outcomes.items() if outcome == "survived"]:
            del self.outcomes[key]
        pending = {each.key: each.code for each in mutants if each.key not in self.outcomes}
        # Those that can take the place of what was imported, and then all that are left.
        before = self._compiled(self.source)
        changed = {
            key: functions_changed(before, self._compiled(code)) for key, code in pending.items()
        }
        swapping = {key: codes for key, codes in changed.items() if codes}
        plugin = Swapping(self.tree / self.path, swapping, self.processor_seconds, self._note)
        self._pending = len(pending)
        self._known = len(self.outcomes)
        if forked(partial(run, self.tests, plugin)) != "survived":
            sys.exit(f"{self.path}: its tests could not be collected")
        self.outcomes = self._kept()
        for key, code in pending.items():
            if key not in self.outcomes:
                self._note(key, self._test(code))
        _show("\n" if pending else "")
        return {each.key: self.outcomes[each.key] for each in mutants}

    def _compiled(self, code: str) -> CodeType:
        return compile(code, str(self.tree / self.path), "exec", dont_inherit=True)

    def _note(self, key: str, outcome: str) -> None:
        self.outcomes[key] = outcome
        self.results.write_text(json.dumps(self.outcomes))
        tested = len(self.outcomes) - self._known
        os.write(PROGRESS, f"\r{self.path}: {tested} of {self._pending}".encode())

    def _kept(self) -> dict[str, str]:
        return json.loads(self.results.read_text()) if self.results.exists() else {}

    def _test(self, code: str) -> str:
        Path(self.path).write_text(code)
        try:
            return forked(partial(run, self.tests), self.processor_seconds)
        finally:
            Path(self.path).write_text(self.source)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


def _mutated(source: str, spec: MutationSpec) -> str | None:
    """The code of a mutant; None where that is no code."""
    try:
        code = mutate_code(source, get_operator(spec.operator_name)(), spec.occurrence)
        compile(code, "mutant", "exec")
    except SyntaxError:
        return None
    except AttributeError:  # Cosmic Ray cannot replace an exception with a dotted name
        return None
    return code


def _show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def report(module: Module, mutants: list[Mutant], outcomes: dict[str, str]) -> float:
    """Print the survivors and the counts; gives the share that was killed."""
    source = module.source.splitlines()
    for each in sorted(mutants, key=lambda mutant: mutant.spec.start_pos):
        if outcomes[each.key] == "survived":
            line = each.spec.start_pos[0]
            _show(f"{module.path}:{line} {each.spec.operator_name.removeprefix('core/')}\n")
            _show(f"  - {source[line - 1].strip()}\n")
            _show(f"  + {each.code.splitlines()[line - 1].strip()}\n")
    counts = Counter(outcomes.values())
    killed = counts.total() - counts["survived"]
    _show(
        f"{module.path}: {counts.total()} mutants, {killed} killed"
        f" ({counts['late']} by a time limit), {counts['survived']} survived:"
        f" {killed / counts.total():.1%}\n"
    )
    return killed / counts.total()


def main() -> int:
    """Test what the command line chooses; give the exit code."""
    parser = argparse.ArgumentParser(description="Test mutants of the modules in mutants.toml.")
    parser.add_argument("--only", default="", help="a module, or the end of its path")
    parser.add_argument("--list", action="store_true", help="count the mutants; test none")
    parser.add_argument("--sample", type=int, default=0, help="of each module, test so many alone")
    arguments = parser.parse_args()
    chosen: list[dict[str, Any]] = [
        each for each in SETTINGS["module"] if each["path"].endswith(arguments.only)
    ]
    if not chosen:
        parser.error(f"{arguments.only} is not in .ci/mutants.toml")
    os.environ["OMP_NUM_THREADS"] = "1"  # threads do not live through a fork
    # pytest wants to be the first that imports plugins which it finds by itself.
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    for name in SETTINGS["warmed"]:
        importlib.import_module(name)
    shares = []
    for each in chosen:
        module = Module(**each)
        mutants = module.mutants(arguments.sample)
        if arguments.list:
            _show(f"{module.path}: {len(mutants)} mutants\n")
        else:
            module.prepare()
            shares.append(report(module, mutants, module.test(mutants)))
    return int(any(share < SETTINGS["least_killed"] for share in shares))


if __name__ == "__main__":
    sys.exit(main())
