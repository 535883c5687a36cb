"""Tables are found out for what they are, and read as they lie; no file is changed."""

from __future__ import annotations

import bz2
import gzip
import lzma
import signal
import sqlite3
import zipfile
from collections.abc import Callable
from pathlib import Path

import duckdb
import pandas as pd
import pytest

from heterofed.errors import ColumnError, ConfigError
from heterofed.tabular.kinds import Column
from heterofed.tabular.sources import open_source
from heterofed.tabular.sources.engine import interruptible

TEXT = "id,amount,town\n001,1.5,Köln\n002,,Ulm\n003,-2e3,NA\n"
WHOLE = pd.DataFrame(
    {"id": ["001", "002", "003"], "amount": ["1.5", None, "-2e3"], "town": ["Köln", "Ulm", None]}
)
KINDS = [Column(name="amount", kind="numeric"), Column(name="town", kind="category")]


def zipped(data: bytes, path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("table.csv", data)


WAYS: dict[str, Callable[[Path], object]] = {
    "plain": lambda path: path.write_text(TEXT, encoding="utf-8"),
    "mark": lambda path: path.write_text(TEXT, encoding="utf-8-sig"),
    "utf-16": lambda path: path.write_text(TEXT, encoding="utf-16"),
    "utf-16-le": lambda path: path.write_bytes(TEXT.encode("utf-16-le")),
    "utf-32": lambda path: path.write_text(TEXT, encoding="utf-32"),
    "latin-1": lambda path: path.write_bytes(TEXT.encode("latin-1")),
    "semicolon": lambda path: path.write_text(TEXT.replace(",", ";"), encoding="utf-8"),
    "tab": lambda path: path.write_text(TEXT.replace(",", "\t"), encoding="utf-8"),
    "bar": lambda path: path.write_text(TEXT.replace(",", "|"), encoding="utf-8"),
    "quoted": lambda path: path.write_text(TEXT.replace("Ulm", '"Ulm"'), encoding="utf-8"),
    "windows": lambda path: path.write_bytes(TEXT.replace("\n", "\r\n").encode()),
    "mixed ends": lambda path: path.write_bytes(TEXT.replace("\n", "\r\n", 2).encode()),
    "old mac": lambda path: path.write_bytes(TEXT.replace("\n", "\r").encode()),
    "blank lines": lambda path: path.write_text(TEXT.replace("\n", "\n\n"), encoding="utf-8"),
    "no last end": lambda path: path.write_text(TEXT.rstrip("\n"), encoding="utf-8"),
    "trailing": lambda path: path.write_text(TEXT.replace("\n", ",\n"), encoding="utf-8"),
    "trailing rows": lambda path: path.write_text(
        TEXT.replace("\n", ",\n").replace(",\n", "\n", 1), encoding="utf-8"
    ),
    "gzip": lambda path: path.write_bytes(gzip.compress(TEXT.encode())),
    "bz2": lambda path: path.write_bytes(bz2.compress(TEXT.encode("utf-16"))),
    "xz": lambda path: path.write_bytes(lzma.compress(TEXT.encode())),
    "zip": lambda path: zipped(TEXT.encode(), path),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_text_file_is_found_out(way: str, tmp_path: Path) -> None:
    path = tmp_path / "odd [1]*.data"
    WAYS[way](path)
    before = path.read_bytes()
    source = open_source(path)
    assert source.columns == ("id", "amount", "town")
    pd.testing.assert_frame_equal(source.frame(), WHOLE, check_dtype=False)
    values = source.typed(KINDS).frame()
    assert values["amount"].tolist()[::2] == [1.5, -2000.0]
    assert values["amount"].isna().tolist() == [False, True, False]
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_encodings_of_asia_are_found_out_or_given(tmp_path: Path) -> None:
    rows = "".join(f"{row:03},王小明,北京市朝阳区,普通客户\n" for row in range(30))
    path = tmp_path / "table.csv"
    path.write_bytes(("编号,姓名,城市,备注\n" + rows).encode("gbk"))
    source = open_source(path)
    assert source.columns == ("编号", "姓名", "城市", "备注")
    assert any("gb18030" in note for note in source.notes)
    assert open_source(path, encoding="gbk").frame().equals(source.frame())
    greek = "όνομα;πόλη\n" + "Μαρία;Αθήνα\nΓιώργος;Πάτρα\nΕλένη;Βόλος\n" * 9  # noqa: RUF001
    path.write_bytes(greek.encode("cp1253"))
    assert open_source(path).frame().iloc[0].tolist() == ["Μαρία", "Αθήνα"]
    path.write_bytes(("编号,姓名,城市,备注\n" + rows).encode("gbk"))
    with pytest.raises(ConfigError, match=r"table.csv, line 1 or soon after: this is no ascii"):
        open_source(path, encoding="ascii")
    with pytest.raises(ConfigError, match="no encoding 'klingon'"):
        open_source(path, encoding="klingon")


def database(kind: str, folder: Path) -> str:
    """The table in a database of its own; its address."""
    if kind == "sqlite":
        with sqlite3.connect(folder / "base.db") as base:
            base.execute("CREATE TABLE clients (id TEXT, amount REAL, town TEXT)")
            rows = [("001", 1.5, "Köln"), ("002", None, "Ulm"), ("003", -2000.0, None)]
            base.executemany("INSERT INTO clients VALUES (?, ?, ?)", rows)
        base.close()
        return f"sqlite:///{folder / 'base.db'}"
    with duckdb.connect(str(folder / "base.duckdb")) as other:
        other.register("whole", WHOLE)
        other.execute("CREATE TABLE clients AS SELECT * FROM whole")
    return f"duckdb:///{folder / 'base.duckdb'}"


@pytest.mark.parametrize("kind", ["sqlite", "duckdb"])
def test_a_table_of_a_database(kind: str, tmp_path: Path) -> None:
    url = database(kind, tmp_path)
    path = Path(url.partition(":///")[2])
    before = path.read_bytes()
    by_query = "SELECT * FROM clients WHERE id LIKE '0%' ORDER BY id"
    for source in (
        open_source(url, table="clients"),
        open_source(url, query=by_query),
        open_source(path, table="clients"),
    ):
        values = source.typed(KINDS).frame()
        assert values["amount"].tolist()[::2] == [1.5, -2000.0]
        assert source.as_written().frame(["id"])["id"].tolist() == ["001", "002", "003"]
    with pytest.raises(ConfigError, match="client"):
        open_source(url, table="client")
    with pytest.raises(ConfigError, match=r"give table=\.\.\. or query="):
        open_source(url)
    assert path.read_bytes() == before
    with pytest.raises(ConfigError, match="there is no database"):
        open_source(f"{kind}:///{tmp_path / 'other.db'}", table="clients")
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_an_address_shows_no_password() -> None:
    with pytest.raises(ConfigError) as refused:
        open_source("postgresql://ann:hunter2@127.0.0.1:1/base", table="clients")
    assert "hunter2" not in str(refused.value)
    assert "127.0.0.1" in str(refused.value)
    with pytest.raises(ConfigError, match="no address of a database"):
        open_source("nosuchbase://ann:hunter2@host/base", table="clients")


def test_parquet_keeps_what_its_types_say(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    days = pd.to_datetime(pd.Series(["2024-01-31", "", "2024-02-29"]))
    frame = WHOLE.assign(amount=[1.5, float("nan"), -2000.0], day=days, yes=[True, False, True])
    frame.to_parquet(path)
    source = open_source(path)
    kinds = [*KINDS, Column(name="day", kind="date"), Column(name="yes", kind="boolean")]
    values = source.typed(kinds).frame()
    assert values["amount"].tolist()[::2] == [1.5, -2000.0]
    assert values["day"].tolist()[::2] == days.tolist()[::2]
    assert values["yes"].tolist() == [1.0, 0.0, 1.0]
    assert open_source(tmp_path / "table.parquet").rows == 3


def test_a_frame_is_a_source_with_its_index() -> None:
    source = open_source(WHOLE.set_index("id"))
    assert source.columns == ("id", "amount", "town")
    pd.testing.assert_frame_equal(source.frame(), WHOLE, check_dtype=False)
    assert open_source(WHOLE).columns == ("id", "amount", "town")


def test_names_that_differ_in_case_only(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text('a,A,"say ""x"""\n1,2,3\n4,5,6\n')
    source = open_source(path)
    assert source.frame().columns.tolist() == ["a", "A", 'say "x"']
    assert source.frame(["A"])["A"].tolist() == ["2", "5"]


def test_parts_and_rows(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    rows = 5000
    path.write_text("id,x\n" + "".join(f"{row},{row / 2}\n" for row in range(rows)))
    source = open_source(path).typed([Column(name="x", kind="numeric")])
    parts = list(source.chunks(2048))
    assert [len(part) for part in parts] == [2048, 2048, 904]
    assert pd.concat(parts)["x"].tolist() == [row / 2 for row in range(rows)]
    taken = source.take([4999, 0, 17, 17])
    assert taken["x"].tolist() == [2499.5, 0.0, 8.5, 8.5]
    with pytest.raises(IndexError):
        source.take([rows])


def test_rows_of_a_large_table_come_from_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "table.csv"
    cells = [
        f"{row},{row / 2},c{row % 5},words of {row},{row % 2 == 0},2024-01-{1 + row % 28}\n"
        for row in range(5000)
    ]
    cells[7] = "7,,,,,\n"
    path.write_text("id,x,colour,text,yes,day\n" + "".join(cells))
    kinds = {"x": "numeric", "colour": "category", "text": "text", "yes": "boolean", "day": "date"}
    columns = [Column(name=name, kind=kind) for name, kind in kinds.items()]  # type: ignore[arg-type]
    source = open_source(path)
    in_memory, on_disk = source.typed(columns), source.typed(columns)
    wanted = [4999, 7, 0, 7, *range(2000, 3000)]
    expected = in_memory.take(wanted)
    monkeypatch.setattr("heterofed.tabular.sources.source.SMALL_CELLS", 10)
    pd.testing.assert_frame_equal(on_disk.take(wanted), expected)
    pd.testing.assert_frame_equal(on_disk.take(wanted, ["text"]), expected[["text"]])
    as_text = source.take(wanted, ["x", "day"])
    assert as_text.iloc[0].tolist() == ["2499.5", "2024-01-16"]
    for beyond in ([5000], [-1]):
        with pytest.raises(IndexError):
            on_disk.take(beyond)


def test_a_cell_of_another_kind_is_named(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("id,x,day,yes\n1,1,2024-01-01,no\n2,two,01.02.2024,maybe\n3,inf,,yes\n")
    source = open_source(path)
    for name, kind in (("x", "numeric"), ("day", "date"), ("yes", "boolean")):
        typed = source.typed([Column(name=name, kind=kind)])  # type: ignore[arg-type]
        for read in (typed.frame, lambda typed=typed: list(typed.chunks())):
            with pytest.raises(ColumnError, match=rf"table.csv, row 2, column '{name}'"):
                read()
    good = tmp_path / "good.csv"
    good.write_text("id,x\n1,1\n2,2\n3,-inf\n")
    with pytest.raises(ColumnError, match=r"good\.csv, row 3, column 'x': infinity"):
        open_source(good).typed([Column(name="x", kind="numeric")]).frame()


def test_other_marks_of_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("id,x\n1,-999\n2,NA\n3,it's\n")
    frame = open_source(path, missing=["-999", "it's"]).frame()
    assert frame["x"].isna().tolist() == [True, False, True]


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    path = tmp_path / "table.csv.gz"
    path.write_bytes(gzip.compress(TEXT.encode()))
    source = open_source(path)
    typed = source.typed(KINDS)
    del source
    assert len(list(scratch.iterdir())) == 1
    assert typed.rows == 3
    del typed
    assert not list(scratch.iterdir())


def test_a_signal_ends_the_program_while_a_table_is_read(tmp_path: Path) -> None:
    """DuckDB makes a plain error of it, which would be a failed hook and no end."""
    path = tmp_path / "table.csv"
    path.write_text("id,x\n" + "".join(f"{row},{row * 7}\n" for row in range(40_000)))
    source = open_source(path)
    slow = "SELECT count(*) FROM {table} WHERE regexp_matches(c0 || c1, '.*1.*2.*3.*4.*')"
    reads: list[Callable[[], object]] = [lambda: source.query(slow), lambda: list(source.chunks())]
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        for read in reads * 2:
            with pytest.raises(KeyboardInterrupt):
                signal.setitimer(signal.ITIMER_REAL, 0.03)
                for _ in range(1000):
                    read()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    with pytest.raises(RuntimeError, match="another"), interruptible():
        raise RuntimeError("another")
