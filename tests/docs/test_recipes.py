"""The recipes by profession run as they stand, from two tables to the numbers that they name."""

from __future__ import annotations

import csv
import re
import shlex
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from heterofed.cli.app import cli
from tests.docs.samples import blocks, executed
from tests.e2e.processes import ROOT

GUIDES = ROOT / "docs/how-to"
RECIPES = [
    "bank.md",
    *(
        pytest.param(each, marks=pytest.mark.long)
        for each in ("hospital.md", "insurer.md", "retail.md")
    ),
]

pytestmark = [pytest.mark.usefixtures("home"), pytest.mark.slow]


def invoked(line: str) -> Any:
    """What `$ heterofed ...` does, on a thread of this process."""
    with cli.make_context("heterofed", shlex.split(line)[2:]) as context:
        return cli.invoke(context)


@pytest.mark.parametrize("page", RECIPES)
def test_a_recipe_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    executed(GUIDES / page, {})
    for block in blocks(GUIDES / page, "console"):
        lines = block.splitlines()
        with ThreadPoolExecutor(len(lines)) as pool:  # the lines of one block: one for each party
            for each in [pool.submit(invoked, line) for line in lines]:
                each.result()
    text = (GUIDES / page).read_text(encoding="utf-8")
    said = re.search(r"^What to look at: (.*?)`(heterofed_runs/\S+/test\.csv)`", text, re.M | re.S)
    assert said
    with (tmp_path / said[2]).open(newline="") as file:
        *_, numbers = csv.DictReader(file)
    named = re.findall(r"`(\w+)`", said[1])
    assert named
    assert set(named) <= numbers.keys()
    score = next(name for name in ("auc", "r2") if name in numbers)
    assert float(numbers[score]) > {"auc": 0.6, "r2": 0.0}[score]
