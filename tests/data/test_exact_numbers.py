"""No number of a table is changed without a word, and no row of a file is read as another."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from heterofed.data import VerticalTable
from heterofed.errors import ColumnError, ConfigError

ARROW_DECIMAL = pd.ArrowDtype(pa.decimal128(30, 3))


def table(column: Any, **settings: Any) -> VerticalTable:
    frame = pd.DataFrame({"id": [f"p{row}" for row in range(len(column))], "x": column})
    return VerticalTable(frame, id="id", **settings)


@pytest.mark.parametrize(
    "column",
    [
        pd.Series([16777217]),
        pd.Series([16777217.0]),
        pd.Series([1.0, np.nan, -16777219.0]),
        pd.Series([1, 2**53 + 1]),
        pd.Series([2**63 + 1, 1], dtype="uint64"),
        pd.Series([-(2**63) + 1, 1]),
        pd.Series([16777217, None], dtype="Int64"),
        pd.Series([16777217, None], dtype="UInt64"),
        pd.Series([16777217, None], dtype="Float64"),
        pd.Series([16777217], dtype="int64[pyarrow]"),
        pd.Series([Decimal("16777217"), Decimal("0.5")], dtype=ARROW_DECIMAL),
        pd.Series([Decimal(2**53 + 1)], dtype=ARROW_DECIMAL),
        pd.Series(pd.to_datetime(["2024-05-06 07:08:09.123456789"])).astype("int64"),
        pd.Series([1.5, 1e39]),
        pd.Series([1e-50, 2e-50]),
        pd.Series([1.0, -np.inf]),
    ],
    ids=lambda each: f"{each.dtype} {each.iloc[0]}",
)
@pytest.mark.parametrize("missing", ["mean", "zero"])
def test_numbers_that_float32_would_change(column: Any, missing: Any) -> None:
    with pytest.raises(ColumnError, match="'x' holds"):
        table(column, missing=missing)


@pytest.mark.parametrize(
    "column",
    [
        pd.Series([True, False]),
        pd.Series([True, None], dtype="boolean"),
        pd.Series([True, None], dtype="bool[pyarrow]"),
        pd.Series([16777216, 2**60, -(2**63), 0]),
        pd.Series([2**63, 3 * 2**62], dtype="uint64"),
        pd.Series([0.1, 123456.789, 16777217.5]),
        pd.Series([1.0, 1e-60]),  # beside 1 it is zero
        pd.Series([1.5, None], dtype="Float32"),
        pd.Series([Decimal("0.125"), None], dtype=ARROW_DECIMAL),
        pd.Series([0, 3, 0], dtype=pd.SparseDtype("int64", 0)),
        pd.Series([None, None], dtype=object),
        pd.Series([7], dtype="int8"),
        pd.Series([0.5], dtype="float16"),
    ],
    ids=lambda each: str(each.dtype),
)
def test_numbers_that_it_holds(column: Any) -> None:
    read = table(column, missing="zero")
    want = [0.0 if pd.isna(each) else float(each) for each in column]
    assert torch.equal(read.rows(read.ids)[:, 0], torch.tensor(want, dtype=torch.float32))


@given(st.lists(st.integers(-(2**63), 2**64 - 1), min_size=1, max_size=4))
def test_a_whole_number_is_kept_or_refused(numbers: list[int]) -> None:
    try:
        column = pd.Series(np.array(numbers, dtype=np.uint64 if min(numbers) >= 0 else np.int64))
    except OverflowError:
        return
    try:
        read = table(column)
    except ColumnError:
        assert any(int(np.float32(each)) != each for each in numbers)
        return
    assert [int(each) for each in read.rows(read.ids)[:, 0].tolist()] == numbers


@pytest.mark.parametrize(
    "column", [["a", "b"], [1, "2"], [Decimal(1), Decimal(2)], pd.Categorical([1, 2])]
)
def test_what_is_no_number_is_refused(column: Any) -> None:
    with pytest.raises(ColumnError, match="must be numbers"):
        table(column)


@pytest.mark.parametrize(
    "labels",
    [
        pd.Series([2**64 - 1, 0], dtype="uint64"),
        pd.Series([16777217.0, 0.0]),
        pd.Series([np.inf, 0.0]),
    ],
)
def test_labels_are_not_changed_either(labels: Any) -> None:
    frame = pd.DataFrame({"id": ["a", "b"], "x": [1.0, 2.0], "y": labels})
    with pytest.raises(ColumnError, match="label 'y' holds"):
        VerticalTable(frame, id="id", label="y")


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("id,x,z\np,1,2,\nq,3,4,\n", [[1, 2], [3, 4]]),
        ("id,x,z,\np,1,2,\nq,3,4,\n", [[1, 2], [3, 4]]),
        ("id,x,z,\np,1,2\nq,3,4,\n", [[1, 2], [3, 4]]),
        ('id,x,z\n"p",1,2\nq,3,4', [[1, 2], [3, 4]]),
        ("\ufeffid,x,z\np,1,2\nq,3,4\n", [[1, 2], [3, 4]]),
        ("x,z,id\n1,2,p,\n3,4,q,\n", [[1, 2], [3, 4]]),
    ],
)
def test_a_comma_at_the_end_is_no_column(text: str, rows: Any, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    read = VerticalTable.read(tmp_path / "t.csv", id="id")
    assert read.ids == ["p", "q"]
    assert read.columns == ("x", "z")
    assert read.rows(["p", "q"]).tolist() == rows


@pytest.mark.parametrize(
    "text",
    ["id,x\np,1,7\nq,3,8\n", "id,x\np,1\nq,3,8\n", "id,x\np,1,,7\n", "id,x\np,1\nq,3,,\nr,4,5\n"],
)
def test_fields_without_a_column_are_not_dropped(text: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises((ConfigError, ColumnError), match="more fields than its header"):
        VerticalTable.read(tmp_path / "t.csv", id="id")


def test_another_encoding_is_named_with_its_remedy(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("id,\u5e74\u9f84\n\u5f20,3\n".encode("gbk"))
    with pytest.raises(ConfigError, match=r'cannot be read as utf-8 .* encoding="gbk"'):
        VerticalTable.read(tmp_path / "t.csv", id="id")
    assert VerticalTable.read(tmp_path / "t.csv", id="id", encoding="gbk").ids == ["\u5f20"]
    with pytest.raises(ConfigError, match="cannot be read as gbq"):
        VerticalTable.read(tmp_path / "t.csv", id="id", encoding="gbq")
