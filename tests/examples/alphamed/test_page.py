"""The names on the page "Coming from AlphaMed" are there, or are not, as it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import heterofed.hetero_nn
import heterofed.scheduler
from heterofed.metrics import Metrics
from tests.e2e.processes import ROOT
from tests.e2e.tiny import TinyCollaborator, TinyHost

PAGE = ROOT / "docs" / "how-to" / "coming-from-alphamed.md"


def names(heading: str) -> list[str]:
    """What stands in code in the first column of a section's table."""
    (section,) = re.findall(rf"^## {heading}$(.*?)(?=^## |\Z)", PAGE.read_text(), re.M | re.S)
    cells = re.findall(r"^\| ([^|]*) \|", section, re.MULTILINE)
    return [code for cell in cells for code in re.findall(r"`([^`]+)`", cell)]


@pytest.fixture
def schedulers(tmp_path: Path) -> list[Any]:
    return [TinyHost(tmp_path), TinyCollaborator(tmp_path)]


def test_what_stays(schedulers: list[Any]) -> None:
    stays = names("What stays")
    imports = [code for code in stays if code.startswith("from ")]
    assert len(imports) == 10
    for code in imports:
        exec(code, {})
    shown = {"self.feature_model", "self.infer_model", "self.optimizer"}  # made in a run only
    own = {"self.batch_size", "self.data_dir", "self.device", "self.seed", "log_rounds"}
    for code in sorted({*stays} - {*imports} - shown - own):
        member = code.removeprefix("self.").split("(")[0]
        assert any(hasattr(type(each), member) for each in schedulers), code


def test_what_is_not_there(schedulers: list[Any]) -> None:
    gone = names("What is not there")
    assert len(gone) > 15
    places = [*schedulers, Metrics, heterofed.hetero_nn, heterofed.scheduler]
    for code in gone:
        assert not any(hasattr(each, code.removeprefix("self.")) for each in places), code
