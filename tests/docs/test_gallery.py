"""The gallery shows every example, and prints what the example prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.generator.gallery import EXAMPLES, RECORDS
from docs.record import printed
from tests.e2e.processes import ROOT


def test_every_example_is_in_the_gallery() -> None:
    folders = {each.parent.name for each in (ROOT / "examples").glob("*/__init__.py")}
    assert set(EXAMPLES) == folders
    for name, example in EXAMPLES.items():
        assert (RECORDS / f"{name}.txt").read_text().strip(), name
        assert (RECORDS / f"{name}.png").is_file() == bool(example.picture), name


def without_figures(text: str) -> str:
    return re.sub(r"[0-9.]+(e-?[0-9]+)?", "#", text)


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_an_example_prints_what_the_gallery_shows(name: str, mnist: Path, tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(mnist)
    shown = (RECORDS / f"{name}.txt").read_text(encoding="utf-8")
    assert without_figures(printed(EXAMPLES[name], tmp_path)) == without_figures(shown)
