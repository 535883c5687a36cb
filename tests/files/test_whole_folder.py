"""A folder appears whole or not at all, and nothing is left of it by a process that was killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from heterofed.files import whole_folder

MORTAL = """
import os, pathlib, signal, sys
from heterofed.files import whole_folder

with whole_folder(pathlib.Path(sys.argv[1])) as draft:
    (draft / "x").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "new" / "a") as draft:
        (draft / "x").write_text("whole")
        assert not (tmp_path / "new" / "a").exists()
    assert (tmp_path / "new" / "a" / "x").read_text() == "whole"
    assert (tmp_path / "new" / "a").stat().st_mode & 0o777 == 0o700
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "b") as draft:
        (draft / "x").write_text(str(1 / 0))
    with pytest.raises(OSError, match="not empty"), whole_folder(tmp_path / "new" / "a"):
        pass
    assert [each.name for each in tmp_path.rglob("*")] == ["new", "a", "x"]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    """But nothing of a living one, of another folder, or of the user, and no link is followed."""
    kept = tmp_path / "kept"
    kept.mkdir()
    for name in (".a.heterofed", ".ab.0.draft", ".a.x.draft.txt"):
        (tmp_path / name).mkdir()
    (tmp_path / ".a.y.draft").symlink_to(kept)
    others = {each.name for each in tmp_path.iterdir()}
    command = [sys.executable, "-c", MORTAL, str(tmp_path / "a")]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob(".a.*.draft/x"))) == 1
    with whole_folder(tmp_path / "a") as living:
        assert {each.name for each in tmp_path.iterdir()} == {*others, living.name}
        with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "a"):
            raise ZeroDivisionError
        assert living.is_dir()
    assert {each.name for each in tmp_path.iterdir()} == {*others, "a"}
