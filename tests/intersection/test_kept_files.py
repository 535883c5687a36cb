"""Files for reuse go when nobody has used them for long, and nothing else goes with them."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from heterofed.intersection.storage import KEPT_DAYS, folder_for_reuse


@pytest.mark.parametrize("name", ["intersections", "filters"])
def test_what_nobody_uses_is_removed(name: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    run: Any = SimpleNamespace(ledger=tmp_path)
    folder = folder_for_reuse(run, name)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("")
    days = {"a": 1, "b": KEPT_DAYS - 1, "c": KEPT_DAYS + 1, ".0.new": 0.5, ".1.new": 1.5}
    for each, age in days.items():
        (folder / each).write_text("")
        os.utime(folder / each, (time.time() - age * 86_400,) * 2)
    (folder / "0").mkdir()  # which is no file, and comes first
    os.utime(folder / "0", (0, 0))
    (folder / "link").symlink_to(elsewhere)
    os.utime(folder / "link", (0, 0), follow_symlinks=False)
    assert folder_for_reuse(run, name) == folder
    assert {each.name for each in folder.iterdir()} == {"0", "a", "b", ".0.new"}
    assert elsewhere.exists()
