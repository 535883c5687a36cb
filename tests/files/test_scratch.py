"""Temporary folders of processes that were killed go; those of living ones stay."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from heterofed.files import temporary_folder
from heterofed.files.scratch import SCRATCH_LOCK, SCRATCH_SECONDS

HOLDS = (
    "import time; from heterofed.files import temporary_folder\n"
    "with temporary_folder() as folder:\n"
    "    (folder / 'rows').write_bytes(b'secret'); print(folder, flush=True); time.sleep(120)"
)


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def aged(folder: Path) -> Path:
    """The folder, as it is once its lock is not new any more."""
    before = time.time() - 2 * SCRATCH_SECONDS
    os.utime(folder / SCRATCH_LOCK, (before, before))
    return folder


def test_the_folder_of_a_killed_process_is_deleted_at_the_next_start(scratch: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDS], stdout=subprocess.PIPE, text=True) as held:
        assert held.stdout is not None
        folder = aged(Path(held.stdout.readline().strip()))
        with temporary_folder():
            assert (folder / "rows").read_bytes() == b"secret"  # its process lives
        held.send_signal(signal.SIGKILL)
    assert folder.parent == scratch
    assert folder.exists()
    with temporary_folder() as mine:
        assert not folder.exists()
        assert mine.exists()
    assert not list(scratch.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="folders have no mode")
def test_what_may_be_of_others_is_left_alone(scratch: Path) -> None:
    young, open_, strange = (scratch / f"heterofed-{name}" for name in ("young", "open", "strange"))
    for folder in (young, open_, strange):
        folder.mkdir(mode=0o700)
    for folder in (young, open_):
        (folder / SCRATCH_LOCK).touch()
    aged(open_).chmod(0o755)
    (scratch / "heterofed-link").symlink_to(open_)
    (scratch / "heterofed-file").touch()
    with temporary_folder():
        pass
    assert len(list(scratch.iterdir())) == 5


def test_the_folder_goes_after_the_block_and_after_an_error(scratch: Path) -> None:
    with pytest.raises(ValueError, match="x"), temporary_folder() as folder:
        raise ValueError("x")
    assert not folder.exists()
    assert not list(scratch.iterdir())
