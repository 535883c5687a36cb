"""What is kept on disk of a run comes back as it was, or counts as not there; never as another."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heterofed.compute.packed_ids import PackedIds
from heterofed.errors import CheckpointError
from heterofed.protocol.messages import Mark
from heterofed.protocol.plan import Plan
from heterofed.runs.checkpoint_store import CheckpointStore, RunRecord, Split

RECORD = RunRecord(
    run=bytes(range(16)),
    secret=b"s" * 32,
    seed=b"\x00\x01",
    key=b"k" * 32,
    plan=Plan(host="bank", collaborators=("shop", "inn"), max_rounds=3),
    split=Split(
        own_count=3, own_digest=b"d" * 32, common=2, train=PackedIds(["a"]), test=PackedIds(["é\n"])
    ),
    noise=b"n" * 32,
)
AT = [Mark(0), Mark(0, 4), Mark(1), Mark(1, 2), Mark(2), Mark(9), Mark(10), Mark(10, 5)]
"""In ascending order, which is not the one of their names."""


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "resume")


def test_nothing_is_there_before_anything_was_kept(store: CheckpointStore) -> None:
    assert (store.record(), store.finished(), store.marks()) == (None, None, ())
    assert not store.has_checkpoints
    store.clear()
    with pytest.raises(CheckpointError, match=r"round-1 in .* is gone or damaged"):
        store.load(Mark(1))
    assert not store.folder.exists()


def test_a_record_comes_back_as_it_was_and_may_be_renewed(store: CheckpointStore) -> None:
    store.begin(RECORD)
    assert store.folder.stat().st_mode & 0o777 == 0o700
    assert store.record() == RECORD
    renewed = msgspec.structs.replace(RECORD, split=None, seed=7)
    store.begin(renewed)
    assert store.record() == renewed


def test_files_are_a_name_of_the_format_the_sum_and_the_content(store: CheckpointStore) -> None:
    """What one version has kept, another one has to read."""
    store.begin(RECORD)
    for mark, name in ((Mark(12), "round-12"), (Mark(12, 30), "round-12-batch-30")):
        content = name.encode() * 3
        raw = b"HFKEPT1\n" + hashlib.sha256(content).digest() + content
        store.keep(mark, content)
        assert (store.folder / name).read_bytes() == raw
        (store.folder / name).write_bytes(raw.replace(b"round", b"ROUND"))
        assert mark not in store.marks()
        (store.folder / name).write_bytes(raw)
        assert store.load(mark) == content


@pytest.mark.parametrize("at", [0, 7, 8, 39, 40, -1])
def test_a_byte_that_changed_is_told_of_and_the_file_counts_as_not_there(
    at: int, store: CheckpointStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.begin(RECORD)
    store.keep(Mark(1), b"content")
    store.note_finished({"shop"})
    for name in ("run", "round-1", "finished"):
        raw = bytearray((store.folder / name).read_bytes())
        raw[at] ^= 1
        (store.folder / name).write_bytes(raw)
    with caplog.at_level(logging.WARNING, "heterofed"):
        assert (store.record(), store.finished(), store.marks()) == (None, None, ())
    told = [each.getMessage() for each in caplog.records]
    assert len(told) == 3
    assert all("is damaged and counts as not there" in each for each in told)
    assert store.has_checkpoints
    with pytest.raises(CheckpointError, match="gone or damaged"):
        store.load(Mark(1))


@pytest.mark.parametrize("length", [0, 8, 40, 46])
def test_a_file_that_was_cut_short_counts_as_not_there(length: int, store: CheckpointStore) -> None:
    store.begin(RECORD)
    store.keep(Mark(1), b"content")
    path = store.folder / "round-1"
    path.write_bytes(path.read_bytes()[:length])
    assert store.marks() == ()


def test_empty_content_is_content(store: CheckpointStore) -> None:
    store.begin(RECORD)
    store.keep(Mark(1), b"")
    assert store.load(Mark(1)) == b""
    assert store.marks() == (Mark(1),)


def test_a_record_of_another_version_counts_as_not_there(
    store: CheckpointStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.begin(RECORD)
    content = msgspec.msgpack.encode({"run": RECORD.run, "key": RECORD.key})
    raw = b"HFKEPT1\n" + hashlib.sha256(content).digest() + content
    (store.folder / "run").write_bytes(raw)
    assert store.record() is None
    assert "is of another version" in caplog.text


def test_records_of_before_had_no_noise(store: CheckpointStore) -> None:
    plain = msgspec.to_builtins(RECORD, builtin_types=(bytes,), enc_hook=list)
    del plain["noise"], plain["split"]
    content = msgspec.msgpack.encode(plain)
    store.begin(RECORD)
    raw = b"HFKEPT1\n" + hashlib.sha256(content).digest() + content
    (store.folder / "run").write_bytes(raw)
    assert store.record() == msgspec.structs.replace(RECORD, noise=b"", split=None)


def test_a_split_of_before_was_a_list(store: CheckpointStore) -> None:
    plain = msgspec.to_builtins(RECORD, builtin_types=(bytes,), enc_hook=list)
    del plain["split"]["is_packed"]
    content = msgspec.msgpack.encode(plain)
    store.begin(RECORD)
    raw = b"HFKEPT1\n" + hashlib.sha256(content).digest() + content
    (store.folder / "run").write_bytes(raw)
    assert store.record() == RECORD


# -- checkpoints --------------------------------------------------------------------------------


STEPS = st.lists(st.tuples(st.sampled_from(["keep", "drop"]), st.sampled_from(AT)), max_size=12)


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(STEPS)
def test_the_newest_two_up_to_the_last_one_kept_are_there(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, Mark]]
) -> None:
    """Against a dictionary: a mark is kept with its content, later and older ones go."""
    store = CheckpointStore(tmp_path_factory.mktemp("kept") / "resume")
    store.begin(RECORD)
    expected: dict[Mark, bytes] = {}
    for number, (step, mark) in enumerate(steps):
        expected = {each: content for each, content in expected.items() if each <= mark}
        if step == "drop":
            store.drop_after(mark)
        else:
            store.keep(mark, b"%d" % number)
            expected[mark] = b"%d" % number
            expected = {each: expected[each] for each in sorted(expected)[-2:]}
        assert store.marks() == tuple(sorted(expected))
        assert {each: store.load(each) for each in store.marks()} == expected
        assert store.has_checkpoints == bool(expected)


@pytest.mark.parametrize(
    "name",
    ["round-", "round-x", "around-1", "round-1-batch-", "round-1.tmp", "Round-1"],
)
def test_other_files_are_no_checkpoints(name: str, store: CheckpointStore) -> None:
    store.begin(RECORD)
    (store.folder / name).write_bytes(b"")
    assert not store.has_checkpoints
    store.drop_after(Mark(0))
    assert (store.folder / name).exists()


def test_which_parties_said_goodbye(store: CheckpointStore) -> None:
    store.begin(RECORD)
    store.note_finished()
    assert store.finished() == set()
    store.note_finished({"shop", "inn"})
    assert store.finished() == {"inn", "shop"}


def test_nothing_is_left_once_it_is_cleared(store: CheckpointStore) -> None:
    store.begin(RECORD)
    store.keep(Mark(1), b"content")
    store.clear()
    assert not store.folder.exists()
    store.clear()


# -- what the disk refuses ----------------------------------------------------------------------


def test_a_file_that_cannot_be_written_is_named_and_the_ones_before_stay(
    store: CheckpointStore,
) -> None:
    store.begin(RECORD)
    store.keep(Mark(1), b"one")
    store.keep(Mark(2), b"two")
    (store.folder / "round-3").mkdir()
    (store.folder / "round-3" / "in the way").touch()
    with pytest.raises(CheckpointError, match=r"round-3 cannot be written \(.+\); make room"):
        store.keep(Mark(3), b"three")
    assert store.load(Mark(1)) == b"one"
    assert store.load(Mark(2)) == b"two"


def test_a_file_that_cannot_be_read_is_not_one_that_is_not_there(store: CheckpointStore) -> None:
    """Else a run would begin anew over what it could have gone on from."""
    store.begin(RECORD)
    (store.folder / "run").unlink()
    (store.folder / "run").mkdir()
    with pytest.raises(CheckpointError, match=r"run cannot be read \(.+\); fix that"):
        store.record()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    too_long = "x" * 300
    with pytest.raises(CheckpointError, match=r"x/run cannot be written \(.+\)"):
        CheckpointStore(tmp_path / too_long).begin(RECORD)
