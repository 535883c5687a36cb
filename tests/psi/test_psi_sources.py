"""Ids from anywhere, and sets larger than what is held in memory: the same results, from disk."""

from __future__ import annotations

import errno
import gc
import io
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import psi
from psi import CountError, IdsError, ProofError, ValueRefusedError, column
from psi.storage.id_list import OwnIds
from psi.storage.spill import Distinct, Records, Scratch, in_order
from tests.psi import ecdh_helpers as ecdh
from tests.psi import helpers as rsa

IDS = ["x", "", "é", "e\u0301", " a ", "007", "7", "\U0001f600"]


def parties(protocol: str, a: Any, b: Any, folder: Path, bucket_ids: int) -> tuple[Any, Any]:
    helper: Any = ecdh if protocol == "ecdh" else rsa
    chosen = {"bucket_ids": bucket_ids, "scratch": folder}
    signing = helper.signer(b, **chosen)
    return helper.requester(a, signing, chunk_ids=50, **chosen), signing


@pytest.mark.parametrize("protocol", ["rsa", "ecdh"])
@pytest.mark.parametrize("bucket_ids", [7, 60, 1000])
@pytest.mark.parametrize(("mine", "theirs"), [(150, 150), (150, 3), (3, 150), (150, 0)])
def test_on_disk_as_in_memory(
    protocol: str, bucket_ids: int, mine: int, theirs: int, tmp_path: Path
) -> None:
    order = random.Random(bucket_ids)
    a, b = [f"é{i}" for i in range(mine)], [f"é{i}" for i in range(mine // 2, mine // 2 + theirs)]
    order.shuffle(a)
    order.shuffle(b)
    asking, signing = parties(protocol, iter(a), iter(b), tmp_path, bucket_ids)
    signing.precompute()
    signing.begin(asking.count)
    for chunk in asking.blinded():
        asking.unblind(signing.sign(chunk))
    tags = b"".join(signing.tags())
    assert tags == b"".join(sorted(rsa_cut(tags)))
    asking.add_tags(tags, last=True)
    common = asking.intersection()
    assert common == [each for each in a if each in set(b)]
    assert asking.intersection() == common
    proofs = list(asking.proofs(common[1:]))
    for chunk in proofs:
        signing.matched(chunk, last=False)
    assert signing.matched(b"", last=True) == [each for each in b if each in set(common[1:])]
    on_disk = bool(asking._scratch._files or signing._scratch._files)
    assert on_disk == (max(mine, theirs) > bucket_ids)
    asking.close()
    signing.close()
    assert all(file.closed for each in (asking, signing) for file in each._scratch._files)
    if not on_disk:
        assert not any(each.read(0) for each in (signing._own_tags, signing._own_matches))


def test_a_run_of_shared_ids_holds_no_more_than_they_do(tmp_path: Path) -> None:
    own = OwnIds(map(str, range(90)), bucket_ids=20, scratch=tmp_path)
    asking, signing = parties("ecdh", own, own, tmp_path, 1000)
    buckets = {each.buckets for each in (asking._results, signing._own_tags, signing._own_matches)}
    assert buckets == {5}
    asking.close()
    signing.close()
    assert list(own)[89] == "89"  # they stay open
    own.close()


def rsa_cut(data: bytes) -> list[bytes]:
    return [data[at : at + 16] for at in range(0, len(data), 16)]


def ready(tmp_path: Path) -> tuple[Any, Any]:
    asking, signing = parties("ecdh", map(str, range(90)), map(str, range(60)), tmp_path, 20)
    signing.begin(asking.count)
    for chunk in asking.blinded():
        asking.unblind(signing.sign(chunk))
    return asking, signing


def test_what_a_peer_does_wrong_is_found_on_disk_too(tmp_path: Path) -> None:
    asking, signing = ready(tmp_path)
    tags = b"".join(signing.tags())
    with pytest.raises(ValueRefusedError, match="twice"):
        asking.add_tags(tags[:16] * 2)
    with pytest.raises(CountError):
        asking.add_tags(tags[16:], last=True)
    asking.add_tags(tags[16:])
    asking.add_tags(tags[16:32], last=True)
    with pytest.raises(ValueRefusedError, match="twice"):
        asking.intersection()
    asking, signing = ready(tmp_path)
    for chunk in signing.tags():
        asking.add_tags(chunk)
    proofs = b"".join(asking.proofs(asking.intersection()))
    with pytest.raises(ProofError, match="twice"):
        signing.matched(proofs[:16] * 2, last=False)
    assert signing.matched(proofs[:16], last=False) is None
    with pytest.raises(ProofError, match="twice"):
        signing.matched(proofs, last=True)
    asking, signing = ready(tmp_path)
    for chunk in signing.tags():
        asking.add_tags(chunk)
    with pytest.raises(ProofError, match="not here"):
        signing.matched(bytes(16), last=True)


def test_files_go_when_the_object_is_forgotten(tmp_path: Path) -> None:
    ids = OwnIds(map(str, range(100)), bucket_ids=10, scratch=tmp_path)
    files = list(ids._scratch._files)
    assert files
    assert not list(tmp_path.iterdir())  # they never had a name
    assert list(ids) == [str(i) for i in range(100)]
    del ids
    gc.collect()
    assert all(file.closed for file in files)


@pytest.mark.parametrize("bucket_ids", [1, 100])
def test_own_ids(bucket_ids: int, tmp_path: Path) -> None:
    ids = OwnIds((each for each in IDS), bucket_ids=bucket_ids, scratch=tmp_path)
    assert len(ids) == len(IDS)
    assert list(ids) == IDS
    assert ids.pick([7, 0, 0]) == [IDS[7], IDS[0], IDS[0]]
    assert list(ids.blocks(5)) == [(0, IDS[:5]), (5, IDS[5:])]
    assert ids.digest() == OwnIds(IDS).digest() != OwnIds(IDS[1:], bucket_ids=1).digest()
    ids.close()


@pytest.mark.parametrize("bucket_ids", [2, 100])
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["a", 3, None, "b"], "2 ids are not a string; positions (from 0): 1, 2"),
        (["a", "\ud800", "b"], "1 id is not encodable as UTF-8; positions (from 0): 1"),
        (["secret", "b", "c", "secret", "b"], "2 ids are repeated; positions (from 0): 3, 4"),
        ("abc", "ids is one string; give a list of strings"),
        (
            ["x"] * 13,
            "12 ids are repeated; positions (from 0): 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, ...",
        ),
    ],
)
def test_unusable_ids(wrong: Any, message: str, bucket_ids: int, tmp_path: Path) -> None:
    with pytest.raises(IdsError) as caught:
        OwnIds(wrong, bucket_ids=bucket_ids, scratch=tmp_path)
    assert str(caught.value) == message
    assert caught.value.__context__ is None


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.binary(min_size=16, max_size=16), max_size=60), st.integers(1, 20))
def test_records(values: list[bytes], bucket_ids: int) -> None:
    scratch = Scratch(bucket_ids)
    records = Records(16, len(values), scratch, in_order)
    records.add(values)
    assert len(records) == len(values)
    ordered = [each for bucket in records.in_buckets() for each in sorted(bucket)]
    assert ordered == sorted(values)
    distinct = Distinct(len(values), scratch)
    fine = distinct.add(values[:30]) and distinct.add(values[30:]) and not distinct.repeated()
    assert fine == (len(set(values)) == len(values))
    scratch.close()


def test_bad_settings(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="bucket_ids"):
        Scratch(0)


def write(tmp_path: Path, name: str, data: bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(data)
    return path


def test_text(tmp_path: Path) -> None:
    path = write(tmp_path, "ids.txt", "ann\n b \r\né\n\n007".encode())
    ids = column(path)
    assert list(ids) == list(ids) == ["ann", " b ", "é", "", "007"]
    assert list(column(write(tmp_path, "none.txt", b""))) == []


def test_csv(tmp_path: Path) -> None:
    table = '\ufeffname,id\n"Ann, B.",007\n\n"two\nlines", é\n'
    path = write(tmp_path, "table.csv", table.encode())
    assert list(column(path, "id")) == ["007", " é"]
    assert list(column(path, "name")) == ["Ann, B.", "two\nlines"]
    with pytest.raises(IdsError, match="no column 'x'; its columns: 'name', 'id'"):
        list(column(path, "x"))
    with pytest.raises(IdsError, match=r"row 1 \(from 0\) of short.csv"):
        list(column(write(tmp_path, "short.csv", b"a,b\n1,2\n3\n"), "b"))
    with pytest.raises(IdsError, match="has 2 columns 'a'; rename all but one"):
        list(column(write(tmp_path, "twice.csv", b"a,b,a\n"), "a"))
    with pytest.raises(IdsError, match="is empty"):
        list(column(write(tmp_path, "empty.csv", b""), "b"))


def test_tabs_where_the_file_says_so(tmp_path: Path) -> None:
    path = write(tmp_path, "table.TSV", '\ufeffid\tname\n1,2\t"a\tb"\n\n3\tc\n'.encode())
    assert list(column(path, "id")) == ["1,2", "3"]
    assert list(column(path, "name")) == ["a\tb", "c"]


def test_a_mark_at_the_beginning_is_no_part_of_the_first_id(tmp_path: Path) -> None:
    path = write(tmp_path, "ids.txt", "\ufeffann\nbob\n".encode())
    assert list(column(path)) == ["ann", "bob"]


def test_an_id_of_a_megabyte_and_a_quote_left_open(tmp_path: Path) -> None:
    long = "é" * 500_000
    assert list(column(write(tmp_path, "long.csv", f"id\n{long}\n".encode()), "id")) == [long]
    endless = b'id\na\n"' + b"12345678901234\n" * 1_200_000
    with pytest.raises(IdsError, match="a quote left open"):
        list(column(write(tmp_path, "endless.csv", endless), "id"))


@pytest.mark.parametrize(("name", "of"), [("ids.txt", None), ("ids.csv", "é")])
def test_not_utf_8(name: str, of: str | None, tmp_path: Path) -> None:
    path = write(tmp_path, name, "é\nsecret\n".encode("latin1"))
    with pytest.raises(IdsError, match=f"{name} is not UTF-8") as caught:
        list(column(path, of))
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_not_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "bad.parquet", b"PAR1 not parquet")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(IdsError, match="needs an extra"):
            list(column(path, "id"))
    pytest.importorskip("pyarrow")
    with pytest.raises(IdsError, match="not a Parquet file"):
        list(column(path, "id"))


def test_a_full_disk_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def write(self, _: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: Full())
    records = Records(16, 100, Scratch(10, tmp_path))
    ids = [str(number) for number in range(20)]
    for work in (
        lambda: records.add([bytes(16)]),
        lambda: OwnIds(ids, bucket_ids=9, scratch=tmp_path),
    ):
        with pytest.raises(OSError, match="No space left") as caught:
            work()
        assert caught.value.filename == str(tmp_path)


def test_files_are_open_no_longer_than_needed(tmp_path: Path) -> None:
    """With many signers they would add up to more than a process may have."""

    def in_use() -> int:
        return sum(not file.closed for file in asking._scratch._files)

    asking, signing = parties("ecdh", map(str, range(90)), map(str, range(60)), tmp_path, 20)
    own = in_use()
    signing.begin(asking.count)
    for chunk in asking.blinded():
        asking.unblind(signing.sign(chunk))
    assert in_use() == own + 5  # no tag has come
    for chunk in signing.tags():
        asking.add_tags(chunk)
    assert in_use() == own + 10
    assert asking.intersection() == [str(number) for number in range(60)]
    assert in_use() == own + 5  # the matches
    assert [len(bucket) for bucket in asking._found.in_buckets()] == [18, 18, 18, 6, 0]
    assert len(b"".join(asking.proofs(asking.intersection()))) == 16 * 60


def test_parquet(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    both, one = tmp_path / "both.parquet", tmp_path / "one.parquet"
    pd.DataFrame({"id": IDS, "n": range(len(IDS))}).to_parquet(both)
    pd.DataFrame({"id": IDS}).to_parquet(one)
    assert list(column(both, "id")) == list(column(one)) == IDS
    with pytest.raises(IdsError, match="2 columns: 'id', 'n'; say"):
        list(column(both))
    with pytest.raises(IdsError, match="no column 'x'; its columns: 'id', 'n'"):
        list(column(both, "x"))
    with pytest.raises(IdsError, match="8 ids are not a string"):
        OwnIds(column(both, "n"))


def test_series_and_generators() -> None:
    def some() -> Iterator[str]:
        yield from ("b", "a")

    series = pd.Series(["a", "c", "b"])
    assert psi.intersect(series, some(), protocol="ecdh") == ["a", "b"]
    with pytest.raises(IdsError, match="1 id is not a string"):
        psi.intersect(pd.Series(["a", None]), [], protocol="ecdh")
