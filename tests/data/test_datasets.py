"""Data sets by id, and one data set cut into parties."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from heterofed.data import IndexedDataset, VerticalTable, vertical_split
from heterofed.errors import ColumnError, ConfigError, IdError, MissingIdsError

IDS = ["c", "a", "d", "b"]
PLAIN = TensorDataset(torch.arange(8.0).reshape(4, 2), torch.tensor([2, 0, 3, 1]))


def test_items_come_in_the_order_of_the_ids() -> None:
    data = IndexedDataset(PLAIN, IDS, labelled=True)
    assert data.ids == IDS
    features, labels, ids = data.take(["a", "b", "c"])
    assert features.tolist() == [[2.0, 3.0], [6.0, 7.0], [0.0, 1.0]]
    assert labels.tolist() == [0, 1, 2]
    assert ids == ["a", "b", "c"]


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_with_their_ids(workers: int) -> None:
    data = IndexedDataset(PLAIN, IDS, labelled=True)
    state = torch.get_rng_state()
    batches = list(data.batches(sorted(IDS), 3, num_workers=workers))
    assert torch.equal(torch.get_rng_state(), state), "dropout masks would change"
    assert [each.ids for each in batches] == [["a", "b", "c"], ["d"]]
    assert [each.labels.tolist() for each in batches] == [[0, 1, 2], [3]]


@pytest.mark.slow
def test_workers_that_are_spawned() -> None:
    data = IndexedDataset(PLAIN, IDS, labelled=True)
    batches = data.batches(sorted(IDS), 3, num_workers=1, multiprocessing_context="spawn")
    assert [(each.ids, each.labels.tolist()) for each in batches] == [
        (["a", "b", "c"], [0, 1, 2]),
        (["d"], [3]),
    ]


def test_items_may_be_anything() -> None:
    class Words(Dataset[Any]):
        def __len__(self) -> int:
            return 2

        def __getitem__(self, position: int) -> str:
            return "xy"[position]

    data = IndexedDataset(Words(), ["1", "2"])
    assert data.take(["2", "1"]) == (["y", "x"], None, ["2", "1"])
    (batch,) = data.batches(["2"], 5, collate_fn="".join)
    assert batch == ("y", None, ["2"])


def test_what_is_refused() -> None:
    data = IndexedDataset(PLAIN, IDS)
    with pytest.raises(MissingIdsError, match="TensorDataset has no row for 1 of 2 requested ids"):
        data.batches(["a", "z"], 1)
    with pytest.raises(IdError, match="4 items was given 3 ids"):
        IndexedDataset(PLAIN, IDS[:3])
    with pytest.raises(IdError, match="more than once"):
        IndexedDataset(PLAIN, ["a", "a", "b", "c"])
    for argument in ("shuffle", "sampler", "drop_last"):
        with pytest.raises(ConfigError, match="order of rows is agreed"):
            data.batches(["a"], 1, **{argument: True})

    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(())

    with pytest.raises(ConfigError, match="map-style"):
        IndexedDataset(Stream(), IDS)


# -- vertical_split ------------------------------------------------------------------------------

FRAME = pd.DataFrame(np.arange(500.0).reshape(100, 5), columns=list("abcde")).assign(
    label=np.arange(100) % 2, key=[f"k{row}" for row in range(100)]
)


@pytest.mark.slow
@settings(deadline=None, max_examples=30)
@given(
    count=st.integers(2, 4),
    overlap=st.floats(0.01, 1.0),
    seed=st.integers(0, 2**40),
    shuffle=st.booleans(),
)
def test_a_frame_cut_into_parties(count: int, overlap: float, seed: int, shuffle: bool) -> None:
    names = [f"party{each}" for each in range(count)]
    cut: dict[str, VerticalTable] = vertical_split(
        FRAME,
        parties=names,
        label_owner="party1",
        label="label",
        id="key",
        overlap=overlap,
        seed=seed,
        shuffle=shuffle,
    )
    assert list(cut) == names
    assert [column for table in cut.values() for column in table.columns] == list("abcde")
    common = set.intersection(*(set(table.ids) for table in cut.values()))
    assert len(common) == max(1, round(overlap * 100))
    assert set.union(*(set(table.ids) for table in cut.values())) == set(FRAME["key"])
    source = FRAME.set_index("key")
    for name, table in cut.items():
        want = source.loc[table.ids, list(table.columns)].to_numpy(np.float32)
        assert np.array_equal(table.rows(table.ids).numpy(), want)
        if name == "party1":
            assert table.labels(table.ids).tolist() == source.loc[table.ids, "label"].tolist()
        else:
            with pytest.raises(ColumnError):
                table.labels(table.ids)
    orders = [[each for each in table.ids if each in common] for table in cut.values()]
    if not shuffle:
        assert all(order == orders[0] for order in orders)
    elif len(common) > 20:
        assert orders[0] != orders[1]


def test_the_same_seed_makes_the_same_cut() -> None:
    def cut(seed: int) -> list[list[str]]:
        parts = vertical_split(
            FRAME, parties=["x", "y"], label_owner="x", label="label", id="key", seed=seed
        )
        return [table.ids for table in parts.values()]

    assert cut(1) == cut(1) != cut(2)


def test_columns_by_party() -> None:
    cut = vertical_split(
        FRAME,
        parties={"bank": ["e", "a"], "shop": ["c"]},
        label_owner="bank",
        label="label",
        id="key",
    )
    assert [table.columns for table in cut.values()] == [("e", "a"), ("c",)]


def test_a_data_set_cut_into_parties() -> None:
    images = TensorDataset(torch.arange(12 * 2 * 5.0).reshape(12, 2, 5), torch.arange(12) % 3)
    cut = vertical_split(images, parties=["left", "right"], label_owner="left", overlap=0.5)
    common = sorted(set(cut["left"].ids) & set(cut["right"].ids))
    assert len(common) == 6
    left, right = (cut[side].take(common) for side in ("left", "right"))
    rows = [int(each[4:]) for each in common]
    assert torch.equal(torch.cat([left.features, right.features], dim=-1), images.tensors[0][rows])
    assert torch.equal(left.labels, images.tensors[1][rows])
    assert right.labels is None
    chosen = vertical_split(images, parties={"a": [0, 4], "b": slice(1, 3)}, label_owner="b")
    assert chosen["a"].take(["row-01"]).features.tolist() == [[[10.0, 14.0], [15.0, 19.0]]]
    assert chosen["b"].take(["row-00"]).features.tolist() == [[[1.0, 2.0], [6.0, 7.0]]]


def test_ids_are_those_of_the_whole_frame() -> None:
    """Of two people with one id, one party must not get the one and another party the other."""
    twice = FRAME.copy()
    twice.loc[99, "key"] = "k0"
    for seed in range(20):
        with pytest.raises(IdError, match="more than once"):
            vertical_split(
                twice,
                parties=["x", "y"],
                label_owner="x",
                label="label",
                id="key",
                overlap=0.5,
                seed=seed,
            )


def test_columns_may_have_numbers_for_names() -> None:
    plain = pd.DataFrame(np.arange(12.0).reshape(4, 3)).assign(**{"9": list("abcd")})
    plain.columns = [0, 1, 2, 9]
    named: Any = {"label": 2, "id": 9}
    cut = vertical_split(plain, parties=["x", "y"], label_owner="x", **named)
    assert [table.columns for table in cut.values()] == [("0",), ("1",)]
    assert cut["x"].labels(["b"]).tolist() == [5.0]


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"parties": ["one"]}, ConfigError, "two or more"),
        ({"parties": ["x", "x"]}, ConfigError, "different names"),
        ({"label_owner": "z"}, ConfigError, "give one of the parties"),
        ({"overlap": 0}, ConfigError, "share"),
        ({"overlap": 1.2}, ConfigError, "share"),
        ({"label": None}, ColumnError, "name the column of labels"),
        ({"label": "z"}, ColumnError, "name the column of labels"),
        ({"parties": [*"uvwxyz"]}, ColumnError, "5 columns are too few for 6"),
        ({"parties": {"x": ["a"], "y": ["z"]}}, ColumnError, "no column 'z'"),
        ({"id": "z"}, ColumnError, "no column 'z'"),
        ({"parties": {"x": ["a"], "y": ["b", "label"]}}, ConfigError, "y was given the label"),
        ({"parties": {"x": ["a", "label"], "y": ["b"]}}, ColumnError, "neither ids nor label"),
    ],
)
def test_cuts_that_cannot_be_made(change: dict[str, Any], error: Any, says: str) -> None:
    arguments: dict[str, Any] = {"parties": ["x", "y"], "label_owner": "x", "label": "label"}
    with pytest.raises(error, match=says):
        vertical_split(FRAME, **{**arguments, "id": "key", **change})


def test_data_sets_that_cannot_be_cut() -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(())

    empty: Any = TensorDataset(torch.zeros(0, 3), torch.zeros(0))
    for data in (empty, FRAME.iloc[:0], Stream(), 5):
        with pytest.raises(ConfigError, match="no rows to divide"):
            vertical_split(data, parties=["x", "y"], label_owner="x", label="label")
    plain: Any = TensorDataset(torch.zeros(4, 2))
    with pytest.raises(ConfigError, match="pairs"):
        vertical_split(plain, parties=["x", "y"], label_owner="x")
    flat: Any = TensorDataset(torch.zeros(4), torch.zeros(4))
    with pytest.raises(ConfigError, match="columns to cut"):
        vertical_split(flat, parties=["x", "y"], label_owner="x")
    wide: Any = TensorDataset(torch.zeros(4, 3), torch.zeros(4))
    with pytest.raises(ColumnError, match="do not exist in an input of 3 columns"):
        vertical_split(wide, parties={"x": slice(0, 2), "y": [3]}, label_owner="x")
