"""Tables that are not held in memory train as those that are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from heterofed import simulate, simulate_prediction
from heterofed.data.places import Places
from heterofed.errors import ColumnError, MissingIdsError
from heterofed.tabular import TabularCollaborator, TabularHost, open_source
from heterofed.tabular.kinds import Column
from heterofed.tabular.prepared import PreparedRows
from heterofed.tabular.table import LocalTable
from tests.tabular.people import loans, written


@pytest.fixture
def no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """No table is small enough to be held."""
    monkeypatch.setattr("heterofed.tabular.sources.source.SMALL_CELLS", 0)


def everything(table: LocalTable, ids: list[str]) -> list[Any]:
    """All that batches of these rows hold."""
    found: list[Any] = []
    for batch in table.batches(ids, 7):
        assert batch.inputs is not None
        bags = list(batch.inputs.bags.values())
        found += [batch.inputs.dense, *batch.inputs.codes.values()]
        found += [part for bag in bags for part in (bag.tokens, bag.weights, bag.starts)]
    return found


def loaded(path: Path, train: list[str], rest: list[str], **given: Any) -> LocalTable:
    table = LocalTable(path, ids="client", **given)
    table.check()
    table.load([*train, *rest], table.fit(train, "mlp"))
    return table


def test_batches_from_a_file_are_those_from_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = loans(300)[1]
    theirs["words"] = [f"matter {row} and more of word{row % 11} here" for row in theirs.index]
    lists = [[f"t{at * row % 600}:{at}" for at in range(1, row % 9)] for row in theirs.index]
    theirs["many"] = [" ".join(["t0", *each]) for each in lists]
    (path,) = written(tmp_path, shop=theirs)
    ids = theirs["client"].tolist()
    chance = np.random.default_rng(0)
    train, rest = ids[:200], ids[200:]
    order = [ids[at] for at in chance.permutation(len(ids))[:150]]
    small = loaded(path, train, rest)
    monkeypatch.setattr("heterofed.tabular.sources.source.SMALL_CELLS", 0)
    large = loaded(path, train, rest)
    assert isinstance(large._inputs, PreparedRows)
    assert not isinstance(small._inputs, PreparedRows)
    assert len(large._inputs) == len(ids)
    pairs = list(zip(everything(small, order), everything(large, order), strict=True))
    assert len(pairs) > 100
    assert all(torch.equal(a, b) for a, b in pairs)
    assert {a.dtype for a, _ in pairs} == {torch.float32, torch.int64}
    with pytest.raises(MissingIdsError, match="1 of 2 ids"):
        list(large.batches([ids[0], "nobody"], 7))


def test_steps_are_fitted_on_even_steps_of_the_train_rows(
    tmp_path: Path, no_memory: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heterofed.tabular.table.FITTED_CELLS", 50)
    frame = pd.DataFrame({"client": [f"c{row}" for row in range(100)], "x": np.arange(100.0) ** 2})
    (path,) = written(tmp_path, shop=frame)
    table = LocalTable(path, ids="client")
    table.check()
    preparation = table.fit(frame["client"].tolist(), "mlp")
    assert preparation.steps[0].values == {"x": 2402.0}  # type: ignore[union-attr]


@pytest.mark.slow
def test_a_model_of_large_tables_is_that_of_small_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, theirs = loans(200)
    mine["weight"] = 1.0 + (mine["risk"] > 0)
    bank, shop = written(tmp_path, bank=mine, shop=theirs)
    scores = []
    for name, small in (("small", 50_000_000), ("large", 0)):
        monkeypatch.setattr("heterofed.tabular.sources.source.SMALL_CELLS", small)
        results = tmp_path / name
        common: dict[str, Any] = {"seed": 0, "results_dir": results}
        host = TabularHost(
            "bank",
            bank,
            ids="customer",
            label="defaulted",
            weight="weight",
            max_rounds=2,
            psi_protocol="ecdh",
            batch_size=32,
            **common,
        )
        partner = TabularCollaborator("shop", shop, ids="client", **common)
        simulate(host, [partner], task_id="t")
        reader = TabularHost("bank", bank, ids="customer", label=None, **common)
        done = simulate_prediction(
            reader, [TabularCollaborator("shop", shop, ids="client", **common)], task_id="t"
        )
        scores.append(done.results["bank"].sort_values("id")["probability"].to_numpy())
        assert host.evaluation is not None
        scores.append(host.evaluation["auc"])
    assert np.array_equal(scores[0], scores[2])
    assert scores[1] == scores[3]


def test_rows_among_a_table_come_in_its_order(tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": range(5000)})
    (path,) = written(tmp_path, t=frame)
    source = open_source(path)
    parts = list(source.among([4999, 3, 3, 2050, 0]))
    assert [row for part in parts for row in part.index] == [0, 3, 2050, 4999]
    assert [cell for part in parts for cell in part["x"]] == ["0", "3", "2050", "4999"]


def test_a_bad_cell_of_a_large_table_is_named(tmp_path: Path, no_memory: None) -> None:
    frame = pd.DataFrame({"client": [f"c{row}" for row in range(50)], "x": np.arange(50) ** 2})
    (path,) = written(tmp_path, shop=frame)
    table = LocalTable(path, ids="client")
    table.check()
    preparation = table.fit(frame["client"].tolist(), "mlp")
    frame["x"] = frame["x"].astype(str).mask(frame.index == 44, "plenty")
    (path,) = written(tmp_path, other=frame)
    other = LocalTable(path, ids="client")
    other.read_ids(None)
    with pytest.raises(ColumnError, match=r"other\.csv, row 45, column 'x'"):
        other.load(frame["client"].tolist(), preparation)


def test_places() -> None:
    ids = [f"id{row}" for row in range(1000)]
    places = Places(ids)
    assert places.of(["id3", "nobody", "id999", "id0"]).tolist() == [3, -1, 999, 0]
    assert Places([]).of(["id3"]).tolist() == [-1]
    assert places.of([]).tolist() == []


def test_ids_whose_hashes_are_the_same_have_their_places() -> None:
    class Same(str):
        __slots__ = ()

        def __hash__(self) -> int:
            return 7

        def __eq__(self, other: object) -> bool:
            return str.__eq__(self, other)

    ids = [Same("a"), Same("b"), Same("c")]
    assert Places(ids).of([ids[2], ids[0], Same("d")]).tolist() == [2, 0, -1]


def test_a_streamed_table_of_medium_size_is_read_from_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heterofed.tabular.sources.source.STREAMED_CELLS", 10)
    monkeypatch.setattr("heterofed.tabular.sources.delimited.STREAMED_ON_DISK", 10)
    theirs = loans(300)[1]
    (path,) = written(tmp_path, shop=theirs)
    held, streamed = open_source(path), open_source(path, streams=True)
    assert (held.is_large, streamed.is_large) == (False, True)
    texts = [Column(name=each, kind="text") for each in streamed.columns]
    assert streamed.typed(texts).is_large  # what is made of it is streamed, too
    assert not list(held.scratch.path.glob("*.duckdb"))
    assert list(streamed.scratch.path.glob("*.duckdb"))
    pd.testing.assert_frame_equal(held.take([7, 2]), streamed.take([7, 2]))
