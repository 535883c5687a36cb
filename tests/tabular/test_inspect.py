"""Each column is told for what it is, and what is wrong with it is one line with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from heterofed.errors import ColumnError
from heterofed.tabular.inspect import TableReport, inspect
from heterofed.tabular.sources import open_source

ROWS = 40


def report_of(tmp_path: Path, columns: dict[str, list[str]], **given: object) -> TableReport:
    path = tmp_path / "table.csv"
    rows = zip(*columns.values(), strict=True)
    lines = [";".join(columns), *(";".join(row) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return inspect(open_source(path, delimiter=";"), **given)  # type: ignore[arg-type]


def many(*cells: str) -> list[str]:
    return [cells[row % len(cells)] for row in range(ROWS)]


KINDS = {
    "numeric": many("1", "2.5", "-3e2", "", "NA"),
    "numeric spaces": many(" 1 ", "2", "3"),
    "numeric,": many("1,5", "2", "1.234,5"),
    "category": many("red", "green", ""),
    "category 0": many("007", "008"),
    "category _": many("1_000", "2"),
    "boolean": many("yes", "No", ""),
    "boolean 是": many("是", "否", ""),
    "boolean t": many("true", "FALSE"),
    "date": many("2024-01-31", "2024-02-29 13:00:00"),
    "date .": many("31.01.2024", "01.02.2024"),
    "date 年": many("2024年1月31日", "2024年12月1日"),
    "date /": many("12/31/2024", "1/2/2024"),
    "text": [f"the customer wrote about matter {row}" for row in range(ROWS)],
    "tags": many("a:1 b:2.5", "c:1", "b:-3e1 a:1"),
    "constant": many("7"),
    "constant -": many("", "NA"),
    "id": [f"C-{row:05}" for row in range(ROWS)],
    "id 编号": [str(1000 + row * row) for row in range(ROWS)],
    "category ,": many("1", "2", "1,2,3", "2,3,4,5", "1,2"),
    "id n": [str(1000 + row) for row in range(ROWS)],
}


def test_kinds(tmp_path: Path) -> None:
    report = report_of(tmp_path, KINDS)
    found = {each.name: each.kind for each in report.columns}
    assert found == {name: name.split(" ")[0].rstrip(",") for name in found}
    assert not report.problems
    assert {each.kind for each in report.features} == {
        *("numeric", "category", "boolean", "date", "text", "tags")
    }
    assert report["numeric"].missing == 16
    assert report["numeric"].share_missing == 0.4
    assert (report["numeric"].least, report["numeric"].greatest) == (-300.0, 2.5)
    values = open_source(tmp_path / "table.csv", delimiter=";").typed(report.features).frame()
    assert values["numeric,"].tolist()[:3] == [1.5, 2.0, 1234.5]
    assert values["date /"].dt.month.tolist()[:2] == [12, 1]
    assert values["date ."].dt.month.tolist()[:2] == [1, 2]
    assert values["date"].dt.hour.tolist()[:2] == [0, 13]


def test_a_date_that_could_be_read_in_two_ways_is_said(tmp_path: Path) -> None:
    report = report_of(tmp_path, {"day": many("01/02/2024", "03/04/2024")})
    assert report["day"].format == "%d/%m/%Y"
    assert "either way" in report["day"].notes[0]


@pytest.mark.parametrize(
    ("column", "says"),
    [
        ([*many("1", "2")[:-1], "unknown"], "row 40, column 'x': text in a column where 39 of 40"),
        (many("2024-01-31", "2024-02-01", "2024-02-02", "2024-02-03", "31/01/2024"), "row 5, col"),
        ([*many("1,5", "2", "1.000,25")[:-1], "unknown"], "row 40, column 'x': text in a column"),
        ([*many("5%", "7.5 %")[:-1], "unknown"], "row 40, column 'x': text in a column"),
        ([*many("1,234", "2,500.5")[:-1], "无"], "row 40, column 'x': text in a column"),
        (many("1.5", "1,5"), "row 2, column 'x': .* in several ways"),
        (many("1234", "1,234.5"), "row 2, column 'x': .* in several ways"),
        (many("0.5", "12%"), "row 2, column 'x': .* in several ways"),
        (many("2024-01-31", "2024年2月1日", "2024/3/1"), "row 2, column 'x': a date"),
        ([*many("1", "2")[:-1], "inf"], "row 40, column 'x': infinity"),
        ([*many("1", "2")[:-1], "1e999"], "row 40, column 'x': infinity"),
    ],
)
def test_a_problem_names_its_row(column: list[str], says: str, tmp_path: Path) -> None:
    report = report_of(tmp_path, {"x": column, "y2": many("1", "2")})
    with pytest.raises(ColumnError, match=r"table.csv, " + says):
        report.check()


def test_labels_that_leak_and_labels_that_cannot_be_learned(tmp_path: Path) -> None:
    label = many("good", "bad", "good", "bad", "bad")
    columns = {
        "x": many("1", "2", "3"),
        "paid_back": ["0" if each == "bad" else "1" for each in label],
        "credit_default": many("0", "1", "1"),
        "y": label,
    }
    report = report_of(tmp_path, columns, label="y")
    assert "tells 'y' without fail" in " ".join(report["paid_back"].notes)
    assert "called like a label" in " ".join(report["credit_default"].notes)
    assert not report["x"].notes[1:]
    assert [each.name for each in report.features] == ["x", "paid_back", "credit_default"]
    for cells, says in ((many("1"), "same label"), (many("1", "0", ""), "missing in 13 rows")):
        with pytest.raises(ColumnError, match=says):
            report_of(tmp_path, columns | {"y": cells}, label="y").check()
    with pytest.raises(ColumnError, match="no column 'Y'; did you mean 'y'"):
        report_of(tmp_path, columns, label="Y")


def test_a_table_with_ids_alone(tmp_path: Path) -> None:
    columns = {"id": KINDS["id"], "other": KINDS["id n"]}
    assert not report_of(tmp_path, columns, ids="id", label="other").problems
    with pytest.raises(ColumnError, match="no column to learn from"):
        report_of(tmp_path, columns, ids="id").check()


def test_a_large_table_is_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heterofed.tabular.inspect.SAMPLE_ROWS", 10)
    report = report_of(tmp_path, KINDS)
    assert (report.rows, report.sampled) == (40, 10)
    assert report["category"].kind == "category"


@pytest.mark.slow
def test_ten_thousand_columns(tmp_path: Path) -> None:
    path = tmp_path / "wide.csv"
    width = 10_000
    names = ",".join(f"c{at}" for at in range(width))
    path.write_text(names + "\n" + ("1," * (width - 1) + "2\n") * 2 + ",".join("3" * width) + "\n")
    source = open_source(path)
    report = inspect(source)
    assert {each.kind for each in report.columns} == {"numeric"}
    assert source.typed(report.features[:20]).frame().to_numpy().sum() == 20 * 5


@pytest.mark.parametrize(
    ("cells", "delimiter", "format_", "first"),
    [
        (["32,190", "950", "1,234"], ",", "1,000", 32190),
        (["-1,234,567.5", "12.5", "999"], ";", "1,000", -1234567.5),
        (["32,190", "9,125", "1,234"], ";", ",", 32.19),
        (["0,750", "1,250", "12,125"], ",", ",", 0.75),
        (["1,250", "5000", "2,125"], ",", ",", 1.25),
        (["11.9%", "5 %", "100%"], ",", "%", 11.9),
        (["11,9%", "5%", "100 %"], ";", ",%", 11.9),
    ],
)
def test_numbers_are_read_as_they_are_written(
    cells: list[str], delimiter: str, format_: str, first: float, tmp_path: Path
) -> None:
    path = tmp_path / "t.csv"
    rows = "".join(f'a{row}{delimiter}"{cell}"\n' for row, cell in enumerate(cells * 10))
    path.write_text(f"id{delimiter}x\n{rows}")
    source = open_source(path)
    column = inspect(source, ids="id")["x"]
    assert (column.kind, column.format) == ("numeric", format_)
    assert column.notes
    assert source.typed([column]).frame()["x"][0] == first
