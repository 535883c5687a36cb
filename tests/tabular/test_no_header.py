"""Files without a header, and lines of tags, as LIBSVM and FATE write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from heterofed.errors import ColumnError, ConfigError
from heterofed.tabular.inspect import inspect
from heterofed.tabular.sources import Source, open_source

ROWS = 30


def opened(tmp_path: Path, *lines: str, header: bool | None = None) -> Source:
    path = tmp_path / "t.csv"
    text = [lines[row % len(lines)].replace("{}", str(row)) for row in range(ROWS)]
    path.write_text("\n".join(text) + "\n")
    return open_source(path, header=header)


@pytest.mark.parametrize(
    ("lines", "width", "kinds"),
    [
        (("{},1.5,-2", "{},2,3e-2"), 3, ["id", "numeric", "numeric"]),
        (("{};1,5;2", "{};1,7;3"), 3, ["id", "numeric", "numeric"]),
        (("u{},x0:0.5;x1:-1", "u{},x0:1.5;x1:-2"), 2, ["id", "tags"]),
        (("{},20190101;20190102", "{},20190103;20190101"), 2, ["id", "tags"]),
        (("{},1,0:-0.5,1:2.5,7:1", "{},0,3:1", "{},0"), 3, ["id", "numeric", "tags"]),
        (("{} 0:1 3:-1e-3", "{} 2:.5"), 2, ["id", "tags"]),
        (("{},,2024-01-31", "{},1,2024-02-01"), 3, ["id", "constant", "date"]),
    ],
    ids=["numbers", "semicolons", "tags", "words", "svmlight", "libsvm", "dates"],
)
def test_it_is_found_out(
    lines: tuple[str, ...], width: int, kinds: list[str], tmp_path: Path
) -> None:
    source = opened(tmp_path, *lines)
    assert source.rows == ROWS
    assert source.columns == tuple(f"c{at + 1}" for at in range(width))
    assert [each.kind for each in inspect(source).columns] == kinds
    (said,) = (note for note in source.notes if "header" in note)
    assert "(found out; header=True or --header if it is one)" in said
    assert ("holds the tags" in said) == (kinds[-1] == "tags" and ":" in lines[0])


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("id,y,x0", "{},1,0.5"),
        ("0,1,2", "{},5,6"),
        ("chr1:1234,chr2:77", "A{},B"),
        ("key,tags", "{},a:1;b:2"),
        ("key;2019;2020", "{};1;2"),
    ],
)
def test_a_header_is_one(header: str, row: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("\n".join([header, *(row.replace("{}", str(at)) for at in range(9))]) + "\n")
    source = open_source(path)
    delimiter = ";" if header.startswith("key;") else ","
    assert source.columns == tuple(header.split(delimiter))
    assert source.rows == 9


def test_it_can_be_said(tmp_path: Path) -> None:
    words = opened(tmp_path, "A,B,A", "B,A,A", header=False)
    assert words.columns == ("c1", "c2", "c3")
    assert words.rows == ROWS
    assert not any("found out" in note for note in words.notes)
    assert opened(tmp_path, "19,20,{}1", header=True).columns == ("19", "20", "01")
    with pytest.raises(ColumnError, match="say that there is no header"):
        opened(tmp_path, "A,B,A", "B,A,A")


def test_a_line_that_is_no_list_of_tags_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("".join(f"{row},1,2:0.5,3:1\n" for row in range(150)) + "150,1,2:0.5,3\n")
    with pytest.raises(
        ConfigError, match=r"t\.csv, line 151: no list of tag:value behind 2 fields"
    ):
        open_source(path)


def test_one_row_without_a_header(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("7,1.5,2\n")
    assert open_source(path).rows == 1
