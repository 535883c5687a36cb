"""Translated pages have the headings and the code of their sources, and say when these changed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs import generate
from docs.generator import pages
from docs.generator.translations import FRONT, Translation, source_hash, translations
from tests.e2e.processes import ROOT

FOUND = list(translations(ROOT))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE = {"python", "console", "text", "toml", "json"}
CJK = r"[\u4e00-\u9fff]"
FULL_WIDTH = "[\u3000-\u303f\uff00-\uff65]"

each_page = pytest.mark.parametrize(
    "each", FOUND, ids=lambda each: str(each.page.relative_to(ROOT))
)
GENERATED = {ROOT / "docs/zh/index.md"}


def code(text: str) -> list[str]:
    """The blocks that must be the same in both languages; branches of a tree by their names."""
    blocks = [block for language, block in BLOCK.findall(text) if language in CODE]
    return [re.sub(r"(?<=── )([A-Z]\w+)?.*", r"\1", block) for block in blocks]


def prose(text: str) -> str:
    """The page without its front matter and its code."""
    return re.sub(r"`[^`\n]*`", "`x`", BLOCK.sub("", FRONT.sub("", text)))


def shape(text: str) -> list[str]:
    """The levels of the headings, in order."""
    return re.findall(r"^(#+) ", prose(text), re.MULTILINE)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of one page and its translation."""
    (tmp_path / "docs/zh").mkdir(parents=True)
    english = "# One\n\nTwo words.\n"
    (tmp_path / "docs/one.md").write_text(english)
    front = f"---\nsource: docs/one.md\nsource_sha256: {source_hash(english)}\n---\n"
    (tmp_path / "docs/zh/one.md").write_text(front + "# 一\n\n两个词。\n")
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    monkeypatch.setattr(pages, "PAGES", {})
    return tmp_path


def test_every_page_in_chinese_says_what_it_translates() -> None:
    wanted = {ROOT / "README.zh.md", *(ROOT / "docs/zh").rglob("*.md")} - GENERATED
    assert {each.page for each in FOUND} == wanted
    for each in FOUND:
        if each.page.name != "README.zh.md":
            inside = each.page.relative_to(ROOT / "docs/zh")
            assert each.source == ROOT / "docs" / inside


@each_page
def test_code_and_headings_are_those_of_the_source(each: Translation) -> None:
    if each.outdated:
        pytest.skip("its source has changed since, as the page says")
    source = each.source.read_text(encoding="utf-8")
    assert code(each.text) == code(source)
    assert shape(each.text) == shape(source)


@each_page
def test_chinese_is_set_as_chinese(each: Translation) -> None:
    text = prose(each.text)
    faults = {
        "a half-width sign after a Chinese one": rf"{CJK}[,;:?!](?!//)",
        "emphasis that GitHub does not end": rf"\*\*[^*\n]*{FULL_WIDTH}\*\*\w",
        "a line broken between Chinese signs shows as a space": (
            rf"(?:{CJK}|{FULL_WIDTH})\n {{0,3}}{CJK}"
        ),
    }
    for fault, pattern in faults.items():
        found = re.search(pattern, text)
        assert not found, f"{fault}: {text[max(0, found.start() - 20) : found.end() + 20]}"


@each_page
def test_links_lead_to_the_translation_where_there_is_one(each: Translation) -> None:
    docs = ROOT / "docs"
    for text, link in re.findall(r"\[([^\]]*)\]\(([^)#:]+\.md)\)", prose(each.text)):
        leads = (each.page.parent / link).resolve()
        assert leads.is_file(), link
        if text != "English" and leads.is_relative_to(docs) and "zh" not in leads.parts:
            assert not (docs / "zh" / leads.relative_to(docs)).is_file(), link


def test_the_glossary_has_every_term() -> None:
    (each,) = (each for each in FOUND if each.page.name == "glossary.md")
    if each.outdated:
        pytest.skip("its source has changed since, as the page says")
    terms = re.compile(r"^\| ([^|]+) \| [^|]+ \|", re.MULTILINE)
    english = terms.findall(each.source.read_text(encoding="utf-8"))[2:]
    chinese = each.text.partition("| 英文 |")[2]
    assert terms.findall(chinese)[1:] == english


def test_a_changed_source_is_named_and_marked_and_no_error(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    english, chinese = repository / "docs/one.md", repository / "docs/zh/one.md"
    fresh = chinese.read_text()
    english.write_text("# One\n\nTwo\nwords.\n")  # wrapped anew: the same words
    assert generate.main(["--check"]) == 0
    assert "outdated" not in capsys.readouterr().err

    english.write_text("# One\n\nThree words here.\n")
    assert generate.main(["--check"]) == 0
    assert "outdated translation: docs/zh/one.md (docs/one.md" in capsys.readouterr().err
    assert chinese.read_text() == fresh
    assert generate.main([]) == 0
    assert generate.main([]) == 0  # marked once
    body = chinese.read_text().partition("# 一\n\n> **译文可能已过时**")[2]
    assert "[英文原文](../one.md)" in body
    assert "过时" not in body

    assert generate.main(["--translated", str(chinese)]) == 0
    assert "过时" not in chinese.read_text()
    capsys.readouterr()
    assert generate.main(["--check"]) == 0
    assert "outdated" not in capsys.readouterr().err


def test_a_source_that_is_gone_is_named(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (repository / "docs/one.md").unlink()
    assert generate.main(["--check"]) == 0
    assert "outdated translation: docs/zh/one.md" in capsys.readouterr().err
    assert generate.main(["--translated", str(repository / "docs/zh/one.md")]) == 2
    assert "docs/one.md is gone" in capsys.readouterr().err


def test_only_translations_can_be_renewed(repository: Path) -> None:
    assert generate.main(["--translated", str(repository / "docs/one.md")]) == 2
    assert generate.main(["--translated"]) == 2
