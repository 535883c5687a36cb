"""Tables by id: what is read, and what is refused before any of it is used."""

from __future__ import annotations

import gzip
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from heterofed.data import VerticalTable
from heterofed.errors import ColumnError, ConfigError, IdError, MissingIdsError

FRAME = pd.DataFrame(
    {
        "id": ["p3", "p1", "p2"],
        "age": [30, 10, 20],
        "income": [0.5, 1.5, 2.5],
        "member": [True, False, True],
        "bought": [1, 0, 1],
    }
)


def test_rows_come_in_the_order_of_the_ids() -> None:
    table = VerticalTable(FRAME, id="id", label="bought")
    assert table.ids == ["p3", "p1", "p2"]
    assert table.columns == ("age", "income", "member")
    rows = table.rows(["p2", "p3"])
    assert rows.dtype == torch.float32
    assert rows.tolist() == [[20.0, 2.5, 1.0], [30.0, 0.5, 1.0]]
    assert table.labels(["p1", "p2"]).tolist() == [0, 1]
    assert table.labels(["p1"]).dtype == torch.int64
    taken = table.take(["p1", "p3"])
    assert taken.ids == ["p1", "p3"]
    assert torch.equal(taken.features, table.rows(taken.ids))
    assert torch.equal(taken.labels, table.labels(taken.ids))
    assert (len(table), repr(table)) == (3, "<VerticalTable of 3 rows, 3 columns and labels>")


def test_columns_are_chosen_in_their_order() -> None:
    table = VerticalTable(FRAME, id="id", columns=["income", "age"])
    assert table.rows(["p1"]).tolist() == [[1.5, 10.0]]
    assert table.take(["p1"]).labels is None


def test_the_index_may_hold_the_ids() -> None:
    assert VerticalTable(FRAME.set_index("id")[["age"]]).ids == ["p3", "p1", "p2"]
    assert VerticalTable(FRAME[["age"]]).ids == ["0", "1", "2"]


def test_a_table_keeps_what_it_read() -> None:
    frame = FRAME.copy()
    table = VerticalTable(frame, id="id", columns=["age"])
    frame["age"] = 0
    frame.loc[0, "age"] = 7
    assert table.rows(["p3"]).tolist() == [[30.0]]


def test_batches_chunk_the_order_given() -> None:
    table = VerticalTable(FRAME, id="id", columns=["age"])
    batches = list(table.batches(["p1", "p2", "p3"], 2))
    assert [each.ids for each in batches] == [["p1", "p2"], ["p3"]]
    assert [each.features.tolist() for each in batches] == [[[10.0], [20.0]], [[30.0]]]


@pytest.mark.parametrize("size", [0, -1, 1.5, True, "2"])
def test_a_batch_size_is_a_whole_number(size: Any) -> None:
    with pytest.raises(ConfigError, match="batch_size"):
        VerticalTable(FRAME, id="id").batches(["p1"], size)


def test_missing_ids_are_counted_and_not_shown() -> None:
    table = VerticalTable(FRAME, id="id", columns=["age"])
    says = r"no row for 2 of 3 requested ids \(at positions 0, 2\)"
    with pytest.raises(MissingIdsError, match=says) as caught:
        table.rows(["secret", "p1", "other"])
    assert caught.value.numbers == (2, 3)
    assert "secret" not in str(caught.value)
    with pytest.raises(MissingIdsError):  # before the first batch, not at the second
        table.batches(["p1", "p2", "secret"], 2)


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        (["a", "b", "a"], "more than once"),
        (["a", None, "b"], "1 rows of the table have no id"),
        ([1.0, 2.0, 3.0], "fractions"),
        ([True, False, True], "True and False"),
        (["a", "b", ("c",)], "position 2 is a tuple"),
    ],
)
def test_ids_that_cannot_be_used(ids: list[Any], says: str) -> None:
    with pytest.raises(IdError, match=says):
        VerticalTable(FRAME.assign(id=ids), id="id", columns=["age"])


def test_an_empty_table() -> None:
    with pytest.raises(IdError, match="no id"):
        VerticalTable(FRAME.iloc[:0], id="id", columns=["age"])


@pytest.mark.parametrize(
    ("change", "settings", "says"),
    [
        ({"age": ["x", "y", "z"]}, {}, "age: .*not numeric"),
        ({"age": pd.to_datetime(["2020-01-01"] * 3)}, {}, "age: datetime64.*not numeric"),
        ({"age": [1j, 2j, 3j]}, {}, "complex"),
        ({"age": [1.0, np.nan, 2.0]}, {}, r"missing values \(age: float64, 1 missing\)"),
        ({"age": [1.0, np.inf, 2.0]}, {}, "'age' holds infinity"),
        ({"age": [1.0, 1e39, 2.0]}, {}, "beyond the range of float32"),
        ({}, {"columns": ["height"]}, "no column 'height'"),
        ({}, {"columns": ["age", "age"]}, "once"),
        ({}, {"columns": ["age", "id"]}, "neither ids nor label"),
        ({}, {"columns": []}, "no feature"),
        ({}, {"label": "height"}, "no column 'height'"),
        ({"bought": [1.0, np.nan, 0.0]}, {"label": "bought"}, "missing in 1 rows"),
        ({"bought": ["M", "B", "M"]}, {"label": "bought"}, "not a number"),
    ],
)
def test_columns_that_cannot_be_used(
    change: dict[str, Any], settings: dict[str, Any], says: str
) -> None:
    with pytest.raises(ColumnError, match=says):
        VerticalTable(FRAME.assign(**change), id="id", **settings)


def test_the_same_column_twice() -> None:
    with pytest.raises(ColumnError, match="more than one column 'age'"):
        VerticalTable(pd.concat([FRAME, FRAME[["age"]]], axis=1), id="id")


def test_labels_must_be_there_to_be_asked_for() -> None:
    with pytest.raises(ColumnError, match="no labels"):
        VerticalTable(FRAME, id="id").labels(["p1"])


def test_missing_values_filled() -> None:
    frame = FRAME.assign(age=[1.0, np.nan, 3.0], income=pd.array([1, None, None], dtype="Int64"))[
        ["id", "age", "income"]
    ]
    mean = VerticalTable(frame, id="id", missing="mean")
    with pytest.raises(ColumnError, match=r"call table\.fit"):
        mean.rows(["p1"])
    mean.fit(mean.ids)
    assert mean.rows(["p3", "p1", "p2"]).tolist() == [[1.0, 1.0], [2.0, 1.0], [3.0, 1.0]]
    zero = VerticalTable(frame, id="id", missing="zero")
    assert zero.rows(["p1"]).tolist() == [[0.0, 0.0]]
    assert [str(each) for each in zero.report] == [
        "age: float64, 1 missing",
        "income: Int64, 2 missing",
    ]
    with pytest.raises(ConfigError, match="missing="):
        VerticalTable(frame, id="id", missing="median")  # type: ignore[arg-type]


def test_the_report_tells_of_columns_that_are_not_used() -> None:
    frame = FRAME.assign(name=pd.Series(["x", np.nan, "y"], dtype=object))
    table = VerticalTable(frame, id="id", columns=["age"], label="bought")
    found = {each.name: (each.missing, each.numeric) for each in table.report}
    assert found == {"age": (0, True), "income": (0, True), "member": (0, True), "name": (1, False)}


@pytest.mark.parametrize(
    "name",
    [
        *("target", "Label", "y", "diagnosis", "is_fraud", "isFraud", "is_churn", "y_true"),
        *("label_1", "class_label", "target_value", "outcome_30d", "survived", "churned"),
        *("default payment next month", "default.payment.next.month", "credit_default"),
    ],
)
def test_a_column_like_a_label_is_pointed_out(name: str, caplog: pytest.LogCaptureFixture) -> None:
    frame = FRAME[["id", "age", "bought"]].rename(columns={"bought": name})
    with caplog.at_level(logging.WARNING, logger="heterofed"):
        VerticalTable(frame, id="id", columns=["age"])
        VerticalTable(frame, id="id", label=name)
        assert not caplog.records
        VerticalTable(frame, id="id")
    assert [repr(name) in each.getMessage() for each in caplog.records] == [True]


@pytest.mark.parametrize(
    "name",
    ["age", "year", "island", "member", "yield", "classroom", "defaulter_ratio", "retargeted"],
)
def test_other_columns_are_not(name: str, caplog: pytest.LogCaptureFixture) -> None:
    frame = FRAME[["id", "age", "income"]].rename(columns={"income": name + "_", "age": name})
    with caplog.at_level(logging.WARNING, logger="heterofed"):
        VerticalTable(frame, id="id")
    assert not caplog.records


def test_one_string_is_no_list_of_ids() -> None:
    table = VerticalTable(FRAME.assign(id=["a", "b", "c"]), id="id", columns=["age"])
    wrong: Any = "ab"
    for read in (table.rows, table.take, lambda ids: table.batches(ids, 1)):
        with pytest.raises(ConfigError, match="a list of str"):
            read(wrong)


def test_ids_that_look_like_nothing(tmp_path: Path) -> None:
    """Namibia's country code is an id, and so is a person called Null."""
    ids = ["NA", "null", "None", "nan", "007", "1.50", "#N/A"]
    text = "id,age\n" + "".join(f"{each},{row}\n" for row, each in enumerate(ids))
    (tmp_path / "people.csv").write_text(text)
    table = VerticalTable.read(tmp_path / "people.csv", id="id")
    assert table.ids == ids
    assert table.rows(["None", "NA"]).tolist() == [[2.0], [0.0]]
    (tmp_path / "people.csv").write_text(text + ",8\n")
    with pytest.raises(IdError, match="1 rows of the table have no id"):
        VerticalTable.read(tmp_path / "people.csv", id="id")
    (tmp_path / "people.csv").write_text(text + "x,NA\n")
    with pytest.raises(ColumnError, match="missing values"):
        VerticalTable.read(tmp_path / "people.csv", id="id")


def test_files_whose_columns_do_not_fit(tmp_path: Path) -> None:
    (tmp_path / "twice.csv").write_text("id,age,age\nx,1,2\n")
    with pytest.raises(ColumnError, match="more than one column 'age'"):
        VerticalTable.read(tmp_path / "twice.csv", id="id")
    FRAME.to_csv(tmp_path / "people.csv", index=False)
    FRAME.to_parquet(tmp_path / "people.parquet")
    for name in ("people.csv", "people.parquet"):
        for wrong in ({"id": "id", "columns": ["height"]}, {"id": "height", "columns": ["age"]}):
            with pytest.raises(ColumnError, match="no column 'height'"):
                VerticalTable.read(tmp_path / name, **wrong)  # type: ignore[arg-type]


def test_files(tmp_path: Path) -> None:
    frame = FRAME.assign(id=["007", "08", "9"])
    frame.to_csv(tmp_path / "people.csv", index=False)
    (tmp_path / "people.csv.gz").write_bytes(gzip.compress((tmp_path / "people.csv").read_bytes()))
    frame.to_parquet(tmp_path / "people.parquet")
    for name in ("people.csv", "people.csv.gz", "people.parquet"):
        table = VerticalTable.read(tmp_path / name, id="id", columns=["age"], label="bought")
        assert table.ids == ["007", "08", "9"]
        assert table.rows(["08"]).tolist() == [[10.0]]
        assert table.labels(["08"]).tolist() == [0]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    (tmp_path / "latin.csv").write_bytes("id,age\nm\u00fcller,1\n".encode("latin-1"))
    (tmp_path / "empty.csv").write_text("")
    for name in ("broken.parquet", "latin.csv", "empty.csv", "none.csv"):
        with pytest.raises(ConfigError, match="cannot be read"):
            VerticalTable.read(tmp_path / name, id="id")
    with pytest.raises(ConfigError, match=r"\.csv or \.parquet"):
        VerticalTable.read(tmp_path / "people.xlsx", id="id")
    FRAME.to_csv(tmp_path / "people.csv", index=False)
    with pytest.raises(ColumnError, match="no column 'key'"):
        VerticalTable.read(tmp_path / "people.csv", id="key")


def test_only_frames() -> None:
    with pytest.raises(ConfigError, match="DataFrame, not a dict"):
        VerticalTable({"id": ["a"]})  # type: ignore[arg-type]


def test_without_pandas_there_is_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigError, match="pip install pandas"):
        VerticalTable(FRAME, id="id")
