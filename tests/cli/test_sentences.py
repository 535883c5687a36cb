"""What the command says is found among the sentences of the code, and said in Chinese."""

from __future__ import annotations

import re
import string
import sys
from pathlib import Path

import pytest
from babel.messages.pofile import read_po
from rich.cells import cell_len

from docs.generator import sentences
from heterofed.cli import main
from heterofed.cli.language import DOMAIN, LOCALE, VARIABLE
from heterofed.cli.sentences import TEMPLATES, translated
from heterofed.reporting import wrapping
from heterofed.reporting.wrapping import broken, in_rows
from tests.tabular.bad_files import BAD, GOOD

with (LOCALE / "zh" / "LC_MESSAGES" / f"{DOMAIN}.po").open("rb") as _file:
    FOUND = {str(each.id): str(each.string) for each in read_po(_file) if not each.fuzzy}
LISTED = TEMPLATES.read_text(encoding="utf-8").splitlines()
READY = [each for each in LISTED if FOUND.get(each)]

NO_PROSE = r"`[^`]*`|'[^']*'|\([^)]*\)|\S*[/.=\[:|]\S*|--\S+|[A-Z]\S*|\*\S+"
"""What a reader types, or what is a name: it stays in English."""


@pytest.fixture
def chinese(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv(VARIABLE, "zh")
    monkeypatch.setenv("LANGUAGE", "zh")
    return monkeypatch


def english(text: str) -> list[str]:
    """The English phrases in a text."""
    return re.findall(r"[a-z]{2,} [a-z]{2,} [a-z]{2,}", re.sub(NO_PROSE, "", text))


def fields(text: str) -> set[str | None]:
    return {field for _, field, _, _ in string.Formatter().parse(text) if field is not None}


@pytest.mark.parametrize("template", READY)
def test_a_translation_fills_the_same_places(template: str) -> None:
    if template.startswith("{0}") or "{" in template:
        assert fields(FOUND[template]) == fields(template)


def test_every_sentence_is_found_whatever_stands_in_it(chinese: pytest.MonkeyPatch) -> None:
    for template in READY:
        names = [f"n{each}" for each in range(9)]
        said = translated(template.format(*names))
        assert said == FOUND[template].format(*names), template


def test_a_sentence_in_a_place_is_translated_too(chinese: pytest.MonkeyPatch) -> None:
    assert translated("t.csv has no column 'id recipe'; did you mean 'id'?") == (
        "t.csv 中没有列 'id recipe'；您是不是想写 'id'？"
    )


def test_what_has_no_translation_stays(chinese: pytest.MonkeyPatch) -> None:
    for text in ("", "label", "such a sentence is nowhere in the code", "{0} {braces}"):
        assert translated(text) in (text, "标签")
    chinese.setenv("LANGUAGE", "en")
    assert translated("it is not for a host") == "it is not for a host"


@pytest.mark.parametrize("what", BAD)
def test_a_bad_file_is_refused_in_chinese(
    what: str,
    chinese: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name, make, _ = BAD[what]
    make(tmp_path / name)
    chinese.setattr(
        sys,
        "argv",
        ["heterofed", "table", "check", str(tmp_path / name), "--id", "id", "--label", "y"],
    )
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    written = capsys.readouterr()
    said = [line for line in (written.out + written.err).splitlines() if line.startswith("错误")]
    assert said
    assert not any(map(english, said)), said


def test_a_mistyped_name_is_answered_with_the_nearest(
    chinese: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "loans.csv"
    path.write_text(GOOD.replace("id,x,y", "id,x,defaulted", 1))
    line = ["heterofed", "table", "check", str(path), "--id", "id", "--label", "defualted"]
    chinese.setattr(sys, "argv", line)
    with pytest.raises(SystemExit):
        main()
    said = "错误：loans.csv 中没有列 'defualted'；您是不是想写 'defaulted'？\n"
    assert capsys.readouterr().err == said


def test_templates_are_collected_from_the_code(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(
        '"""No docstring."""\n'
        'raise E(f"{a} is nothing of {b!r}; " + f"give {c if d else \'one of them\'}")\n'
        'x = "SELECT a FROM b"\n'
    )
    before = sentences.SPEAKING
    try:
        sentences.SPEAKING = ("one.py",)
        assert set(sentences.templates(tmp_path)) - set(sentences.WORDS) == {
            "{0} is nothing of {1}; give {2}",
            "one of them",
        }
    finally:
        sentences.SPEAKING = before


@pytest.mark.parametrize("columns", [20, 39, 60])
def test_lines_of_chinese_fit_and_begin_with_no_stop(columns: int) -> None:
    text = "请把该列按文本重新导出，（例如 2024-12-31）；或者使用 --id-recipe text:lower。" * 3
    lines = broken(text, columns)
    assert all(cell_len(each) <= columns for each in lines)
    assert not any(each[0] in "，。；：）" or each[-1] == "（" for each in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_rows_of_a_table_fit_a_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wrapping, "columns_of", lambda _stream: width)
    note = "列名像是标签；除非在结果发生之前就已知道，否则不要使用它" * 3
    rows = [("列", "缺失", "说明"), ("收入", "12", note), ("a_long_name_of_a_column_", "3", "")]
    lines = in_rows([(name, "数值，经过缩放", *rest) for name, *rest in rows], None, right=(2,))
    assert all(cell_len(each) <= width for each in lines), lines
    assert "".join(lines).replace(" ", "").count(note) == 1
    ends = {
        cell_len(line[: line.index(number)]) + len(number)
        for line in lines
        for number in ("12", "3")
        if f" {number}" in line
    }
    assert len(ends) == 1
