"""Files that nobody can train on, each with the line that must be said of it."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

ROWS = 30


def lines(*cells: str, header: str = "id,x,y") -> str:
    """A table: `{}` in a cell is the number of the row."""
    rows = (cells[row % len(cells)].replace("{}", str(row)) for row in range(ROWS))
    return "\n".join([header, *rows]) + "\n"


GOOD = lines("{},1.5,0", "{},2,1")


def text(content: str, **given: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(content, encoding=given.get("encoding", "utf-8"))


def data(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def changed(row: int, line: str) -> Callable[[Path], object]:
    """The good table with another line in place of a row (from 1)."""
    kept = GOOD.splitlines()
    kept[row] = line
    return text("\n".join(kept) + "\n")


BAD: dict[str, tuple[str, Callable[[Path], object], str]] = {
    # what: (name of the file, what makes it, what must be said)
    "empty": ("t.csv", text(""), r"t\.csv is empty; its first line must name the columns"),
    "blank lines": ("t.csv", text("\n\n \n"), r"t\.csv is empty"),
    "header only": ("t.csv", text("id,x,y\n"), r"t\.csv has a header and no rows below it"),
    "no header": (
        "t.csv",
        text("1,2,0\n2,3,1\n"),
        r"its columns are .c1., .c2., .c3. \(its first line names no columns\)",
    ),
    "one more field": (
        "t.csv",
        changed(7, "6,1,0,9"),
        r"t\.csv, line 8: 4 fields where the header",
    ),
    "one less field": ("t.csv", changed(9, "8,1"), r"t\.csv, line 10: 2 fields where the header"),
    "cut off": ("t.csv", text(GOOD[:-3]), r"t\.csv, line 31: 2 fields"),
    "quote left open": ("t.csv", changed(5, '4,"1,0'), r"t\.csv, line 6: a quote is opened"),
    "quote in a field": ("t.csv", changed(5, '4,"1"2,0'), r"t\.csv, line 6: a quote is opened"),
    "two names": (
        "t.csv",
        text(GOOD.replace("x,y", "x,x", 1)),
        r"line 1: columns 2 and 3 are both",
    ),
    "no name": ("t.csv", text(GOOD.replace("x,y", ",y", 1)), r"line 1: column 2 has no name and"),
    "NUL": ("t.csv", changed(4, "3,\0,1"), r"t\.csv, line 5: a NUL byte"),
    "NULs in the end": ("t.csv", data(GOOD.encode() + bytes(99)), r"t\.csv, line 32: a NUL byte"),
    "other delimiter": (
        "t.csv",
        text(GOOD.replace(",", "~")),
        r"t\.csv has no column 'id'; its columns are 'id~x~y'",
    ),
    "mixed types": (
        "t.csv",
        changed(12, "11,many,1"),
        r"t\.csv, row 12, column 'x': text in a column where 29 of 30 cells are numbers",
    ),
    "infinity": ("t.csv", changed(3, "2,inf,0"), r"t\.csv, row 3, column 'x': infinity"),
    "overflow": ("t.csv", changed(3, "2,1e400,0"), r"t\.csv, row 3, column 'x': infinity"),
    "dates": (
        "t.csv",
        text(lines(*[f"{{}},2024-01-0{day},0" for day in range(1, 6)], "{},31/12/2024,1")),
        r"t\.csv, row 6, column 'x': a date written in another way",
    ),
    "one class": ("t.csv", text(lines("{},1,0", "{},2,0")), r"'y': every row has the same label"),
    "label missing": ("t.csv", changed(5, "4,1,"), r"column 'y': the label is missing in 1 rows"),
    "label of others": (
        "t.csv",
        text(lines("{},1", "{},2", header="id,x")),
        r"t\.csv has no column 'y'",
    ),
    "only ids": ("t.csv", text(lines("{}", header="id")), r"t\.csv has no column 'y'"),
    "id column": (
        "t.csv",
        text(GOOD.replace("id,", "ID_,", 1)),
        r"t\.csv has no column 'id'; did you mean 'ID_'\?",
    ),
    "id missing": ("t.csv", changed(8, ",1,0"), r"t\.csv, row 8, column 'id': the id is missing"),
    "id blank": ("t.csv", changed(8, "  ,1,0"), r"t\.csv, row 8, column 'id': the id is blank"),
    "ids equal": ("t.csv", text(lines("7,1,0", "7,2,1")), r"all 30 rows have the same id"),
    "ids twice": (
        "t.csv",
        changed(9, "3,1,0"),
        r"t\.csv, rows 4 and 9: the same id stands in both",
    ),
    "ids of a spreadsheet": (
        "t.csv",
        text(lines("1.{}E+05,1,0", "1.{}E+06,2,1")),
        r"t\.csv, row 1, column 'id': the id is written like 1\.0E\+05",
    ),
    "ids as fractions": (
        "t.csv",
        text(lines("{}.0,1,0", "{}.0,2,1")),
        r"use the id recipe integer",
    ),
    "folder": ("t.csv", Path.mkdir, r"t\.csv is a folder; give the file with the table"),
    "not there": ("t.csv", lambda path: None, r"there is no file .*t\.csv"),
    "closed": ("t.csv", lambda path: path.touch(0o000), r"t\.csv (cannot be read|is empty)"),
    "no Parquet": ("t.parquet", text(GOOD), r"t\.parquet is no Parquet file, or a damaged one"),
    "half a Parquet": ("t.parquet", data(b"PAR1" + bytes(50)), r"t\.parquet is no Parquet file"),
    "half a gzip": (
        "t.csv.gz",
        data(gzip.compress(GOOD.encode() * 99)[:-20]),
        r"t\.csv\.gz cannot be unpacked \(EOFError\)",
    ),
    "Excel": ("t.xls", data(b"\xd0\xcf\x11\xe0" + bytes(99)), r"t\.xls is an old Excel workbook"),
    "PDF": ("t.pdf", data(b"%PDF-1.7\n"), r"t\.pdf is a PDF, not a table"),
    "no database": (
        "t.db",
        data(b"SQLite format 3\0" + bytes(84)),
        r"t\.db is a database: give a table or a query|many tables",
    ),
    "invalid UTF-8 and no other": (
        "t.csv",
        data(GOOD.encode("utf-16")[:-1]),
        r"t\.csv, line \d+ or soon after: this is no utf-16 text",
    ),
}
