"""What others must not guess has 128 bits or more, and nothing that is told is made of it."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from heterofed.runs.run import drawn_order, drawn_seed
from tests.e2e.tiny import TinyCollaborator, TinyHost, run

pytestmark = pytest.mark.usefixtures("home")

ROOT = Path(__file__).resolve().parents[2]
BITS = {"token_bytes": 8, "urandom": 8, "token_hex": 8, "token_urlsafe": 8, "randbits": 1}
"""Bits for each unit that a function is asked for."""

NO_SECRETS = {
    ("heterofed/cli/demo.py", "token_hex"): "names a task",
    ("heterofed/tabular/fitted.py", "token_hex"): "names a task",
    ("heterofed/runs/records/recorder.py", "token_bytes"): "tells the launches of a run apart",
    ("heterofed/files/private_files.py", "token_hex"): "names a draft, which must not be there yet",
    ("psi/storage/files.py", "token_hex"): "names a draft, which must not be there yet",
    ("heterofed/runs/run.py", "randbits"): "the order of rows, which all are told",
    ("heterofed/transport/zeromq/routes.py", "randbits"): "as much as libc takes",
}


def asked(path: Path) -> list[tuple[str, int]]:
    """Functions that draw what is secret, and how many bits where that is written there."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        name = getattr(getattr(node, "func", None), "attr", "")
        if isinstance(node, ast.Call) and name in BITS and node.args:
            size = node.args[0]
            units = getattr(size, "value", None)
            known = units if isinstance(units, int) else _named(path, size)
            found.append((name, known * BITS[name]))
    return found


def _named(path: Path, size: ast.expr) -> int:
    """The value of a constant of that module, or enough where it is computed."""
    name = size.id if isinstance(size, ast.Name) else ""
    for node in ast.parse(path.read_text()).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else None
        if isinstance(target, ast.Name) and target.id == name and isinstance(node, ast.Assign):
            return int(ast.literal_eval(node.value))
    return 1 << 10


@pytest.mark.parametrize("package", ["heterofed", "psi"])
def test_secrets_have_128_bits(package: str) -> None:
    few = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        where = path.relative_to(ROOT).as_posix()
        for name, bits in asked(path):
            if bits < 128 and (where, name) not in NO_SECRETS:
                few[where] = bits
    assert not few


def test_a_seed_that_is_drawn_cannot_be_tried_out() -> None:
    assert len({drawn_seed() for _ in range(100)}) == 100
    assert len(drawn_seed()) == 32


def test_the_order_of_rows_tells_nothing_of_a_seed() -> None:
    """It was a hash of the seed: whoever had the plan could try seeds out, one by one."""
    assert drawn_order("a", 1) == drawn_order("a", 2**63 - 1)
    assert drawn_order("a", 1) != drawn_order("b", 1)
    assert len({drawn_order("a", None) for _ in range(100)}) == 100


@pytest.mark.slow
@pytest.mark.parametrize("seed", [None, 5])
def test_plans_do_not_hang_on_the_hosts_seed(seed: int | None, tmp_path: Path) -> None:
    told, seeds = [], []
    for number in range(2):
        folder = tmp_path / str(number)
        given = None if seed is None else seed + number
        host: Any = TinyHost(folder, seed=given, max_rounds=1, shuffle=True)
        outcomes = run(host, TinyCollaborator(folder, seed=given))
        assert not any(isinstance(each, BaseException) for each in outcomes), outcomes
        told.append(host._heterofed.run.plan.seed)
        seeds.append(host._heterofed.run.seed)
    assert seeds[0] != seeds[1]
    assert (told[0] == told[1]) == (seed is not None)
    assert all(isinstance(each, bytes) == (seed is None) for each in seeds)
