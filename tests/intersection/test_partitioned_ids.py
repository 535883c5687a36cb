"""Ids of a Dask or Ray data set, and its rows as partitioned Parquet: in threads, on a cluster,
after a kill, and with data that change between passes.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import psi
from heterofed import errors as e
from heterofed.hetero_nn.psi import RSAPSICollaboratorScheduler, RSAPSIInitiatorScheduler
from heterofed.intersection.stored import set_domain
from psi.sources import partitions
from tests.e2e.processes import Parties
from tests.e2e.tiny import run
from tests.psi.test_psi_executors import start_ray

pytestmark = pytest.mark.usefixtures("home")

dd: Any = pytest.importorskip("dask.dataframe")

FRAME = pd.DataFrame({"n": range(12), "id": [f"person {number}" for number in range(12)]})
THEIRS = [f"person {number}" for number in (20, 10, 3, 4)]
COMMON = [3, 4, 10]


def in_parts(frame: pd.DataFrame = FRAME, change: Any = None) -> Any:
    """Three partitions; `change` sees a partition's number and rows whenever it is computed."""

    def part(number: int) -> pd.DataFrame:
        rows = frame[number * 5 : number * 5 + 5]
        return rows if change is None else change(number, rows)

    return dd.from_map(part, range(3), meta=frame[:0])


def both(folder: Path, ids: Any, **given: Any) -> list[Any]:
    here: Any = {"join_timeout": 30, "results_dir": folder / "results"}
    asking = RSAPSIInitiatorScheduler("a", ids=ids, psi_protocol="ecdh", **here, **given)
    return run(asking, RSAPSICollaboratorScheduler("b", ids=THEIRS, **here), task="t")


def rows_of(folder: Path) -> pd.DataFrame:
    files = partitions(folder)
    assert [each.name for each in files] == [f"part.{number:06}.parquet" for number in range(3)]
    return pd.concat(map(pd.read_parquet, files), ignore_index=True)


class Parts:
    """A data set of one partition that is not of Dask."""

    ndim, npartitions, columns = 2, 1, FRAME.columns

    @property
    def partitions(self) -> list[Parts]:
        return [self]

    def compute(self) -> pd.DataFrame:
        return FRAME


def test_ids_of_partitions() -> None:
    data = in_parts()
    for ids in (psi.column(data, "id"), psi.column(data["id"]), data["id"]):
        assert list(ids) == FRAME["id"].tolist()
        assert psi.intersect(ids, THEIRS, protocol="ecdh") == ["person 3", "person 4", "person 10"]
    for name, says in (("x", "no column 'x'; its columns: 'n', 'id'"), (None, "has 2 columns")):
        with pytest.raises(psi.IdsError, match=says):
            list(psi.column(data, name))
    with pytest.raises(psi.IdsError, match=r'a column of a DataFrame .* such as frame\["id"\]'):
        psi.column(FRAME, "id")
    with pytest.raises(psi.IdsError, match="12 ids are not a string"):
        psi.OwnIds(psi.column(data, "n"))


def test_rows_are_copied_partition_by_partition(tmp_path: Path) -> None:
    """Of one party from a data set, of the other one from a file."""
    pd.DataFrame({"id": THEIRS}).to_csv(tmp_path / "b.csv", index=False)
    here: Any = {"join_timeout": 30, "results_dir": tmp_path / "results"}
    parties = (
        RSAPSIInitiatorScheduler(
            "a", ids=psi.column(in_parts(), "id"), rows_out=tmp_path / "a", **here
        ),
        RSAPSICollaboratorScheduler(
            "b", ids=psi.column(tmp_path / "b.csv", "id"), rows_out=tmp_path / "b", **here
        ),
    )
    assert run(*parties, task="t") == [sorted(THEIRS[1:])] * 2
    found = rows_of(tmp_path / "a")
    assert found.astype(object).equals(FRAME.iloc[COMMON].reset_index(drop=True).astype(object))
    assert (tmp_path / "b").read_text().splitlines() == ["id", *THEIRS[1:]]
    files = [tmp_path / "b", tmp_path / "a", *(tmp_path / "a").iterdir()]
    assert {each.stat().st_mode & 0o077 for each in files} == {0}
    assert (tmp_path / "results/t/a/intersection.csv").exists()


def test_a_named_index_becomes_a_column(tmp_path: Path) -> None:
    data = dd.from_pandas(FRAME.set_index("n"), npartitions=3)
    both(tmp_path, psi.column(data), rows_out=tmp_path / "a")
    files = partitions(tmp_path / "a")
    assert [n for each in files for n in pd.read_parquet(each).index] == COMMON


def test_ids_that_repeat_across_partitions(tmp_path: Path) -> None:
    twice = pd.concat([FRAME[:10], FRAME[3:5]])
    with pytest.raises(psi.IdsError, match=r"2 ids are repeated; positions \(from 0\): 10, 11"):
        psi.OwnIds(psi.column(in_parts(twice), "id"))
    mine, theirs = both(tmp_path, psi.column(in_parts(twice), "id"), rows_out=tmp_path / "a")
    assert isinstance(mine, e.IdError)
    assert "person" not in str(mine)
    assert isinstance(theirs, e.TaskAborted)
    assert not (tmp_path / "a").exists()


def reordered(_: int, rows: pd.DataFrame) -> pd.DataFrame:
    return rows[::-1]


def shorter(number: int, rows: pd.DataFrame) -> pd.DataFrame:
    return rows[:-1] if number == 2 else rows


def longer(number: int, rows: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([rows, rows]) if number == 2 else rows


def failing(number: int, rows: pd.DataFrame) -> pd.DataFrame:
    if number:
        raise ValueError(rows["id"].iloc[0])
    return rows


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (reordered, "the DataFrame of dask was changed while the task ran; run it again"),
        (shorter, "was changed while the task ran"),
        (longer, "was changed while the task ran"),
        (failing, "partition 1 (from 0) of the DataFrame of dask cannot be computed: ValueError"),
    ],
)
def test_rows_that_change_between_passes(
    change: Callable[[int, pd.DataFrame], pd.DataFrame], says: str, tmp_path: Path
) -> None:
    """The third time the last partition is computed, to copy its rows, they are others."""
    seen: list[int] = []

    def first_as_it_is(number: int, rows: pd.DataFrame) -> pd.DataFrame:
        seen.append(number)
        return rows if len(seen) <= 4 else change(number, rows)  # the check computes one

    data = in_parts(change=first_as_it_is)
    with dask_config(scheduler="synchronous"):
        mine, theirs = both(tmp_path, psi.column(data, "id"), rows_out=tmp_path / "a")
    assert isinstance(mine, e.IdError)
    assert says in str(mine)
    assert "person" not in str(mine)
    assert isinstance(theirs, list | e.TaskAborted)
    assert {each.name for each in tmp_path.iterdir()} <= {"results", "home"}


def dask_config(**given: Any) -> Any:
    import dask

    return dask.config.set(**given)


def test_what_cannot_be_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named before anybody is waited for."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("as it was")
    mixed = FRAME.assign(n=pd.Series([1, "a"] * 6, dtype=object))
    data, new = psi.column(in_parts(), "id"), tmp_path / "new"
    with dask_config(**{"dataframe.convert-string": False}):
        unfit = psi.column(in_parts(mixed), "id")
        for ids, out, says in (
            (FRAME["id"], new, r"rows_out needs .* give ids=psi.column"),
            (data, tmp_path / "full", "is there already"),
            (data, tmp_path / "full" / "x", "is there already"),
            (psi.column(in_parts(), "x"), new, "no column 'x'"),
            (psi.column(in_parts(change=lambda *_: 1 / 0), "id"), new, "ZeroDivisionError"),
            (unfit, new, "cannot be written as a Parquet file"),
        ):
            party = RSAPSIInitiatorScheduler("a", ids=ids, rows_out=out, join_timeout=0.1)
            with pytest.raises(e.ConfigError, match=says):
                party.launch_task("t")
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # which Dask needs itself
    party = RSAPSIInitiatorScheduler("a", ids=psi.column(Parts(), "id"), rows_out=new)
    with pytest.raises(e.ConfigError, match=r"heterofed\[parquet\]"):
        party.launch_task("t")
    assert (tmp_path / "full" / "x").read_text() == "as it was"
    assert not new.exists()


def test_a_stored_set_of_partitions_is_asked_from_partitions(tmp_path: Path) -> None:
    stored = psi.StoredSet.create(
        tmp_path / "set", psi.column(in_parts(), "id"), domain=set_domain("n"), workers=1
    )
    stored.require(psi.OwnIds(FRAME["id"]))


@pytest.mark.long
def test_a_cluster_that_loses_a_worker_and_then_all(tmp_path: Path) -> None:
    distributed: Any = pytest.importorskip("distributed")
    pids: list[int] = []
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        pids += client.run(os.getpid).values()
        data = dd.from_pandas(FRAME, npartitions=3)
        ids = iter(psi.column(data, "id"))
        read = [next(ids)]
        os.kill(pids[0], signal.SIGKILL)
        assert read + list(ids) == FRAME["id"].tolist()
        common, _ = both(tmp_path, psi.column(data, "id"), rows_out=tmp_path / "a")
        assert common == sorted(THEIRS[1:])
        assert rows_of(tmp_path / "a")["n"].tolist() == COMMON
        rest = iter(psi.column(data, "id"))
        next(rest)
        cluster.close()
        with pytest.raises(psi.IdsError, match=r"partition 1 \(from 0\) .* cannot be computed"):
            list(rest)


def late(rows: pd.DataFrame) -> pd.DataFrame:
    """The first block is the last one that is ready."""
    time.sleep(0 if rows["n"].iloc[0] else 2)
    return rows


def unready(rows: pd.DataFrame) -> pd.DataFrame:
    if rows["n"].iloc[0]:
        raise ValueError(rows["id"].iloc[0])
    return rows


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # Ray warns of its own settings
def test_a_ray_data_set(tmp_path: Path) -> None:
    ray: Any = pytest.importorskip("ray")
    start_ray(ray)
    try:
        blocks = pytest.importorskip("ray.data").from_pandas([FRAME[:5], FRAME[5:10], FRAME[10:]])
        data = blocks.map_batches(late, batch_format="pandas")
        ids = psi.column(data, "id")
        assert list(ids) == list(ids) == FRAME["id"].tolist()
        assert not data.context.execution_options.preserve_order
        common, _ = both(tmp_path, ids, rows_out=tmp_path / "a")
        assert common == sorted(THEIRS[1:])
        assert rows_of(tmp_path / "a")["n"].tolist() == COMMON
        with pytest.raises(psi.IdsError, match="no column 'x'; its columns: 'n', 'id'"):
            list(psi.column(data, "x"))
        failing = blocks.map_batches(unready, batch_format="pandas")
        with pytest.raises(
            psi.IdsError, match=r"block \d \(from 0\) of the Dataset of ray"
        ) as told:
            list(psi.column(failing, "id"))
        assert "person" not in str(told.value)
    finally:
        ray.shutdown()


MORTAL = """
import json, os, signal, sys
import dask.dataframe, pandas
import psi
from heterofed.hetero_nn.psi import RSAPSICollaboratorScheduler, RSAPSIInitiatorScheduler
from psi.requesting import Requester

folder, role, lives = sys.argv[1], sys.argv[2], int(sys.argv[3])
frame = pandas.DataFrame({"id": [str(number) for number in range(12000)]})
data = dask.dataframe.from_pandas(frame, npartitions=4)
real = Requester.unblind

def dies(self, chunk):
    global lives
    done = real(self, chunk)
    lives -= 1
    if not lives:
        os.kill(os.getpid(), signal.SIGKILL)
    return done

Requester.unblind = dies
here = {"join_timeout": 60, "results_dir": folder + "/results"}
ids = psi.column(data, "id")
if role == "a":
    here |= {"rows_out": folder + "/rows", "psi_protocol": "ecdh"}
    party = RSAPSIInitiatorScheduler("a", ids=ids, **here)
else:
    party = RSAPSICollaboratorScheduler("b", ids=map(str, range(0, 24000, 2)), **here)
print(json.dumps(len(party.launch_task("t", resume="require" if lives < 0 else "auto"))))
"""


@pytest.mark.long
def test_a_killed_party_goes_on(parties: Parties, tmp_path: Path) -> None:
    def start(role: str, lives: int) -> Any:
        return parties.start("-c", MORTAL, str(tmp_path), role, str(lives))

    first, other = start("a", 3), start("b", 0)
    assert first.wait() == -signal.SIGKILL
    assert other.wait() == 1
    again, other = start("a", -1), start("b", 0)
    assert again.wait() == 0, again.output
    assert other.wait() == 0, other.output
    assert json.loads(again.output.splitlines()[-1]) == 6000
    assert sum(len(pd.read_parquet(each)) for each in (tmp_path / "rows").iterdir()) == 6000
