"""What a record needs, where it is readable, and when it is deleted."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from heterofed import errors as e
from heterofed import replay, simulate
from heterofed.files import new_file
from heterofed.runs.records import recorder
from heterofed.runs.records.keys import DAY, delete_old
from heterofed.runs.records.sealed import MOST, SealedWriter, pieces
from heterofed.runs.records.segments import Segment, open_segment, segments_in
from tests.e2e.tiny import IDS
from tests.identity.offices import Command, open_offices
from tests.runs.records.recorded import (
    RecordingCollaborator,
    RecordingHost,
    files,
    folder_of,
    keys,
)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that only bob has recorded, in two rounds."""
    folder = tmp_path_factory.mktemp("original")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HETEROFED_HOME", str(folder / "home"))
        host = RecordingHost(folder, record=None, recording=True, max_rounds=2)
        simulate(host, [RecordingCollaborator(folder)], task_id="tiny")
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, whose files a test may change."""
    copied = shutil.copytree(original, tmp_path / "copy")
    monkeypatch.setenv("HETEROFED_HOME", str(copied / "home"))
    (key,) = keys(copied / "home")
    place = folder_of(copied, "bob") / "record"
    key.write_text(json.dumps({**json.loads(key.read_text()), "folder": str(place)}))
    return copied


def replayed(folder: Path, round_number: int = 2, batch: int = 1) -> Any:
    party = RecordingCollaborator(folder)
    return replay(party, folder_of(folder, "bob"), round_number=round_number, batch=batch)


# -- who may read it ------------------------------------------------------------------------------


def test_only_who_records_has_one_and_nobody_else_can_read_it(original: Path) -> None:
    assert not (folder_of(original, "alice") / "record").exists()
    found = [*files(original, "bob"), *keys(original / "home")]
    assert len(found) == 3 + 1
    for path in found:
        assert path.stat().st_mode & 0o077 == 0
    for path in files(original, "bob"):
        assert not any(each.encode() in path.read_bytes() for each in IDS)


def test_a_replay_leaves_no_trace(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert replayed(folder).is_same
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert after == before


def test_without_its_key_nobody_reads_it(folder: Path) -> None:
    keys(folder / "home")[0].unlink()
    with pytest.raises(e.RecordError, match=r"the key of .* is not in .*deleted by its age"):
        replayed(folder)


def test_another_key_is_named(folder: Path) -> None:
    path = keys(folder / "home")[0]
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "key": "A" * 43 + "="}))
    with pytest.raises(e.RecordError, match="another key than its name says"):
        replayed(folder)
    path.write_text("{}")
    with pytest.raises(e.RecordError, match="no key of a record"):
        replayed(folder)
    with pytest.raises(e.RecordError, match="written with another key"):
        list(pieces(files(folder, "bob")[0], bytes(32)))


# -- damaged files --------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [40, 300, -200, -1])
def test_an_edited_file_is_refused(place: int, folder: Path) -> None:
    path = files(folder, "bob")[1]
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(e.RecordError, match=r"000002-round-1-batch-0\.record was changed"):
        replayed(folder, 2, 3)


def test_what_is_no_record_is_named(folder: Path) -> None:
    path = files(folder, "bob")[1]
    path.write_bytes(b"HFREC99\n" + bytes(100))
    with pytest.raises(e.RecordError, match="is no record of this version"):
        replayed(folder)
    path.unlink()
    path.symlink_to(folder)
    with pytest.raises(e.RecordError, match="cannot be read"):
        replayed(folder)


def test_a_file_under_another_name_is_refused(folder: Path) -> None:
    first, second, _ = files(folder, "bob")
    second.unlink()
    first.rename(second)
    with pytest.raises(e.RecordError, match="was renamed"):
        replayed(folder)


def test_pieces_in_another_order_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with new_file(path) as file:
        writer = SealedWriter(file, bytes(32))
        for each in (b"one", b"two", b"", b"x" * (MOST + 1)):
            writer.add(each)
    assert [len(each) for each in pieces(path, bytes(32))] == [3, 3, 0, MOST + 1]
    content, length = path.read_bytes(), 4 + 3 + 16
    one, two = content[32 : 32 + length], content[32 + length : 32 + 2 * length]
    path.write_bytes(content[:32] + two + one + content[32 + 2 * length :])
    with pytest.raises(e.RecordError, match="was changed"):
        list(pieces(path, bytes(32)))


def test_a_torn_file_has_what_came_before(folder: Path) -> None:
    """A kill in the middle of a message costs that message, and the batches after it."""
    path = files(folder, "bob")[1]
    path.write_bytes(path.read_bytes()[:-1500])
    assert replayed(folder, 2, 0).is_same
    with pytest.raises(e.RecordError, match="batch 4 of round 2 is not in the record"):
        replayed(folder, 2, 4)
    path.write_bytes(path.read_bytes()[:800])
    with pytest.raises(e.RecordError, match="ends in its checkpoint"):
        replayed(folder, 2, 0)


@pytest.mark.parametrize(("number", "batch"), [(2, 5), (3, 0), (9, 9)])
def test_a_batch_that_there_is_not_is_named(number: int, batch: int, folder: Path) -> None:
    with pytest.raises(e.RecordError, match=f"batch {batch} of round {number} is not in"):
        replayed(folder, number, batch)


@pytest.mark.parametrize(("number", "batch"), [(0, 1), (1, -1), (True, 1), ("1", 1)])
def test_wrong_numbers_are_named(number: Any, batch: Any, folder: Path) -> None:
    with pytest.raises(e.ConfigError, match="give a round from 1 on"):
        replayed(folder, number, batch)


def test_a_party_that_was_not_in_the_run_is_named(folder: Path) -> None:
    place = folder_of(folder, "bob")
    with pytest.raises(e.ConfigError, match="has not launched task 'tiny' as bob"):
        replay(RecordingCollaborator(folder, "carol"), place, round_number=1, batch=1)
    with pytest.raises(e.ConfigError, match="bob was the collaborator"):
        replay(RecordingHost(folder, feature_key="bob"), place, round_number=1, batch=1)
    with pytest.raises(e.ConfigError, match="another seed"):
        replay(RecordingCollaborator(folder, seed=9), place, round_number=1, batch=1)
    with pytest.raises(e.ConfigError, match="give a scheduler, not a str"):
        replay("bob", place, round_number=1, batch=1)
    with pytest.raises(e.RecordError, match='launch the task with record="inbound"'):
        replay(RecordingHost(folder), folder_of(folder, "alice"), round_number=1, batch=1)


# -- a full disk ----------------------------------------------------------------------------------


def test_a_full_disk_ends_the_record_and_not_the_run(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Full(SealedWriter):
        """Has no room in its second file, from the third message on."""

        made = 0

        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            Full.made += 1
            self.left = 5 if Full.made == 2 else 10**6

        def add(self, *parts: Any) -> None:
            self.left -= 1
            if self.left < 0:
                raise OSError(28, "No space left on device")
            super().add(*parts)

    monkeypatch.setattr(recorder, "SealedWriter", Full)
    host = RecordingHost(tmp_path, record=None, recording=True)
    done = simulate(host, [RecordingCollaborator(tmp_path)], task_id="tiny")
    assert done.results["bob"].rounds == 3
    told = [each.getMessage() for each in caplog.records if "No space left" in each.getMessage()]
    assert len(told) == 1
    assert "nothing is recorded up to the next checkpoint; make room" in told[0]
    assert replayed(tmp_path, 1, 2).is_same
    assert replayed(tmp_path, 3, 2).is_same
    with pytest.raises(e.RecordError, match="not during a full disk"):
        replayed(tmp_path, 2, 2)


# -- consent --------------------------------------------------------------------------------------


def test_without_consent_nothing_is_recorded(home: Path, tmp_path: Path) -> None:
    host = RecordingHost(tmp_path, record=None)
    with pytest.raises(e.ConfigError, match="the terms do not allow it: agree on recording = true"):
        simulate(host, [RecordingCollaborator(tmp_path)], task_id="tiny")
    assert not list(tmp_path.rglob("*.record"))
    assert not (home / "records").exists()


@pytest.mark.parametrize("agreed", [True, False])
def test_the_task_file_decides(agreed: bool, home: Path, tmp_path: Path) -> None:
    plan = ["psi_protocol=ecdh", "batch_size=8", "max_rounds=3", "shuffle=true"]
    path = open_offices(home, plan=[*plan, *(["recording=true"] if agreed else [])])
    assert ("recording = true" in path.read_text()) is agreed
    host = RecordingHost(tmp_path, join_timeout=0.1)
    expected: Any = e.JoinTimeoutError if agreed else e.ConfigError
    with pytest.raises(expected) as caught:
        host.launch_task("tiny")
    if not agreed:
        assert "recording is true in the constructor" in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [{"record": "outbound"}, {"record": True}, {"record_days": 0}, {"record_days": "7"}],
)
def test_wrong_settings_are_named(settings: Any, tmp_path: Path) -> None:
    (name,) = settings
    with pytest.raises(e.ConfigError, match=f"{name}="):
        RecordingCollaborator(tmp_path, **settings).validate_context()


# -- age ------------------------------------------------------------------------------------------


def test_a_record_is_deleted_by_its_age(folder: Path) -> None:
    home, now = folder / "home", time.time()
    delete_old(home, now + 6.9 * DAY)
    assert len(files(folder, "bob")) == 3
    os.utime(files(folder, "bob")[0], (now - 8 * DAY, now - 8 * DAY))
    delete_old(home, now)
    assert len(files(folder, "bob")) == 2
    assert keys(home)
    delete_old(home, now + 8 * DAY)
    assert files(folder, "bob") == keys(home) == []


def test_the_key_of_a_record_that_was_moved_is_deleted_too(folder: Path) -> None:
    moved = shutil.move(folder_of(folder, "bob"), folder / "tiny" / "moved")
    delete_old(folder / "home", time.time() + 8 * DAY)
    with pytest.raises(e.RecordError, match="deleted by its age"):
        replay(RecordingCollaborator(folder), moved, round_number=2, batch=1)


# -- the command ----------------------------------------------------------------------------------

PROGRAM = """
import sys
from pathlib import Path
from heterofed import simulate
from tests.runs.records.recorded import RecordingCollaborator, RecordingHost

def main(folder):
    host = RecordingHost(folder, record=None, recording=True, max_rounds=2)
    party = RecordingCollaborator(folder)
    party.wrong = (2, 1) if "wrong" in sys.argv else None
    simulate(host, [party], task_id="tiny")

if __name__ == "__main__":
    main(Path(sys.argv[1]))
    raise SystemExit("a replay launches nothing")
"""


@contextlib.contextmanager
def unchanged() -> Iterator[None]:
    import sys

    argv, path, where = list(sys.argv), list(sys.path), Path.cwd()
    try:
        yield
    finally:
        sys.argv[:], sys.path[:] = argv, path
        os.chdir(where)


@pytest.fixture
def replays(folder: Path, tmp_path: Path, command: Command) -> Callable[..., int]:
    """Runs `heterofed replay` with a program that simulates both parties."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)

    def call(*arguments: str, words: str = "") -> int:
        given = f"--program={program} {folder} {words}"
        with unchanged():
            return command("replay", str(folder_of(folder, "bob")), given, *arguments)

    return call


def test_the_command_says_what_is_the_same(replays: Any, command: Command) -> None:
    assert replays("--round", "2", "--batch", "4") == 0
    assert "bob, round 2, batch 4: replayed from round 2, batch 0 to the next" in command.out
    assert "the same, bit for bit: " in command.out
    assert "DIFFERENT" not in command.out


def test_the_command_names_the_first_difference(replays: Any, command: Command) -> None:
    assert replays("--round", "2", "--batch", "3", words="wrong") == 1
    assert "DIFFERENT: Features to alice (round 2, batch 1): tensor" in command.out


def test_the_command_names_a_program_that_is_gone(folder: Path, command: Command) -> None:
    given = [str(folder_of(folder, "bob")), "--round=2", "--batch=3", "--program=gone.py"]
    with unchanged():
        assert command("replay", *given) == 2
    assert "no file 'gone.py' launched the task; give the program" in command.err


def test_the_debugger_stops_in_the_hook(
    replays: Any, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("p number, ids[0]\nc\n"))
    assert replays("--round", "2", "--batch", "1", "--pdb") == 0
    assert "recorded.py" in command.out
    assert "iterate_train_feature" in command.out


def test_a_segment_knows_its_place(original: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HETEROFED_HOME", str(original / "home"))
    found = segments_in(folder_of(original, "bob"))
    assert [each.shown() for each in found] == [
        "round 1, batch 0",
        "round 2, batch 0",
        "round 3, batch 0",
    ]
    assert found[0] == Segment.named(folder_of(original, "bob"), 1, found[0].mark)
    assert open_segment(original / "home", found[0]).beginning.party == "bob"


# -- bad keys and files -----------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"key": 1}', b"\xff" * 99, None])
def test_a_damaged_key_keeps_no_other_record_from_being_deleted(
    content: bytes | None, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As a full disk may leave one; nor does it keep a record from being made or replayed."""
    home, now = folder / "home", time.time()
    damaged = home / "records" / "0000.json"  # the first in order
    if content is None:
        damaged.mkdir()
    else:
        damaged.write_bytes(content)
    assert replayed(folder).is_same
    assert "is no key of a record" in caplog.text
    delete_old(home, now + 8 * DAY)
    assert files(folder, "bob") == []
    assert [each.name for each in keys(home)] == ["0000.json"]
    delete_old(home, now + 3651 * DAY)
    assert [each.name for each in keys(home)] == (["0000.json"] if content is None else [])


def test_a_file_that_cannot_be_deleted_keeps_no_other(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, unlink = files(folder, "bob")[0], Path.unlink

    def refused(path: Path, missing_ok: bool = False) -> None:
        if path == first:
            raise PermissionError(1, "Operation not permitted")
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refused)
    delete_old(folder / "home", time.time() + 8 * DAY)
    assert files(folder, "bob") == [first]
    assert keys(folder / "home") == []  # so nobody can read it


def test_a_pipe_is_no_record_and_nobody_waits_for_it(folder: Path) -> None:
    path = files(folder, "bob")[1]
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(e.RecordError, match="cannot be read"):
        replayed(folder)
    delete_old(folder / "home", time.time() + 8 * DAY)
    assert files(folder, "bob") == [path]


def test_files_of_another_run_are_named(folder: Path, tmp_path: Path) -> None:
    """Else a batch of that run would be replayed, and said to be one of this run."""
    host = RecordingHost(tmp_path / "other", record=None, recording=True, max_rounds=3)
    simulate(host, [RecordingCollaborator(tmp_path / "other")], task_id="tiny")
    for path in files(tmp_path / "other", "bob"):
        shutil.copy(path, folder_of(folder, "bob") / "record" / path.name)
    with pytest.raises(e.RecordError, match="of another run"):
        replayed(folder, 3, 1)
    last = sorted((folder_of(folder, "bob") / "record").iterdir())[-1]
    last.unlink()
    with pytest.raises(e.RecordError, match="of another run"):
        replayed(folder, 2, 1)
