"""Results have the ids as the user's own table writes them, so that they can be joined onto it."""

from __future__ import annotations

import csv
import io
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from heterofed.tabular import TabularHost
from heterofed.tabular.ids import IdRecipe
from heterofed.tabular.own_ids import beside, ids_as_written, in_table_order
from heterofed.tabular.own_ids import ids_in_parts as in_parts
from heterofed.tabular.sources import Source, open_source
from heterofed.tabular.table import LocalTable
from heterofed.tabular.written import csv_of, write_csv

ROWS = 40
WRITTEN = [f"{'Cc'[at % 2]} {at:04}{' ' * (at % 3)}" for at in range(ROWS)]
"""Ids in mixed case, with zeros in front, and with spaces within and behind them."""


def as_csv(frame: pd.DataFrame, folder: Path) -> tuple[Any, pd.DataFrame]:
    frame.to_csv(folder / "own.csv", index=False)
    return folder / "own.csv", pd.read_csv(folder / "own.csv", dtype={"id": str, "born": str})


def as_latin(frame: pd.DataFrame, folder: Path) -> tuple[Any, pd.DataFrame]:
    path = folder / "own.csv"
    frame.assign(note="Zoë").to_csv(path, index=False, encoding="latin-1", sep=";")
    return path, pd.read_csv(path, dtype={"id": str, "born": str}, sep=";", encoding="latin-1")


def as_parquet(frame: pd.DataFrame, folder: Path) -> tuple[Any, pd.DataFrame]:
    frame.to_parquet(folder / "own.parquet")
    return folder / "own.parquet", pd.read_parquet(folder / "own.parquet")


def as_sqlite(frame: pd.DataFrame, folder: Path) -> tuple[Any, pd.DataFrame]:
    base = sqlite3.connect(folder / "own.db")
    frame.to_sql("people", base, index=False)
    base.close()
    return open_source(folder / "own.db", table="people"), frame.astype({"id": str})


def as_frame(frame: pd.DataFrame, _: Path) -> tuple[Any, pd.DataFrame]:
    return frame, frame


SOURCES = [as_csv, as_latin, as_parquet, as_sqlite, as_frame]
IDS: dict[str, Any] = {
    "text": WRITTEN,
    "zeros": [f"{at:06}" for at in range(ROWS)],
    "numbers": np.arange(ROWS) * 10**16 // 7,
    "unsigned": np.arange(ROWS, dtype=np.uint64) + 2**63,
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("kind", IDS)
@pytest.mark.parametrize("is_large", [False, True])
def test_results_can_be_joined_onto_the_table(
    source: Callable[..., Any],
    kind: str,
    is_large: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if is_large:
        monkeypatch.setattr("heterofed.tabular.sources.source.SMALL_CELLS", 0)
    if kind == "unsigned" and source is as_sqlite:
        return  # SQLite has no such numbers
    frame = pd.DataFrame({"id": IDS[kind], "row": range(ROWS), "x": 1.5})
    location, own = source(frame.sample(frac=1, random_state=0).reset_index(drop=True), tmp_path)
    table = LocalTable(location, ids="id")
    recipe = IdRecipe.parse("text:nospace" if kind == "text" else "integer")
    results = predicted(table, recipe, own)
    found = in_table_order(table, recipe, results)
    assert list(found.columns) == ["id", "probability"]
    assert found.merge(own, on="id")["row"].tolist() == found["probability"].tolist()
    assert found["id"].tolist() == own["id"][own["row"].isin(found["probability"])].tolist()
    assert list(found["id"].map(type).unique()) == list(own["id"].map(type).unique())
    text = io.BytesIO()
    write_csv(found, text)
    rows = list(csv.DictReader(io.StringIO(text.getvalue().decode())))
    assert [each["id"] for each in rows] == [str(each) for each in found["id"]]


def predicted(table: LocalTable, recipe: IdRecipe, own: pd.DataFrame) -> pd.DataFrame:
    """Results of some rows, in another order; the prediction is the number of the row."""
    ids = list(table.read_ids(recipe))
    results = pd.DataFrame({"id": ids, "probability": own["row"].to_numpy()[table.positions(ids)]})
    return results.sample(frac=0.7, random_state=1)


def test_an_id_of_two_columns_has_both(tmp_path: Path) -> None:
    days = pd.date_range("2000-01-01", periods=ROWS)
    frame = pd.DataFrame({"id": ["Ann "] * ROWS, "born": days.strftime("%d.%m.%Y")})
    frame["row"] = range(ROWS)
    location, own = as_csv(frame, tmp_path)
    recipe = IdRecipe.parse("text:lower+date:dmy")
    table = LocalTable(location, ids=["id", "born"])
    found = in_table_order(table, recipe, predicted(table, recipe, own))
    assert list(found.columns) == ["id", "born", "probability"]
    assert found.merge(own, on=["id", "born"])["row"].tolist() == found["probability"].tolist()
    frame["born"] = days
    table = LocalTable(frame, ids=["id", "born"])
    found = in_table_order(table, recipe, predicted(table, recipe, frame))
    assert found.merge(frame, on=["id", "born"])["row"].tolist() == found["probability"].tolist()


@pytest.mark.parametrize("is_numeric", [False, True])
def test_with_several_keys_both_columns_are_there_and_may_be_empty(is_numeric: bool) -> None:
    frame = pd.DataFrame(
        {
            "number": [None if at % 3 == 0 else 100 + at for at in range(ROWS)],
            "mail": [None if at % 3 == 1 else f"P{at}@X.com" for at in range(ROWS)],
            "row": range(ROWS),
        }
    )
    frame["number"] = frame["number"].astype("Int64")
    if not is_numeric:
        frame["number"] = [None if each is pd.NA else f"0{each}" for each in frame["number"]]
    recipe = IdRecipe.parse("integer;email")
    table = LocalTable(frame, ids=["number", "mail"])
    first = list(table.read_ids(recipe))[:20]
    ids = [*first, *table.further_ids(first, 1)]
    results = pd.DataFrame({"id": ids, "probability": table.positions(ids)})
    found = in_table_order(table, recipe, results.sample(frac=1, random_state=0))
    assert list(found.columns) == ["number", "mail", "matched_by", "probability"]
    own = frame.iloc[found["probability"]].reset_index(drop=True)
    pd.testing.assert_frame_equal(found[["number", "mail"]], own[["number", "mail"]])
    by_mail = own["number"].isna() | (found["matched_by"] == "mail")
    assert set(found["matched_by"][by_mail]) == {"mail"}
    rows = list(csv.reader(io.StringIO(csv_of(found).decode())))[1:]
    assert [each[0] for each in rows] == [
        "" if pd.isna(each) else str(each) for each in own["number"]
    ]


@pytest.mark.parametrize("duplicates", ["first", "last", "many"])
def test_rows_with_one_id_have_it_as_each_of_them_writes_it(duplicates: Any) -> None:
    frame = pd.DataFrame({"id": ["A", "b", "a ", "c", " a"], "row": range(5)})
    recipe = IdRecipe.parse("text:lower*3" if duplicates == "many" else "text:lower")
    table = LocalTable(frame, ids="id", duplicates=duplicates)
    found = in_table_order(table, recipe, predicted(table, recipe, frame))
    assert found["id"].tolist() == frame["id"][found["probability"]].tolist()


@pytest.mark.parametrize("size", [1, 700, 2048, 3000, 9000])
@pytest.mark.parametrize("duplicates", ["error", "last"])
def test_parts_of_a_long_table_have_the_same(
    size: int, duplicates: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Source.chunks, "__defaults__", (2048, None))
    monkeypatch.setattr("heterofed.tabular.sources.source.SMALL_CELLS", 0)
    count = 40 if size == 1 else 7000
    ids = [f"{at // (2 if duplicates == 'last' else 1):06} " for at in range(count)]
    frame = pd.DataFrame({"id": ids, "x": 1.0})
    frame.to_csv(tmp_path / "own.csv", index=False)
    table = LocalTable(tmp_path / "own.csv", ids="id", duplicates=duplicates)
    table.read_ids(IdRecipe.parse("integer"))
    parts = list(in_parts(table, size))
    assert [len(ids) for ids, _ in parts[:-1]] == [size] * (len(parts) - 1)
    listed = [each for ids, _ in parts for each in ids]
    whole = ids_as_written(table.source, ["id"], table.positions(listed))
    pd.testing.assert_frame_equal(pd.concat([own for _, own in parts], ignore_index=True), whole)
    assert whole["id"].str.strip().str.lstrip("0").replace("", "0").tolist() == listed


def test_a_column_of_ids_with_the_name_of_a_result_keeps_its_name() -> None:
    own, results = pd.DataFrame({"parties": ["7"]}), pd.DataFrame({"x": [1.0], "parties": ["a+b"]})
    assert list(beside(own, results).columns) == ["parties", "x", "parties_"]


def test_cells_that_a_csv_file_has_to_quote_come_back() -> None:
    cells = ["a,b", 'say "a"', " a ", "two\nlines", "cr\rcr", "001", "", "ünï"]
    frame = pd.DataFrame({"id": cells, "probability": np.linspace(0, 1, len(cells))})
    read = list(csv.reader(io.StringIO(csv_of(frame).decode(), newline="")))
    assert [each[0] for each in read[1:]] == cells


def test_a_host_reads_ids_as_its_table_has_them() -> None:
    table = pd.DataFrame({"id": ["00123", "45"], "x": [1.0, 2.0]})
    host = TabularHost("bank", table, ids="id", id_recipe="integer", label=None)
    assert host.read_ids(["00123", "45", "x"]) == ["123", "45", "x"]
