"""Ids come out the same however a party wrote them, and what cannot be is named with its row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from heterofed.cli.table_check import check
from heterofed.errors import ColumnError, ConfigError, IdError, MissingIdsError
from heterofed.tabular.ids import IdIndex, IdRecipe, RowKeys, overlap_advice, read_ids
from heterofed.tabular.ids.asked import as_matched
from heterofed.tabular.ids.writing import UnfitError, writer_of
from heterofed.tabular.sources import Source, open_source
from heterofed.tabular.table_rows import rows_by_id


def table(tmp_path: Path, text: str, name: str = "table.csv") -> Source:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return open_source(path)


def ids_of(tmp_path: Path, recipe: str, *cells: str, **given: object) -> list[str]:
    source = table(tmp_path, "id,x\n" + "".join(f'"{cell}",1\n' for cell in cells))
    return read_ids(source, "id", IdRecipe.parse(recipe), **given).ids  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("recipe", "cells", "one"),
    [
        ("text", ["Ann B", " Ann  B ", "Ann\u00a0B", "\uff21nn B"], "Ann B"),
        ("text:lower", ["STRASSE", "straße", "Strasse"], "strasse"),
        ("text:nospace", ["AB 12 c", "ab12C"], "ab12c"),
        ("text:alnum", ["ab-12/c", "AB 12.C"], "ab12c"),
        ("text:exact", [" a "], " a "),
        ("integer", ["00123", "123", "+123", "123.0", "\uff11\uff12\uff13", " 123 "], "123"),
        ("integer", ["0", "000", "-0"], "0"),
        ("integer", ["123456789012345678901234567890"], "123456789012345678901234567890"),
        (
            "email",
            ["Ann@Example.COM", " ann@example.com", "mailto:ann@example.com"],
            "ann@example.com",
        ),
        ("phone:CN", ["13812345678", "+86 138 1234 5678", "0086-138-1234-5678"], "+8613812345678"),
        ("phone", ["+1 (650) 253-0000", "+16502530000"], "+16502530000"),
        ("date", ["2024-12-31", "2024/12/31", "20241231", "2024-12-31T00:00:00"], "2024-12-31"),
        ("date:dmy", ["31.12.2024", "31/12/2024", "2024-12-31", "31-12-2024 08:00"], "2024-12-31"),
        ("date:mdy", ["12/31/2024", "2024-12-31"], "2024-12-31"),
    ],
)
def test_one_form(recipe: str, cells: list[str], one: str, tmp_path: Path) -> None:
    type_, _, option = recipe.partition(":")
    writer = writer_of(type_, option)
    assert {writer(cell) for cell in cells} == {one}
    assert writer(one) == one or recipe == "date:mdy"
    assert ids_of(tmp_path, recipe, cells[0]) == [one]


@pytest.mark.parametrize(
    ("recipe", "cell", "why"),
    [
        ("integer", "1.0E+05", "spreadsheet"),
        ("integer", "12a", "not a whole number"),
        ("integer", "1.5", "not a whole number"),
        ("email", "ann", "not an e-mail"),
        ("phone", "13812345678", "phone:CN"),
        ("phone:CN", "12", "too short"),
        ("date", "01/02/2024", "date:dmy"),
        ("date:dmy", "31.02.2024", "calendar"),
        ("date:dmy", "01.02.24", "two digits"),
    ],
)
def test_what_is_no_id_is_named_by_its_row(
    recipe: str, cell: str, why: str, tmp_path: Path
) -> None:
    type_, _, option = recipe.partition(":")
    with pytest.raises(UnfitError, match=why) as refused:
        writer_of(type_, option)(cell)
    assert cell not in str(refused.value) or cell == "1.0E+05"
    good = {"integer": "5", "email": "a@b.c", "phone": "+16502530000", "date": "2024-01-01"}[type_]
    with pytest.raises(IdError, match=r"table.csv, row 2, column 'id'"):
        ids_of(tmp_path, recipe, good, cell)


@pytest.mark.parametrize(
    "line",
    ["text", "integer", "text:lower+date:dmy", "phone:CN;email", "text*3", "text:exact+text"],
)
def test_a_recipe_travels_as_a_line(line: str) -> None:
    assert str(IdRecipe.parse(line)) == line
    assert IdRecipe.parse(str(IdRecipe.parse(line))) == IdRecipe.parse(line)


@pytest.mark.parametrize(
    "line",
    [
        *("", "words", "text:upper", "text*0", "text*x", "text*1001", "date:xyz", "text;" * 5),
        *("+".join(["text"] * 9), "integer:1", "text\n", "a" * 301, "text**2", "text*\u0663"),
    ],
)
def test_no_recipe(line: str) -> None:
    with pytest.raises(ConfigError, match="id recipe"):
        IdRecipe.parse(line)


def test_a_party_reads_its_own_way() -> None:
    host = IdRecipe.parse("phone:CN+date:dmy*2")
    own = IdRecipe.parse("phone:US+date:mdy")
    assert str(host.read_as(own)) == "phone:US+date:mdy*2"
    assert host.read_as(None) == host
    with pytest.raises(ConfigError, match="agree on one"):
        IdRecipe.parse("text").read_as(IdRecipe.parse("text:lower"))


def test_ids_of_several_columns(tmp_path: Path) -> None:
    source = table(tmp_path, "born,name,x\n31.12.1990,Ann,1\n01.01.1991,Ann,2\n")
    recipe = IdRecipe.parse("text:lower+date:dmy")
    found = read_ids(source, ["name", "born"], recipe)
    other = table(tmp_path, "n,b,z\nANN,1991-01-01,5\n", "other.csv")
    assert set(read_ids(other, ["n", "b"], recipe).ids) < set(found.ids)
    # Where one column ends and the next begins counts.
    a = table(tmp_path, "a,b\nx1,2\n", "a.csv")
    b = table(tmp_path, "a,b\nx,12\n", "b.csv")
    assert read_ids(a, ["a", "b"]).ids != read_ids(b, ["a", "b"]).ids
    with pytest.raises(ConfigError, match=r"needs 2 column\(s\) of ids, and 1 are named"):
        read_ids(source, "name", recipe)


def test_several_keys_are_read_one_by_one(tmp_path: Path) -> None:
    source = table(tmp_path, "phone,mail\n+16502530000,a@b.c\n,d@e.f\n+16502530001,\n")
    recipe = IdRecipe.parse("phone;email")
    by_phone, by_mail = (read_ids(source, ["phone", "mail"], recipe, key=key) for key in (0, 1))
    assert by_phone.rows.tolist() == [0, 2]
    assert by_mail.ids == ["a@b.c", "d@e.f"]
    assert by_mail.positions(["d@e.f"]).tolist() == [1]
    with pytest.raises(MissingIdsError, match="no row for 1 of 2"):
        by_mail.positions(["d@e.f", "x@y.z"])


def test_ids_that_lost_digits_or_zeros_are_said(tmp_path: Path) -> None:
    with pytest.raises(IdError, match=r"row 2, column 'id': the id is written like 1.0E\+05"):
        ids_of(tmp_path, "text", "99", "1.0E+05", "100")
    with pytest.raises(IdError, match="the id recipe integer"):
        ids_of(tmp_path, "text", "1.0", "2.0", "3.0")
    source = table(tmp_path, 'id\n00123\n" 456"\nAb\ncd\n')
    notes = " ".join(read_ids(source, "id").notes)
    assert "zeros in front" in notes
    assert "the recipe integer" in notes
    assert "text:lower" in notes
    # 1E5 may be an id among others.
    assert ids_of(tmp_path, "text", "1E5", "AB", "CD") == ["1E5", "AB", "CD"]


def test_duplicates(tmp_path: Path) -> None:
    cells = ("a", "b", "a", "c", "a")
    with pytest.raises(IdError, match=r"table.csv, rows 1 and 3: the same id .* 1 more rows"):
        ids_of(tmp_path, "text", *cells)
    source = table(tmp_path, "id\n" + "".join(f"{cell}\n" for cell in cells))
    rows = {way: read_ids(source, "id", duplicates=way).rows.tolist() for way in ("first", "last")}
    assert rows == {"first": [0, 1, 3], "last": [1, 3, 4]}
    with pytest.raises(IdError, match=r"stands in 3 rows, .* allows 1; write \*3"):
        read_ids(source, "id", duplicates="many")
    with pytest.raises(IdError, match="all 3 rows have the same id"):
        ids_of(tmp_path, "text", "a", "a", "a")
    with pytest.raises(IdError, match="rows 1 and 2"):  # only once written by the recipe
        ids_of(tmp_path, "integer", "007", "7", "8")


def test_many_rows_of_the_host_to_one_of_its_partner(tmp_path: Path) -> None:
    recipe = IdRecipe.parse("text*3")
    visits = table(tmp_path, "id,visit\na,1\nb,2\na,3\nc,4\na,5\n")
    people = table(tmp_path, "id,age\nb,30\na,40\n", "people.csv")
    host = read_ids(visits, "id", recipe, duplicates="many")
    partner = read_ids(people, "id", recipe, offer_repeats=True)
    common = sorted(set(host.ids) & set(partner.ids))
    assert len(common) == 4
    pairs = zip(host.positions(common).tolist(), partner.positions(common).tolist(), strict=True)
    assert sorted(pairs) == [(0, 1), (1, 0), (2, 1), (4, 1)]


@pytest.mark.parametrize("cell", ["", "  "])
def test_an_id_that_is_not_there(cell: str, tmp_path: Path) -> None:
    with pytest.raises(IdError, match=r"table.csv, row 2, column 'id': the id is (missing|blank)"):
        ids_of(tmp_path, "text", "a", cell)
    with pytest.raises(ColumnError, match="no column 'ID_'; did you mean 'id'"):
        read_ids(table(tmp_path, "id\n1\n2\n"), "ID_")


def test_na_is_an_id(tmp_path: Path) -> None:
    assert ids_of(tmp_path, "text", "NA", "null", "nan") == ["NA", "null", "nan"]


def test_a_small_overlap_is_explained() -> None:
    recipe = IdRecipe.parse("text")
    said = overlap_advice(667, 1500, 1000, recipe)  # at a party whose own ids are clean
    assert said.startswith("667 of 1500 rows here are matched: 667 of 1000 ids")
    assert "here or elsewhere" in said
    assert "let the other parties run `heterofed table check`" in said
    assert "try integer" not in said
    assert "try integer" in overlap_advice(499, 1000, 5000, recipe)
    repeats = IdRecipe.parse("text*3")
    said = overlap_advice(250, 100, 300, repeats, matched=90)
    assert said.startswith("90 of 100 rows here are matched: 250 of 300 ids")
    assert not overlap_advice(0, 0, 5000, recipe)
    better = IdRecipe.parse("text:lower")
    assert not overlap_advice(1000, 1000, 5000, recipe, better)
    assert "--id-recipe text:lower at the Host" in overlap_advice(999, 1000, 5000, recipe, better)
    said = overlap_advice(9, 5000, 1000, recipe)
    assert "9 of 1000" in said
    assert "try integer" in said
    assert "integer" not in overlap_advice(0, 9, 9, IdRecipe.parse("integer")).partition("try")[2]


@pytest.mark.parametrize(
    ("recipe", "asked", "found"),
    [
        ("text", " C  0001 ", "C 0001"),
        ("text:nospace", "C 0001 ", "c0001"),
        ("integer", "00012", "12"),
        ("integer", "no number", "no number"),
        ("phone:CN", "138 0013 8000", "+8613800138000"),
        ("date:dmy", "31.12.2024", "2024-12-31"),
        ("text:lower+date:dmy", "Ann\x1f31.12.2024", "ann\x1f2024-12-31"),
        ("text:lower+date:dmy", "Ann", "Ann"),
        ("text:lower*3", "Ann\x1e2", "ann\x1e2"),
    ],
)
def test_ids_that_somebody_asks_for_are_read_by_the_recipe(
    recipe: str, asked: str, found: str
) -> None:
    read = IdRecipe.parse(recipe)
    assert as_matched([asked, found], read) == [found, found]


def test_an_index_finds_rows_without_the_ids(tmp_path: Path) -> None:
    source = table(tmp_path, "id\n" + "".join(f"{row:05}\n" for row in range(5000)))
    index = IdIndex(source, "id", IdRecipe.parse("integer"))
    assert len(index) == 5000
    assert index.positions(["4999", "0", "17"]).tolist() == [4999, 0, 17]
    with pytest.raises(MissingIdsError, match="no row for 1 of 2 ids"):
        index.positions(["5000", "0"])
    twice = table(tmp_path, "id\na\nb\na\n", "twice.csv")
    with pytest.raises(IdError, match=r"twice.csv, rows 1 and 3: the same id"):
        IdIndex(twice, "id")
    with pytest.raises(IdError, match=r"table.csv has no id in column 'id'|missing"):
        IdIndex(table(tmp_path, "id,x\n,1\n,2\n"), "id")


@pytest.mark.parametrize(
    ("recipe", "cells", "better", "in_doubt"),
    [
        ("text", ["Aa1", "b2"], "text:lower", True),
        ("text:lower", ["Aa1", "b2"], None, False),
        ("text", [" A1", "A2 "], None, False),
        ("text:exact", [" A1", "A2 "], "text", True),
        ("text", ["00417", "417"], "integer", True),
        ("text:alnum", ["00417", "417"], "integer", True),
        ("text", ["00417", "A17"], None, True),
        ("integer", ["00417", "418"], None, False),
        ("text*3", ["Ann@x.com", "bob@x.com"], "email*3", True),
        ("text", ["+86 138 1234 5678", "138 1234 5679"], "phone:CN", True),
        ("text", ["+86 138 1234 5678", "A1"], None, True),
        ("text", ["2024-12-31", "2024-12-30"], "date", True),
        ("text", ["A1", "A2"], None, False),
        ("text", ["110105 19900101 100X", "110105 19900101 1011"], "text:alnum", True),
        ("text", ["123-45-6789", "123456788"], "text:alnum", True),
        ("text:nospace", ["123-45-6789", "a1"], "text:alnum", True),
        ("text:alnum", ["123-45-6789", "a1"], None, False),
        ("text", ["AB 123", "ab 124"], "text:nospace", True),
        ("text:nospace", ["AB 123", "ab 124"], None, False),
        ("text", ["Ann Lee", "Bob Lee"], "text:lower", True),
    ],
)
def test_the_recipe_that_suits_ids_better(
    recipe: str,
    cells: list[str],
    better: str | None,
    in_doubt: bool,
    tmp_path: Path,
) -> None:
    rows = "".join(f'"{cell}",{row}\n' for row, cell in enumerate(cells))
    source = table(tmp_path, f"id,x\n{rows}")
    parsed = IdRecipe.parse(recipe)
    assert read_ids(source, "id", parsed).in_doubt == in_doubt
    found = [RowKeys.read(source, ["id"], parsed).better, IdIndex(source, "id", parsed).better]
    assert found == [better and IdRecipe.parse(better)] * 2
    options = ["--id", "id", "--id-recipe", recipe, "--duplicates", "first"]
    checked = CliRunner().invoke(check, [str(tmp_path / "table.csv"), *options])
    last = checked.output.splitlines()[-1]
    assert ("nothing is in the way" in last) == (not in_doubt)
    assert (f"--id-recipe {better}" in last) == (better is not None)


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (["00417", "417"], "zeros in front"),
        (["A1", "1.0E+05", "B2"], "1.0E+05"),
        (["A1", "17.0", "B2"], "123.0"),
        (["+86 138 1234 5678", "A1"], "phone numbers"),
        (["(020) 1234-5678", "A1"], "phone numbers"),
        (["138 1234 5678", "A1"], "phone numbers"),
        (["Ann@x.com", "A1"], "e-mail addresses"),
        (["2024-12-31", "A1"], "dates"),
        (["31/12/2024", "A1"], "dates"),
        ([" A1", "A2"], ""),
        (["Aa", "B"], "upper case"),
        (["110105-19900101-100X", "A1"], "between their digits"),
        (["A 1", "A2"], "spaces inside"),
        (["13812345678", "A1", "2024-00017", "12-34"], ""),
    ],
)
def test_what_looks_wrong_with_ids(
    cells: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = table(tmp_path, "id,x\n" + "".join(f'"{cell}",1\n' for cell in cells))
    notes = read_ids(source, "id").notes
    given: dict[str, Any] = {"duplicates": "error", "offer_repeats": False}
    few = rows_by_id(source, ["id"], IdRecipe.of_columns(1), **given)
    monkeypatch.setattr("heterofed.tabular.sources.source.SMALL_CELLS", 0)
    many = rows_by_id(source, ["id"], IdRecipe.of_columns(1), **given)
    assert type(many) is not type(few)
    assert many.notes == few.notes == notes
    assert list(many.ids()) == list(many.ids()) == list(few) == list(many)
    assert len(notes) == bool(said)
    assert all(said in each for each in notes)
    assert not any(cell in note for cell in cells for note in notes if cell not in ("1.0E+05",))
